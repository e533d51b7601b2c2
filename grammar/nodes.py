"""What was written, as values: policies, statements, their matches, and selector expressions.

Made by the parsers (:mod:`grammar.statement`, :mod:`grammar.selector`) or by a program that writes
policy itself; read by :mod:`grammar.printer` and by whoever gives the words a meaning.  Values
only: nothing here reads or prints text.

Two values are equal when they are written alike in canonical form, wherever they stood.  The
parsers return canonical values; :func:`canonical_clause` brings hand-made ones into that form.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import msgspec


class Span(NamedTuple):
    """Character offsets into a source text: ``start`` inside, ``end`` past the last character."""

    start: int
    end: int


# Selector expressions.


class All(msgspec.Struct, frozen=True):
    """``all()``, and the empty selector: true of everything."""


class Global(msgspec.Struct, frozen=True):
    """``global()``: true of everything by itself; a rule's namespaceSelector gives it its sense."""


class Has(msgspec.Struct, frozen=True):
    """``has(key)``: the label is there, whatever its value."""

    key: str


class Equal(msgspec.Struct, frozen=True):
    """``key == 'value'``; false without the label."""

    key: str
    value: str


class NotEqual(msgspec.Struct, frozen=True):
    """``key != 'value'``; true without the label."""

    key: str
    value: str


class Contains(msgspec.Struct, frozen=True):
    """``key contains 'value'``; false without the label, so also for an empty value."""

    key: str
    value: str


class StartsWith(msgspec.Struct, frozen=True):
    """``key starts with 'value'``; false without the label."""

    key: str
    value: str


class EndsWith(msgspec.Struct, frozen=True):
    """``key ends with 'value'``; false without the label."""

    key: str
    value: str


class In(msgspec.Struct, frozen=True):
    """``key in {...}``; false without the label, and with no values.

    Invariant: ``values`` are sorted, each once.
    """

    key: str
    values: tuple[str, ...]


class NotIn(msgspec.Struct, frozen=True):
    """``key not in {...}``; true without the label, and with no values.

    Invariant: ``values`` are sorted, each once.
    """

    key: str
    values: tuple[str, ...]


class Not(msgspec.Struct, frozen=True):
    """``!operand``.  Invariant: the operand is no Not, since ``!!x`` is ``x``."""

    operand: Selector


class And(msgspec.Struct, frozen=True):
    """``a && b``.  Invariant: two operands or more, none of them an And."""

    operands: tuple[Selector, ...]


class Or(msgspec.Struct, frozen=True):
    """``a || b``.  Invariant: two operands or more, none of them an Or."""

    operands: tuple[Selector, ...]


Selector: TypeAlias = (
    All
    | Global
    | Has
    | Equal
    | NotEqual
    | Contains
    | StartsWith
    | EndsWith
    | In
    | NotIn
    | Not
    | And
    | Or
)


# Statements.


class Action(StrEnum):
    """What a statement does with the traffic it matches."""

    ALLOW = "allow"
    DENY = "deny"


class Protocol(StrEnum):
    """The protocols a statement can name."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"


PROTOCOLS_WITH_PORTS = frozenset({Protocol.TCP, Protocol.UDP, Protocol.SCTP})


class PortRange(NamedTuple):
    """Ports from ``low`` to ``high``, both included; a single port has both equal."""

    low: int
    high: int


class PortsMatch(msgspec.Struct, frozen=True):
    """``port 80,8000:8080,http``: any of them; a ``str`` is the name of a container port.

    Invariant: each once, numbers ascending, then names sorted.
    """

    ports: tuple[PortRange | str, ...]


class LabelMatch(msgspec.Struct, frozen=True):
    """``label key=value``: pods with that label."""

    key: str
    value: str


class CidrMatch(msgspec.Struct, frozen=True):
    """``cidr 10.0.0.0/8,fd00::/8``: an address inside any of them.

    Invariant: each has its length and no host bits, each once, IPv4 first, ascending.
    """

    cidrs: tuple[str, ...]


class NamespaceMatch(msgspec.Struct, frozen=True):
    """``namespace name``: pods of that namespace; stands in ``from`` only."""

    name: str


class SelectorMatch(msgspec.Struct, frozen=True):
    """``selector (expression)``: pods whose labels make the expression true."""

    selector: Selector


Match: TypeAlias = PortsMatch | LabelMatch | CidrMatch | NamespaceMatch | SelectorMatch


class Statement(msgspec.Struct, frozen=True, eq=False):
    """One statement of a policy.

    ``protocol`` None is every protocol; ``icmp_type`` or ``icmp_code`` None is every type or code.
    An empty ``src`` is every source.  ``span`` and ``line`` (1-based) say where it was written in
    the whole text; they play no part in equality.

    Invariant: ``src`` and ``dst`` are as :func:`canonical_clause` returns them.
    """

    action: Action
    protocol: Protocol | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    src: tuple[Match, ...] = ()
    dst: tuple[Match, ...] = ()
    span: Span = Span(0, 0)
    line: int = 1

    def _meaning(self) -> tuple[object, ...]:
        return (
            self.action,
            self.protocol,
            self.icmp_type,
            self.icmp_code,
            self.src,
            self.dst,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statement):
            return NotImplemented
        return self._meaning() == other._meaning()

    def __hash__(self) -> int:
        return hash(self._meaning())


class Policy(msgspec.Struct, frozen=True):
    """The statements of one text, in order; without any, nothing is allowed by them."""

    statements: tuple[Statement, ...]


# The canonical form.

_CLAUSE_ORDER = {NamespaceMatch: 0, LabelMatch: 1, SelectorMatch: 2, CidrMatch: 3, PortsMatch: 4}
"""From the widest to the narrowest, as one would say it: pods of a namespace, with a label."""


def canonical_clause(matches: tuple[Match, ...]) -> tuple[Match, ...]:
    """The matches of one clause in canonical order, each once, each canonical itself."""
    if len(matches) < 2:
        return tuple(_canonical_match(match) for match in matches)
    return tuple(sorted({_canonical_match(match) for match in matches}, key=_clause_key))


def canonical_ports(ports: tuple[PortRange | str, ...]) -> tuple[PortRange | str, ...]:
    """Each port once: numbers ascending, then names sorted."""
    return ports if len(ports) < 2 else tuple(sorted(set(ports), key=_port_key))


def canonical_cidrs(cidrs: tuple[str, ...]) -> tuple[str, ...]:
    """Each CIDR once, IPv4 before IPv6, ascending by address, then by length.

    The CIDRs themselves are taken as they are: host bits already masked, lengths written.
    """
    return cidrs if len(cidrs) < 2 else tuple(sorted(set(cidrs), key=_cidr_key))


def _canonical_match(match: Match) -> Match:
    if isinstance(match, PortsMatch):
        ports = canonical_ports(match.ports)
        return match if ports == match.ports else PortsMatch(ports)
    if isinstance(match, CidrMatch):
        cidrs = canonical_cidrs(match.cidrs)
        return match if cidrs == match.cidrs else CidrMatch(cidrs)
    return match


def _clause_key(match: Match) -> tuple[int, str, str]:
    rank = _CLAUSE_ORDER[type(match)]
    if isinstance(match, LabelMatch):
        return (rank, match.key, match.value)
    return (rank, "", "")


def _port_key(port: PortRange | str) -> tuple[int, int, int, str]:
    return (1, 0, 0, port) if isinstance(port, str) else (0, port.low, port.high, "")


def _cidr_key(cidr: str) -> tuple[int, int, int]:
    net = ipaddress.ip_network(cidr)
    return (net.version, int(net.network_address), net.prefixlen)
