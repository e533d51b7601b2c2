"""From the pieces of one statement to the statement, and what one piece means for another.

In: what the grammar read from left to right.  Out: the canonical statement, or the error of a
match that is well written but cannot stand where it does.
"""

from enum import Enum
from typing import NamedTuple, TypeAlias

from grammar.errors import GrammarError, quoted
from grammar.nodes import (
    PROTOCOLS_WITH_PORTS,
    Action,
    CidrMatch,
    LabelMatch,
    Match,
    NamespaceMatch,
    PortsMatch,
    Protocol,
    SelectorMatch,
    Span,
    Statement,
    canonical_clause,
)


class Word(NamedTuple):
    """One word of a list, and where it stands."""

    text: str
    span: Span


class MatchPiece(NamedTuple):
    """A match, the keyword that began it, and the words it was made of (none of a selector's)."""

    match: Match
    keyword: Word
    words: tuple[Word, ...] = ()


class Side(Enum):
    """The keyword that begins a clause."""

    FROM = "from"
    TO = "to"


class ClausePiece(NamedTuple):
    """One end of the traffic: all matches must hold."""

    side: Side
    matches: tuple[MatchPiece, ...]


class IcmpType(NamedTuple):
    """``type N``."""

    number: int


class IcmpCode(NamedTuple):
    """``code N``."""

    number: int


StatementPiece: TypeAlias = Action | Protocol | IcmpType | IcmpCode | ClausePiece

_ONCE = {
    PortsMatch: "write one list, like 'port 80,443'",
    CidrMatch: "write one list, like 'cidr 10.0.0.0/8,192.168.0.0/16'",
    NamespaceMatch: "write a statement for each namespace",
    SelectorMatch: "join the expressions with '&&' or '||'",
}
"""The matches that stand once in a clause, with what to write instead of a second one."""


def compose(text: str, pieces: list[StatementPiece]) -> Statement:
    """The statement of these pieces, its span and line those of a text that it fills alone.

    Raises:
        GrammarError: a match stands twice, on the wrong side, or beside the wrong protocol.
    """
    action = Action.DENY
    protocol: Protocol | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    source: tuple[Match, ...] = ()
    target: tuple[Match, ...] = ()
    for piece in pieces:
        match piece:
            case Action():
                action = piece
            case Protocol():
                protocol = piece
            case IcmpType(number):
                icmp_type = number
            case IcmpCode(number):
                icmp_code = number
            case ClausePiece(side):
                _check_clause(text, piece, protocol)
                matches = canonical_clause(tuple([found.match for found in piece.matches]))
                source, target = (matches, target) if side is Side.FROM else (source, matches)
    return Statement(
        action,
        protocol,
        icmp_type,
        icmp_code,
        source,
        target,
        Span(0, len(text)),
    )


def _check_clause(text: str, clause: ClausePiece, protocol: Protocol | None) -> None:
    seen: set[type[Match]] = set()
    for piece in clause.matches:
        kind = type(piece.match)
        if kind in seen and kind is not LabelMatch:
            raise _refusal(
                text,
                piece.keyword,
                f"{quoted(piece.keyword.text)} stands twice in one clause",
                _ONCE[kind],
            )
        seen.add(kind)
        if kind is NamespaceMatch and clause.side is Side.TO:
            raise _refusal(
                text,
                piece.keyword,
                "'to' speaks of the annotated pod itself: 'namespace' stands in 'from' only",
            )
        if kind is PortsMatch:
            _check_ports(text, piece, protocol)
        elif kind is CidrMatch:
            _check_family(text, piece, protocol)


def _check_ports(text: str, piece: MatchPiece, protocol: Protocol | None) -> None:
    if protocol in PROTOCOLS_WITH_PORTS:
        return
    keyword = piece.keyword.text
    if protocol is None:
        raise _refusal(
            text,
            piece.keyword,
            f"{quoted(keyword)} needs a protocol that has ports: tcp, udp or sctp",
            "write it after 'allow' or 'deny', in a statement for each protocol that is meant",
        )
    raise _refusal(
        text,
        piece.keyword,
        f"{protocol} has no ports",
        "'type' and 'code' choose among its messages",
    )


def _check_family(text: str, piece: MatchPiece, protocol: Protocol | None) -> None:
    """ICMP travels over IPv4 alone, and ICMPv6 over IPv6 alone."""
    if protocol not in (Protocol.ICMP, Protocol.ICMPV6):
        return
    is_wanted_ipv6 = protocol is Protocol.ICMPV6
    other = Protocol.ICMP if is_wanted_ipv6 else Protocol.ICMPV6
    for word in piece.words:
        if (":" in word.text) is not is_wanted_ipv6:
            raise _refusal(
                text,
                word,
                f"{protocol} is of IPv{6 if is_wanted_ipv6 else 4}, {quoted(word.text)} is not",
                f"write a statement with '{other}' for it",
            )


def _refusal(text: str, word: Word, message: str, hint: str | None = None) -> GrammarError:
    return GrammarError(text, word.span, hint=hint, message=message)
