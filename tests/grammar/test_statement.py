"""Reading policies: what statements mean as values, where they stand, what is refused and how."""

from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyparsing import ParserElement

from grammar import (
    TEXT_MAX,
    Action,
    And,
    CidrMatch,
    Equal,
    GrammarError,
    Has,
    LabelMatch,
    NamespaceMatch,
    Policy,
    PolicyErrors,
    PortRange,
    PortsMatch,
    Protocol,
    SelectorMatch,
    Span,
    Statement,
    parse_policy,
    print_policy,
)
from grammar.lexical import read
from grammar.statement import _WITH_SELECTORS, _WITHOUT_SELECTORS, ERRORS_MAX
from tests.grammar import strategies


def errors_of(text: str) -> tuple[GrammarError, ...]:
    """The errors of a policy that cannot be read."""
    with pytest.raises(PolicyErrors) as caught:
        parse_policy(text)
    return caught.value.errors


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("allow", Statement(Action.ALLOW)),
        ("deny", Statement(Action.DENY)),
        ("allow tcp", Statement(Action.ALLOW, Protocol.TCP)),
        ("deny sctp", Statement(Action.DENY, Protocol.SCTP)),
        (
            "allow tcp from label access=backend to port 4001",
            Statement(
                Action.ALLOW,
                Protocol.TCP,
                src=(LabelMatch("access", "backend"),),
                dst=(PortsMatch((PortRange(4001, 4001),)),),
            ),
        ),
        ("allow icmp", Statement(Action.ALLOW, Protocol.ICMP)),
        ("allow icmp type 8 code 0", Statement(Action.ALLOW, Protocol.ICMP, 8, 0)),
        (
            "allow icmpv6 type 254 from cidr fd00::1/8",
            Statement(Action.ALLOW, Protocol.ICMPV6, 254, src=(CidrMatch(("fd00::/8",)),)),
        ),
        (
            "allow from label x= label a.b/c_d=x namespace prod",
            Statement(
                Action.ALLOW,
                src=(NamespaceMatch("prod"), LabelMatch("a.b/c_d", "x"), LabelMatch("x", "")),
            ),
        ),
        (
            "allow udp to port 8000-8080,http,53",
            Statement(
                Action.ALLOW,
                Protocol.UDP,
                dst=(PortsMatch((PortRange(53, 53), PortRange(8000, 8080), "http")),),
            ),
        ),
        (
            "allow from selector ((a == ';)') && has(b)) cidr 10.1.2.3",
            Statement(
                Action.ALLOW,
                src=(
                    SelectorMatch(And((Equal("a", ";)"), Has("b")))),
                    CidrMatch(("10.1.2.3/32",)),
                ),
            ),
        ),
    ],
)
def test_a_statement_is_read(text: str, statement: Statement) -> None:
    assert parse_policy(text) == Policy((statement,))


@pytest.mark.parametrize("text", ["", " ", "\n\n", ";;", "# allow", "\r\n", " # a\n; # b ; c\n"])
def test_a_text_without_statements_is_a_policy_without_any(text: str) -> None:
    assert parse_policy(text) == Policy(())


def test_statements_end_at_semicolons_and_line_ends_and_know_where_they_stood() -> None:
    text = "allow tcp ;deny # one; two\r\n\r\n\tallow udp;\n"
    statements = parse_policy(text).statements
    assert [text[slice(*statement.span)] for statement in statements] == [
        "allow tcp",
        "deny",
        "allow udp",
    ]
    assert [statement.line for statement in statements] == [1, 1, 3]


def test_where_a_statement_stood_plays_no_part_in_equality() -> None:
    first, second = parse_policy("allow tcp;\n\nallow tcp").statements
    assert (first.span, first.line) != (second.span, second.line)
    assert first == second
    assert hash(first) == hash(second)
    assert first != parse_policy("allow udp").statements[0]
    assert first != "allow tcp"


def test_semicolons_and_hashes_are_text_in_quotes_of_a_selector_and_nowhere_else() -> None:
    assert len(parse_policy("allow from selector (a == ';' && b == \"#\"); deny").statements) == 2
    (error,) = errors_of("allow from label a=';'; deny")[:1]
    assert error.span == Span(17, 20)
    # A quote that is never closed protects nothing: the statement behind it is still read.
    (error,) = errors_of("allow from selector (a == 'b); deny")
    assert error.hint == "this quote is never closed"


def test_keywords_are_read_in_either_case_and_by_ascii_rules_alone() -> None:
    assert parse_policy("ALLOW SCTP FROM NameSpace x TO PORTS 1") == parse_policy(
        "allow sctp from namespace x to port 1"
    )
    assert errors_of("allow \N{LATIN SMALL LETTER LONG S}ctp")[0].span == Span(6, 10)


def test_a_port_may_be_called_like_a_keyword_that_cannot_go_on_with_the_statement() -> None:
    (statement,) = parse_policy("allow tcp to port tcp,allow").statements
    assert statement.dst == (PortsMatch(("allow", "tcp")),)
    assert "keyword 'to'" in errors_of("allow tcp from port to port 80")[0].message
    assert "keyword 'Port'" in errors_of("allow tcp from namespace Port 80")[0].message


def test_every_broken_statement_is_told_at_once() -> None:
    text = "allow tcp form label a=b; allow udp\n\ndeny tcp to port 70000 # port 70000\nx"
    places = [(error.line, error.column) for error in errors_of(text)]
    assert places == [(1, 11), (3, 18), (4, 1)]
    assert str(PolicyErrors(errors_of(text))).count("\n  ") == 6


def test_reading_stops_after_so_many_errors() -> None:
    with pytest.raises(PolicyErrors, match="reading stopped after 1000 errors") as caught:
        parse_policy("x;" * (ERRORS_MAX + 1))
    assert caught.value.more
    assert len(caught.value.errors) == ERRORS_MAX


def test_a_megabyte_is_refused_in_one_error() -> None:
    (error,) = errors_of("allow tcp from label a=b\n" * 42_000)
    assert error.message == "the text has 1050000 characters, more than the 262144 that are read"
    assert len(parse_policy("deny" + " " * (TEXT_MAX - 4)).statements) == 1


KEYWORDS = {
    *("allow", "deny", "from", "to", "port", "label", "cidr", "namespace", "type", "code"),
    *Protocol,
}


@given(strategies.policies, st.randoms(use_true_random=False))
def test_letter_case_and_blanks_do_not_matter(policy: Policy, random: Random) -> None:
    plain = Policy(tuple(without_selectors(statement) for statement in policy.statements))
    words = print_policy(plain).split(" ")
    names = {after for before, after in pairwise(words) if before in ("port", "namespace")}
    varied = [
        random.choice([word.upper(), word.title(), word])
        if word in KEYWORDS and word not in names
        else word
        for word in words
    ]
    text = "\t " + random.choice(["  ", "\t"]).join(varied) + " \r\n"
    assert parse_policy(text) == plain


def without_selectors(statement: Statement) -> Statement:
    """The statement without the matches whose blanks do matter."""
    return msgspec.structs.replace(
        statement,
        src=tuple(match for match in statement.src if not isinstance(match, SelectorMatch)),
        dst=tuple(match for match in statement.dst if not isinstance(match, SelectorMatch)),
    )


@given(
    st.one_of(
        strategies.soups,
        st.text(),
        strategies.damaged(strategies.soups),
        strategies.damaged(strategies.policies.map(print_policy)),
    )
)
def test_any_text_is_read_or_refused_with_places_inside_it(text: str) -> None:
    for error in refusals(text):
        start, end = error.span
        assert 0 <= start <= end <= len(text)
        assert error.source == text
        assert str(error).startswith(f"line {error.line}, column {error.column}: {error.message}\n")
        assert all(ord(char) >= 0x20 or char == "\n" for char in str(error))
        assert len(max(str(error).splitlines(), key=len)) < 300


def read_with(grammar: ParserElement, text: str) -> object:
    """The statement, or its error as users see it."""
    try:
        return read(grammar, text)
    except GrammarError as error:
        return str(error)


@given(
    st.one_of(strategies.soups, strategies.damaged(strategies.policies.map(print_policy))).filter(
        lambda text: "selector" not in text.lower()
    )
)
def test_a_text_without_selectors_means_the_same_to_the_grammar_that_has_them(text: str) -> None:
    for statement in text.split(";"):
        without = read_with(_WITHOUT_SELECTORS, statement)
        assert without == read_with(_WITH_SELECTORS, statement)


def refusals(text: str) -> tuple[GrammarError, ...]:
    """The errors of a text, none if it is a policy."""
    try:
        parse_policy(text)
    except PolicyErrors as errors:
        return errors.errors
    return ()
