"""The policy groups of this node as the kernel has them: chains, numbers, and what is retired.

In: groups that come, change and go.  Out: each group's number, and whole tables.  Pure.

A group that no endpoint is in any more is *retired*: its chains and number stay for
:data:`RETIRE_S`, since packets may be inside and endpoints leave only after the chains are
written.  :meth:`GroupBook.collect` drops it then.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from calico_k8s.calc.deltas import Group, GroupId, IpsetId
from calico_k8s.errors import InputError
from calico_k8s.felix.recover import Recovered, merge_numbers
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction
from calico_k8s.render.assembly import render_tables
from calico_k8s.render.dispatch import leaf_depth, tree_height
from calico_k8s.render.groups import RenderedGroup, render_group
from calico_k8s.render.hosts import NO_HOSTS, HostTables
from calico_k8s.render.marks import MarkLayout, Number, NumberAllocator
from calico_k8s.render.names import stage_chain
from calico_k8s.render.notes import Note
from calico_k8s.render.rules import NetsIpset
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import ChainName, Table

RETIRE_S = 10.0
"""How long chains, numbers and sets outlive their last endpoint."""

NO_HOST_TABLES: Mapping[Version, HostTables] = {}

ByVersion = dict[Version, RenderedGroup]


class LiveGroup(msgspec.Struct, frozen=True):
    """A group and how it stands in the kernel."""

    group: Group
    rendered: ByVersion
    number: int

    @property
    def has_chains(self) -> bool:
        """Whether the mark tree leads to chains of its own."""
        return self.number not in (Number.ALLOW_ALL, Number.HELD)

    @property
    def shares_chains(self) -> bool:
        """Whether other groups may have the same chains: those that tell who denied."""
        return any(rendered.notes for rendered in self.rendered.values())

    def asked(self) -> Iterator[IpsetId]:
        """The sets of peers that its rules ask."""
        return asked_by(self.group)


def asked_by(group: Group) -> Iterator[IpsetId]:
    """The sets that a group's rules ask."""
    yield from (ipset.id for ipset in group.ipsets())


class _Standing(NamedTuple):
    """What tables have of a group, live or retired."""

    direction: Direction
    number: int
    rendered: ByVersion

    @property
    def stages(self) -> int:
        """How many chains a packet may pass, one after the other."""
        return max(each.stages for each in self.rendered.values())

    @property
    def rehearsed_stages(self) -> int:
        """... and before what is rehearsed is told."""
        return max(each.rehearsed_stages for each in self.rendered.values())

    def without_rehearsal(self) -> "_Standing":
        return self._replace(rendered={v: r.without_rehearsal() for v, r in self.rendered.items()})


class GroupBook:
    """All groups of both directions; ``recovered`` is what an earlier run left in the kernel."""

    def __init__(
        self,
        layout: MarkLayout,
        versions: tuple[Version, ...],
        recovered: Mapping[Version, Recovered],
        now_s: float,
        *,
        tells: bool = False,
        stages_max: int | None = None,
    ) -> None:
        self._versions = versions
        self._tells = tells
        self._stages_max = stages_max
        self._live: dict[GroupId, LiveGroup] = {}
        self._retired: dict[ChainName, float] = {}
        """Since when, by the first chain."""
        self._former: dict[ChainName, LiveGroup] = {}
        """The retired that were live here, as they were rendered: an exposure that is taken back, or
        a label that comes and goes, brings them back."""
        self._standing: dict[ChainName, _Standing] = {}
        """By their first chain, the live groups that have chains, and the retired."""
        self.edition = 0
        """Another number where tables may differ: a group that is retired, or comes back as it was,
        leaves them as they are."""
        self._homeless: dict[GroupId, str] = {}
        """Groups without a number, and why."""
        self._too_deep: dict[ChainName, str] = {}
        """By their first chain, those that the tables of last have no leaf for, and why."""
        numbers = merge_numbers(recovered.values())
        self._allocators = {d: NumberAllocator(layout, numbers[d]) for d in Direction}
        for direction in Direction:
            for chain in numbers[direction]:
                found = {v: r.groups[chain] for v, r in recovered.items() if chain in r.groups}
                number = self._allocators[direction].assign(chain, now_s)
                self._standing[chain] = _Standing(direction, number, found)
                self._retired[chain] = now_s

    def __len__(self) -> int:
        """How many groups have endpoints."""
        return len(self._live)

    def __getitem__(self, name: GroupId) -> LiveGroup:
        """A live group."""
        return self._live[name]

    def __contains__(self, name: object) -> bool:
        """Whether the group is live."""
        return name in self._live

    @property
    def closed(self) -> Mapping[GroupId, str]:
        """The groups whose endpoints take no new flow, and why."""
        if not self._too_deep:
            return self._homeless
        entries = {n: stage_chain(n, each.group.direction) for n, each in self._live.items()}
        deep = {n: self._too_deep[c] for n, c in entries.items() if c in self._too_deep}
        return deep | self._homeless

    def asking(self, ipsets: frozenset[IpsetId]) -> set[GroupId]:
        """The live groups that ask one of these sets.  Cost: O(rules)."""
        return {n for n, live in self._live.items() if not ipsets.isdisjoint(live.asked())}

    def update(self, group: Group, now_s: float) -> LiveGroup:
        """Take in a new group, or a group's new rules.

        Where the mark mask has no room for one more, its endpoints take no new flow.
        """
        former = self._former.pop(stage_chain(group.id, group.direction), None)
        if former is not None and former.group == group:
            rendered = former.rendered
        else:
            rendered = self._render(group)
        if all(each.allows_all for each in rendered.values()):
            self._retire(self._live.get(group.id), now_s)
            self._homeless.pop(group.id, None)
            number: int = Number.ALLOW_ALL
        else:
            number = self._assign(group, now_s)
        live = self._live[group.id] = LiveGroup(group, rendered, number)
        self._stand(live)
        return live

    def rehome(self, now_s: float) -> set[GroupId]:
        """Give numbers to groups that had none, as far as there are some now; those groups."""
        found: set[GroupId] = set()
        for name in sorted(self._homeless):
            live = self._live[name]
            number = self._assign(live.group, now_s)
            if number == Number.HELD:
                continue
            self._live[name] = msgspec.structs.replace(live, number=number)
            self._stand(self._live[name])
            found.add(name)
        return found

    def tell(self, *, tells: bool) -> None:
        """Render every group with notes, or without, from now on."""
        if tells != self._tells:
            self._tells = tells
            self._former.clear()
            for name, live in self._live.items():
                again = msgspec.structs.replace(live, rendered=self._render(live.group))
                self._live[name] = again
                self._stand(again)

    def note(self, prefix: str) -> Note | None:
        """What a prefix tells; None where no group that is in the kernel tells it."""
        for _, each in self._in_order():
            for rendered in each.rendered.values():
                if prefix in rendered.notes:
                    return rendered.notes[prefix]
        return None

    def remove(self, name: GroupId, now_s: float) -> None:
        """No endpoint is in the group any more."""
        self._homeless.pop(name, None)
        self._retire(self._live.pop(name, None), now_s)

    def collect(self, now_s: float) -> bool:
        """Drop what has been retired for long enough; whether there was something."""
        gone = [chain for chain, since_s in self._retired.items() if since_s + RETIRE_S <= now_s]
        for chain in gone:
            del self._retired[chain]
            self._former.pop(chain, None)
            self._allocators[self._standing.pop(chain).direction].release(chain, now_s)
            self.edition += 1
        return bool(gone)

    def nets(self) -> Iterable[NetsIpset]:
        """The sets of nets that live and retired groups ask."""
        for each in self._standing.values():
            for rendered in each.rendered.values():
                yield from rendered.nets

    def tables(
        self, config: RenderConfig, hosts: Mapping[Version, HostTables] = NO_HOST_TABLES
    ) -> tuple[Table, ...]:
        """Every table, with retired groups beside the live, and what host endpoints ask."""
        tables: list[Table] = []
        standing = self._led_to(config)
        for version in self._versions:
            leaves: dict[Direction, dict[ChainName, int]] = {d: {} for d in Direction}
            # An earlier run may have ended before it wrote the chain in every family.
            present = {chain: each for chain, each in standing.items() if version in each.rendered}
            for chain, each in present.items():
                leaves[each.direction][chain] = each.number
            groups = (each.rendered[version] for each in present.values())
            asked_by_hosts = hosts.get(version, NO_HOSTS)
            tables += render_tables(config, version, groups, leaves, asked_by_hosts)
        return tuple(tables)

    def _led_to(self, config: RenderConfig) -> dict[ChainName, _Standing]:
        """The groups that have a leaf, as far as the kernel follows from where it stands.

        A group with more stages has none: the number that its endpoints have leads nowhere then,
        which denies.  One that only rehearses more does not rehearse.
        """
        found = dict(self._in_order())
        self._too_deep = {}
        if config.stages_max is None or config.has_own_table:
            return found
        for direction in Direction:
            groups = {c: s for c, s in found.items() if s.direction is direction}
            numbers = [each.number for each in groups.values()]
            surely = config.stages_max - tree_height(numbers)
            for chain, each in groups.items():
                if max(each.stages, each.rehearsed_stages) <= surely:
                    continue
                followed = config.stages_max - leaf_depth(each.number, numbers)
                if each.stages > followed:
                    self._too_deep[chain] = _too_many(each.stages, followed)
                    del found[chain]
                elif each.rehearsed_stages > followed:
                    found[chain] = each.without_rehearsal()
        return found

    def _stand(self, live: LiveGroup) -> None:
        if live.has_chains:
            standing = _Standing(live.group.direction, live.number, live.rendered)
            chain = stage_chain(live.group.id, live.group.direction)
            if self._standing.get(chain) != standing or live.shares_chains:
                self._standing[chain] = standing
                self.edition += 1

    def _assign(self, group: Group, now_s: float) -> int:
        chain = stage_chain(group.id, group.direction)
        self._retired.pop(chain, None)
        if self._stages_max is not None and len(group.stages) > self._stages_max:
            self._homeless[group.id] = _too_many(len(group.stages), self._stages_max)
            self._allocators[group.direction].release(chain, now_s)
            return Number.HELD
        try:
            number = self._allocators[group.direction].assign(chain, now_s)
        except InputError as error:
            self._homeless[group.id] = str(error)
            return Number.HELD
        self._homeless.pop(group.id, None)
        return number

    def _render(self, group: Group) -> ByVersion:
        return {v: render_group(group, v, tells=self._tells) for v in self._versions}

    def _in_order(self) -> Iterator[tuple[ChainName, _Standing]]:
        """Retired groups first: of a chain that groups share, the word of a live one holds."""
        for chain in self._retired:
            yield chain, self._standing[chain]
        for chain, each in self._standing.items():
            if chain not in self._retired:
                yield chain, each

    def _retire(self, live: LiveGroup | None, now_s: float) -> None:
        if live is not None and live.has_chains:
            chain = stage_chain(live.group.id, live.group.direction)
            self._retired[chain] = now_s
            self._former[chain] = live
            self.edition += live.shares_chains


def _too_many(stages: int, followed: int) -> str:
    return (
        f"in {stages} tiers and profiles, of which nftables follows {followed} on this node, it"
        " takes no new flow: name it in fewer tiers, or give --iptables-backend legacy"
    )
