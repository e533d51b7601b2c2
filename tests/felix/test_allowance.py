"""How much processor time what is done again and again may take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.allowance import SAVED_S, Allowance

SHARE = 0.1


@given(st.lists(st.tuples(st.floats(0.001, 2.0), st.floats(0.0, 30.0)), min_size=1))
def test_readings_take_no_more_than_their_share_and_what_was_saved(
    readings: list[tuple[float, float]],
) -> None:
    now_s = 1000.0
    allowance, begun_s, spent_s = Allowance(SHARE, now_s), now_s, 0.0
    for reading_s, quiet_s in readings:
        assert spent_s <= SAVED_S + SHARE * (now_s - begun_s) + 1e-6, "before each reading"
        now_s += reading_s
        spent_s += reading_s
        now_s += allowance.spend(reading_s, now_s) + quiet_s


def test_a_burst_after_a_quiet_time_does_not_wait() -> None:
    allowance = Allowance(SHARE, 0.0)
    rests = [allowance.spend(0.025, 3600.0 + number / 10) for number in range(10)]
    assert rests == [0.0] * 10


def test_what_is_owed_is_rested_for() -> None:
    allowance = Allowance(SHARE, 0.0)
    assert allowance.spend(SAVED_S + 0.1, 0.0) == pytest.approx(0.1 / SHARE)
