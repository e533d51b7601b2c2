"""Policy statements: the text of an annotation to :class:`~grammar.nodes.Policy`.

In: the text of a ``policy`` annotation.  Out: its statements in canonical form, or the errors of
every statement that cannot be read, all at once.  What a statement does is not known here.

::

    statement := action [protocol] ["from" match...] ["to" match...]
    action    := "allow" | "deny"
    protocol  := "tcp" | "udp" | "sctp" | ("icmp" | "icmpv6") ["type" N ["code" N]]
    match     := ("port" | "ports") P[,P...] | "label" K=V | "cidr" C[,C...]
               | "namespace" NAME | "selector" "(" selector ")"

Statements end at ``;`` or a line end, comments begin with ``#`` (:mod:`grammar.lines`).  Keywords
are read in either case.  Blanks are spaces and tabs, also around the commas of a list.
:mod:`grammar.words` reads the single words and says which keywords are no names;
:mod:`grammar.clauses` knows what one match means for another.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar, cast

import msgspec
from pyparsing import OneOrMore, ParserElement, ParseResults

from grammar.clauses import (
    ClausePiece,
    IcmpCode,
    IcmpType,
    MatchPiece,
    Side,
    Word,
    compose,
)
from grammar.errors import GrammarError, PolicyErrors, nearest
from grammar.lexical import (
    BLANKS,
    Expectation,
    at_end,
    check_length,
    keyword,
    match_of,
    read,
    top,
    whole_word,
)
from grammar.lines import split_lines
from grammar.nodes import (
    Action,
    CidrMatch,
    NamespaceMatch,
    Policy,
    PortsMatch,
    Protocol,
    SelectorMatch,
    Span,
    Statement,
    canonical_cidrs,
    canonical_ports,
)
from grammar.selector import selector_in_parentheses
from grammar.words import (
    WordError,
    parse_cidr,
    parse_icmp_code,
    parse_icmp_type,
    parse_label,
    parse_namespace,
    parse_port,
)

ERRORS_MAX = 1000
"""Errors after which reading stops: a text that is no policy must not cost the controller much."""

CACHED_TEXT_MAX = 4096
"""Longer texts are not remembered, so that the memory for remembered ones is bounded."""

_PROTOCOLS = tuple(f"'{protocol}'" for protocol in Protocol)
_MATCHES = {
    Side.FROM: ("'label'", "'port'", "'namespace'", "'cidr'", "'selector'"),
    Side.TO: ("'label'", "'port'", "'cidr'", "'selector'"),
}
_END = "the end"
_ACTION = "allow|deny"
_WORD = r"[^ \t]*"
_LIST = rf"[^ \t,]*(?:{BLANKS},{BLANKS}[^ \t,]*)*"
_SYNONYMS = {
    "accept": "'allow'",
    "permit": "'allow'",
    "pass": "'allow'",
    "block": "'deny'",
    "drop": "'deny'",
    "reject": "'deny'",
    "ping": "'icmp'",
    "icmp6": "'icmpv6'",
    "source": "'from'",
    "src": "'from'",
    "destination": "'to'",
    "dst": "'to'",
    "dport": "'port'",
    "sport": "'port'",
    "tag": "'label'",
    "ip": "'cidr'",
    "ipblock": "'cidr'",
    "net": "'cidr'",
    "subnet": "'cidr'",
    "ns": "'namespace'",
}

Value = TypeVar("Value")


def parse_policy(text: str) -> Policy:
    """The statements of a policy text; empty, or nothing but comments, is a policy without any.

    Cost: linear; a short text that was read before costs a look-up.

    Raises:
        PolicyErrors: one error for each statement that cannot be read, up to ``ERRORS_MAX``.
    """
    return _parse_remembered(text) if len(text) <= CACHED_TEXT_MAX else _parse(text)


def _parse(text: str) -> Policy:
    try:
        check_length(text)
    except GrammarError as error:
        raise PolicyErrors((error,)) from None
    statements: list[Statement] = []
    errors: list[GrammarError] = []
    for line in split_lines(text):
        for span in line.statements:
            try:
                statement = _read_statement(text[span.start : span.end])
            except GrammarError as error:
                errors.append(error.within(text, span.start))
                if len(errors) == ERRORS_MAX:
                    raise PolicyErrors(tuple(errors), more=True) from None
            else:
                statements.append(msgspec.structs.replace(statement, span=span, line=line.number))
    if errors:
        raise PolicyErrors(tuple(errors))
    return Policy(tuple(statements))


def _read_statement(text: str) -> Statement:
    grammar = _WITH_SELECTORS if "selector" in text.lower() else _WITHOUT_SELECTORS
    return cast(Statement, read(grammar, text))


_parse_remembered = lru_cache(maxsize=4096)(_parse)


def _advise(found: str, expected: tuple[str, ...]) -> str | None:
    """A hint for what was found where a statement went on otherwise."""
    word = found.lower()
    if "'port'" in expected and (match := _match_of_shape(found)):
        return f"write '{match} {found}'"
    if (synonym := _SYNONYMS.get(word)) in expected:
        return f"did you mean {synonym}?"
    if (hint := _advise_on_order(word, expected)) is not None:
        return hint
    near = nearest(word, (keyword.strip("'") for keyword in expected if keyword.startswith("'")))
    return f"did you mean '{near}'?" if near else None


def _match_of_shape(found: str) -> str | None:
    """The keyword of a match that is missing before a word of such a shape."""
    if "=" in found.strip("="):
        return "label"
    if re.fullmatch(r"[0-9]+(?:[:-][0-9]+)?", found):
        return "port"
    return "cidr" if re.match(r"[0-9]+\.[0-9.]+|[0-9A-Fa-f]+:[0-9A-Fa-f]*:", found) else None


def _advise_on_order(word: str, expected: tuple[str, ...]) -> str | None:
    """A hint for a keyword that stands somewhere else."""
    if word == "to" and expected == _MATCHES[Side.FROM]:
        return "leave 'from' out where every source is meant"
    if word in ("from", "to"):
        return "'from' and 'to' stand once each, 'from' before 'to'"
    if word in list(Protocol):
        return "the protocol stands right after 'allow' or 'deny'"
    if f"'{word}'" in _MATCHES[Side.FROM] or word == "ports":
        return f"write 'from {word} ...' or 'to {word} ...'"
    if word == "code":
        return "'code' follows 'type N'"
    if word in (",", "and", "&&") and "'label'" in expected:
        return "matches stand side by side, all of them must hold"
    if word in (",", "and", "&&") and "'from'" in expected:
        return "write a statement for each protocol that is meant"
    return None


_EXPECTATION = Expectation(re.compile(r"[^ \t,;()]+"), _advise)
_expect = _EXPECTATION.otherwise


def _statement(match: ParserElement) -> ParserElement:
    """``statement := action [protocol] ["from" match...] ["to" match...]``."""
    action = keyword(_ACTION).add_parse_action(_read_words_of_head)
    other = action + (_icmp(match) | _clauses(match, *_PROTOCOLS))
    whole = _transport(match) | other | _expect("'allow'", "'deny'")
    return whole.add_parse_action(lambda text, _, found: compose(text, found.as_list()))


def _transport(match: ParserElement) -> ParserElement:
    """``action ("tcp" | "udp" | "sctp")`` and the rest: most statements, so two words at once."""
    head = keyword(_ACTION, whole_word("tcp|udp|sctp")).add_parse_action(_read_words_of_head)
    return head + _clauses(match)


def _icmp(match: ParserElement) -> ParserElement:
    """``("icmp" | "icmpv6") ["type" N ["code" N]]``, and the rest of the statement."""
    protocol = keyword("icmp|icmpv6").add_parse_action(
        lambda _, __, found: Protocol(match_of(found)["keyword"].lower())
    )
    type_ = keyword("type", _WORD).add_parse_action(_read_icmp_type)
    code = keyword("code", _WORD).add_parse_action(_read_icmp_code)
    after_type = code + _clauses(match) | _clauses(match, "'code'")
    return protocol + (type_ + after_type | _clauses(match, "'type'"))


def _clauses(match: ParserElement, *before: str) -> ParserElement:
    """``["from" match...] ["to" match...]`` and the end; ``before`` could have stood here too."""
    target = _clause(match, Side.TO) + (at_end() | _expect(*_MATCHES[Side.TO], _END))
    after_source = target | at_end() | _expect(*_MATCHES[Side.FROM], "'to'", _END)
    source = _clause(match, Side.FROM) + after_source
    return source | target | at_end() | _expect(*before, "'from'", "'to'", _END)


def _clause(match: ParserElement, side: Side) -> ParserElement:
    """``("from" | "to") match...``."""
    matches = OneOrMore(match) | _expect(*_MATCHES[side])
    return (keyword(side.value) + matches).add_parse_action(
        lambda _, __, found: ClausePiece(side, tuple(found[1:]))
    )


def _words_match() -> ParserElement:
    """``("label" | "namespace" | "port" | "ports" | "cidr") words``."""
    # One token for all keywords: an alternative that fails costs as much as one that matches.
    return keyword("|".join(_READERS), _LIST).add_parse_action(_read_match)


def _selector_match() -> ParserElement:
    """``"selector" "(" selector ")"``."""
    selector = keyword("selector") + selector_in_parentheses()
    return selector.add_parse_action(_read_selector)


# What the words after a keyword are.


def _read_words_of_head(_: str, __: int, found: ParseResults) -> list[Action | Protocol]:
    match = match_of(found)
    action, protocol = Action(match["keyword"].lower()), match["rest"].lower()
    return [action, Protocol(protocol)] if protocol else [action]


def _read_match(text: str, _: int, found: ParseResults) -> MatchPiece:
    match = match_of(found)
    keyword = match["keyword"].lower()
    return _READERS[keyword](text, match, Word(keyword, Span(*match.span("keyword"))))


def _read_label(text: str, match: re.Match[str], keyword: Word) -> MatchPiece:
    """``"label" K=V``."""
    if "=" not in match["rest"] and text.startswith("=", match.end()):
        raise GrammarError(
            text,
            Span(match.start("rest"), match.end() + 1),
            hint="write key=value as one word",
            message="a label has no blanks around its '='",
        )
    word = _one_word(text, match, "a label like key=value")
    return MatchPiece(_value(text, word, parse_label), keyword)


def _read_namespace(text: str, match: re.Match[str], keyword: Word) -> MatchPiece:
    """``"namespace" NAME``."""
    word = _one_word(text, match, "the name of a namespace")
    return MatchPiece(NamespaceMatch(_value(text, word, parse_namespace)), keyword)


def _read_ports(text: str, match: re.Match[str], keyword: Word) -> MatchPiece:
    """``("port" | "ports") P[,P...]``."""
    words = _words(text, match, "a port")
    ports = tuple([_value(text, word, parse_port) for word in words])
    return MatchPiece(PortsMatch(canonical_ports(ports)), keyword, words)


def _read_cidrs(text: str, match: re.Match[str], keyword: Word) -> MatchPiece:
    """``"cidr" C[,C...]``."""
    words = _words(text, match, "a CIDR")
    cidrs = tuple([_value(text, word, parse_cidr) for word in words])
    return MatchPiece(CidrMatch(canonical_cidrs(cidrs)), keyword, words)


_READERS = {
    "label": _read_label,
    "namespace": _read_namespace,
    "ports": _read_ports,
    "port": _read_ports,
    "cidr": _read_cidrs,
}


def _read_selector(_: str, __: int, found: ParseResults) -> MatchPiece:
    keyword = Word("selector", Span(*match_of(found).span("keyword")))
    return MatchPiece(SelectorMatch(found[1]), keyword)


def _read_icmp_type(text: str, _: int, found: ParseResults) -> IcmpType:
    word = _one_word(text, match_of(found), "an ICMP type, a number")
    return IcmpType(_value(text, word, parse_icmp_type))


def _read_icmp_code(text: str, _: int, found: ParseResults) -> IcmpCode:
    word = _one_word(text, match_of(found), "an ICMP code, a number")
    return IcmpCode(_value(text, word, parse_icmp_code))


def _one_word(text: str, match: re.Match[str], what: str) -> Word:
    """The word after a keyword; it is an error that says ``what`` was expected if there is none."""
    if not match["rest"]:
        raise _EXPECTATION.unmet(text, match.start("rest"), (what,))
    return Word(match["rest"], Span(*match.span("rest")))


def _words(text: str, match: re.Match[str], what: str) -> tuple[Word, ...]:
    """The words of a list after a keyword; none of them may be missing."""
    words = []
    start = match.start("rest")
    for item in match["rest"].split(","):
        word = item.strip(" \t")
        at = start + len(item) - len(item.lstrip(" \t"))
        if not word:
            raise _EXPECTATION.unmet(text, at, (what,))
        words.append(Word(word, Span(at, at + len(word))))
        start += len(item) + 1
    return tuple(words)


def _value(text: str, word: Word, parse: Callable[[str], Value]) -> Value:
    try:
        return parse(word.text)
    except WordError as error:
        raise GrammarError(text, word.span, hint=error.hint, message=error.message) from None


_WITH_SELECTORS = top(_statement(_words_match() | _selector_match()))
_WITHOUT_SELECTORS = top(_statement(_words_match()))
"""For texts without that word: few matches are selectors, and to try for one costs a fifth."""
