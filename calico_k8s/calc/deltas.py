"""What calc hands on: ipsets and their members, policy groups, local endpoints; as differences.

In: nothing.  Out: the values that :mod:`calico_k8s.render` turns into chains and that Felix keeps
as its desired state.  Everything here is already resolved for one node: the local end of a rule
(``dst`` of an ingress rule, ``src`` of an egress rule) has been decided for each endpoint, so
that a rule asks ipsets only about the other end, the *peer*: at most one positively.

That is what makes updates safe.  With two changing sets asked positively by one rule, a state
between could allow what neither the old nor the new state does; with one, and negated ones beside
it that grow first and shrink last, every state between gives the old verdict, the new, or deny.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Literal, NamedTuple, NewType

import msgspec

from calico_k8s.model.addresses import Address, Net, Version
from calico_k8s.model.names import EndpointId, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    HostEndpoint,
    HostHook,
    IcmpMatch,
    Origin,
    PortRange,
    Protocol,
)

IpsetId = NewType("IpsetId", str)
"""A hash of kind, direction, polarity and expression: the same after every restart."""

GroupId = NewType("GroupId", str)
"""A hash of direction, ordered policies and profiles, and how local ends were decided.

A rule that changes keeps its group and changes its content; an endpoint whose policies change
joins another group.
"""


class IpsetKind(StrEnum):
    """What a member is."""

    NET = "net"
    """A :data:`~calico_k8s.model.addresses.Net`; single addresses as /32 or /128."""
    ADDRESS_PORT = "address-port"
    """A :class:`PortMember`."""


class Polarity(StrEnum):
    """What adding a member can do to a verdict: it decides when, inside a batch, it is added."""

    OPENS = "opens"
    """Asked positively by an allow rule, or negated by a deny rule."""
    CLOSES = "closes"
    """Asked positively by a deny rule, or negated by an allow rule."""
    MOVES = "moves"
    """Asked by a pass rule: adding may open or close, so its new flows are held meanwhile."""
    COUNTS = "counts"
    """Asked by a log rule: no verdict depends on it."""


class PortMember(NamedTuple):
    """An address with one of its ports."""

    address: Address
    protocol: Protocol
    port: int


Member = Net | PortMember


class Ipset(msgspec.Struct, frozen=True):
    """A set of peers.  Its members may be of both families; the kernel holds one set for each."""

    id: IpsetId
    kind: IpsetKind
    polarity: Polarity
    direction: Direction
    """Of the rules that ask it: a batch changes the two directions' sets at different moments."""


DNS_SERVERS = Ipset(
    IpsetId("dns-servers"), IpsetKind.ADDRESS_PORT, Polarity.COUNTS, Direction.EGRESS
)
"""The servers whose answers names are learnt from; there while any set asks a domain."""


class ResolvedRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule of a group, with its local end decided; every criterion that is given must hold.

    ``peer`` is the source of an ingress rule, the destination of an egress rule.  ``peer_ipset``
    of kind ADDRESS_PORT is asked with the peer's port.  The nets and ports lists never change
    while the rule lives.  A rule of the model whose ports and named ports are both given becomes
    two of these, one after the other.
    """

    action: Action
    origin: Origin
    ip_version: Version | None = None
    protocol: Protocol | None = None
    not_protocol: Protocol | None = None
    icmp: IcmpMatch | None = None
    not_icmp: IcmpMatch | None = None
    peer_ipset: Ipset | None = None
    peer_not_ipsets: tuple[Ipset, ...] = ()
    src_nets: tuple[Net, ...] = ()
    src_not_nets: tuple[Net, ...] = ()
    src_ports: tuple[PortRange, ...] = ()
    src_not_ports: tuple[PortRange, ...] = ()
    dst_nets: tuple[Net, ...] = ()
    dst_not_nets: tuple[Net, ...] = ()
    dst_ports: tuple[PortRange, ...] = ()
    dst_not_ports: tuple[PortRange, ...] = ()
    own_ipset: Ipset | None = None
    """What the other end of ``peer`` is asked: only of host endpoints, whose packets may have any
    address at either end."""
    own_not_ipsets: tuple[Ipset, ...] = ()

    def ipsets(self) -> Iterator[Ipset]:
        """Every set that it asks."""
        for asked in (self.peer_ipset, self.own_ipset):
            if asked is not None:
                yield asked
        yield from self.peer_not_ipsets
        yield from self.own_not_ipsets


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tier's rules for a group and direction, or the profiles' (``tier`` None), in order."""

    tier: TierName | None
    rules: tuple[ResolvedRule, ...]
    end: Literal[Action.DENY, Action.PASS]
    """What becomes of a flow that no rule decided.  The last stage of a group never passes, unless
    it is one of a host endpoint that has not to decide."""
    end_origin: Origin


class Rehearsal(msgspec.Struct, frozen=True):
    """What a group would say if staged policies were enforced: counted, never done.

    Packets come to it before the rule ``rule`` of the stage ``stage``: up to there nothing would
    be different.
    """

    stage: int
    rule: int
    stages: tuple[Stage, ...]
    """From that rule on."""


class Group(msgspec.Struct, frozen=True):
    """A policy group: what all its endpoints say to a flow in one direction."""

    id: GroupId
    direction: Direction
    stages: tuple[Stage, ...]
    """Tiers in order; the last is the profiles'."""
    hook: HostHook | None = None
    """Where host endpoints ask it; None: it is one of pods."""
    rehearsal: Rehearsal | None = None

    def ipsets(self) -> Iterator[Ipset]:
        """Every set that its rules ask."""
        rehearsed = self.rehearsal.stages if self.rehearsal is not None else ()
        for stage in (*self.stages, *rehearsed):
            for rule in stage.rules:
                yield from rule.ipsets()


class LocalEndpoint(msgspec.Struct, frozen=True):
    """An endpoint of this node with the addresses that it owns now, and its two groups."""

    id: EndpointId
    addresses: tuple[Address, ...]
    ingress: GroupId
    egress: GroupId


class HostGroup(NamedTuple):
    """What a host endpoint says of packets of one direction at one of its hooks."""

    hook: HostHook
    direction: Direction
    group: GroupId


class LocalHostEndpoint(msgspec.Struct, frozen=True):
    """A host endpoint of this node; a hook without a group decides nothing."""

    endpoint: HostEndpoint
    groups: tuple[HostGroup, ...]


class Deltas(msgspec.Struct):
    """Differences from one flushed state to the next; empty collections where nothing changed.

    A set that is created brings its members in ``members_added``; of a set, group or endpoint that
    is removed only the id is named.
    """

    ipsets_created: dict[IpsetId, Ipset] = msgspec.field(default_factory=dict)
    ipsets_removed: set[IpsetId] = msgspec.field(default_factory=set)
    members_added: dict[IpsetId, set[Member]] = msgspec.field(default_factory=dict)
    members_removed: dict[IpsetId, set[Member]] = msgspec.field(default_factory=dict)
    groups_updated: dict[GroupId, Group] = msgspec.field(default_factory=dict)
    groups_removed: set[GroupId] = msgspec.field(default_factory=set)
    endpoints_updated: dict[EndpointId, LocalEndpoint] = msgspec.field(default_factory=dict)
    endpoints_removed: set[EndpointId] = msgspec.field(default_factory=set)
    hosts_updated: dict[EndpointId, LocalHostEndpoint] = msgspec.field(default_factory=dict)
    hosts_removed: set[EndpointId] = msgspec.field(default_factory=set)
    settings_changed: bool = False
    """Whether a setting that this node sees, or the node's own record, has changed."""

    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return self == Deltas()
