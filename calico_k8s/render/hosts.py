"""Host endpoints as chains: what a node's own interfaces let through.

In: which interface asks which group at which hook, and settings.  Out: chains and jumps of the
mangle and the raw table; none without a host endpoint.  They only drop: what they let through goes
on to pods' chains and to other programs' rules, as if they were not there.

===========  ===========  ======================================================================
table        hook         chain
===========  ===========  ======================================================================
raw          PREROUTING   ``cali-host-raw-in``: untracked, in
raw          OUTPUT       ``cali-host-raw-out``: untracked, out
mangle       PREROUTING   ``cali-host-pre``: before DNAT
mangle       INPUT        ``cali-host-in``: to the node
mangle       FORWARD      ``cali-host-fwd``: through it, in by one interface, out by another
mangle       POSTROUTING  ``cali-host-out``: from the node, after DNAT, before SNAT
===========  ===========  ======================================================================

The way out is judged in POSTROUTING: a service's address is translated, and the packet routed
anew, only after the OUTPUT chain of the mangle table.  Whose source is an address of the node is
from the node.

A packet that early policy allows carries :attr:`~.marks.Number.ACCEPTED` until the first of the
later chains, which clears it: without any early policy no chain asks for it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import msgspec

from calico_k8s.model.addresses import Net, Version, address_version
from calico_k8s.model.failsafes import Failsafe, Failsafes
from calico_k8s.model.resources import (
    EARLY_HOOKS,
    ICMPV6,
    Direction,
    HostHook,
    IcmpMatch,
    PortRange,
    Protocol,
)
from calico_k8s.policy.host_verdict import LOOPBACK, NEIGHBOUR_TYPES
from calico_k8s.render import text
from calico_k8s.render.groups import RenderedGroup
from calico_k8s.render.marks import Number, mark_layout
from calico_k8s.render.names import HOST_DENY, HOST_SKIP, host_hold_ipset
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.static import CLEAR, UNREACHED
from calico_k8s.render.tables import (
    WORKLOAD_LINK_GROUP,
    ChainName,
    HookName,
    KernelIpset,
    KernelMember,
    RuleText,
    TableName,
)
from calico_k8s.render.text import DROP, RETURN, Match, goto, jump, rule

RAW_IN, RAW_OUT = ChainName("cali-host-raw-in"), ChainName("cali-host-raw-out")
PRE = ChainName("cali-host-pre")
IN, OUT = ChainName("cali-host-in"), ChainName("cali-host-out")
FORWARD = ChainName("cali-host-fwd")
FORWARD_IN, FORWARD_OUT = ChainName("cali-host-fwd-in"), ChainName("cali-host-fwd-out")

Chains = dict[ChainName, tuple[RuleText, ...]]
Asked = tuple[HostHook, Direction]


NEVER_ASKED: Asked = (HostHook.PRE_DNAT, Direction.EGRESS)
"""Nothing that leaves is translated before it is judged."""


class HostInterface(NamedTuple):
    """An interface with a host endpoint, and the first chain of what is asked there."""

    interface: str | None
    """None: every interface without a host endpoint of its own."""
    chains: Mapping[Asked, ChainName]
    """:data:`HOST_DENY` where every new flow is denied."""


class HostTables(msgspec.Struct, frozen=True):
    """What there is of host endpoints in each table."""

    chains: Mapping[TableName, Chains] = {}
    jumps: Mapping[tuple[TableName, HookName], RuleText] = {}


NO_HOSTS = HostTables()

_EVERYTHING: Mapping[Version, tuple[str, str]] = {
    4: ("0.0.0.0/1", "128.0.0.0/1"),
    6: ("::/1", "8000::/1"),
}
"""Every address: hash:net takes no /0."""


def hold_ipset(version: Version) -> KernelIpset:
    """The set by which host endpoints are held; empty but for some moments."""
    return KernelIpset(host_hold_ipset(version), "hash:net", version, has_marks=True)


def hold_members(version: Version) -> tuple[KernelMember, ...]:
    """What is in the set while they are held."""
    return tuple(map(KernelMember, _EVERYTHING[version]))


def render_hosts(
    config: RenderConfig,
    version: Version,
    interfaces: Iterable[HostInterface],
    groups: Mapping[ChainName, RenderedGroup],
    holdable: Collection[ChainName] = (),
) -> HostTables:
    """The chains of a node's host endpoints, in the order in which interfaces are looked for.

    ``groups`` has every group that an interface asks, by its first chain; those of ``holdable`` deny
    whoever is in :func:`hold_ipset`.
    """
    made = _Hosts(config, version, tuple(interfaces))
    chains: dict[TableName, Chains] = {"raw": made.raw(), "mangle": made.mangle()}
    for asked, chain in sorted({p for each in made.interfaces for p in each.chains.items()}):
        if asked == NEVER_ASKED or chain == HOST_DENY:
            continue
        table: TableName = "raw" if asked[0] is HostHook.UNTRACKED else "mangle"
        chains[table] |= groups[chain].chains
        if chain in holdable:
            held = rule(text.in_set(host_hold_ipset(version), "src"), goto(HOST_DENY))
            chains[table][chain] = (held, *chains[table][chain])
    return HostTables({name: held for name, held in chains.items() if held}, made.jumps)


class _Hosts:
    """The words that all these chains share, from one configuration and family."""

    def __init__(
        self, config: RenderConfig, version: Version, interfaces: tuple[HostInterface, ...]
    ) -> None:
        self.config = config
        self.version: Version = version
        self.interfaces = interfaces
        self.asked = {asked for each in interfaces for asked in each.chains}
        self.jumps: dict[tuple[TableName, HookName], RuleText] = {}
        layout = mark_layout(config.mark_mask)
        self.field = layout.field
        self.accepted = text.set_mark(layout.mark(Number.ACCEPTED), layout.field)
        self.is_accepted = text.mark_is(layout.mark(Number.ACCEPTED), layout.field)
        self.wipe = rule(
            text.mark_is_not(Number.NONE, layout.field), text.set_mark(Number.NONE, layout.field)
        )

    def raw(self) -> Chains:
        """Untracked policy: what it allows goes round conntrack."""
        chains: Chains = {}
        places: tuple[tuple[ChainName, HookName, Direction], ...] = (
            (RAW_IN, "PREROUTING", Direction.INGRESS),
            (RAW_OUT, "OUTPUT", Direction.EGRESS),
        )
        for chain, hook, direction in places:
            if (HostHook.UNTRACKED, direction) in self.asked:
                self._hook("raw", hook, chain)
                chains[chain] = (
                    self.wipe,
                    *self._neighbours(),
                    *self._failsafes(direction),
                    # Replies of what failsafes let through: here nothing is known of connections.
                    *self._failsafe_replies(direction),
                    *self._dispatch(HostHook.UNTRACKED, direction),
                    rule(RETURN),
                )
        if chains:
            chains[HOST_DENY] = (rule(DROP),)
            chains[HOST_SKIP] = (rule(text.untrack()), rule(self.accepted), rule(RETURN))
        return chains

    def mangle(self) -> Chains:
        """Everything else."""
        chains = self._before_dnat() | self._local() | self._forwarded()
        if chains:
            chains[HOST_DENY] = (rule(DROP),)
        return chains

    def _before_dnat(self) -> Chains:
        if (HostHook.PRE_DNAT, Direction.INGRESS) not in self.asked:
            return {}
        self._hook("mangle", "PREROUTING", PRE)
        # The mark is untracked policy's to give, or nobody's.
        has_untracked = (HostHook.UNTRACKED, Direction.INGRESS) in self.asked
        first = rule(self.is_accepted, RETURN) if has_untracked else self.wipe
        return {
            PRE: (
                first,
                rule(text.ESTABLISHED, RETURN),
                *self._neighbours(),
                *self._failsafes(Direction.INGRESS),
                *self._dispatch(HostHook.PRE_DNAT, Direction.INGRESS),
                rule(RETURN),
            ),
            HOST_SKIP: (rule(self.accepted), rule(RETURN)),
        }

    def _local(self) -> Chains:
        chains: Chains = {}
        if (HostHook.LOCAL, Direction.INGRESS) in self.asked:
            self._hook("mangle", "INPUT", IN)
            chains[IN] = (
                *self._accepted_early(Direction.INGRESS),
                rule(text.ESTABLISHED, RETURN),
                *self._neighbours(),
                *self._failsafes(Direction.INGRESS),
                *self._dispatch(HostHook.LOCAL, Direction.INGRESS),
                rule(RETURN),
                UNREACHED,
            )
        if (HostHook.LOCAL, Direction.EGRESS) in self.asked:
            self._hook("mangle", "POSTROUTING", OUT)
            chains[OUT] = (
                *self._accepted_early(Direction.EGRESS),
                rule(text.ESTABLISHED, RETURN),
                rule(text.FROM_ELSEWHERE, RETURN),
                # A node always reaches its own pods.
                *self._to_workloads(),
                *self._neighbours(),
                *self._failsafes(Direction.EGRESS),
                *self._dispatch(HostHook.LOCAL, Direction.EGRESS),
                rule(RETURN),
                UNREACHED,
            )
        return chains

    def _forwarded(self) -> Chains:
        ends = {
            direction: chain
            for direction, chain in (
                (Direction.INGRESS, FORWARD_IN),
                (Direction.EGRESS, FORWARD_OUT),
            )
            if (HostHook.FORWARDED, direction) in self.asked
        }
        if not ends:
            return {}
        self._hook("mangle", "FORWARD", FORWARD)
        chains: Chains = {
            FORWARD: (
                *self._accepted_early(Direction.INGRESS),
                rule(text.ESTABLISHED, RETURN),
                *(rule(jump(chain)) for chain in ends.values()),
                rule(RETURN),
                UNREACHED,
            )
        }
        for direction, chain in ends.items():
            chains[chain] = (
                *self._dispatch(HostHook.FORWARDED, direction),
                rule(RETURN),
                UNREACHED,
            )
        return chains

    def _hook(self, table: TableName, hook: HookName, chain: ChainName) -> None:
        self.jumps[table, hook] = rule(jump(chain))

    def _accepted_early(self, direction: Direction) -> list[RuleText]:
        """Only where some chain before gives the mark, and takes away what others gave."""
        has_early = any((hook, direction) in self.asked for hook in EARLY_HOOKS)
        return [rule(self.is_accepted, goto(CLEAR))] if has_early else []

    def _dispatch(self, hook: HostHook, direction: Direction) -> Iterator[RuleText]:
        """Send packets to the chain of their interface's group.

        An interface of its own host endpoint that is not asked here is not asked as any other.
        """
        by = text.from_interface if direction is Direction.INGRESS else text.to_interface
        has_every = any(
            each.interface is None and (hook, direction) in each.chains for each in self.interfaces
        )
        for interface, chains in self.interfaces:
            chain = chains.get((hook, direction))
            if interface is None:
                if chain is not None:
                    yield rule(by(LOOPBACK), RETURN)
                    yield rule(goto(chain))
            elif chain is not None:
                yield rule(by(interface), goto(chain))
            elif has_every:
                yield rule(by(interface), RETURN)

    def _to_workloads(self) -> Iterator[RuleText]:
        yield rule(text.to_group(WORKLOAD_LINK_GROUP), RETURN)
        for pattern in self.config.workload_interfaces:
            yield rule(text.to_interface(pattern), RETURN)

    def _neighbours(self) -> Iterator[RuleText]:
        if self.version == 6:
            for kind in sorted(NEIGHBOUR_TYPES):
                match = text.icmp_is(IcmpMatch(kind), 6)
                yield rule(text.protocol_is(ICMPV6), match, RETURN)

    def _failsafes(self, direction: Direction) -> Iterator[RuleText]:
        """Ports that stay open: the node's own where packets come in, others' where they leave."""
        is_in = direction is Direction.INGRESS
        ports = self.config.failsafe_inbound if is_in else self.config.failsafe_outbound
        yield from self._open(ports, "src" if is_in else "dst", "dst")

    def _failsafe_replies(self, direction: Direction) -> Iterator[RuleText]:
        is_in = direction is Direction.INGRESS
        ports = self.config.failsafe_outbound if is_in else self.config.failsafe_inbound
        yield from self._open(ports, "src" if is_in else "dst", "src")

    def _open(self, ports: Failsafes, peer_end: str, port_end: str) -> Iterator[RuleText]:
        for (protocol, net), some in groupby(sorted(ports, key=_peers), key=_peers):
            if net and address_version(net) != self.version:
                continue
            peers: list[Match] = [text.net_is(peer_end, net)] if net else []
            numbers = sorted({each.port for each in some})
            for first in range(0, len(numbers), text.MULTIPORT_SLOTS):
                ranges = [PortRange(n, n) for n in numbers[first : first + text.MULTIPORT_SLOTS]]
                match = text.ports_in(port_end, ranges)
                yield rule(*peers, text.protocol_is(protocol), match, RETURN)


def _peers(port: Failsafe) -> tuple[Protocol, Net]:
    return port.protocol, port.net or Net("")
