"""What this node's kernel should hold, from what calc hands on and where endpoints are.

In: :class:`~calico_k8s.calc.deltas.Deltas`, the interface of each address, the time.  Out: a
:class:`Plan`: the sets and tables that differ from the plan before, and what each difference can
do to a verdict.  Pure: :mod:`.kernel` carries a plan out, :mod:`.order` says in which order.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from calico_k8s.calc.deltas import Deltas, GroupId, Ipset, IpsetId, LocalEndpoint, Member, Polarity
from calico_k8s.felix.groupbook import RETIRE_S, GroupBook
from calico_k8s.felix.hostbook import HostBook, OwnAddresses
from calico_k8s.felix.order import ChangedSet, Role, Switches
from calico_k8s.felix.recover import Recovered
from calico_k8s.felix.roles import only_opens, role_of
from calico_k8s.model.addresses import Address, Version
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import Direction
from calico_k8s.render.endpoints import (
    Attachment,
    Numbers,
    endpoint_ipsets,
    render_endpoint,
    render_ipset,
    render_member,
)
from calico_k8s.render.hosts import hold_ipset, hold_members
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.names import (
    dst_ipset,
    host_hold_ipset,
    ipset_name,
    self_ipset,
    src_ipset,
)
from calico_k8s.render.notes import Note
from calico_k8s.render.rules import NetsIpset
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.static import STATIC_NOTES
from calico_k8s.render.tables import (
    IPSET_PREFIXES,
    IpsetName,
    KernelIpset,
    KernelMember,
    Table,
)

Attachments = Mapping[Address, Attachment]
"""By address of an endpoint, the interface it was found behind."""

NOWHERE: OwnAddresses = {}
EVERY_SWITCH = Switches(chains=True, egress=True, ingress=True, raw=True)

Place = tuple[IpsetName, str]
"""A set, and the text of a member of it."""


class Order(NamedTuple):
    """What decides in which order a difference is written."""

    changed: tuple[ChangedSet, ...] = ()
    switches: Switches = Switches()
    held: Mapping[IpsetName, tuple[KernelMember, ...]] = {}
    """Endpoints that must not open a flow while the sets that their pass rules ask change."""
    host_held: Mapping[IpsetName, tuple[KernelMember, ...]] = {}
    """Everybody, in the sets by which host endpoints are held; those also while raw changes."""


class Plan(msgspec.Struct):
    """The difference to the plan before."""

    created: dict[IpsetName, KernelIpset] = msgspec.field(default_factory=dict)
    added: dict[IpsetName, list[KernelMember]] = msgspec.field(default_factory=dict)
    """A member that is there already takes the new mark."""
    removed: dict[IpsetName, list[KernelMember]] = msgspec.field(default_factory=dict)
    dropped: list[IpsetName] = msgspec.field(default_factory=list)
    tables: tuple[Table, ...] = ()
    """Every table where any chain differs; none where none does."""
    is_whole: bool = False
    """Whether it is the first, the difference to nothing: what else is of ours is to go."""
    order: Order = Order()
    touched: set[Address] = msgspec.field(default_factory=set)
    """Local addresses whose live flows may be judged otherwise now."""
    only_opens: bool = False
    """Whether no flow that was allowed is denied by it."""

    @property
    def is_empty(self) -> bool:
        """Whether the kernel is as it should be."""
        return not (self.created or self.added or self.removed or self.dropped or self.tables)


class Left(NamedTuple):
    """What an earlier run of the agent left in the kernel."""

    groups: Mapping[Version, Recovered] = {}
    ipsets: frozenset[IpsetName] = frozenset()

    def is_asked(self, name: IpsetName) -> bool:
        """Whether packets may ask the set: it is there, and so are chains of its family."""
        return name in self.ipsets and any(
            found.has_chains and name.startswith(IPSET_PREFIXES[version])
            for version, found in self.groups.items()
        )


class Desired:
    """The desired state; for one thread.

    Cost of a plan: the groups, endpoints and members that the deltas name; where any chain
    differs, also the tables' static chains and trees, some 3 us a group.
    """

    def __init__(
        self,
        config: RenderConfig,
        versions: tuple[Version, ...],
        left: Left,
        now_s: float,
    ) -> None:
        self._config = config
        self._versions = versions
        self._layout = mark_layout(config.mark_mask)
        self._groups = GroupBook(
            self._layout,
            versions,
            left.groups,
            now_s,
            tells=config.tells,
            stages_max=config.stages_max,
        )
        self._hosts = HostBook(versions, tells=config.tells)
        self._raw: dict[Version, Table] = {}
        """The raw tables that have, or had, something of ours."""
        self._has_other_raw = False
        """Whether they are other than in the plan before."""
        self._left = left
        self._members_of: dict[GroupId, set[EndpointId]] = {}
        self._endpoints: dict[EndpointId, LocalEndpoint] = {}
        self._entries: dict[EndpointId, dict[Place, KernelMember]] = {}
        self._attachments: Attachments = {}
        self._ipsets: dict[IpsetId, Ipset] = {}
        self._roles: dict[IpsetName, Role] = {}
        self._nets: set[IpsetName] = set()
        self._retired_sets: dict[IpsetName, float] = {}
        self._has_idle_nets = False
        """Whether there may be sets of nets that no chain asks any more."""
        self._is_first = True
        self._has_other_chains = True
        """Whether chains that all groups share are other than in the plan before."""
        self._edition = 0
        """Of the groups, in the tables that were planned last."""

    @property
    def group_count(self) -> int:
        """How many policy groups have endpoints."""
        return len(self._groups)

    @property
    def problems(self) -> tuple[str, ...]:
        """What cannot be as it should: one sentence each."""
        pods = sorted(f"{self._named(g)}: {why}" for g, why in self._groups.closed.items())
        return (*pods, *self._hosts.problems)

    def _named(self, group: GroupId) -> str:
        """One of a group's endpoints, and how many others there are."""
        members = self._members_of.get(group, ())
        names = sorted(f"{member.namespace}/{member.name}" for member in members)
        others = f" and {len(names) - 1} others" if names[1:] else ""
        return f"pod {names[0]}{others}" if names else "no pod"

    def note(self, prefix: str) -> Note | None:
        """What a prefix tells; None where nothing that is in the kernel tells it."""
        static = next((note for note in STATIC_NOTES if note.name == prefix), None)
        return static or self._groups.note(prefix) or self._hosts.note(prefix)

    @property
    def endpoints(self) -> Mapping[EndpointId, LocalEndpoint]:
        """The endpoints of this node."""
        return self._endpoints

    def configure(self, config: RenderConfig) -> None:
        """Other settings from the next :meth:`take` on; the mark mask stays."""
        config = msgspec.structs.replace(config, mark_mask=self._config.mark_mask)
        self._has_other_chains |= config != self._config
        self._groups.tell(tells=config.tells)
        self._hosts.tell(tells=config.tells)
        self._config = config

    def take(
        self,
        deltas: Deltas,
        attachments: Attachments,
        now_s: float,
        own: OwnAddresses = NOWHERE,
    ) -> Plan:
        """Go on to a state, and say what differs; ``own`` are the node's own addresses."""
        plan = Plan(is_whole=self._is_first)
        if self._is_first:
            self._start(plan)
        if self._hosts.take(deltas, own):
            self._has_other_chains = self._has_idle_nets = True
        self._need_hold(plan, now_s)
        rewritten = self._take_groups(deltas, now_s) | self._groups.rehome(now_s)
        self._take_sets(deltas, plan, now_s)
        joined = self._take_endpoints(deltas, attachments, rewritten, plan)
        for name in deltas.groups_removed:
            self._groups.remove(name, now_s)
            self._members_of.pop(name, None)
        if self._has_other_chains or rewritten or deltas.groups_updated or deltas.groups_removed:
            self._write_tables(plan)
        self._classify(plan, deltas, rewritten, joined)
        self._is_first = self._has_other_chains = self._has_other_raw = False
        return plan

    def collect(self, now_s: float) -> Plan:
        """Drop what has been retired for long enough."""
        plan = Plan()
        if self._groups.collect(now_s):
            self._write_tables(plan)
            self._has_idle_nets = True
        if self._has_idle_nets:
            wanted = {made.ipset.name for made in self._nets_asked()}
            plan.dropped += sorted(self._nets - wanted)
            self._nets &= wanted
            self._has_idle_nets = False
        old = [name for name, since_s in self._retired_sets.items() if since_s + RETIRE_S <= now_s]
        for name in old:
            del self._retired_sets[name]
        plan.dropped += old
        for name in plan.dropped:
            del self._roles[name]
        return plan

    def everything(self) -> Order:
        """For mending any state: as if each set differed and each group were affected."""
        passing = self._groups.asking(self._passing(self._ipsets))
        return Order(
            tuple(ChangedSet(name, role, is_affected=True) for name, role in self._roles.items()),
            EVERY_SWITCH,
            self._held(passing),
            self._held_hosts(),
        )

    def _start(self, plan: Plan) -> None:
        for version in self._versions:
            for ipset in endpoint_ipsets(version):
                plan.created[ipset.name] = ipset
            # An entry lets a pod reach itself: it goes before another pod has the interface.
            self._roles[self_ipset(version)] = Role.OPENS_EGRESS
            self._roles[src_ipset(version)] = Role.EGRESS_MAP
            self._roles[dst_ipset(version)] = Role.INGRESS_MAP

    def _take_groups(self, deltas: Deltas, now_s: float) -> set[GroupId]:
        """The groups that had endpoints already and have other rules now."""
        for group in deltas.groups_updated.values():
            if group.hook is None:
                self._groups.update(group, now_s)
        return {name for name in deltas.groups_updated if self._members_of.get(name)}

    def _need_hold(self, plan: Plan, now_s: float) -> None:
        """The set by which host endpoints are held is there while they may have to be."""
        for ipset in map(hold_ipset, self._versions):
            is_there = ipset.name in self._roles and ipset.name not in self._retired_sets
            if self._hosts.may_be_held and not is_there:
                self._roles[ipset.name] = Role.HOST_HOLD
                plan.created[ipset.name] = ipset
                self._retired_sets.pop(ipset.name, None)
            elif is_there and not self._hosts.may_be_held:
                self._retired_sets[ipset.name] = now_s

    def _take_sets(self, deltas: Deltas, plan: Plan, now_s: float) -> None:
        for ipset in deltas.ipsets_created.values():
            self._ipsets[ipset.id] = ipset
            for version in self._versions:
                made = render_ipset(ipset, version)
                plan.created[made.name] = made
                self._roles[made.name] = role_of(ipset)
                self._retired_sets.pop(made.name, None)
        for changes, words in (
            (deltas.members_added, plan.added),
            (deltas.members_removed, plan.removed),
        ):
            for identity, members in changes.items():
                if identity in self._ipsets:
                    self._word(identity, members, words)
        for identity in deltas.ipsets_removed:
            self._ipsets.pop(identity, None)
            names = (ipset_name(identity, version) for version in self._versions)
            self._retired_sets.update((name, now_s) for name in names if name in self._roles)

    def _word(
        self,
        identity: IpsetId,
        members: AbstractSet[Member],
        words: dict[IpsetName, list[KernelMember]],
    ) -> None:
        """Members of one set, in the words of the kernel's sets."""
        lists: dict[Version, list[KernelMember]] = {version: [] for version in self._versions}
        for version, member in map(render_member, members):
            if version in lists:
                lists[version].append(member)
        for version, worded in lists.items():
            if worded:
                words.setdefault(ipset_name(identity, version), []).extend(worded)

    def _take_endpoints(
        self,
        deltas: Deltas,
        attachments: Attachments,
        rewritten: set[GroupId],
        plan: Plan,
    ) -> set[GroupId]:
        """Place endpoints; the groups that some joined or left."""
        stale = set(deltas.endpoints_updated)
        stale |= {e for group in rewritten for e in self._members_of[group]}
        stale |= self._relocated(attachments)
        self._attachments = attachments
        joined: set[GroupId] = set()
        before: dict[Place, KernelMember] = {}
        after: dict[Place, KernelMember] = {}
        for identity in sorted(deltas.endpoints_removed | stale):
            before |= self._entries.pop(identity, {})
            old = self._endpoints.pop(identity, None)
            new = None if identity in deltas.endpoints_removed else old
            new = deltas.endpoints_updated.get(identity, new)
            joined |= self._regroup(old, new)
            if new is not None:
                self._endpoints[identity] = new
                self._entries[identity] = self._place(new)
                after |= self._entries[identity]
        self._note_entries(before, after, plan)
        return joined

    def _relocated(self, attachments: Attachments) -> set[EndpointId]:
        if attachments is self._attachments:
            return set()
        return {
            endpoint.id
            for endpoint in self._endpoints.values()
            if any(self._attachments.get(a) != attachments.get(a) for a in endpoint.addresses)
        }

    def _regroup(self, old: LocalEndpoint | None, new: LocalEndpoint | None) -> set[GroupId]:
        left = {old.ingress, old.egress} if old is not None else set()
        entered = {new.ingress, new.egress} if new is not None else set()
        endpoint = new or old
        if endpoint is not None:
            for group in left - entered:
                self._members_of[group].discard(endpoint.id)
            for group in entered - left:
                self._members_of.setdefault(group, set()).add(endpoint.id)
        if old is not None and new is not None and old.addresses == new.addresses:
            return left ^ entered
        return left | entered  # with each address that comes or goes, somebody joins or leaves

    def _place(self, endpoint: LocalEndpoint) -> dict[Place, KernelMember]:
        found = (self._attachments.get(address) for address in endpoint.addresses)
        attachment = next((each for each in found if each is not None), None)
        numbers = Numbers(
            egress=self._groups[endpoint.egress].number,
            ingress=self._groups[endpoint.ingress].number,
        )
        entries = render_endpoint(endpoint, attachment, numbers, self._layout)
        return {(name, member.text): member for name, member in entries if name in self._roles}

    def _note_entries(
        self,
        before: Mapping[Place, KernelMember],
        after: Mapping[Place, KernelMember],
        plan: Plan,
    ) -> None:
        switched: set[Role] = set()
        for place, member in after.items():
            if before.get(place) != member:
                plan.added.setdefault(place[0], []).append(member)
                switched.add(self._roles[place[0]])
        for place in before.keys() - after.keys():
            plan.removed.setdefault(place[0], []).append(before[place])
        egress, ingress = (role in switched for role in (Role.EGRESS_MAP, Role.INGRESS_MAP))
        plan.order = Order(switches=Switches(egress=egress, ingress=ingress))

    def _write_tables(self, plan: Plan) -> None:
        """Have the tables written, with the sets they ask, unless they would be as they are."""
        if self._has_other_chains or self._groups.edition != self._edition:
            self._edition = self._groups.edition
            plan.tables = self._tables()
            self._need_nets(plan)

    def _tables(self) -> tuple[Table, ...]:
        tables = self._groups.tables(self._config, self._hosts.tables(self._config))
        raw = {table.version: table for table in tables if table.name == "raw"}
        no_more = self._raw.keys() - raw.keys()
        emptied = {version: Table("raw", version, {}) for version in no_more}
        self._has_other_raw |= raw | emptied != self._raw
        self._raw |= raw | emptied
        return (*tables, *emptied.values())

    def _nets_asked(self) -> Iterator[NetsIpset]:
        yield from self._groups.nets()
        yield from self._hosts.nets()

    def _need_nets(self, plan: Plan) -> None:
        for made in self._nets_asked():
            name = made.ipset.name
            if name not in self._nets:
                self._nets.add(name)
                self._roles[name] = Role.NEUTRAL  # its members never change
                plan.created[name] = made.ipset
                plan.added[name] = list(made.members)

    def _classify(
        self, plan: Plan, deltas: Deltas, rewritten: set[GroupId], joined: set[GroupId]
    ) -> None:
        """Say of each changed set what its change can do, and what must wait meanwhile."""
        passing = self._passing(deltas.members_added.keys() | deltas.members_removed.keys())
        passed = self._groups.asking(passing) if passing else set()
        affected = {g for g in rewritten | joined | passed if g in self._groups}
        asked = {
            ipset_name(identity, version)
            for group in affected
            for identity in self._groups[group].asked()
            for version in self._versions
        } | self._asked_by_hosts(passing)
        lets_out = self._lets_out(plan, rewritten)
        held, switches = self._held(passed), plan.order.switches
        is_raw = bool(plan.tables) and self._has_other_raw
        holds_hosts = plan.is_whole or is_raw or bool(self._hosts.asking(passing))
        host_held = self._held_hosts() if holds_hosts else {}
        names = plan.created.keys() | plan.added.keys() | plan.removed.keys()
        names = names | held.keys() | host_held.keys()
        changed = tuple(
            ChangedSet(name, self._role_now(name, plan), lets_out or name in asked)
            for name in sorted(names)
        )
        if plan.is_whole:
            switches = EVERY_SWITCH
        elif rewritten or self._has_other_chains:
            switches = switches._replace(chains=True)
        plan.order = Order(changed, switches._replace(raw=switches.raw or is_raw), held, host_held)
        plan.only_opens = not plan.tables and all(
            only_opens(self._roles[name], plan.added.get(name), plan.removed.get(name))
            for name in names
        )
        members = {e for group in affected for e in self._members_of.get(group, ())}
        plan.touched = {a for e in members for a in self._endpoints[e].addresses}

    def _asked_by_hosts(self, passing: frozenset[IpsetId]) -> set[IpsetName]:
        """The sets beside a changed one that passes, and those of rules that ask two of them.

        No order of single changes makes the latter safe.
        """
        asked = {i for group in self._hosts.asking(passing) for i in self._hosts.asked(group)}
        return {
            ipset_name(identity, version)
            for identity in asked | self._hosts.asking_both_ends()
            for version in self._versions
        }

    def _lets_out(self, plan: Plan, rewritten: set[GroupId]) -> bool:
        """Whether an endpoint may send what it might not before, by other than its egress sets."""
        return (
            plan.is_whole
            or self._has_other_chains
            or any(self._roles[name] is Role.EGRESS_MAP for name in plan.added)
            or any(self._groups[g].group.direction is Direction.EGRESS for g in rewritten)
        )

    def _passing(self, ipsets: Iterable[IpsetId]) -> frozenset[IpsetId]:
        """Those of the sets that pass rules ask."""
        return frozenset(
            i for i in ipsets if i in self._ipsets and self._ipsets[i].polarity is Polarity.MOVES
        )

    def _role_now(self, name: IpsetName, plan: Plan) -> Role:
        if name in plan.created and not (plan.is_whole and self._left.is_asked(name)):
            return Role.NEW
        return self._roles[name]

    def _held_hosts(self) -> dict[IpsetName, tuple[KernelMember, ...]]:
        """Everybody, for host endpoints to hold."""
        names = {version: host_hold_ipset(version) for version in self._versions}
        return {n: hold_members(version) for version, n in names.items() if n in self._roles}

    def _held(self, groups: Iterable[GroupId]) -> dict[IpsetName, tuple[KernelMember, ...]]:
        held: dict[IpsetName, list[KernelMember]] = {}
        for group in groups:
            role = _MAP_ROLES[self._groups[group].group.direction]
            for endpoint in self._members_of.get(group, ()):
                for (name, _), member in self._entries[endpoint].items():
                    if self._roles[name] is role:
                        held.setdefault(name, []).append(member)
        return {name: tuple(members) for name, members in held.items()}


_MAP_ROLES = {Direction.EGRESS: Role.EGRESS_MAP, Direction.INGRESS: Role.INGRESS_MAP}
