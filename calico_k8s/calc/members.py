"""The members of active ipsets, kept as endpoints and network sets change.

In: expressions to keep account of, and what changed among endpoints, network sets and names.  Out: the
members that came and went since they were last taken.  Which sets are wanted is not decided here.

A set's members come from three sides: endpoints give addresses, each its own and so no other's,
network sets give nets, and names the addresses that were learnt.  Each may hold the same single
address; it goes when all let go.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import msgspec

from calico_k8s.calc.deltas import Ipset, IpsetId, IpsetKind, Member, PortMember
from calico_k8s.calc.expressions import Criterion, Expression, Term, criteria_of, netsets_of
from calico_k8s.calc.names import Names
from calico_k8s.calc.nets import NetTable
from calico_k8s.calc.netsets import Netsets
from calico_k8s.calc.peers import Peers, View, ViewChange
from calico_k8s.model.addresses import Address, Net, address_net
from calico_k8s.model.domains import DomainName, DomainPattern
from calico_k8s.model.names import NetsetName
from calico_k8s.model.resources import Protocol


class ActiveSet(msgspec.Struct, eq=False):
    """An ipset that somebody asks, and what is in it now."""

    ipset: Ipset
    expression: Expression
    from_endpoints: set[Member]
    from_nets: NetTable
    from_names: set[Net]
    patterns: frozenset[DomainPattern]
    """The domains that its expression asks."""
    added: set[Member]
    """Since the changes were last taken; what is in here is in neither ``removed`` nor was before."""
    removed: set[Member]

    def holds(self, address: Address, protocol: Protocol, port: int) -> bool:
        """Whether the kernel's match of this set would be true."""
        if self.ipset.kind is IpsetKind.ADDRESS_PORT:
            return PortMember(address, protocol, port) in self.from_endpoints
        net = address_net(address)
        return net in self.from_endpoints or net in self.from_names or self.from_nets.holds(address)

    def members(self) -> AbstractSet[Member]:
        """Everything in it."""
        return self.from_endpoints | self.from_nets.nets | self.from_names

    def replace_nets(self, nets: frozenset[Net]) -> None:
        """Set the nets that network sets give."""
        old, self.from_nets = self.from_nets, NetTable(nets)
        self._note_removed(old.nets - nets - self.from_endpoints - self.from_names)
        self._note_added(nets - old.nets - self.from_endpoints - self.from_names)

    def take_out(self, gone: set[Member]) -> None:
        """Remove members that endpoints gave."""
        self.from_endpoints -= gone
        self._note_removed(gone - self.from_nets.nets - self.from_names)

    def put_in(self, come: set[Member]) -> None:
        """Add members that endpoints give."""
        self.from_endpoints |= come
        self._note_added(come - self.from_nets.nets - self.from_names)

    def replace_names(self, come: AbstractSet[Net], gone: AbstractSet[Net]) -> None:
        """Change what names give; ``come`` and ``gone`` have nothing in common."""
        come, gone = come - self.from_names, gone & self.from_names
        self.from_names = (self.from_names | come) - gone
        self._note_removed(gone - self.from_endpoints - self.from_nets.nets)
        self._note_added(come - self.from_endpoints - self.from_nets.nets)

    def _note_added(self, come: AbstractSet[Member]) -> None:
        self.added |= come - self.removed
        self.removed -= come

    def _note_removed(self, gone: AbstractSet[Member]) -> None:
        self.removed |= gone - self.added
        self.added -= gone


class Members:
    """All active sets."""

    def __init__(self, peers: Peers, netsets: Netsets, names: Names) -> None:
        self._peers = peers
        self._netsets = netsets
        self._names = names
        self._sets: dict[IpsetId, ActiveSet] = {}
        self._ids_by_criterion: dict[Criterion, set[IpsetId]] = {}
        self._ids_by_netset: dict[NetsetName, set[IpsetId]] = {}
        self._ids_by_pattern: dict[DomainPattern, set[IpsetId]] = {}
        self._changed: set[IpsetId] = set()

    def get(self, ipset_id: IpsetId) -> ActiveSet:
        """An active set."""
        return self._sets[ipset_id]

    def ids(self) -> AbstractSet[IpsetId]:
        """Every active set."""
        return self._sets.keys()

    def create(self, ipset: Ipset, expression: Expression) -> None:
        """Keep account of a set from now on; its first members count as added.

        Cost: the endpoints that meet its criteria, or have the rarest label they need.
        """
        for criterion in criteria_of(expression):
            self._peers.index.activate(criterion)
            self._netsets.index.activate(criterion)
            self._ids_by_criterion.setdefault(criterion, set()).add(ipset.id)
        for name in netsets_of(expression):
            self._ids_by_netset.setdefault(name, set()).add(ipset.id)
        active = ActiveSet(
            ipset, expression, set(), NetTable(), set(), frozenset(), added=set(), removed=set()
        )
        self._sets[ipset.id] = active
        active.replace_nets(self._netsets.nets_of(expression))
        active.put_in(self._from_endpoints(expression))
        self._ask_domains(active, self._netsets.domains_of(expression))
        self._changed.add(ipset.id)

    def drop(self, ipset_id: IpsetId) -> None:
        """Forget a set."""
        active = self._sets.pop(ipset_id)
        self._changed.discard(ipset_id)
        for criterion in criteria_of(active.expression):
            self._peers.index.deactivate(criterion)
            self._netsets.index.deactivate(criterion)
            self._ids_by_criterion[criterion].discard(ipset_id)
            if not self._ids_by_criterion[criterion]:
                del self._ids_by_criterion[criterion]
        self._ask_domains(active, frozenset())
        for name in netsets_of(active.expression):
            self._ids_by_netset[name].discard(ipset_id)
            if not self._ids_by_netset[name]:
                del self._ids_by_netset[name]

    def change_endpoints(self, changes: Iterable[ViewChange]) -> None:
        """Follow endpoints.  Cost: the sets that ask something that changed, not those that do not.

        All that go leave before any comes: an address may go from one endpoint to another.
        """
        arrivals: list[tuple[ActiveSet, set[Member]]] = []
        for before, after in changes:
            for ipset_id in self._touched_by(before, after):
                active = self._sets[ipset_id]
                old = self._given_by(active.expression, before)
                new = self._given_by(active.expression, after)
                if old != new:
                    active.take_out(old - new)
                    arrivals.append((active, new - old))
                    self._changed.add(ipset_id)
        for active, members in arrivals:
            active.put_in(members)

    def change_netset(self, name: NetsetName, selectors: Iterable[Criterion]) -> None:
        """Follow a network set; ``selectors`` are the active ones that were or are true of it.

        Cost: the sets that name it or ask one of the selectors, whole.
        """
        touched = set(self._ids_by_netset.get(name, ()))
        for criterion in selectors:
            touched |= self._ids_by_criterion.get(criterion, set())
        for ipset_id in touched:
            active = self._sets[ipset_id]
            active.replace_nets(self._netsets.nets_of(active.expression))
            self._ask_domains(active, self._netsets.domains_of(active.expression))
            if any(term.asks_address for term in active.expression):
                given = self._from_endpoints(active.expression)
                active.take_out(active.from_endpoints - given)
                active.put_in(given - active.from_endpoints)
        self._changed |= touched

    def change_name(
        self, name: DomainName, addresses: frozenset[Address], lapsed: frozenset[Address]
    ) -> None:
        """Follow a name.  Cost: the sets that ask it, for each address that it gained or lost."""
        patterns, gained, lost = self._names.put(name, addresses, lapsed)
        for ipset_id in set().union(*(self._ids_by_pattern.get(p, set()) for p in patterns)):
            active = self._sets[ipset_id]
            gone = (a for a in lost if not self._names.has(active.patterns, a))
            active.replace_names(set(map(address_net, gained)), set(map(address_net, gone)))
            self._changed.add(ipset_id)

    def _ask_domains(self, active: ActiveSet, patterns: frozenset[DomainPattern]) -> None:
        """Have a set hold what these domains have, and no others."""
        old, identity = active.patterns, active.ipset.id
        if patterns == old:
            return
        self._names.use(patterns - old)
        given = set(map(address_net, self._names.addresses_of(patterns)))
        self._names.release(old - patterns)
        active.patterns = patterns
        active.replace_names(given, active.from_names - given)
        for pattern in patterns - old:
            self._ids_by_pattern.setdefault(pattern, set()).add(identity)
        for pattern in old - patterns:
            self._ids_by_pattern[pattern].discard(identity)
            if not self._ids_by_pattern[pattern]:
                del self._ids_by_pattern[pattern]

    def take_changes(self) -> list[ActiveSet]:
        """The sets with members added or removed since the last call; clear them when read."""
        changed = [self._sets[ipset_id] for ipset_id in self._changed]
        self._changed = set()
        return [active for active in changed if active.added or active.removed]

    def _touched_by(self, before: View | None, after: View | None) -> set[IpsetId]:
        old = before.met if before is not None else frozenset()
        new = after.met if after is not None else frozenset()
        if before is not None and after is not None and before[1:] == after[1:]:
            criteria = old ^ new
        else:
            criteria = old | new
        return set().union(*(self._ids_by_criterion[criterion] for criterion in criteria))

    def _from_endpoints(self, expression: Expression) -> set[Member]:
        if len(expression) == 1 and expression[0].is_one_criterion:
            (anchor,) = expression[0].anchors
            return set[Member](self._peers.nets_meeting(anchor))
        anchors = {anchor for term in expression for anchor in term.anchors}
        given: set[Member] = set()
        for view in self._peers.meeting(anchors):
            given |= self._given_by(expression, view)
        return given

    def _given_by(self, expression: Expression, view: View | None) -> set[Member]:
        given: set[Member] = set()
        if view is None:
            return given
        for term in expression:
            addresses = self._addresses_for(term, view)
            if not term.ports:
                given.update(
                    view.nets if addresses is view.addresses else map(address_net, addresses)
                )
                continue
            names = {criterion.text for criterion in term.ports}
            for name, protocol, port in view.named_ports:
                if name in names and protocol == term.protocol:
                    given.update(PortMember(address, protocol, port) for address in addresses)
        return given

    def _addresses_for(self, term: Term, view: View) -> Iterable[Address]:
        if not any(anchor in view.met for anchor in term.anchors):
            return ()
        addresses = view.addresses
        if term.selector is not None and term.selector not in view.met:
            held, selector = self._netsets.is_selected_active, term.selector
            addresses = tuple(a for a in addresses if held(selector, a))
        if term.netset is not None:
            table = self._netsets.table(term.netset)
            addresses = tuple(a for a in addresses if table.holds(a))
        return addresses
