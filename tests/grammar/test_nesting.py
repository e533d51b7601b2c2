"""Parentheses and their partners."""

import pytest

from grammar import GrammarError, parse_policy, parse_selector
from grammar.errors import PolicyErrors


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("(has(a)", 1, "this '(' is never closed"),
        ("has(a) && (has(b) || (has(c))", 11, "this '(' is never closed"),
        ("has(a))", 7, "this ')' closes nothing"),
        ("(has(a))) || has(b)", 9, "this ')' closes nothing"),
        ("(has(a) x", 9, "expected '&&', '||' or ')', found 'x'"),
    ],
)
def test_a_parenthesis_without_its_partner_is_named(text: str, column: int, message: str) -> None:
    with pytest.raises(GrammarError) as caught:
        parse_selector(text)
    assert (caught.value.column, caught.value.message) == (column, message)


@pytest.mark.parametrize(
    ("expression", "column", "message"),
    [
        ("(has(a)) && has(b)", 10, "the parenthesis after 'selector' closes before this '&&'"),
        ("(has(a)", 1, "this '(' is never closed"),
        ("(has(a)))", 9, "this ')' closes nothing"),
        ("((has(a)) to", 11, "expected '&&', '||' or ')', found 'to'"),
    ],
)
def test_the_parentheses_of_a_statement_hold_the_whole_expression(
    expression: str, column: int, message: str
) -> None:
    before = "allow from selector "
    with pytest.raises(PolicyErrors) as caught:
        parse_policy(before + expression)
    (error,) = caught.value.errors
    assert (error.column, error.message) == (len(before) + column, message)


def test_the_parentheses_of_a_statement_do_not_count_towards_the_depth() -> None:
    parse_policy(f"allow from selector ({'(' * 100}has(a){')' * 100})")
    with pytest.raises(PolicyErrors, match="more than 100 parentheses"):
        parse_policy(f"allow from selector ({'(' * 101}has(a){')' * 101})")
