"""What a stream recorded: each thing sent, and whether it arrived.  Pure.

In: times of the monotonic clock.  Out: :class:`Beat` values, and the runs of equal verdict.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import groupby, pairwise
from typing import NamedTuple

from calico_k8s.model.resources import Action

SETTLE_S = 0.5
"""A beat without an answer for so long is lost.  Below a second, when TCP would ask again."""


class Beat(NamedTuple):
    """One thing sent, and when it or its answer arrived; None: it did not."""

    sent_s: float
    answered_s: float | None

    @property
    def verdict(self) -> Action:
        """ALLOW if it arrived."""
        return Action.DENY if self.answered_s is None else Action.ALLOW


class Run(NamedTuple):
    """Beats in a row with one verdict; times are when the first and the last were sent."""

    verdict: Action
    first_s: float
    last_s: float
    beats: int


def verdict_runs(beats: Iterable[Beat]) -> list[Run]:
    """The runs of equal verdict, in order.

    The verdict changed at some time between ``last_s`` of a run and ``first_s`` of the next.
    """
    runs: list[Run] = []
    for verdict, group in groupby(beats, key=lambda beat: beat.verdict):
        same = list(group)
        runs.append(Run(verdict, same[0].sent_s, same[-1].sent_s, len(same)))
    return runs


class Gap(NamedTuple):
    """A time in which nothing arrived."""

    after_s: float
    until_s: float


def arrival_gaps(beats: Iterable[Beat], longer_than_s: float) -> list[Gap]:
    """The times between two arrivals that were longer, in order.

    So a cut of a TCP connection is seen that passed again and then repeated what was lost.
    """
    arrivals = sorted(beat.answered_s for beat in beats if beat.answered_s is not None)
    return [
        Gap(earlier, later)
        for earlier, later in pairwise(arrivals)
        if later - earlier > longer_than_s
    ]


class Record:
    """Beats as they come; one thread may write while others read."""

    def __init__(self) -> None:
        self._sent_s: list[float] = []
        self._answered_s: dict[int, float] = {}

    def sent(self, at_s: float) -> int:
        """Counts a beat; its number."""
        self._sent_s.append(at_s)
        return len(self._sent_s) - 1

    def answered(self, number: int, at_s: float) -> None:
        """The beat of that number has arrived; the first time counts."""
        if number < len(self._sent_s):
            self._answered_s.setdefault(number, at_s)

    def beats(self, now_s: float, since_s: float = 0.0) -> tuple[Beat, ...]:
        """The beats sent since a time, in order, up to the first that may still arrive."""
        found: list[Beat] = []
        for number in range(bisect_left(self._sent_s, since_s), len(self._sent_s)):
            sent_s, answered_s = self._sent_s[number], self._answered_s.get(number)
            if answered_s is None and now_s - sent_s < SETTLE_S:
                break
            found.append(Beat(sent_s, answered_s))
        return tuple(found)
