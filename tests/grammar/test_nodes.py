"""Values: what makes two of them equal, and the canonical order of a clause."""

import copy
import pickle
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    And,
    CidrMatch,
    Contains,
    Equal,
    Has,
    LabelMatch,
    Match,
    NamespaceMatch,
    NotEqual,
    Or,
    Policy,
    PortRange,
    PortsMatch,
    SelectorMatch,
    Statement,
    canonical_clause,
    parse_policy,
)
from tests.grammar import strategies


def test_operations_of_different_kinds_are_different() -> None:
    kinds = {kind("a", "b") for kind in (Equal, NotEqual, Contains)}
    assert len(kinds) == 3
    operands = (Has("a"), Has("b"))
    assert len({And(operands), Or(operands)}) == 2


@given(strategies.policies)
def test_values_survive_copying_and_pickling(policy: Policy) -> None:
    assert copy.deepcopy(policy) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy


@given(strategies.statements, strategies.statements)
def test_equal_statements_have_equal_hashes(one: Statement, other: Statement) -> None:
    assert one == copy.copy(one)
    assert one != other or hash(one) == hash(other)


def test_a_clause_goes_from_the_widest_match_to_the_narrowest_and_says_nothing_twice() -> None:
    matches: tuple[Match, ...] = (
        PortsMatch(("http", PortRange(8000, 8080), PortRange(80, 80), "http")),
        CidrMatch(("fd00::/8", "192.168.0.0/16", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/8")),
        SelectorMatch(Has("a")),
        LabelMatch("b", "1"),
        LabelMatch("a", "2"),
        LabelMatch("b", "1"),
        NamespaceMatch("prod"),
    )
    assert canonical_clause(matches) == (
        NamespaceMatch("prod"),
        LabelMatch("a", "2"),
        LabelMatch("b", "1"),
        SelectorMatch(Has("a")),
        CidrMatch(("10.0.0.0/8", "10.0.0.0/16", "192.168.0.0/16", "fd00::/8")),
        PortsMatch((PortRange(80, 80), PortRange(8000, 8080), "http")),
    )


@given(strategies.statements, st.randoms(use_true_random=False))
def test_the_order_in_which_matches_were_given_does_not_matter(
    statement: Statement, random: Random
) -> None:
    shuffled = list(statement.src)
    random.shuffle(shuffled)
    assert canonical_clause(tuple(shuffled)) == statement.src
    assert canonical_clause(canonical_clause(tuple(shuffled))) == statement.src


@pytest.mark.parametrize("text", ["allow tcp to port 1,2", "allow tcp to port 2 , 1,2"])
def test_parsed_values_are_canonical(text: str) -> None:
    (statement,) = parse_policy(text).statements
    assert statement.dst == canonical_clause(statement.dst)
