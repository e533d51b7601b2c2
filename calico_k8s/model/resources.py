"""What the datastore holds, as values: endpoints, profiles, tiers, policies, network sets, rules.

Written by the controller (through :mod:`calico_k8s.translate`), read by calc, verdict and the
command line.  Values only: no lookup, no parsing, no default that depends on another object.
All text inside is canonical (addresses by :mod:`.addresses`, selectors by ``grammar``).

Words: *ingress* is towards the endpoint, *egress* away from it; *src* and *dst* are the two ends
of a packet, so for an ingress rule ``dst`` is the endpoint itself.
"""

from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec

from calico_k8s.model.addresses import Address, Net, Version
from calico_k8s.model.domains import DomainPattern
from calico_k8s.model.names import (
    HOST_NAMESPACE,
    EndpointId,
    NetsetName,
    NodeName,
    PolicyId,
    ProfileId,
    SelectorText,
    TagName,
    TierName,
)


class Action(StrEnum):
    """What a rule does with a packet that matches it."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"
    """Leave this tier; the next tier that selects the endpoint decides."""
    LOG = "log"
    """Note the packet and go on with the next rule."""


class Direction(StrEnum):
    """Towards an endpoint, or away from it."""

    INGRESS = "ingress"
    EGRESS = "egress"


Protocol = int
"""An IP protocol number."""

PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}
"""Source: IANA protocol numbers."""
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}
PROTOCOLS_WITH_PORTS = frozenset(PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp"))
ICMP, ICMPV6 = PROTOCOL_NUMBERS["icmp"], PROTOCOL_NUMBERS["icmpv6"]


class PortRange(NamedTuple):
    """Ports from ``low`` to ``high``, both included; a single port has both equal."""

    low: int
    high: int


class NamedPort(NamedTuple):
    """A port that an endpoint declares by name; the number may differ from pod to pod."""

    name: str
    protocol: Protocol
    port: int


class IcmpMatch(NamedTuple):
    """An ICMP type, and its code; a code of None is every code."""

    type: int
    code: int | None = None


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """The object and place that a rule was written in: what ``explain`` and flow logs quote."""

    kind: str
    namespace: str = ""
    name: str = ""
    """Empty for kind Pod: the rule is shared by all pods with this text and speaks of each."""
    index: int = -1
    """Zero-based place among the rules of its direction; -1: implied, not written."""
    title: str = ""
    """What the rule is called where it was written; empty where it has no name."""


class EntityMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """One end of a packet; every criterion that is given must hold.

    ``ports`` and ``named_ports`` together are one criterion: any of them.  A tag or selector is
    true of the endpoints and network sets that carry it, so of no other address.  Every ``not_``
    criterion must be false; it is false of unknown addresses, so those match.

    ``domains`` is true of an address that the asking node has learnt for one of them, as the
    destination of an egress rule that allows, and of nothing elsewhere.  There a selector is true,
    beside, of such an address of a network set's domains, where nothing else is asked of who it is.
    """

    tag: TagName | None = None
    selector: SelectorText | None = None
    netset: NetsetName | None = None
    nets: tuple[Net, ...] = ()
    ports: tuple[PortRange, ...] = ()
    named_ports: tuple[str, ...] = ()
    not_tag: TagName | None = None
    not_selector: SelectorText | None = None
    not_netset: NetsetName | None = None
    not_nets: tuple[Net, ...] = ()
    not_ports: tuple[PortRange, ...] = ()
    not_named_ports: tuple[str, ...] = ()
    domains: tuple[DomainPattern, ...] = ()

    @property
    def learns(self) -> bool:
        """Whether network sets' domains count for its selector, where domains count at all."""
        return not (self.selector is None or self.tag or self.netset or self.named_ports)


ANYTHING = EntityMatch()


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule; every criterion that is given must hold for it to match."""

    action: Action
    origin: Origin
    ip_version: Version | None = None
    protocol: Protocol | None = None
    not_protocol: Protocol | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    src: EntityMatch = ANYTHING
    dst: EntityMatch = ANYTHING


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rules of a profile, in order for each direction."""

    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    origin: Origin | None = None
    """Whose profile this is: quoted where the end of an endpoint's profiles denies."""


class Tags(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tags a profile gives to its endpoints, sorted."""

    tags: tuple[TagName, ...] = ()


class Labels(msgspec.Struct, frozen=True, omit_defaults=True):
    """The labels a profile gives to its endpoints; never over a label of the endpoint's own."""

    labels: dict[str, str] = {}


class WorkloadEndpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pod with an address of its own."""

    id: EndpointId
    addresses: tuple[Address, ...]
    labels: dict[str, str] = {}
    named_ports: tuple[NamedPort, ...] = ()
    profiles: tuple[ProfileId, ...] = ()
    """In the order in which their rules are tried."""
    uid: str = ""
    created: float = 0.0
    """Seconds since the epoch."""


EVERY_INTERFACE = "*"


class HostEndpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Interfaces of a node whose traffic policy speaks of, whoever it is for."""

    node: NodeName
    name: str
    interface: str = ""
    """A name, :data:`EVERY_INTERFACE`, or empty for the one that has an expected address."""
    expected_ips: tuple[Address, ...] = ()
    """What rules know it by as a peer; without any, no rule means it."""
    labels: dict[str, str] = {}
    named_ports: tuple[NamedPort, ...] = ()
    profiles: tuple[ProfileId, ...] = ()
    """In the order in which their rules are tried, for its own traffic."""
    uid: str = ""
    created: float = 0.0

    @property
    def id(self) -> EndpointId:
        """Its name among all endpoints."""
        return EndpointId(self.node, HOST_NAMESPACE, self.name)

    def as_peer(self) -> WorkloadEndpoint:
        """What rules can see of it: an endpoint with labels, profiles, ports and addresses."""
        return WorkloadEndpoint(
            id=self.id,
            addresses=self.expected_ips,
            labels=self.labels,
            named_ports=self.named_ports,
            profiles=self.profiles,
            uid=self.uid,
            created=self.created,
        )


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node: its addresses are exempt from its own pods' ingress policy (health probes)."""

    name: NodeName
    addresses: tuple[Address, ...] = ()
    labels: dict[str, str] = {}
    pod_cidrs: tuple[Net, ...] = ()


class Tier(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stage of evaluation; ``order`` None is last."""

    name: TierName
    order: float | None = None
    default_action: Literal[Action.DENY, Action.PASS] = Action.DENY


class HostHook(StrEnum):
    """Where, on its way past a node, a packet of a host endpoint is judged."""

    LOCAL = "local"
    """What the node itself takes or sends."""
    FORWARDED = "forwarded"
    """What passes through the node."""
    PRE_DNAT = "pre-dnat"
    """Everything that arrives, with the address and port that the sender meant."""
    UNTRACKED = "untracked"
    """Everything, before there is any connection."""


EARLY_HOOKS = frozenset({HostHook.PRE_DNAT, HostHook.UNTRACKED})
"""Where policy that allows a packet spares it the host endpoint's later hooks, and the end of a
tier decides nothing."""


class StagedAction(StrEnum):
    """What a staged policy would do to the enforced policy of its name."""

    SET = "set"
    """Be it, or stand in its place."""
    DELETE = "delete"
    """Take it away."""
    LEARN = "learn"
    """As set; whoever recommends policies goes on rewriting it."""
    IGNORE = "ignore"
    """Nothing: it is kept, and that is all."""


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """An ordered list of rules for the endpoints that ``selector`` is true of."""

    id: PolicyId
    tier: TierName
    selector: SelectorText
    types: tuple[Direction, ...]
    """The directions this policy speaks for; without rules there, its tier's default action."""
    order: float | None = None
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    staged: StagedAction | None = None
    """Calculated and counted, never a verdict; None: it is enforced."""
    host_hook: HostHook = HostHook.LOCAL
    """What traffic of host endpoints it is about; FORWARDED is about LOCAL too."""

    def is_asked_at(self, hook: HostHook) -> bool:
        """Whether it speaks where a host endpoint's packets are judged; pods ask it as LOCAL."""
        return self.host_hook is hook or (
            hook is HostHook.LOCAL and self.host_hook is HostHook.FORWARDED
        )


class NetworkSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """Named nets; a rule finds them by name, or beside endpoints by a selector of labels."""

    name: NetsetName
    labels: dict[str, str] | None = {}
    """None: no selector finds it, not even ``all()``."""
    nets: tuple[Net, ...] = ()
    domains: tuple[DomainPattern, ...] = ()
    """Whose addresses it holds too, for egress rules that allow."""


class Setting(msgspec.Struct, frozen=True):
    """One setting, by name, global or of a node."""

    value: str


class Ready(msgspec.Struct, frozen=True):
    """True once the first full sync of the controller is in."""

    value: bool


Value = (
    WorkloadEndpoint
    | HostEndpoint
    | Node
    | Rules
    | Tags
    | Labels
    | Tier
    | Policy
    | NetworkSet
    | Setting
    | Ready
)
