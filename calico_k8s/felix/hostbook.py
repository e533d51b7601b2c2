"""The host endpoints of this node as the kernel has them: which interface asks which groups.

In: host endpoints and their groups as calc says, and which interface has which address.  Out:
chains and jumps, whole.  Pure.

A host endpoint's interface is asked by name in the rules, so it changes its group in the same
transaction as the chains: nothing is retired here, and no mark is given.

Where one asks a group of more stages than the kernel follows, every new flow is denied instead,
failsafe ports aside: the kernel would refuse all that the node has to write.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from calico_k8s.calc.deltas import Deltas, Group, GroupId, IpsetId, LocalHostEndpoint
from calico_k8s.felix.groupbook import asked_by
from calico_k8s.model.addresses import Address, Version
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import EVERY_INTERFACE, Direction, HostHook
from calico_k8s.policy.host_verdict import interfaces_of
from calico_k8s.render.groups import RenderedGroup, asks_passing, render_group
from calico_k8s.render.hosts import NEVER_ASKED, Asked, HostInterface, HostTables, render_hosts
from calico_k8s.render.names import HOST_DENY
from calico_k8s.render.notes import Note
from calico_k8s.render.rules import NetsIpset
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import ChainName

OwnAddresses = Mapping[Address, str]
"""The node's addresses, and the interface that has each."""


class _HostGroup(msgspec.Struct, frozen=True):
    group: Group
    rendered: Mapping[Version, RenderedGroup]

    @property
    def is_silent(self) -> bool:
        """Whether it is there for a rehearsal alone, which nobody hears."""
        every = self.rendered.values()
        return self.group.rehearsal is not None and all(each.allows_all for each in every)


class HostBook:
    """All host endpoints of a node."""

    def __init__(self, versions: tuple[Version, ...], *, tells: bool = False) -> None:
        self._versions = versions
        self._tells = tells
        self._hosts: dict[EndpointId, LocalHostEndpoint] = {}
        self._groups: dict[GroupId, _HostGroup] = {}
        self._own: OwnAddresses = {}
        self._problems: tuple[str, ...] = ()

    def take(self, deltas: Deltas, own: OwnAddresses) -> bool:
        """Go on to a state; whether any chain or jump may differ."""
        groups = {name: g for name, g in deltas.groups_updated.items() if g.hook is not None}
        gone = deltas.groups_removed & self._groups.keys()
        is_moved = any(
            interfaces_of(host.endpoint, own) != interfaces_of(host.endpoint, self._own)
            for host in self._hosts.values()
        )
        self._own = own
        if not (groups or gone or deltas.hosts_updated or deltas.hosts_removed or is_moved):
            return False
        for name, group in groups.items():
            self._groups[name] = self._render(group)
        for endpoint in deltas.hosts_removed:
            del self._hosts[endpoint]
        self._hosts |= deltas.hosts_updated
        for name in gone:
            del self._groups[name]
        return True

    def tell(self, *, tells: bool) -> None:
        """Render every group with notes, or without, from now on."""
        if tells != self._tells:
            self._tells = tells
            self._groups = {n: self._render(each.group) for n, each in self._groups.items()}

    def note(self, prefix: str) -> Note | None:
        """What a prefix tells; None where no group tells it."""
        every = (r for each in self._groups.values() for r in each.rendered.values())
        return next((each.notes[prefix] for each in every if prefix in each.notes), None)

    def _render(self, group: Group) -> _HostGroup:
        return _HostGroup(
            group, {v: render_group(group, v, tells=self._tells) for v in self._versions}
        )

    def asked(self, group: GroupId) -> Iterator[IpsetId]:
        """The sets that a group's rules ask."""
        return asked_by(self._groups[group].group)

    def asking(self, ipsets: frozenset[IpsetId]) -> set[GroupId]:
        """The groups that ask one of these sets.  Cost: O(rules)."""
        return {name for name in self._groups if not ipsets.isdisjoint(self.asked(name))}

    @property
    def may_be_held(self) -> bool:
        """Whether some change needs a hold: a pass rule asks a set, or there are two tables."""
        return any(
            each.group.hook is HostHook.UNTRACKED or asks_passing(each.group)
            for each in self._groups.values()
        )

    def asking_both_ends(self) -> set[IpsetId]:
        """The sets of rules that ask one for each end of a packet."""
        return {
            ipset.id
            for each in self._groups.values()
            for stage in each.group.stages
            for rule in stage.rules
            if rule.own_ipset is not None and rule.peer_ipset is not None
            for ipset in rule.ipsets()
        }

    def nets(self) -> Iterable[NetsIpset]:
        """The sets of nets that groups ask."""
        for each in self._groups.values():
            for rendered in each.rendered.values():
                yield from rendered.nets

    @property
    def problems(self) -> tuple[str, ...]:
        """The host endpoints that the tables of last hold closed, and why: one sentence each."""
        return self._problems

    def tables(self, config: RenderConfig) -> dict[Version, HostTables]:
        """What there is in each family."""
        in_force = self._in_force()
        followed = config.host_stages_max
        closed = {host.endpoint.name: self._too_deep(host, followed) for host in in_force.values()}
        self._problems = tuple(_too_many(n, deep, followed) for n, deep in closed.items() if deep)
        return {
            version: render_hosts(
                config,
                version,
                tuple(
                    HostInterface(name, self._chains(host, version, closed[host.endpoint.name]))
                    for name, host in in_force.items()
                ),
                {g.rendered[version].entry: g.rendered[version] for g in self._groups.values()},
                self._holdable(version),
            )
            for version in self._versions
        }

    def _holdable(self, version: Version) -> set[ChainName]:
        """The groups that a hold closes: in the raw table it would stop what is open, too."""
        return {
            each.rendered[version].entry
            for each in self._groups.values()
            if asks_passing(each.group)
            or (self.may_be_held and each.group.hook is not HostHook.UNTRACKED)
        }

    def _in_force(self) -> dict[str | None, LocalHostEndpoint]:
        """Each interface once: the first host endpoint by name has it, every other comes last."""
        found: dict[str, LocalHostEndpoint] = {}
        every: LocalHostEndpoint | None = None
        for host in sorted(self._hosts.values(), key=lambda each: each.endpoint.name):
            if host.endpoint.interface == EVERY_INTERFACE:
                every = every or host
            for interface in interfaces_of(host.endpoint, self._own):
                found.setdefault(interface, host)
        named: dict[str | None, LocalHostEndpoint] = {name: found[name] for name in sorted(found)}
        return named if every is None else named | {None: every}

    def _chains(
        self, host: LocalHostEndpoint, version: Version, closed: Iterable[Asked]
    ) -> dict[Asked, ChainName]:
        chains = {a: group.rendered[version].entry for a, group in self._asks(host)}
        for asked in closed:
            del chains[asked]
            chains[_CLOSED_AT.get(asked, asked)] = HOST_DENY
        return chains

    def _asks(self, host: LocalHostEndpoint) -> Iterator[tuple[Asked, _HostGroup]]:
        is_every = host.endpoint.interface == EVERY_INTERFACE
        for hook, direction, name in host.groups:
            group = self._groups[name]
            is_silent = hook is HostHook.FORWARDED and group.is_silent
            if not (is_silent or (is_every and hook is HostHook.UNTRACKED)):
                yield (hook, direction), group

    def _too_deep(self, host: LocalHostEndpoint, followed: int | None) -> dict[Asked, int]:
        """What it asks that has more stages than the kernel follows, and how many."""
        if followed is None:
            return {}
        stages = {
            asked: max(each.stages for each in group.rendered.values())
            for asked, group in self._asks(host)
            if asked != NEVER_ASKED
        }
        return {asked: count for asked, count in stages.items() if count > followed}


_CLOSED_AT: Mapping[Asked, Asked] = {
    (HostHook.UNTRACKED, Direction.INGRESS): (HostHook.PRE_DNAT, Direction.INGRESS),
    (HostHook.UNTRACKED, Direction.EGRESS): (HostHook.LOCAL, Direction.EGRESS),
}
"""Where a hook is closed, if not there: the raw table does not know which connections are open."""


def _too_many(name: str, closed: Mapping[Asked, int], followed: int | None) -> str:
    about = sorted({_ABOUT[_CLOSED_AT.get(asked, asked)] for asked in closed})
    return (
        f"host endpoint {name}: in {max(closed.values())} tiers and profiles, of which nftables"
        f" follows {followed}, so {' and '.join(about)} there is denied, but for open connections"
        " and failsafe ports: name it in fewer tiers, or give --iptables-backend legacy"
    )


_ABOUT: Mapping[Asked, str] = {
    (HostHook.LOCAL, Direction.INGRESS): "what the node takes",
    (HostHook.LOCAL, Direction.EGRESS): "what the node sends",
    (HostHook.FORWARDED, Direction.INGRESS): "what passes through",
    (HostHook.FORWARDED, Direction.EGRESS): "what passes through",
    (HostHook.PRE_DNAT, Direction.INGRESS): "what arrives",
}
