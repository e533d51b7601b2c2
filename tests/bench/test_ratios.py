"""A ratio that got worse by more than a fifth is found, whichever way is worse, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figure import Better, Figure, Floor
from tests.bench.ratios import ALLOWED, Stored, Taken, accepted, better_of, page, table, worse

NUMBERS = st.floats(0.001, 10_000)
BETTER = st.sampled_from(["less", "more"])


def taken(
    median: float, floor: float, better: Better = "less", name: str = "a label", bench: str = "x"
) -> Taken:
    return Taken(bench, Figure(name, median, 0, Floor("a hop", floor), better=better))


def stored(*figures: Taken) -> dict[str, Stored]:
    return accepted(figures, {}, "2026-11-26", "2 cores")


def test_a_sentence_says_what_is_worse_beside_which_floor_and_than_what() -> None:
    (found,) = worse([taken(3.0, 0.1)], stored(taken(2.0, 0.1)))
    assert found.sentence == (
        "a label: 3 ms is 30 times its floor (a hop, 0.1 ms), and 20 times is what 2026-11-26"
        " stored: 50% worse"
    )


@pytest.mark.parametrize(
    ("before", "after", "better", "is_worse"),
    [
        (10.0, 11.9, "less", False),
        (10.0, 12.1, "less", True),
        (10.0, 1.0, "less", False),
        (0.92, 0.75, "more", False),
        (0.92, 0.73, "more", True),
        (0.92, 1.50, "more", False),
    ],
)
def test_a_fifth_is_allowed(before: float, after: float, better: Better, is_worse: bool) -> None:
    found = worse([taken(after, 1.0, better)], stored(taken(before, 1.0, better)))
    assert bool(found) is is_worse


@given(NUMBERS, NUMBERS, st.floats(0.01, 100), BETTER)
def test_a_machine_that_is_slower_at_both_is_not_worse(
    median: float, floor: float, speed: float, better: Better
) -> None:
    before = stored(taken(median, floor, better))
    if before["a label"].ratio > 0.01:  # stored with four digits
        assert not worse([taken(median * speed, floor * speed, better)], before)


@given(NUMBERS, NUMBERS, st.floats(0.01, 1))
def test_less_is_never_worse_where_less_is_better(median: float, floor: float, part: float) -> None:
    before = stored(taken(median, floor))
    if before["a label"].ratio > 0.01:
        assert not worse([taken(median * part, floor)], before)


def test_what_is_new_or_has_no_floor_is_not_compared() -> None:
    bare = Taken("x", Figure("programs run", 3, unit=""))
    assert not worse([taken(3.0, 0.1, name="new"), bare], stored(taken(2.0, 0.1)))
    assert list(stored(bare)) == []
    text = "\n".join(table([taken(3.0, 0.1, name="new"), bare], {}))
    assert "new" in text
    assert "programs run" not in text


def test_of_two_looks_the_better_counts() -> None:
    first = [taken(3.0, 0.1), taken(0.7, 1.0, "more", name="rate"), taken(1, 1, name="once")]
    again = [taken(2.1, 0.1), taken(0.9, 1.0, "more", name="rate")]
    assert [each.figure.median for each in better_of(first, again)] == [2.1, 0.9, 1]
    assert [each.figure.median for each in better_of(again, first)] == [2.1, 0.9]


def test_what_is_accepted_replaces_its_own_bench_alone() -> None:
    before = stored(taken(2.0, 0.1), taken(1.0, 0.1, name="gone"), taken(5, 1, name="y", bench="y"))
    after = accepted([taken(3.0, 0.1)], before, "2026-12-01", "4 cores")
    assert {name: each.ratio for name, each in after.items()} == {"y": 5, "a label": 30}
    assert (after["a label"].taken, after["y"].taken) == ("2026-12-01", "2026-11-26")
    assert not worse([taken(3.0 * (1 + ALLOWED), 0.1)], after)


def test_the_page_has_a_table_for_each_bench_with_its_day_and_machine() -> None:
    lines = list(page(stored(taken(2.0, 0.1), taken(5, 1, name="other", bench="y"))))
    assert "`scripts/bench x`, 2026-11-26, 2 cores:" in lines
    assert "| a label | 2 ms |  | 0.1, a hop | 20 |" in lines
    assert lines.index("| a label | 2 ms |  | 0.1, a hop | 20 |") < lines.index(
        "`scripts/bench y`, 2026-11-26, 2 cores:"
    )
