"""Selector expressions: text to :data:`~grammar.nodes.Selector`.

In: the text of a selector field, or the part of a statement in ``selector (...)``.  Out: the
canonical syntax tree.  What an expression is true of is :mod:`grammar.matching`'s.

::

    selector  := [ chain ]                         the empty selector is all()
    chain     := unit (("&&" | "||") unit)*        "&&" binds closer than "||"
    unit      := ("!" | "(")* operation ")"*       "!" binds to the next operation or parenthesis
    operation := "has(" label ")" | "all()" | "global()" | label comparison
    comparison := "==" string | "!=" string | "contains" string
                | "starts with" string | "ends with" string | "in" set | "not in" set
    set       := "{" [ string ("," string)* [","] ] "}"
    string    := '"' any but " '"' | "'" any but ' "'"           no escapes
    label     := [A-Za-z0-9_./-]{1,512}

Blanks are spaces and tabs; a line end is an error except inside a string.  The grammar is flat: a
chain is read from left to right, and :mod:`grammar.nesting` gives it its depth with a stack of its
own.  Reading does not recurse, and its cost is linear in length whatever the nesting.

Source: Calico v3 libcalico-go/lib/selector.
"""

import re
from functools import lru_cache
from typing import cast

from pyparsing import ParserElement, ParseResults, ZeroOrMore, replace_with

from grammar.errors import GrammarError, nearest
from grammar.lexical import (
    BLANKS,
    WORD_CHARS,
    Expectation,
    at_end,
    check_length,
    here,
    match_of,
    read,
    token,
    top,
)
from grammar.nesting import CHAIN_JOINTS, Enclosure, Symbols, plant
from grammar.nodes import (
    All,
    Contains,
    EndsWith,
    Equal,
    Global,
    Has,
    In,
    NotEqual,
    NotIn,
    Selector,
    Span,
    StartsWith,
)

LABEL_MAX = 512  # Calico v3 selector tokenizer

CACHED_TEXT_MAX = 1024
"""Longer texts are not remembered, so that the memory for remembered ones is bounded."""

_LABEL = rf"[{WORD_CHARS}]+"
_STRING = r"\"[^\"]*\"|'[^']*'"
_OPERANDS = ("a label", "'has('", "'all()'", "'global()'", "'!'", "'('")
_OPERATORS = ("'=='", "'!='", "'in'", "'not in'", "'contains'", "'starts with'", "'ends with'")
_OPERATOR_CLASSES = {
    "equal": Equal,
    "not_equal": NotEqual,
    "contains": Contains,
    "starts_with": StartsWith,
    "ends_with": EndsWith,
}
_SYNONYMS = {
    "=": "'=='",
    "===": "'=='",
    "<>": "'!='",
    "is": "'=='",
    "like": "'contains'",
    "not": "'not in'",
    "&": "'&&'",
    "and": "'&&'",
    ",": "'&&'",
    "|": "'||'",
    "or": "'||'",
}


def parse_selector(text: str) -> Selector:
    """The canonical tree of a selector expression; an empty or blank text is ``all()``.

    Cost: linear; a short text that was read before costs a look-up.

    Raises:
        GrammarError: the first mistake in the text.
    """
    check_length(text)
    return _parse_remembered(text) if len(text) <= CACHED_TEXT_MAX else _parse(text)


def selector_in_parentheses() -> ParserElement:
    """``"(" selector ")"``, as a part of something else; its token is the tree."""
    empty = token(rf"\({BLANKS}\)").add_parse_action(replace_with(All()))
    return empty | _chain(Enclosure.PARENTHESES)


def _parse(text: str) -> Selector:
    return cast(Selector, read(_SELECTOR, text))


_parse_remembered = lru_cache(maxsize=16_384)(_parse)


def _advise(found: str, expected: tuple[str, ...]) -> str | None:
    """A hint for what was found where a selector went on otherwise."""
    if found in ("'", '"'):
        return "this quote is never closed"
    if expected == ("'('",):
        return "the whole expression stands in parentheses"
    if expected == ("'{'",):
        return "a set is written {'x', 'y'}"
    if "a string in quotes" in expected:
        return f"write it in quotes: '{found}'" if re.fullmatch(_LABEL, found) else None
    if expected == _OPERATORS and found == "(":
        return "has(...), all() and global() are written in lower case, without a blank before '('"
    if (synonym := _SYNONYMS.get(found.lower())) in expected:
        return f"did you mean {synonym}?"
    near = nearest(found, (word.strip("'") for word in expected if word.startswith("'")))
    if near is not None:
        return f"did you mean '{near}'?"
    if expected == _OPERATORS and found in ("", ")", "&&", "||"):
        return "to ask only whether the label is there, write has(...)"
    return None


_EXPECTATION = Expectation(
    re.compile(rf"[{WORD_CHARS}]+|{_STRING}|[=!<>~]+|&+|\|+"),
    _advise,
)
_expect = _EXPECTATION.otherwise


def _selector() -> ParserElement:
    """``selector := [ chain ]``."""
    empty = at_end().add_parse_action(replace_with(All()))
    end = at_end() | _expect(*CHAIN_JOINTS, "the end")
    return token("").suppress() + (empty | _chain(Enclosure.NONE) + end)


def _chain(enclosure: Enclosure) -> ParserElement:
    """``chain := unit (("&&" | "||") unit)*``, all symbols between two operations in one token."""
    first = _symbols(r"[!( \t]*")
    if enclosure is Enclosure.PARENTHESES:
        first = _symbols(r"\([!( \t]*") | _expect("'('")
    between = _symbols(r"[) \t]*(?:&&|\|\|)[!( \t]*")
    last = _symbols(r"[) \t]*")
    chain = first + _operation() + ZeroOrMore(between + _operation()) + last
    return chain.add_parse_action(
        lambda text, _, pieces: plant(text, pieces.as_list(), enclosure, _EXPECTATION)
    )


def _symbols(pattern: str) -> ParserElement:
    return token(pattern).add_parse_action(
        lambda _, at, found: Symbols(match_of(found).group(), at)
    )


def _operation() -> ParserElement:
    """``operation := "has(" label ")" | "all()" | "global()" | label comparison``."""
    return _label_comparison() | _has() | _everything() | _expect(*_OPERANDS)


def _has() -> ParserElement:
    """``"has(" label ")"``."""
    label = _label() | _expect("a label")
    return (token(r"has\(") + label + _close(r"\)")).add_parse_action(
        lambda _, __, found: Has(found[1])
    )


def _everything() -> ParserElement:
    """``"all()" | "global()"``."""
    every = token(r"all\(").add_parse_action(replace_with(All()))
    outside = token(r"global\(").add_parse_action(replace_with(Global()))
    return ((every | outside) + _close(r"\)")).add_parse_action(lambda _, __, found: found[0])


def _close(pattern: str) -> ParserElement:
    return token(pattern) | _expect("')'")


def _label_comparison() -> ParserElement:
    """``label (string_comparison | set_comparison)``."""
    not_a_call = r"(?!(?:has|all|global)\()"
    comparison = _string_comparison() | _set_comparison() | _expect(*_OPERATORS)
    return (_label(not_a_call) + comparison).add_parse_action(
        lambda _, __, found: found[1](found[0], found[2])
    )


def _label(condition: str = "") -> ParserElement:
    """``label := [A-Za-z0-9_./-]{1,512}``."""
    return token(f"{condition}(?P<label>{_LABEL})").add_parse_action(_read_label)


def _read_label(text: str, at: int, found: ParseResults) -> str:
    label = match_of(found)["label"]
    if len(label) > LABEL_MAX:
        raise GrammarError(
            text,
            Span(at, at + len(label)),
            message=f"a label of {len(label)} characters is longer than {LABEL_MAX}",
        )
    return label


def _string_comparison() -> ParserElement:
    """``("==" | "!=" | "contains" | "starts with" | "ends with") string``."""
    operator = token(
        r"(?P<equal>==)|(?P<not_equal>!=)|(?P<contains>contains)"
        rf"|(?P<starts_with>starts{BLANKS}with)|(?P<ends_with>ends{BLANKS}with)"
    ).add_parse_action(lambda _, __, found: _OPERATOR_CLASSES[str(match_of(found).lastgroup)])
    string = token(_STRING).add_parse_action(
        lambda _, __, found: match_of(found).group().rstrip(" \t")[1:-1]
    )
    return operator + (string | _expect("a string in quotes"))


def _set_comparison() -> ParserElement:
    """``("in" | "not in") set``."""
    inside = token(r"in(?![A-Za-z0-9_])").add_parse_action(replace_with(In))
    outside = token(rf"not{BLANKS}in(?![A-Za-z0-9_])").add_parse_action(replace_with(NotIn))
    return (inside | outside) + _set()


def _set() -> ParserElement:
    """``set := "{" [ string ("," string)* [","] ] "}"``."""
    opened = token(r"\{") | _expect("'{'")
    strings = token(rf"(?:(?:{_STRING}){BLANKS},{BLANKS})*(?:{_STRING})?").add_parse_action(
        lambda _, __, found: tuple(sorted(set(_strings(match_of(found).group()))))
    )
    closed = token(r"\}") | here().add_parse_action(_refuse_in_set)
    return (opened + strings + closed).add_parse_action(lambda _, __, found: found[1])


_ONE_STRING = re.compile(_STRING)


def _strings(text: str) -> list[str]:
    return [quoted[1:-1] for quoted in _ONE_STRING.findall(text)]


def _refuse_in_set(text: str, at: int, _: ParseResults) -> None:
    last = text[:at].rstrip(" \t")[-1]
    expected = ("a string in quotes", "'}'") if last in "{," else ("','", "'}'")
    raise _EXPECTATION.unmet(text, at, expected)


_SELECTOR = top(_selector())
