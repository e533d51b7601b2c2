"""Which selectors, tags and port names are true of which items, kept as both change.

In: items with their labels and tokens, and the criteria that somebody asks for.  Out: who meets
what, and what an update changed.  What an item is, and why it is asked, is the caller's.

A selector that needs a label is found by that label: ``access == "backend" && tier != "x"`` is
looked at only for items with ``access=backend``.  Only a selector that needs none (``all()``,
``!has(a)``) is looked at for every item, and it is true of most.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import grammar
from calico_k8s.calc.expressions import Criterion
from calico_k8s.model.names import SelectorText
from calico_k8s.policy.snapshot import selector

Item = TypeVar("Item", bound=Hashable)

Requirement = tuple[str, frozenset[str] | None]
"""A label that must be there, and the values it may have; None for any."""

_NOTHING: frozenset[Criterion] = frozenset()


@lru_cache(maxsize=65536)
def compiled(text: SelectorText) -> Callable[[Mapping[str, str]], bool]:
    """The selector as a function of labels."""
    return grammar.compile_selector(selector(text))


class Change(NamedTuple):
    """What an update of an item changed among the active criteria."""

    gained: AbstractSet[Criterion]
    lost: AbstractSet[Criterion]


class LabelIndex(Generic[Item]):
    """Items by the active criteria that are true of them.

    Tokens are criteria that an item has or has not (tags, port names); labels are what selectors
    are asked of.  Cost of an update: the item's labels and tokens, and the selectors that need
    one of those labels; not the number of items, nor of selectors.
    """

    def __init__(self) -> None:
        self._labels: dict[Item, Mapping[str, str]] = {}
        self._tokens: dict[Item, AbstractSet[Criterion]] = {}
        self._items_by_label: dict[str, dict[str, set[Item]]] = {}
        self._items_by_token: dict[Criterion, set[Item]] = {}
        self._uses: Counter[Criterion] = Counter()
        self._place_by_selector: dict[Criterion, Requirement | None] = {}
        self._selectors_by_label: dict[tuple[str, str | None], set[Criterion]] = {}
        self._selectors_for_all: set[Criterion] = set()
        self._met: dict[Item, set[Criterion]] = {}
        self._items_by_criterion: dict[Criterion, set[Item]] = {}

    @property
    def is_asked(self) -> bool:
        """Whether any criterion is active."""
        return bool(self._uses)

    def criteria_of(self, item: Item) -> AbstractSet[Criterion]:
        """The active criteria that are true of the item; an update leaves this set as it is."""
        return self._met.get(item, _NOTHING)

    def items_of(self, criterion: Criterion) -> AbstractSet[Item]:
        """The items an active criterion is true of; empty for one that is not active."""
        return self._items_by_criterion.get(criterion, frozenset())

    def update(
        self, item: Item, labels: Mapping[str, str], tokens: AbstractSet[Criterion] = _NOTHING
    ) -> Change:
        """Set an item's labels and tokens."""
        self._move_labels(item, self._labels.get(item, {}), labels)
        self._move_tokens(item, self._tokens.get(item, _NOTHING), tokens)
        self._labels[item], self._tokens[item] = labels, tokens
        met = {token for token in tokens if token in self._uses}
        met.update(c for c in self._candidates(labels) if compiled(SelectorText(c.text))(labels))
        return self._set_met(item, met)

    def remove(self, item: Item) -> Change:
        """Forget an item."""
        self._move_labels(item, self._labels.pop(item, {}), {})
        self._move_tokens(item, self._tokens.pop(item, _NOTHING), _NOTHING)
        change = self._set_met(item, set())
        self._met.pop(item, None)
        return change

    def activate(self, criterion: Criterion) -> None:
        """Keep account of a criterion from now on; each call needs one :meth:`deactivate`.

        Cost: the items that it is true of, or that have the rarest of the labels it needs.
        """
        self._uses[criterion] += 1
        if self._uses[criterion] > 1:
            return
        items = self._find(criterion)
        self._items_by_criterion[criterion] = items
        for item in items:
            self._met[item].add(criterion)

    def deactivate(self, criterion: Criterion) -> None:
        """Undo one :meth:`activate`."""
        self._uses[criterion] -= 1
        if self._uses[criterion] > 0:
            return
        del self._uses[criterion]
        for item in self._items_by_criterion.pop(criterion):
            self._met[item].discard(criterion)
        if criterion.kind == "selector":
            for label in self._places(self._place_by_selector.pop(criterion)):
                _discard(self._selectors_by_label, label, criterion)
            self._selectors_for_all.discard(criterion)

    def _candidates(self, labels: Mapping[str, str]) -> set[Criterion]:
        found = set(self._selectors_for_all)
        by_label = self._selectors_by_label
        for key, value in labels.items():
            found |= by_label.get((key, value), _NOTHING)
            found |= by_label.get((key, None), _NOTHING)
        return found

    def _set_met(self, item: Item, met: set[Criterion]) -> Change:
        old = self._met.get(item, _NOTHING)
        change = Change(met - old, old - met)
        for criterion in change.gained:
            self._items_by_criterion[criterion].add(item)
        for criterion in change.lost:
            self._items_by_criterion[criterion].discard(item)
        self._met[item] = met
        return change

    def _find(self, criterion: Criterion) -> set[Item]:
        if criterion.kind != "selector":
            return set(self._items_by_token.get(criterion, ()))
        requirements = _requirements(selector(SelectorText(criterion.text)))
        # The rarest label among the items of today: every pod policy asks for its namespace too.
        place = min(requirements, key=self._count, default=None)
        self._place_by_selector[criterion] = place
        for label in self._places(place):
            self._selectors_by_label.setdefault(label, set()).add(criterion)
        if place is None:
            self._selectors_for_all.add(criterion)
        is_true_of = compiled(SelectorText(criterion.text))
        candidates = self._labels.keys() if place is None else self._with_label(place)
        return {item for item in candidates if is_true_of(self._labels[item])}

    def _count(self, requirement: Requirement) -> int:
        return sum(len(items) for items in self._holders(requirement))

    def _with_label(self, requirement: Requirement) -> set[Item]:
        return {item for items in self._holders(requirement) for item in items}

    def _holders(self, requirement: Requirement) -> Iterable[set[Item]]:
        key, values = requirement
        by_value = self._items_by_label.get(key, {})
        if values is None:
            return by_value.values()
        return [by_value[value] for value in values if value in by_value]

    @staticmethod
    def _places(requirement: Requirement | None) -> list[tuple[str, str | None]]:
        if requirement is None:
            return []
        key, values = requirement
        return [(key, None)] if values is None else [(key, value) for value in values]

    def _move_labels(self, item: Item, old: Mapping[str, str], new: Mapping[str, str]) -> None:
        for key, value in old.items() - new.items():
            by_value = self._items_by_label[key]
            _discard(by_value, value, item)
            if not by_value:
                del self._items_by_label[key]
        for key, value in new.items() - old.items():
            self._items_by_label.setdefault(key, {}).setdefault(value, set()).add(item)

    def _move_tokens(
        self, item: Item, old: AbstractSet[Criterion], new: AbstractSet[Criterion]
    ) -> None:
        for token in old - new:
            _discard(self._items_by_token, token, item)
        for token in new - old:
            self._items_by_token.setdefault(token, set()).add(item)


_Key = TypeVar("_Key")
_Element = TypeVar("_Element")


def _discard(sets: dict[_Key, set[_Element]], key: _Key, element: _Element) -> None:
    """Take an element out of one of the sets; an empty set goes."""
    sets[key].discard(element)
    if not sets[key]:
        del sets[key]


def _requirements(parsed: grammar.Selector) -> list[Requirement]:
    """Labels without which the selector is false, as far as they are plain to see."""
    parts = parsed.operands if isinstance(parsed, grammar.And) else (parsed,)
    return [needed for part in parts if (needed := grammar.required_label(part)) is not None]
