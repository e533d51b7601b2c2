"""Stored figures as SVG: each beside its floor and its goal, on a logarithmic scale.

In: a title and the figures of one unit.  Out: a document.  No library: it is some lines and
texts, and whoever changes a figure sees in the difference which line moved.
"""

import math
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape, quoteattr

from tests.bench.ratios import Stored

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 380, 90, 48, 20
BAR, GOAL, FLOOR = "#4878a8", "#2e8b57", "#888888"


class _Scale:
    """From the power of ten below the least value to the one above the largest."""

    def __init__(self, values: list[float]) -> None:
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)

    def x(self, value: float) -> float:
        """Where a value is."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def drawing(title: str, figures: Mapping[str, Stored]) -> str:
    """A row for each figure: a bar to its value, a stroke at its floor, another at its goal."""
    marks = [(each.value, each.floor_value, each.goal) for each in figures.values()]
    scale = _Scale([value for each in marks for value in each if value > 0])
    bottom = TOP + ROW * len(figures)
    lines = [*_frame(title, scale, bottom)]
    for row, (name, each) in enumerate(figures.items()):
        lines += _row(name, each, scale, TOP + row * ROW)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 28}"'
        ' font-family="sans-serif" font-size="11">'
    )
    return "\n".join([head, *lines, "</svg>", ""])


def _frame(title: str, scale: _Scale, bottom: int) -> Iterator[str]:
    yield f'<rect width="100%" height="{bottom + 28}" fill="white"/>'
    yield _text(8, 18, title, size=14)
    for word, colour, at in (("floor", FLOOR, LEFT), ("goal", GOAL, LEFT + 60)):
        yield _stroke(at, 25, 37, colour)
        yield _text(at + 6, 35, word)
    for power in range(scale.low, scale.high + 1):
        x = scale.x(10.0**power)
        yield _stroke(x, TOP - 4, bottom, "#dddddd", width=1)
        yield _text(x, bottom + 16, f"{10.0**power:g}", anchor="middle")


def _row(name: str, each: Stored, scale: _Scale, y: int) -> Iterator[str]:
    yield _text(LEFT - 8, y + 14, name, anchor="end")
    if each.value > 0:
        width = max(1.0, scale.x(each.value) - LEFT)
        yield f'<rect x="{LEFT}" y="{y + 4}" width="{width:.1f}" height="12" fill="{BAR}"/>'
    yield _stroke(scale.x(each.floor_value), y + 1, y + 19, FLOOR)
    if each.goal:
        yield _stroke(scale.x(each.goal), y + 1, y + 19, GOAL)
    farthest = max(each.value, each.floor_value, each.goal)
    yield _text(scale.x(farthest) + 6, y + 14, f"{each.value:.3g} {each.unit}".rstrip())


def _stroke(x: float, top: float, bottom: float, colour: str, width: int = 3) -> str:
    place = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"'
    return f'<line {place} stroke={quoteattr(colour)} stroke-width="{width}"/>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'
