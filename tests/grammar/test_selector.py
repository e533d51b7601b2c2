"""Reading selector expressions: the tokens, the precedence, and the limits."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    TEXT_MAX,
    All,
    And,
    Contains,
    EndsWith,
    Equal,
    Global,
    GrammarError,
    Has,
    In,
    Not,
    NotEqual,
    NotIn,
    Or,
    Selector,
    StartsWith,
    evaluate,
    parse_selector,
)
from tests.grammar import strategies

A, B, C = Has("a"), Has("b"), Has("c")


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("", All()),
        (" \t ", All()),
        ("all()", All()),
        ("all( )", All()),
        ("global()", Global()),
        ("has(a)", A),
        ("has( a\t)", A),
        ("has(A-b_c.d/e)", Has("A-b_c.d/e")),
        ("a == 'b'", Equal("a", "b")),
        ("a=='b'", Equal("a", "b")),
        ('a\t==\t"b"', Equal("a", "b")),
        ("a == ''", Equal("a", "")),
        ("a == 'b\"c'", Equal("a", 'b"c')),
        ("a == 'back\\slash'", Equal("a", "back\\slash")),
        ("a == 'line\nend'", Equal("a", "line\nend")),
        ("a == ' && '", Equal("a", " && ")),
        ("a != 'b'", NotEqual("a", "b")),
        ("a!='b'", NotEqual("a", "b")),
        ("a contains 'b'", Contains("a", "b")),
        ("a contains'b'", Contains("a", "b")),
        ("a starts with 'b'", StartsWith("a", "b")),
        ("a starts \t with 'b'", StartsWith("a", "b")),
        ("a startswith 'b'", StartsWith("a", "b")),
        ("a ends with 'b'", EndsWith("a", "b")),
        ("a endswith'b'", EndsWith("a", "b")),
        ("a in {}", In("a", ())),
        ("a in { }", In("a", ())),
        ("a in {'b'}", In("a", ("b",))),
        ("a in{'c','b',\"b\" , }", In("a", ("b", "c"))),
        ("a in {'}',','}", In("a", (",", "}"))),
        ("a not in {'b'}", NotIn("a", ("b",))),
        ("a not  in{'b'}", NotIn("a", ("b",))),
        ("a notin {'b'}", NotIn("a", ("b",))),
        ("in in {'in'}", In("in", ("in",))),
        ("not not in {'not'}", NotIn("not", ("not",))),
        ("all == 'x'", Equal("all", "x")),
        ("has == 'x'", Equal("has", "x")),
        ("has/x == 'x'", Equal("has/x", "x")),
        ("contains contains 'x'", Contains("contains", "x")),
        ("x" * 512 + " == 'b'", Equal("x" * 512, "b")),
    ],
)
def test_an_operation_is_read(text: str, selector: Selector) -> None:
    assert parse_selector(text) == selector


@pytest.mark.parametrize(
    ("text", "selector"),
    [
        ("has(a) && has(b) || has(c)", Or((And((A, B)), C))),
        ("has(a) || has(b) && has(c)", Or((A, And((B, C))))),
        ("(has(a) || has(b)) && has(c)", And((Or((A, B)), C))),
        ("has(a)&&has(b)&&has(c)", And((A, B, C))),
        ("has(a) && (has(b) && has(c))", And((A, B, C))),
        ("has(a) || ((has(b)) || has(c))", Or((A, B, C))),
        ("!has(a) && has(b)", And((Not(A), B))),
        ("!(has(a) && has(b))", Not(And((A, B)))),
        ("! ! has(a)", A),
        ("!(!has(a))", A),
        ("!(!(has(a) || has(b)) && !has(c))", Not(And((Not(Or((A, B))), Not(C))))),
        ("!a == 'b'", Not(Equal("a", "b"))),
        (
            "! has(a) || a starts with 'p' && r in {'x'}",
            Or((Not(A), And((StartsWith("a", "p"), In("r", ("x",)))))),
        ),
    ],
)
def test_not_binds_closest_then_and_then_or(text: str, selector: Selector) -> None:
    assert parse_selector(text) == selector


def _expressions() -> st.SearchStrategy[str]:
    atoms = st.sampled_from(["has(a)", "has(b)", "has(c)", "all()"])
    return st.recursive(
        atoms,
        lambda parts: st.one_of(
            parts.map("!{}".format),
            parts.map("({})".format),
            st.tuples(parts, st.sampled_from([" && ", "||", " || "]), parts).map("".join),
        ),
        max_leaves=20,
    )


@given(_expressions(), st.sets(st.sampled_from("abc")))
def test_precedence_is_that_of_pythons_not_and_or(text: str, names: set[str]) -> None:
    python = text.replace("!", " not ").replace("&&", " and ").replace("||", " or ")
    python = re.sub(r"has\((.)\)", r"('\1' in names)", python).replace("all()", "True")
    expected = eval(python, {"names": names})
    assert evaluate(parse_selector(text), dict.fromkeys(names, "")) is expected


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a = 'b'",
        "a & b",
        "has(a) | has(b)",
        "has (a)",
        "has()",
        "has(a b)",
        "HAS(a)",
        "all",
        "all(a)",
        "a == b",
        "a == 'b",
        "a == 'b\"",
        "a == 'b' 'c'",
        "a in {'b' 'c'}",
        "a in {,}",
        "a in {'b',,}",
        "a in {b}",
        "a in 'b'",
        "a IN {'b'}",
        "a inn {'b'}",
        "a not {'b'}",
        "a nottin {'b'}",
        "a starts 'b'",
        "a == 'b' &&",
        "&& a == 'b'",
        "()",
        "(has(a)",
        "has(a))",
        "!",
        "has(a) has(b)",
        "has(a)\n",
        "has(a) &&\nhas(b)",
        "has(a)\r",
        "has(a)\N{NO-BREAK SPACE}&& has(b)",
        "\0",
        "\U0001f600 == 'x'",
        "é == 'x'",
        "x" * 513 + " == 'b'",
    ],
)
def test_what_calico_refuses_is_refused(text: str) -> None:
    with pytest.raises(GrammarError):
        parse_selector(text)


@pytest.mark.parametrize("depth", [1, 40, 100])
def test_parentheses_nest(depth: int) -> None:
    assert parse_selector("(" * depth + "has(a)" + ")" * depth) == A


@pytest.mark.parametrize("depth", [101, 10_000, 100_000])
def test_parentheses_beyond_the_limit_are_an_error_at_the_first_one_too_many(depth: int) -> None:
    with pytest.raises(GrammarError, match="more than 100 parentheses") as caught:
        parse_selector("(" * depth + "has(a)" + ")" * depth)
    assert caught.value.column == 101


def test_any_number_of_negations_is_read() -> None:
    assert parse_selector("!" * 100_001 + "has(a)") == Not(A)


def test_long_chains_and_sets_are_read() -> None:
    chain = parse_selector(" && ".join(f"has(a{number})" for number in range(5000)))
    assert isinstance(chain, And)
    assert len(chain.operands) == 5000
    members = ",".join(f"'{number}'" for number in range(20_000))
    big = parse_selector(f"a in {{{members}}}")
    assert isinstance(big, In)
    assert len(big.values) == 20_000


def test_a_text_beyond_the_limit_is_refused_whole() -> None:
    with pytest.raises(GrammarError, match="1000000 characters, more than the 262144"):
        parse_selector("x" * 1_000_000)
    with pytest.raises(GrammarError, match="expected '=='"):
        parse_selector(" " * (TEXT_MAX - 1) + "x")


@given(st.one_of(strategies.soups, st.text(), strategies.damaged(strategies.soups)))
def test_any_text_is_read_or_refused_with_a_place_inside_it(text: str) -> None:
    error = refusal(text)
    if error is not None:
        assert 0 <= error.span.start <= error.span.end <= len(text)
        assert error.span.start < error.span.end or error.span.start == len(text)
        assert str(error).startswith(f"line {error.line}, column {error.column}: ")


def refusal(text: str) -> GrammarError | None:
    """The error of a text that is no selector."""
    try:
        parse_selector(text)
    except GrammarError as error:
        return error
    return None
