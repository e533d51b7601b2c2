"""Which nodes count, and how many of them have a change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.controller.reach import GRACE_S, NAMES_MAX, Count, Reach, RollCall
from calico_k8s.datastore.store import Revision
from calico_k8s.model.names import NodeName

A, B, C = map(NodeName, "abc")

nodes = st.dictionaries(
    st.text("xyz", min_size=1, max_size=3).map(NodeName), st.integers(0, 9).map(Revision)
)


@given(nodes, st.integers(0, 10).map(Revision))
def test_a_count_is_what_counting_gives(
    revisions: dict[NodeName, Revision], wanted: Revision
) -> None:
    count = Reach(revisions).of(wanted)
    behind = sorted(node for node, revision in revisions.items() if revision < wanted)
    assert count == (len(revisions) - len(behind), len(revisions), tuple(behind[:NAMES_MAX]))
    assert count.is_all == (bool(revisions) and not behind)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (Count(2, 2), "on 2 of 2 nodes"),
        (Count(1, 2, (B,)), "on 1 of 2 nodes, not on b"),
        (Count(0, 7, (A, B, C)), "on 0 of 7 nodes, not on a, b, c and 4 more"),
        (Count(0, 7), "on 0 of 7 nodes"),
    ],
)
def test_a_count_is_words(count: Count, text: str) -> None:
    assert str(count) == text


def counts(
    roll: RollCall, told: dict[NodeName, int], with_pods: set[NodeName], now_s: float
) -> str:
    """Which nodes are behind revision 5, of which."""
    revisions = {node: Revision(revision) for node, revision in told.items()}
    count = roll.call(revisions, with_pods, now_s).of(Revision(5))
    return f"{count.reached}/{count.total} {''.join(count.behind)}".strip()


def test_a_node_counts_that_tells_or_has_pods() -> None:
    roll = RollCall()
    assert counts(roll, {A: 5, B: 4}, {B, C}, 0.0) == "1/3 bc"
    assert counts(roll, {A: 5, B: 5, C: 6}, {B, C}, 1.0) == "3/3"


def test_a_node_that_falls_silent_counts_by_its_last_words_until_that_is_too_long() -> None:
    roll = RollCall()
    assert counts(roll, {A: 5, B: 5}, {A, B}, 0.0) == "2/2"
    assert counts(roll, {A: 5}, {A, B}, GRACE_S - 1) == "2/2"
    assert counts(roll, {A: 5}, {A, B}, GRACE_S + 1) == "1/2 b"
    assert counts(roll, {A: 5, B: 5}, {A, B}, GRACE_S + 2) == "2/2"


def test_a_node_that_goes_with_its_pods_counts_no_more() -> None:
    roll = RollCall()
    assert counts(roll, {A: 5, B: 4}, {A, B}, 0.0) == "1/2 b"
    assert counts(roll, {A: 5}, {A}, 1.0) == "1/1"


def test_a_node_that_joins_counts_once_it_tells_or_should_have() -> None:
    roll = RollCall()
    assert counts(roll, {A: 5}, {A}, 0.0) == "1/1"
    assert counts(roll, {A: 5}, {A, B}, 10.0) == "1/1"
    assert counts(roll, {A: 5}, {A, B}, 10.0 + GRACE_S) == "1/2 b"
    assert counts(roll, {A: 5, B: 5}, {A, B}, 11.0 + GRACE_S) == "2/2"


def test_nobody_is_remembered_who_counts_no_more() -> None:
    roll = RollCall()
    for number in range(100):
        node = NodeName(f"n{number}")
        roll.call({node: Revision(1)}, {node}, 1000.0 * number)
    assert len(roll._last) == 1
    assert roll._first_s is not None
    assert len(roll._first_s) == 1
