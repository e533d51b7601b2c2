"""What names were learnt to have which addresses, by the domains that are asked.

In: a name's addresses, whenever they are others, and which domains sets ask.  Out: addresses by
domains.  When an answer is too old, and how many are kept, is not decided here: a name has the
addresses that it was last said to have.

An address that has *lapsed* is in no set any more, so that no new flow is opened to it; a flow that
was opened before is judged as if it had not.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from calico_k8s.model.addresses import Address
from calico_k8s.model.domains import DomainIndex, DomainName, DomainPattern, domain_matches

Patterns = AbstractSet[DomainPattern]

_NONE: frozenset[Address] = frozenset()


class NameChange(NamedTuple):
    """What a name's new addresses touch."""

    patterns: frozenset[DomainPattern]
    """The domains asked that mean the name."""
    gained: frozenset[Address]
    lost: frozenset[Address]


class Names:
    """All names that something was learnt of.

    Cost of a change: the addresses that it changes, and the names that share them.
    """

    def __init__(self) -> None:
        self._index = DomainIndex()
        self._uses: Counter[DomainPattern] = Counter()
        self._addresses: dict[DomainName, frozenset[Address]] = {}
        self._lapsed: dict[DomainName, frozenset[Address]] = {}
        self._names_by_pattern: dict[DomainPattern, set[DomainName]] = {}
        self._names_by_address: dict[Address, set[DomainName]] = {}
        self._lapsed_by_address: dict[Address, set[DomainName]] = {}

    @property
    def asked(self) -> Patterns:
        """The domains that sets ask; a live view."""
        return self._index.patterns

    def use(self, patterns: Iterable[DomainPattern]) -> None:
        """One more asks these domains."""
        for pattern in patterns:
            self._uses[pattern] += 1
            if self._uses[pattern] == 1:
                self._index.add(pattern)
                known = self._addresses.keys() | self._lapsed.keys()
                meant = {name for name in known if domain_matches(pattern, name)}
                self._names_by_pattern[pattern] = meant

    def release(self, patterns: Iterable[DomainPattern]) -> None:
        """One less asks these domains."""
        for pattern in patterns:
            self._uses[pattern] -= 1
            if not self._uses[pattern]:
                del self._uses[pattern], self._names_by_pattern[pattern]
                self._index.remove(pattern)

    def put(
        self, name: DomainName, addresses: frozenset[Address], lapsed: frozenset[Address]
    ) -> NameChange:
        """Say what addresses a name has, and which it had lately; none of either: forget it."""
        patterns = frozenset(self._index.meaning(name))
        old = self._addresses.get(name, _NONE)
        _move(self._names_by_address, name, old, addresses)
        _move(self._lapsed_by_address, name, self._lapsed.get(name, _NONE), lapsed)
        for kept, now in ((self._addresses, addresses), (self._lapsed, lapsed)):
            kept.pop(name, None)
            if now:
                kept[name] = now
        for pattern in patterns:
            if addresses or lapsed:
                self._names_by_pattern[pattern].add(name)
            else:
                self._names_by_pattern[pattern].discard(name)
        return NameChange(patterns, addresses - old, old - addresses)

    def addresses_of(self, patterns: Iterable[DomainPattern]) -> set[Address]:
        """The addresses of every name that one of these asked domains means."""
        names = {name for pattern in patterns for name in self._names_by_pattern[pattern]}
        return {address for name in names for address in self._addresses.get(name, _NONE)}

    def names_of(self, address: Address) -> AbstractSet[DomainName]:
        """The names that have an address now, or had it lately."""
        return self._names_by_address.get(address, set()) | self._lapsed_by_address.get(
            address, set()
        )

    def has(self, patterns: Patterns, address: Address) -> bool:
        """Whether a name that one of the domains means has the address."""
        return self._is_meant(patterns, self._names_by_address.get(address, ()))

    def had(self, patterns: Patterns, address: Address) -> bool:
        """Whether a name that one of the domains means had the address lately."""
        return self._is_meant(patterns, self._lapsed_by_address.get(address, ()))

    def _is_meant(self, patterns: Patterns, names: Iterable[DomainName]) -> bool:
        return any(pattern in patterns for name in names for pattern in self._index.meaning(name))


def _move(
    names_by_address: dict[Address, set[DomainName]],
    name: DomainName,
    old: frozenset[Address],
    new: frozenset[Address],
) -> None:
    for address in new - old:
        names_by_address.setdefault(address, set()).add(name)
    for address in old - new:
        names_by_address[address].discard(name)
        if not names_by_address[address]:
            del names_by_address[address]
