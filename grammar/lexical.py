"""The building blocks that both grammars share, and the only place that knows pyparsing's habits.

In: patterns and names.  Out: pyparsing elements that

- match one token and the blanks after it, so that every element begins where its token begins;
- skip nothing by themselves (pyparsing would skip line ends);
- have actions of three arguments (of others pyparsing finds out the number by trial, while it reads
  the first texts, which goes wrong when two threads read them);
- end every choice in :func:`otherwise`, which raises our own error with all that could have stood
  there.  pyparsing lets a foreign exception through at once: its own messages are never seen, no
  alternative is tried twice, and packrat would have nothing to save.
"""

import re
from collections.abc import Callable
from typing import NoReturn, TypeAlias, cast

from pyparsing import Empty, ParserElement, ParseResults, Regex, StringEnd

from grammar.errors import GrammarError
from grammar.nodes import Span

TEXT_MAX = 262_144
"""Characters of a text that are read at all.  Source: Kubernetes caps annotations at 256 KiB."""

BLANKS = r"[ \t]*"
WORD_CHARS = r"A-Za-z0-9_./-"
"""What goes on with a word, so that ``port`` is not found in ``ports`` or ``port-x``."""

Advice: TypeAlias = Callable[[str, tuple[str, ...]], str | None]
"""From what was found and what was expected there to a hint, or None."""


def token(pattern: str) -> Regex:
    """An element of the text that ``pattern`` matches; the blanks after it belong to it.

    Its parse result is the ``re.Match``: see :func:`match_of`.
    """
    element = Regex(rf"(?:{pattern}){BLANKS}", as_match=True)
    element.leave_whitespace()
    return element


def keyword(words: str, then: str = "") -> Regex:
    """One of the ``words`` (``this|that``) in either case, whole; then the pattern ``then``.

    The groups of its match are ``keyword`` and, of ``then``, ``rest``.
    """
    return token(rf"(?P<keyword>{whole_word(words)}){BLANKS}(?P<rest>{then})")


def whole_word(words: str) -> str:
    """A pattern of one of the ``words`` in either case, and of no word that only begins so."""
    # ASCII: without it the long s and the Kelvin sign would count as s and k.
    return rf"(?ai:{words})(?![{WORD_CHARS}])"


def match_of(results: ParseResults) -> re.Match[str]:
    """The match that a :func:`token` left, for its parse action."""
    return cast("re.Match[str]", results[0])


def here() -> ParserElement:
    """An element of no text that always matches: a place for a parse action."""
    return Empty().leave_whitespace()


def at_end() -> ParserElement:
    """The end of the text; it leaves no token."""
    return StringEnd().leave_whitespace()


class Expectation:
    """How one of the grammars speaks of what it did not expect.

    ``word`` is how much text counts as what was found; ``advice`` makes the hint.
    """

    def __init__(self, word: re.Pattern[str], advice: Advice) -> None:
        self._word = word
        self._advice = advice

    def otherwise(self, *expected: str) -> ParserElement:
        """The last alternative of a choice: raises the error that nothing expected stands here."""

        def fail(text: str, at: int, _: ParseResults) -> NoReturn:
            raise self.unmet(text, at, expected)

        return here().add_parse_action(fail)

    def unmet(self, text: str, at: int, expected: tuple[str, ...]) -> GrammarError:
        """The error that none of ``expected`` stands at ``at``."""
        span = self.span(text, at)
        found = text[span.start : span.end]
        hint = _advise_on_characters(found) or self._advice(found, expected)
        return GrammarError(text, span, expected, hint)

    def span(self, text: str, at: int) -> Span:
        """How far the word at ``at`` goes: one character if it is none, nothing at the end."""
        found = self._word.match(text, at)
        if found is not None and found.end() > at:
            return Span(at, found.end())
        return Span(at, min(at + 1, len(text)))


def _advise_on_characters(found: str) -> str | None:
    """A hint for a word that looks right, but for a character that cannot be seen."""
    for char in found:
        if len(found) > 1 and not char.isprintable():
            instead = "write a plain space for" if char.isspace() else "take out"
            return f"{instead} the character U+{ord(char):04X} in it"
    return None


def top(element: ParserElement) -> ParserElement:
    """The element as a whole grammar, for :func:`read`."""
    # pyparsing would turn tabs into spaces first, and every offset behind one would be wrong.
    # It would also put its elements in order while it reads the first text, in whose thread ever.
    return element.parse_with_tabs().streamline()


def read(grammar: ParserElement, text: str) -> object:
    """The one token that a whole grammar makes of a text."""
    return cast(object, grammar.parse_string(text)[0])


def check_length(text: str) -> None:
    """Refuses a text that is longer than anything Kubernetes would keep.

    Raises:
        GrammarError: it has more than ``TEXT_MAX`` characters.
    """
    if len(text) > TEXT_MAX:
        raise GrammarError(
            text,
            Span(TEXT_MAX, TEXT_MAX + 1),
            message=f"the text has {len(text)} characters, more than the {TEXT_MAX} that are read",
            hint="Kubernetes keeps no annotations larger than 256 KiB",
        )
