"""What is wrong with a text, said to the person who wrote it.

In: the source text, the span of the mistake, and what would have been right there.  Out: an error
whose ``message`` is one sentence and whose ``str()`` shows the place.  Nothing here knows the
grammar::

    ValueError
    ├── GrammarError    one mistake; has a place
    └── PolicyErrors    every broken statement of a policy, one GrammarError each

::

    line 1, column 16: expected 'label', 'port', 'namespace', 'cidr' or 'selector', found 'lable'
      allow tcp from lable access=backend
                     ^^^^^
    did you mean 'label'?
"""

import difflib
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from grammar.nodes import Span

EXCERPT_MAX = 100
"""Characters of a source line that are shown around a mistake."""

FOUND_MAX = 40
"""Characters of the text at a mistake that a message repeats."""

_NEAR = 0.6
"""difflib ratio from which a word counts as a typo: 'lable', 'frm', 'prot', 'alow' are above it."""


class Place(NamedTuple):
    """Where a character stands, both from 1; a column counts characters."""

    line: int
    column: int


class GrammarError(ValueError):
    """One mistake in ``source``, at ``span``.

    ``expected`` is what could have stood there, as shown to people: keywords in quotes, other
    things by their name, none if that is not what is wrong.  ``hint`` is the way out, or None.
    ``message`` is one sentence without place and hint, made of ``expected`` unless it is given.

    Invariant: ``span`` lies inside the source; it is empty only where a statement, or the whole
    source, ended too early.
    """

    def __init__(
        self,
        source: str,
        span: Span,
        expected: tuple[str, ...] = (),
        hint: str | None = None,
        message: str | None = None,
    ) -> None:
        self.source = source
        self.span = span
        self.expected = expected
        self.hint = hint
        self.message = message or f"expected {_alternatives(expected)}, found {self._found()}"
        super().__init__(source, span, expected, hint, self.message)

    @property
    def line(self) -> int:
        """The line of the mistake's first character, from 1."""
        return place_of(self.source, self.span.start).line

    @property
    def column(self) -> int:
        """The column of the mistake's first character, from 1, in characters."""
        return place_of(self.source, self.span.start).column

    def within(self, source: str, offset: int) -> "GrammarError":
        """The same mistake where this error's source is the part of ``source`` from ``offset``."""
        span = Span(self.span.start + offset, self.span.end + offset)
        return GrammarError(source, span, self.expected, self.hint, self.message)

    def __str__(self) -> str:
        place = place_of(self.source, self.span.start)
        shown = [f"line {place.line}, column {place.column}: {self.message}"]
        shown += (f"  {row}".rstrip() for row in _excerpt(self.source, self.span))
        if self.hint:
            shown.append(self.hint)
        return "\n".join(shown)

    def _found(self) -> str:
        found = self.source[self.span.start : self.span.end]
        return quoted(found) if found else "the end"


class PolicyErrors(ValueError):
    """Every statement of a policy that cannot be read; ``errors`` are in the order of the text.

    ``more`` says that reading stopped at the limit of errors, so that there may be others.
    Invariant: ``errors`` holds at least one.
    """

    def __init__(self, errors: tuple[GrammarError, ...], *, more: bool = False) -> None:
        self.errors = errors
        self.more = more
        super().__init__(errors)

    def __str__(self) -> str:
        shown = [str(error) for error in self.errors]
        if self.more:
            shown.append(f"there may be more: reading stopped after {len(self.errors)} errors")
        return "\n".join(shown)


def place_of(source: str, offset: int) -> Place:
    """The line and column of the character at ``offset``.  Cost: O(offset)."""
    line_start = source.rfind("\n", 0, offset) + 1
    return Place(source.count("\n", 0, offset) + 1, offset - line_start + 1)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that ``word`` is probably a typo of, if any; letter case aside."""
    # A longer word is no typo of ours, and comparing it would cost more than it may tell.
    if len(word) > FOUND_MAX:
        return None
    found = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=_NEAR)
    return found[0] if found else None


def quoted(text: str) -> str:
    """``text`` in quotes for a message: short, on one line, harmless to a terminal."""
    if len(text) == 1 and not text.isprintable():
        return f"the character U+{ord(text):04X}"
    shown = text if len(text) <= FOUND_MAX else f"{text[: FOUND_MAX - 1]}…"
    quote = '"' if "'" in shown else "'"
    return f"{quote}{_visible(shown)}{quote}"


def _alternatives(words: tuple[str, ...]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _excerpt(source: str, span: Span) -> tuple[str, str]:
    """The source line of the mistake and the line of carets below it, both cut to a window."""
    line_start = source.rfind("\n", 0, span.start) + 1
    line_end = source.find("\n", span.start)
    line = source[line_start : len(source) if line_end < 0 else line_end].rstrip("\r")
    start = min(span.start - line_start, len(line))
    end = max(start + 1, min(span.end - line_start, len(line)))

    left = 0 if len(line) <= EXCERPT_MAX else max(0, start - EXCERPT_MAX // 2)
    right = left + EXCERPT_MAX
    head = "…" if left else ""
    tail = "…" if right < len(line) else ""
    before = head + _visible(line[left:start])
    marked = _visible(line[start : min(end, right)])
    shown = before + marked + _visible(line[end:right]) + tail
    return shown, " " * _columns(before) + "^" * max(1, _columns(marked))


def _visible(text: str) -> str:
    """The text with a stand-in, character for character, for all that is not printed as itself."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _stand_in(char) for char in text)


def _stand_in(char: str) -> str:
    if char in "\t\N{NO-BREAK SPACE}":
        return " "
    # Unicode keeps a picture for every ASCII control character at U+2400 and up.
    return chr(0x2400 + ord(char)) if ord(char) < 0x20 else "\N{REPLACEMENT CHARACTER}"


def _columns(text: str) -> int:
    """Terminal columns of the text: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
