"""What a selector is true of.

In: a selector's tree and the labels of one endpoint.  Out: yes or no, or a fast function that
answers for any labels.  :func:`evaluate` is the definition: everything faster is tested against it.

Without the label, ``==``, ``in``, ``contains``, ``starts with``, ``ends with`` and ``has`` are
false, ``!=`` and ``not in`` are true.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, assert_never

from grammar.nodes import (
    All,
    And,
    Contains,
    EndsWith,
    Equal,
    Global,
    Has,
    In,
    Not,
    NotEqual,
    NotIn,
    Or,
    Selector,
    StartsWith,
)

Labels: TypeAlias = Mapping[str, str]
Test: TypeAlias = Callable[[Labels], bool]


def evaluate(selector: Selector, labels: Labels) -> bool:  # noqa: C901 - one line for each kind
    """Whether the selector is true of an endpoint with these labels."""
    match selector:
        case All() | Global():
            return True
        case Has(key):
            return key in labels
        case Equal(key, value):
            return key in labels and labels[key] == value
        case NotEqual(key, value):
            return key not in labels or labels[key] != value
        case Contains(key, value):
            return key in labels and value in labels[key]
        case StartsWith(key, value):
            return key in labels and labels[key].startswith(value)
        case EndsWith(key, value):
            return key in labels and labels[key].endswith(value)
        case In(key, values):
            return key in labels and labels[key] in values
        case NotIn(key, values):
            return key not in labels or labels[key] not in values
        case Not(operand):
            return not evaluate(operand, labels)
        case And(operands):
            return _is_each(operands, labels, wanted=True)
        case Or(operands):
            return not _is_each(operands, labels, wanted=False)
        case _:
            assert_never(selector)


def _is_each(operands: tuple[Selector, ...], labels: Labels, *, wanted: bool) -> bool:
    for operand in operands:  # noqa: SIM110 - a generator doubles the frames of a deep tree
        if evaluate(operand, labels) is not wanted:
            return False
    return True


def compile_selector(selector: Selector) -> Test:  # noqa: C901 - one line for each kind
    """A function of labels that agrees with :func:`evaluate`; some 100 ns for each operation."""
    match selector:
        case All() | Global():
            return lambda _: True
        case Has(key):
            return lambda labels: key in labels
        case Equal(key, value):
            return lambda labels: labels.get(key) == value
        case NotEqual(key, value):
            return lambda labels: labels.get(key) != value
        case Contains(key, value):
            return lambda labels: key in labels and value in labels[key]
        case StartsWith(key, value):
            return lambda labels: key in labels and labels[key].startswith(value)
        case EndsWith(key, value):
            return lambda labels: key in labels and labels[key].endswith(value)
        case In(key, values):
            inside = frozenset(values)
            return lambda labels: labels.get(key) in inside
        case NotIn(key, values):
            outside = frozenset(values)
            return lambda labels: labels.get(key) not in outside
        case Not(operand):
            test = compile_selector(operand)
            return lambda labels: not test(labels)
        case And(operands):
            return _all_of(tuple(map(compile_selector, operands)))
        case Or(operands):
            return _any_of(tuple(map(compile_selector, operands)))
        case _:
            assert_never(selector)


def _all_of(tests: tuple[Test, ...]) -> Test:
    if len(tests) == 2:
        first, second = tests
        return lambda labels: first(labels) and second(labels)

    def test_all(labels: Labels) -> bool:
        for test in tests:  # noqa: SIM110 - a generator costs more
            if not test(labels):
                return False
        return True

    return test_all


def _any_of(tests: tuple[Test, ...]) -> Test:
    if len(tests) == 2:
        first, second = tests
        return lambda labels: first(labels) or second(labels)

    def test_any(labels: Labels) -> bool:
        for test in tests:  # noqa: SIM110 - a generator costs more
            if test(labels):
                return True
        return False

    return test_any


def label_names(selector: Selector) -> frozenset[str]:
    """The labels that the selector speaks of: no other label changes what it is true of."""
    match selector:
        case All() | Global():
            return frozenset()
        case Not(operand):
            return label_names(operand)
        case And(operands) | Or(operands):
            return frozenset().union(*map(label_names, operands))
        case _:
            return frozenset({selector.key})


Values: TypeAlias = frozenset[str] | None
"""The values a label may have; None: any, as long as the label is there."""


def required_label(selector: Selector) -> tuple[str, Values] | None:
    """A label without which, or with another value than these, the selector is never true.

    For an index of selectors by label: the most telling one is returned, with the fewest values
    and then the first key.  None: the selector may be true of anything.  An empty set of values:
    it is never true.
    """
    required = _required(selector)
    if not required:
        return None
    key = min(required, key=lambda key: (*_breadth(required[key]), key))
    return key, required[key]


def _required(selector: Selector) -> dict[str, Values]:
    """Every label that must be there for the selector to be true, with the values it may have."""
    match selector:
        case Has(key) | Contains(key) | StartsWith(key) | EndsWith(key):
            return {key: None}
        case Equal(key, value) | Not(NotEqual(key, value)):
            return {key: frozenset({value})}
        case In(key, values) | Not(NotIn(key, values)):
            return {key: frozenset(values)}
        case And(operands):
            return _of_all(list(map(_required, operands)))
        case Or(operands):
            return _of_any(list(map(_required, operands)))
        case _:
            return {}


def _of_all(required: list[dict[str, Values]]) -> dict[str, Values]:
    """What each of several conditions needs, together."""
    merged: dict[str, Values] = {}
    for conditions in required:
        for key, values in conditions.items():
            known = merged.get(key)
            merged[key] = values if known is None else known if values is None else known & values
    return merged


def _of_any(required: list[dict[str, Values]]) -> dict[str, Values]:
    """What is needed whichever of several conditions holds."""
    common = set(required[0]).intersection(*required[1:])
    return {key: _either([conditions[key] for conditions in required]) for key in common}


def _either(choices: list[Values]) -> Values:
    either: frozenset[str] = frozenset()
    for values in choices:
        if values is None:
            return None
        either |= values
    return either


def _breadth(values: Values) -> tuple[int, int]:
    return (1, 0) if values is None else (0, len(values))
