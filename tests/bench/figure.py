"""One thing that was measured, beside its floor of the same run.

In: times, and what they are to be compared with.  Out: a line for whoever reads, and a line of JSON
for :mod:`tests.bench.runner`, which compares ratios with those that are stored.
"""

import os
import statistics
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

RECORD_TO = "CALICO_K8S_BENCH_FIGURES"
"""The environment's name for the file that takes the lines of JSON; without it there are none."""

Better = Literal["less", "more"]


class Floor(NamedTuple):
    """What was done beside it, with nothing of ours, and how long that took."""

    name: str
    median: float
    p99: float = 0.0


NO_FLOOR = Floor("", 0.0)
"""There is no such thing."""


class Figure(msgspec.Struct, frozen=True):
    """Milliseconds, or what ``unit`` says.

    Its name says what was measured and on what, never how it turned out: the next run's figure of
    that name is compared with this one.
    """

    name: str
    median: float
    p99: float = 0.0
    floor: Floor = NO_FLOOR
    unit: str = "ms"
    goal: float = 0.0
    """0: none."""
    better: Better = "less"
    more: str = ""
    """For the reader."""

    @property
    def ratio(self) -> float | None:
        """To the floor, which is what a machine's speed changes least; None without one."""
        return self.median / self.floor.median if self.floor.median > 0 else None

    def __str__(self) -> str:
        line = f"{self.name:54} median {self.median:9.3f} p99 {self.p99:9.3f} {self.unit:4}"
        line += f" goal {self.goal:g}" if self.goal else ""
        if self.ratio is not None:
            name, median, p99 = self.floor
            line += f" {name:34} {median:8.3f} {p99:8.3f} {self.ratio:7.2f}"
        return f"{line} {self.more}".rstrip()


def summary(times_ms: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    return statistics.median(times_ms), sorted(times_ms)[int(len(times_ms) * 0.99)]


def report(figure: Figure) -> None:
    """Print it, and record it."""
    print(figure, flush=True)
    record(figure)


def record(figure: Figure) -> None:
    """Keep it for the runner, where that is who runs this."""
    path = os.environ.get(RECORD_TO)
    if path is not None:
        with Path(path).open("ab") as file:
            file.write(msgspec.json.encode(figure) + b"\n")
