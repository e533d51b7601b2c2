"""Network sets: which hold an address, and which an active selector is true of.

In: network sets.  Out: nets, tables of nets, and what an update touched.
"""

from calico_k8s.calc.expressions import Criterion, Expression, Term, netsets_of
from calico_k8s.calc.labels import LabelIndex, compiled
from calico_k8s.calc.nets import NetTable, intersection
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.domains import DomainPattern
from calico_k8s.model.names import NetsetName, SelectorText
from calico_k8s.model.resources import NetworkSet

_EMPTY = NetTable()


class Netsets:
    """All network sets, indexed by the active selectors."""

    def __init__(self) -> None:
        self.index = LabelIndex[NetsetName]()
        """Its criteria are activated by whoever asks them of endpoints."""
        self._sets: dict[NetsetName, NetworkSet] = {}
        self._tables: dict[NetsetName, NetTable] = {}

    def update(self, name: NetsetName, new: NetworkSet | None) -> set[Criterion] | None:
        """Replace a network set; the selectors that were or are true of it, None if all is as before.

        Sets of members that name it, or ask one of these selectors, have to be looked at again.
        """
        old = self._sets.get(name)
        if old == new or (old and new and _seen(old) == _seen(new)):
            return None
        touched = set(self.index.criteria_of(name))
        if new is None:
            del self._sets[name], self._tables[name]
            self.index.remove(name)
        else:
            self._sets[name], self._tables[name] = new, NetTable(new.nets)
            if new.labels is None:
                self.index.remove(name)
            else:
                self.index.update(name, new.labels)
            touched |= self.index.criteria_of(name)
        return touched

    def table(self, name: NetsetName) -> NetTable:
        """The nets of a network set; none for one that is not there."""
        return self._tables.get(name, _EMPTY)

    def is_selected(self, text: SelectorText, address: Address) -> bool:
        """Whether a network set whose labels meet the selector holds the address.

        Cost: O(network sets); the selector need not be active.
        """
        is_true_of = compiled(text)
        return any(
            netset.labels is not None
            and is_true_of(netset.labels)
            and self._tables[name].holds(address)
            for name, netset in self._sets.items()
        )

    def is_selected_active(self, criterion: Criterion, address: Address) -> bool:
        """:meth:`is_selected` for an active selector.  Cost: O(network sets that meet it)."""
        return any(self._tables[name].holds(address) for name in self.index.items_of(criterion))

    def nets_of(self, expression: Expression) -> frozenset[Net]:
        """The nets whose addresses meet an expression of active criteria, whoever owns them."""
        found: frozenset[Net] = frozenset()
        for term in expression:
            found |= self._nets_of_term(term)
        return found

    def domains_of(self, expression: Expression) -> frozenset[DomainPattern]:
        """The domains whose addresses meet an expression of active criteria."""
        found: set[DomainPattern] = set()
        for term in expression:
            found.update(term.domains)
            if term.learns and term.selector is not None:
                for name in self.index.items_of(term.selector):
                    found.update(self._sets[name].domains)
        return frozenset(found)

    def _nets_of_term(self, term: Term) -> frozenset[Net]:
        if term.tag is not None or term.ports:
            return frozenset()
        named = self.table(term.netset) if term.netset is not None else None
        if term.selector is None:
            return _EMPTY.nets if named is None else named.nets
        selected: set[Net] = set()
        for name in self.index.items_of(term.selector):
            selected |= self._tables[name].nets
        return frozenset(selected) if named is None else intersection(NetTable(selected), named)


def _seen(netset: NetworkSet) -> tuple[object, ...]:
    return netset.labels, netset.nets, netset.domains


def mentions(expression: Expression, name: NetsetName) -> bool:
    """Whether the expression names the network set."""
    return name in netsets_of(expression)
