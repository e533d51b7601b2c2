"""``make bench``: runs benches, compares each figure's ratio to its floor with the stored one.

A ratio that is more than a fifth worse than what tests/bench/ratios.json has is measured once more,
since a machine is never quite idle; what is worse both times is said in a sentence each, and the exit
is 1.  Every run is kept in build/bench.json.

``--accept`` stores what the last run measured, without another; ``--anew`` measures and stores,
whatever comes out.  Both write docs/performance.md's tables and the plots beside it.

Arguments: names of ``tests/bench/bench_NAME.py``; all unless given.
"""

import argparse
import datetime as dt
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.bench.drawing import drawing
from tests.bench.figure import RECORD_TO, Figure
from tests.bench.ratios import (
    ALLOWED,
    Stored,
    Taken,
    Worse,
    accepted,
    better_of,
    page,
    table,
    worse,
)

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- made by scripts/bench: begin -->", "<!-- made by scripts/bench: end -->"
PATIENCE_S = 1200.0
"""For one bench."""
ENDS_S = 60.0
PLOT_FROM = 3
"""Fewer figures than this are seen at once in the table."""


class Place(NamedTuple):
    """Where benches are, and what is written."""

    benches: Path = ROOT / "tests" / "bench"
    last: Path = ROOT / "build" / "bench.json"
    docs: Path = ROOT / "docs"

    @property
    def ratios(self) -> Path:
        """What is stored."""
        return self.benches / "ratios.json"


class Run(msgspec.Struct, frozen=True):
    """What one run measured, where and when."""

    taken: str
    machine: str
    figures: list[Taken]


def machine() -> str:
    """What kind of machine this is."""
    release = platform.freedesktop_os_release()
    system = f"{release.get('NAME', 'Linux')} {release.get('VERSION_ID', '')}".strip()
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} cores, {system}, kernel {kernel}, Python {platform.python_version()}"


def known_benches(place: Place) -> list[str]:
    """The names of all there are."""
    return sorted(path.stem.removeprefix("bench_") for path in place.benches.glob("bench_*.py"))


def measure(place: Place, names: Iterable[str]) -> tuple[list[Taken], list[str]]:
    """The figures of benches that are run one after another, and which of these failed."""
    figures: list[Taken] = []
    failed: list[str] = []
    for name in names:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "figures")
            file.touch()
            if not succeeds(place.benches / f"bench_{name}.py", file):
                failed.append(name)
            lines = file.read_bytes().splitlines()
        figures += [Taken(name, msgspec.json.decode(line, type=Figure)) for line in lines]
    return figures, failed


def succeeds(bench: Path, file: Path) -> bool:
    """Whether a bench ends by itself, and well."""
    environment = os.environ | {RECORD_TO: str(file), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, bench], env=environment, cwd=ROOT) as process:
        try:
            return process.wait(PATIENCE_S) == 0
        except subprocess.TimeoutExpired:
            print(f"{bench.name} has not ended in {PATIENCE_S / 60:.0f} minutes", file=sys.stderr)
            end(process)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Have it end, and take away what it has made."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()


def stored_ratios(place: Place) -> dict[str, Stored]:
    """What is stored."""
    if not place.ratios.exists():
        return {}
    return msgspec.json.decode(place.ratios.read_bytes(), type=dict[str, Stored])


def store(place: Place, run: Run) -> None:
    """Store a run's ratios, and what documents say of them."""
    ratios = accepted(run.figures, stored_ratios(place), run.taken, run.machine)
    place.ratios.write_bytes(msgspec.json.format(msgspec.json.encode(ratios), indent=1) + b"\n")
    plots = dict(drawings(ratios))
    for old in place.docs.glob("bench-*.svg"):
        old.unlink()
    for name, text in plots.items():
        (place.docs / name).write_text(text)
    document = place.docs / "performance.md"
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{document} has no place for the figures: write {BEGIN} and {END} there")
    lines = ["", *(f"![{name}]({name})" for name in plots), *page(ratios), ""]
    document.write_text("\n".join([f"{before}{begin}", *lines, f"{end}{after}"]))
    print(f"stored {len(run.figures)} figures of {run.taken}: {place.ratios.relative_to(ROOT)}")


def drawings(ratios: dict[str, Stored]) -> Iterator[tuple[str, str]]:
    """A plot for each bench and unit that have several figures, by the name of its file."""
    by_plot: dict[tuple[str, str], dict[str, Stored]] = {}
    for name, each in ratios.items():
        by_plot.setdefault((each.bench, each.unit), {})[name] = each
    for (bench, unit), figures in sorted(by_plot.items()):
        if len(figures) >= PLOT_FROM:
            words = re.sub(r"\W+", "-", unit)
            yield f"bench-{bench}-{words}.svg", drawing(f"{bench}, {unit}", figures)


def judged(place: Place, names: Sequence[str]) -> int:
    """Measure, compare, and say what is worse; the exit status."""
    stored = stored_ratios(place)
    figures, failed = measure(place, names)
    if found := worse(figures, stored):
        print("\nworse than stored, so measured again:", *sorted({each.bench for each in found}))
        again, _ = measure(place, sorted({each.bench for each in found}))
        figures = better_of(figures, again)
        found = worse(figures, stored)
    save(place, figures)
    print("", *table(figures, stored), sep="\n")
    for name in failed:
        print(f"bench {name} failed, or is over a budget of its own: its last lines say why")
    say_worse(found)
    return 1 if found or failed else 0


def say_worse(found: Sequence[Worse]) -> None:
    """A sentence for each, and the way out."""
    for each in found:
        print(each.sentence)
    if found:
        print(
            f"more than {ALLOWED:.0%} worse, twice. If it is meant to be so: scripts/bench --accept"
        )


def save(place: Place, figures: list[Taken]) -> None:
    """Keep a run for ``--accept``."""
    run = Run(dt.datetime.now(dt.UTC).date().isoformat(), machine(), figures)
    place.last.parent.mkdir(exist_ok=True)
    place.last.write_bytes(msgspec.json.encode(run))


def main(arguments: Sequence[str], place: Place = Place()) -> int:  # noqa: B008 - it has no state
    """Do what the arguments ask for; the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Figures, beside floors.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--accept", action="store_true", help="store what the last run measured")
    what.add_argument("--anew", action="store_true", help="measure and store, whatever comes out")
    given = parser.parse_args(arguments)
    known = known_benches(place)
    for name in given.names:
        if name not in known:
            parser.error(f"there is no bench {name}: there are {', '.join(known)}")
    if given.accept and not place.last.exists():
        parser.error("nothing was measured here: run scripts/bench first")
    status = 0
    if given.anew:
        figures, failed = measure(place, given.names or known)
        save(place, figures)
        print("", *table(figures, stored_ratios(place)), sep="\n")
        status = 1 if failed else 0
    elif not given.accept:
        return judged(place, given.names or known)
    store(place, msgspec.json.decode(place.last.read_bytes(), type=Run))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
