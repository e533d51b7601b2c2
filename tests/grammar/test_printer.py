"""Laws of canonical text: it reads back as the same value, and there is only one of it."""

import pytest
from hypothesis import given

from grammar import (
    Action,
    CidrMatch,
    Equal,
    GrammarError,
    Has,
    In,
    LabelMatch,
    Match,
    NamespaceMatch,
    Policy,
    PolicyErrors,
    PortRange,
    PortsMatch,
    Protocol,
    Selector,
    SelectorMatch,
    Statement,
    parse_policy,
    parse_selector,
    print_policy,
    print_selector,
    print_statement,
)
from tests.grammar import strategies
from tests.grammar.examples import example_lines, example_pairs


@pytest.mark.parametrize("line", example_lines("identity.txt", "Policies"))
def test_canonical_policies_come_out_as_they_went_in(line: str) -> None:
    assert print_policy(parse_policy(line)) == line


@pytest.mark.parametrize("line", example_lines("identity.txt", "Selectors"))
def test_canonical_selectors_come_out_as_they_went_in(line: str) -> None:
    assert print_selector(parse_selector(line)) == line


@pytest.mark.parametrize(("written", "canonical"), example_pairs("canonical.txt", "Policies"))
def test_policies_have_one_canonical_form(written: str, canonical: str) -> None:
    assert print_policy(parse_policy(written)) == canonical
    assert parse_policy(canonical) == parse_policy(written)


@pytest.mark.parametrize(("written", "canonical"), example_pairs("canonical.txt", "Selectors"))
def test_selectors_have_one_canonical_form(written: str, canonical: str) -> None:
    assert print_selector(parse_selector(written)) == canonical
    assert parse_selector(canonical) == parse_selector(written)


@given(strategies.policies)
def test_a_printed_policy_reads_back_as_the_same_value(policy: Policy) -> None:
    assert parse_policy(print_policy(policy)) == policy


@given(strategies.selectors)
def test_a_printed_selector_reads_back_as_the_same_value(selector: Selector) -> None:
    assert parse_selector(print_selector(selector)) == selector


@given(strategies.soups)
def test_printing_what_was_read_is_stable(text: str) -> None:
    try:
        selector = parse_selector(text)
    except GrammarError:
        pass
    else:
        assert parse_selector(print_selector(selector)) == selector
    try:
        policy = parse_policy(text)
    except PolicyErrors:
        return
    assert parse_policy(print_policy(policy)) == policy


def test_matches_are_printed_in_canonical_order_however_they_were_given() -> None:
    written = Statement(
        Action.ALLOW,
        Protocol.TCP,
        src=(
            PortsMatch((PortRange(443, 443), PortRange(80, 80))),
            CidrMatch(("fd00::/8", "10.0.0.0/8")),
            LabelMatch("b", "1"),
            LabelMatch("a", "1"),
            NamespaceMatch("prod"),
        ),
    )
    assert print_statement(written) == (
        "allow tcp from namespace prod label a=1 label b=1 cidr 10.0.0.0/8,fd00::/8 port 80,443"
    )


@pytest.mark.parametrize(
    "match",
    [
        LabelMatch("a b", "c"),
        LabelMatch("a", "c; allow"),
        LabelMatch("a=b", "c"),
        NamespaceMatch("prod; allow"),
        NamespaceMatch("to"),
        CidrMatch(("10.0.0.1",)),
        CidrMatch(("10.0.0.1/8",)),
        PortsMatch(("http; allow",)),
        PortsMatch(("80",)),
        PortsMatch((PortRange(0, 70000),)),
        SelectorMatch(Equal("a", "line\nend")),
        SelectorMatch(Has("a)")),
    ],
)
def test_a_value_that_would_read_as_something_else_is_not_printed(match: Match) -> None:
    with pytest.raises(ValueError, match=r"would be read|is no |is neither|keyword|is above"):
        print_statement(Statement(Action.ALLOW, Protocol.TCP, src=(match,)))


@pytest.mark.parametrize(
    "selector", [Equal("a", "'\""), In("a", ("'\"",)), Has(""), Has("x" * 513)]
)
def test_a_selector_that_cannot_be_written_is_not_printed(selector: Selector) -> None:
    with pytest.raises(ValueError, match=r"quotes|no label"):
        print_selector(selector)


def test_parentheses_as_deep_as_can_be_read_can_be_printed_in_a_statement() -> None:
    text = "has(y) || has(z)"
    for _ in range(100):
        text = f"has(a) || has(b) && !({text})"
    assert print_selector(parse_selector(text)) == text
    statement = f"allow from selector ({text})"
    assert print_policy(parse_policy(statement)) == statement
