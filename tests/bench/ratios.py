"""What is stored of earlier runs, and which figures of a run are worse.

In: figures, and what was stored.  Out: one sentence for each figure that got worse by more than
:data:`ALLOWED`, and what is to be stored.  Only ratios are compared, each of a figure to its floor of
the same run: a slower machine is slower at both.  Pure.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tests.bench.figure import Better, Figure

ALLOWED = 0.2
"""A ratio may be worse by this part of what is stored."""


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """A figure that was accepted, and where it is from."""

    ratio: float
    value: float
    unit: str
    floor: str
    floor_value: float
    better: Better
    bench: str
    """Of ``tests/bench/bench_NAME.py``."""
    taken: str
    """The day."""
    machine: str
    goal: float = 0.0


StoredByName = Mapping[str, Stored]


class Taken(msgspec.Struct, frozen=True):
    """A figure of a run, and the bench that it is of."""

    bench: str
    figure: Figure


class Worse(msgspec.Struct, frozen=True):
    """A figure that got worse than is allowed."""

    bench: str
    name: str
    sentence: str


def worsening(figure: Figure, stored: Stored) -> float:
    """By which part of the stored ratio the figure's is worse; below 0: it is better."""
    assert figure.ratio is not None
    if stored.better == "less":
        return figure.ratio / stored.ratio - 1
    return 1 - figure.ratio / stored.ratio


def worse(figures: Iterable[Taken], stored: StoredByName) -> list[Worse]:
    """What got worse, in the order of the run; what is not stored is new, and not worse."""
    found: list[Worse] = []
    for taken in figures:
        figure = taken.figure
        known = stored.get(figure.name)
        if known is None or figure.ratio is None:
            continue
        by = worsening(figure, known)
        if by > ALLOWED:
            found.append(Worse(taken.bench, figure.name, _sentence(figure, known, by)))
    return found


def _sentence(figure: Figure, stored: Stored, by: float) -> str:
    return (
        f"{figure.name}: {figure.median:.4g} {figure.unit} is {figure.ratio:.3g} times its floor"
        f" ({figure.floor.name}, {figure.floor.median:.4g} {figure.unit}), and"
        f" {stored.ratio:.3g} times is what {stored.taken} stored: {by:.0%} worse"
    )


def better_of(first: Iterable[Taken], again: Iterable[Taken]) -> list[Taken]:
    """Of figures that were taken twice the better ratio; the order is the first run's."""
    by_name = {taken.figure.name: taken for taken in again}
    return [_better(taken, by_name.get(taken.figure.name)) for taken in first]


def _better(first: Taken, again: Taken | None) -> Taken:
    if again is None or again.figure.ratio is None or first.figure.ratio is None:
        return first
    is_less = again.figure.ratio < first.figure.ratio
    return again if is_less == (first.figure.better == "less") else first


def accepted(
    figures: Iterable[Taken], stored: StoredByName, taken: str, machine: str
) -> dict[str, Stored]:
    """What is to be stored: of the benches that ran what they told, of others what there was."""
    listed = list(figures)
    benches = {each.bench for each in listed}
    kept = {name: each for name, each in stored.items() if each.bench not in benches}
    new = {
        each.figure.name: _stored(each, taken, machine)
        for each in listed
        if each.figure.ratio is not None
    }
    return dict(sorted((kept | new).items(), key=lambda item: item[1].bench))


def _stored(each: Taken, taken: str, machine: str) -> Stored:
    figure = each.figure
    assert figure.ratio is not None
    return Stored(
        ratio=round(figure.ratio, 4),
        value=round(figure.median, 5),
        unit=figure.unit,
        floor=figure.floor.name,
        floor_value=round(figure.floor.median, 5),
        better=figure.better,
        bench=each.bench,
        taken=taken,
        machine=machine,
        goal=figure.goal,
    )


def table(figures: Iterable[Taken], stored: StoredByName) -> Iterator[str]:
    """A line for each figure that has a floor."""
    head = f"{'figure':58} {'value':>10} {'floor':>10}      {'ratio':>8} {'stored':>8} {'worse':>6}"
    yield head
    for taken in figures:
        figure = taken.figure
        if figure.ratio is None:
            continue
        known = stored.get(figure.name)
        before = f"{known.ratio:8.2f} {worsening(figure, known):6.0%}" if known else f"{'new':>8}"
        values = f"{figure.median:10.3f} {figure.floor.median:10.3f} {figure.unit:4}"
        yield f"{figure.name:58} {values} {figure.ratio:8.2f} {before}"


def page(stored: StoredByName) -> Iterator[str]:
    """The same for a document: a table for each bench, in Markdown."""
    by_bench: dict[str, dict[str, Stored]] = {}
    for name, each in stored.items():
        by_bench.setdefault(each.bench, {})[name] = each
    for bench, figures in sorted(by_bench.items()):
        sources = sorted({f"{each.taken}, {each.machine}" for each in figures.values()})
        yield ""
        yield f"`scripts/bench {bench}`, {'; '.join(sources)}:"
        yield ""
        yield "| figure | value | goal | floor | ratio |"
        yield "|---|---|---|---|---|"
        for name, each in figures.items():
            goal = f"{each.goal:g}" if each.goal else ""
            floor = f"{each.floor_value:.3g}, {each.floor}"
            value = f"{each.value:.3g} {each.unit}".rstrip()
            yield f"| {name} | {value} | {goal} | {floor} | {each.ratio:.3g} |"
