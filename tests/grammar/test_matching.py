"""What selectors are true of: the definition by table, everything faster against the definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    Selector,
    compile_selector,
    evaluate,
    label_names,
    parse_selector,
    required_label,
)
from tests.grammar import strategies


@pytest.mark.parametrize(
    ("text", "without", "with_other", "with_same"),
    [
        ("all()", True, True, True),
        ("global()", True, True, True),
        ("has(a)", False, True, True),
        ("!has(a)", True, False, False),
        ("a == 'same'", False, False, True),
        ("a != 'same'", True, True, False),
        ("!a == 'same'", True, True, False),
        ("a contains 'am'", False, False, True),
        ("a contains ''", False, True, True),
        ("a starts with 'sa'", False, False, True),
        ("a starts with 'am'", False, False, False),
        ("a starts with ''", False, True, True),
        ("a ends with 'me'", False, False, True),
        ("a ends with 'am'", False, False, False),
        ("a in {'same', 'x'}", False, False, True),
        ("a in {}", False, False, False),
        ("a not in {'same', 'x'}", True, True, False),
        ("a not in {}", True, True, True),
        ("has(a) && a != 'same'", False, True, False),
        ("!has(a) || a == 'same'", True, False, True),
        ("a == 'SAME'", False, False, False),
    ],
)
def test_selectors_are_true_of(
    text: str, *, without: bool, with_other: bool, with_same: bool
) -> None:
    selector = parse_selector(text)
    for test in (lambda labels: evaluate(selector, labels), compile_selector(selector)):
        assert test({"b": "same"}) is without
        assert test({"a": "other"}) is with_other
        assert test({"a": "same"}) is with_same


@given(strategies.selectors, st.lists(strategies.labels, min_size=1, max_size=8))
def test_a_compiled_selector_agrees_with_the_definition(
    selector: Selector, all_labels: list[dict[str, str]]
) -> None:
    test = compile_selector(selector)
    for labels in all_labels:
        assert test(labels) is evaluate(selector, labels)


@given(strategies.selectors, strategies.labels, strategies.keys, strategies.values)
def test_a_label_a_selector_does_not_name_changes_nothing(
    selector: Selector, labels: dict[str, str], key: str, value: str
) -> None:
    if key not in label_names(selector):
        without = {other: labels[other] for other in labels if other != key}
        assert evaluate(selector, {**without, key: value}) is evaluate(selector, without)


@given(strategies.selectors, strategies.labels)
def test_a_selector_is_false_without_its_required_label(
    selector: Selector, labels: dict[str, str]
) -> None:
    required = required_label(selector)
    if required is not None and evaluate(selector, labels):
        key, values = required
        assert key in labels
        assert values is None or labels[key] in values


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("", None),
        ("!has(a)", None),
        ("a != 'b'", None),
        ("has(a)", ("a", None)),
        ("a contains 'b'", ("a", None)),
        ("a == 'b'", ("a", {"b"})),
        ("!a != 'b'", ("a", {"b"})),
        ("!a not in {'b', 'c'}", ("a", {"b", "c"})),
        ("a in {}", ("a", set())),
        ("has(a) && b == 'c'", ("b", {"c"})),
        ("a in {'x', 'y'} && b == 'c'", ("b", {"c"})),
        ("a in {'x', 'y'} && a in {'y', 'z'} && b in {'p', 'q'}", ("a", {"y"})),
        ("a == 'x' && a == 'y'", ("a", set())),
        ("a == 'x' || a == 'y'", ("a", {"x", "y"})),
        ("a == 'x' || has(a)", ("a", None)),
        ("a == 'x' || b == 'y'", None),
        ("a == 'x' && c == 'p' || b == 'y' && c == 'q'", ("c", {"p", "q"})),
        ("a == 'x' || all()", None),
    ],
)
def test_the_required_label_is_the_most_telling_one(
    text: str, required: tuple[str, set[str] | None] | None
) -> None:
    assert required_label(parse_selector(text)) == required


def test_label_names_are_found_everywhere() -> None:
    text = "!(a == 'x' && has(b)) || c not in {} && (d contains 'x' || global())"
    assert label_names(parse_selector(text)) == {"a", "b", "c", "d"}


def test_a_tree_of_the_deepest_parentheses_is_evaluated_and_compiled() -> None:
    text = "has(z)"
    for _ in range(100):
        text = f"has(a) || all() && !({text})"
    selector = parse_selector(text)
    for labels in ({}, {"a": ""}, {"z": ""}, {"a": "", "z": ""}):
        # An even number of negations around has(z), and has(a) makes every level true.
        assert evaluate(selector, labels) is bool(labels)
        assert compile_selector(selector)(labels) is bool(labels)
    assert label_names(selector) == {"a", "z"}
    assert required_label(selector) is None
