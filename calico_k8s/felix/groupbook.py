"""The policy groups of this node as the kernel has them: chains, numbers, and what is retired.

In: groups that come, change and go.  Out: each group's number, and whole tables.  Pure.

A group that no endpoint is in any more is *retired*: its chains and number stay for
:data:`RETIRE_S`, since packets may be inside and endpoints leave only after the chains are
written.  :meth:`GroupBook.collect` drops it then.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from calico_k8s.calc.deltas import Group, GroupId, IpsetId
from calico_k8s.errors import InputError
from calico_k8s.felix.recover import Recovered, merge_numbers
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction
from calico_k8s.render.assembly import render_tables
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

    def asked(self) -> Iterator[IpsetId]:
        """The sets of peers that its rules ask."""
        return asked_by(self.group)


def asked_by(group: Group) -> Iterator[IpsetId]:
    """The sets that a group's rules ask."""
    for stage in group.stages:
        for rule in stage.rules:
            yield from (ipset.id for ipset in rule.ipsets())


class _Retired(msgspec.Struct, frozen=True):
    since_s: float
    direction: Direction
    rendered: ByVersion


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
    ) -> None:
        self._versions = versions
        self._tells = tells
        self._live: dict[GroupId, LiveGroup] = {}
        self._retired: dict[ChainName, _Retired] = {}
        self._homeless: dict[GroupId, str] = {}
        """Groups without a number, and why."""
        numbers = merge_numbers(recovered.values())
        self._allocators = {d: NumberAllocator(layout, numbers[d]) for d in Direction}
        for direction in Direction:
            for chain in numbers[direction]:
                found = {v: r.groups[chain] for v, r in recovered.items() if chain in r.groups}
                self._retired[chain] = _Retired(now_s, direction, found)

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
    def problems(self) -> tuple[str, ...]:
        """What cannot be as it should: one sentence each."""
        return tuple(sorted(set(self._homeless.values())))

    def asking(self, ipsets: frozenset[IpsetId]) -> set[GroupId]:
        """The live groups that ask one of these sets.  Cost: O(rules)."""
        return {n for n, live in self._live.items() if not ipsets.isdisjoint(live.asked())}

    def update(self, group: Group, now_s: float) -> LiveGroup:
        """Take in a new group, or a group's new rules.

        Where the mark mask has no room for one more, its endpoints take no new flow.
        """
        rendered = self._render(group)
        if all(each.allows_all for each in rendered.values()):
            self._retire(self._live.get(group.id), now_s)
            self._homeless.pop(group.id, None)
            number: int = Number.ALLOW_ALL
        else:
            number = self._assign(group, now_s)
        self._live[group.id] = LiveGroup(group, rendered, number)
        return self._live[group.id]

    def rehome(self, now_s: float) -> set[GroupId]:
        """Give numbers to groups that had none, as far as there are some now; those groups."""
        found: set[GroupId] = set()
        for name in sorted(self._homeless):
            live = self._live[name]
            number = self._assign(live.group, now_s)
            if number == Number.HELD:
                break
            self._live[name] = msgspec.structs.replace(live, number=number)
            found.add(name)
        return found

    def tell(self, *, tells: bool) -> None:
        """Render every group with notes, or without, from now on."""
        if tells != self._tells:
            self._tells = tells
            for name, live in self._live.items():
                self._live[name] = msgspec.structs.replace(live, rendered=self._render(live.group))

    def note(self, prefix: str) -> Note | None:
        """What a prefix tells; None where no group that is in the kernel tells it."""
        for each in self._all_rendered():
            for rendered in each.values():
                if prefix in rendered.notes:
                    return rendered.notes[prefix]
        return None

    def remove(self, name: GroupId, now_s: float) -> None:
        """No endpoint is in the group any more."""
        self._homeless.pop(name, None)
        self._retire(self._live.pop(name, None), now_s)

    def collect(self, now_s: float) -> bool:
        """Drop what has been retired for long enough; whether there was something."""
        gone = [c for c, retired in self._retired.items() if retired.since_s + RETIRE_S <= now_s]
        for chain in gone:
            direction = self._retired.pop(chain).direction
            self._allocators[direction].release(chain, now_s)
        return bool(gone)

    def nets(self) -> Iterable[NetsIpset]:
        """The sets of nets that live and retired groups ask."""
        for each in self._all_rendered():
            for rendered in each.values():
                yield from rendered.nets

    def tables(
        self, config: RenderConfig, hosts: Mapping[Version, HostTables] = NO_HOST_TABLES
    ) -> tuple[Table, ...]:
        """Every table, with retired groups beside the live, and what host endpoints ask."""
        groups = [*self._all_rendered()]
        return tuple(
            table
            for version in self._versions
            for table in render_tables(
                config,
                version,
                (g[version] for g in groups if version in g),
                self._leaves(version),
                hosts.get(version, NO_HOSTS),
            )
        )

    def _leaves(self, version: Version) -> dict[Direction, dict[ChainName, int]]:
        leaves: dict[Direction, dict[ChainName, int]] = {d: {} for d in Direction}
        for live in self._live.values():
            if live.has_chains:
                chain = stage_chain(live.group.id, live.group.direction)
                leaves[live.group.direction][chain] = live.number
        for chain, retired in self._retired.items():
            # An earlier run may have ended before it wrote the chain in every family.
            if version in retired.rendered:
                allocator = self._allocators[retired.direction]
                leaves[retired.direction][chain] = allocator.assign(chain, retired.since_s)
        return leaves

    def _assign(self, group: Group, now_s: float) -> int:
        chain = stage_chain(group.id, group.direction)
        self._retired.pop(chain, None)
        try:
            number = self._allocators[group.direction].assign(chain, now_s)
        except InputError as error:
            self._homeless[group.id] = str(error)
            return Number.HELD
        self._homeless.pop(group.id, None)
        return number

    def _render(self, group: Group) -> ByVersion:
        return {v: render_group(group, v, tells=self._tells) for v in self._versions}

    def _all_rendered(self) -> Iterator[ByVersion]:
        """Retired groups first: of a chain that groups share, the word of a live one holds."""
        yield from (retired.rendered for retired in self._retired.values())
        for live in self._live.values():
            if live.has_chains:
                yield live.rendered

    def _retire(self, live: LiveGroup | None, now_s: float) -> None:
        if live is not None and live.has_chains:
            chain = stage_chain(live.group.id, live.group.direction)
            self._retired[chain] = _Retired(now_s, live.group.direction, live.rendered)
