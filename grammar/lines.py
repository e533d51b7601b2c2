"""Where the statements and comments of a policy text stand.

In: a policy text.  Out: its lines, each with the spans of its statements and its comment.  What a
statement says is not looked at, but for one thing: inside the parentheses of a selector, quotes
keep ``;`` and ``#`` from ending it.  A line end always ends a statement.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from grammar.nodes import Span

_STATEMENT = re.compile(
    r"""
      [^;\#(]*+                     # up to the first parenthesis a quote is a mistake like any other
      (?: \( (?: [^;\#"']++         # from there on quotes count,
               | "[^"]*+"
               | '[^']*+'
               | ["']               # but one that is never closed protects nothing
             )*+
      )?+
    """,
    re.VERBOSE,
)

_BLANK = " \t\r"
"""What is dropped at both ends of a statement: \\r is half of a line end."""


class Line(NamedTuple):
    """One line: the spans of its statements, none of them empty, and its comment with its ``#``."""

    number: int
    statements: tuple[Span, ...]
    comment: str | None


def split_lines(text: str) -> Iterator[Line]:
    """The lines of a policy text in order, empty ones too.  Cost: linear."""
    start = 0
    for number, line in enumerate(text.split("\n"), start=1):
        yield _split_line(line, start, number)
        start += len(line) + 1


def _split_line(line: str, line_start: int, number: int) -> Line:
    statements = []
    at = 0
    while True:
        found = _STATEMENT.match(line, at)
        assert found is not None, "the pattern matches the empty text"
        span = _without_blanks(line, at, found.end())
        if span.start < span.end:
            statements.append(Span(line_start + span.start, line_start + span.end))
        at = found.end()
        if at == len(line):
            return Line(number, tuple(statements), None)
        if line[at] == "#":
            return Line(number, tuple(statements), line[at:].rstrip(_BLANK))
        at += 1


def _without_blanks(line: str, start: int, end: int) -> Span:
    part = line[start:end]
    stripped = part.lstrip(_BLANK)
    start += len(part) - len(stripped)
    return Span(start, start + len(stripped.rstrip(_BLANK)))
