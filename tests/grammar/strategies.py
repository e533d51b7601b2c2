"""Hypothesis strategies for everything the grammar makes, and for texts that nearly are its own.

Pools of names are small, so that labels, ports and nets meet each other.  What is made is canonical
unless its name says otherwise.
"""

import ipaddress
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from hypothesis import strategies as st

from grammar import (
    Action,
    All,
    And,
    CidrMatch,
    Contains,
    EndsWith,
    Equal,
    Global,
    Has,
    In,
    LabelMatch,
    Match,
    NamespaceMatch,
    Not,
    NotEqual,
    NotIn,
    Or,
    Policy,
    PortRange,
    PortsMatch,
    Protocol,
    Selector,
    SelectorMatch,
    StartsWith,
    Statement,
    canonical_clause,
)
from grammar.nodes import PROTOCOLS_WITH_PORTS, canonical_cidrs, canonical_ports

Address: TypeAlias = IPv4Address | IPv6Address

KEYS = ["a", "b", "app.kubernetes.io/name", "in", "has", "not", "A_b-c"]
VALUES = ["", "x", "y", "xy", "it's", 'say "x"', ";#", ")", " x ", "ü", "&&"]

keys = st.sampled_from(KEYS)
values = st.sampled_from(VALUES)
labels = st.dictionaries(keys, values, max_size=4)
value_sets = st.lists(values, max_size=3).map(lambda found: tuple(sorted(set(found))))

operations: st.SearchStrategy[Selector] = st.one_of(
    st.just(All()),
    st.just(Global()),
    st.builds(Has, keys),
    *[st.builds(kind, keys, values) for kind in (Equal, NotEqual, Contains, StartsWith, EndsWith)],
    st.builds(In, keys, value_sets),
    st.builds(NotIn, keys, value_sets),
)


def _negation(operand: Selector) -> Selector:
    return operand.operand if isinstance(operand, Not) else Not(operand)


def _conjunction(operands: list[Selector]) -> Selector:
    flat = [part for one in operands for part in (one.operands if isinstance(one, And) else [one])]
    return And(tuple(flat))


def _disjunction(operands: list[Selector]) -> Selector:
    flat = [part for one in operands for part in (one.operands if isinstance(one, Or) else [one])]
    return Or(tuple(flat))


def _combined(parts: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    several = st.lists(parts, min_size=2, max_size=4)
    return st.one_of(parts.map(_negation), several.map(_conjunction), several.map(_disjunction))


selectors: st.SearchStrategy[Selector] = st.recursive(operations, _combined, max_leaves=8)

port_numbers = st.sampled_from([1, 22, 80, 443, 8000, 8080, 65535])
port_ranges = st.tuples(port_numbers, port_numbers).map(
    lambda bounds: PortRange(min(bounds), max(bounds))
)
port_names = st.sampled_from(
    ["http", "tcp", "8080-http", "a", "metrics-x", "allow", "fifteen-letters"]
)


def _nets(
    addresses: st.SearchStrategy[Address], lengths: st.SearchStrategy[int]
) -> st.SearchStrategy[str]:
    return st.tuples(addresses, lengths).map(
        lambda parts: str(ipaddress.ip_network(parts, strict=False))
    )


cidrs_v4 = _nets(st.ip_addresses(v=4), st.integers(0, 32))
# Of fd00::/8 only: IPv4 addresses written as IPv6 are refused.
cidrs_v6 = _nets(st.ip_addresses(v=6, network="fd00::/8"), st.integers(0, 128))

label_matches = st.builds(LabelMatch, keys, st.sampled_from(["", "x", "x.y_z-0", "8"]))
namespace_matches = st.builds(
    NamespaceMatch, st.sampled_from(["prod", "kube-system", "0", "allow"])
)
selector_matches = st.builds(SelectorMatch, selectors)


def cidr_matches(protocol: Protocol | None) -> st.SearchStrategy[Match]:
    """CIDRs of the families that the protocol travels over."""
    if protocol is Protocol.ICMP:
        cidrs = cidrs_v4
    elif protocol is Protocol.ICMPV6:
        cidrs = cidrs_v6
    else:
        cidrs = st.one_of(cidrs_v4, cidrs_v6)
    return st.lists(cidrs, min_size=1, max_size=3).map(
        lambda found: CidrMatch(canonical_cidrs(tuple(found)))
    )


ports_matches = st.lists(st.one_of(port_ranges, port_names), min_size=1, max_size=4).map(
    lambda found: PortsMatch(canonical_ports(tuple(found)))
)


@st.composite
def clauses(
    draw: st.DrawFn, protocol: Protocol | None, *, has_namespace: bool
) -> tuple[Match, ...]:
    """A clause that may stand beside the protocol, perhaps empty."""
    matches: list[Match] = list(draw(st.lists(label_matches, max_size=2)))
    if has_namespace and draw(st.booleans()):
        matches.append(draw(namespace_matches))
    if draw(st.booleans()):
        matches.append(draw(selector_matches))
    if draw(st.booleans()):
        matches.append(draw(cidr_matches(protocol)))
    if protocol in PROTOCOLS_WITH_PORTS and draw(st.booleans()):
        matches.append(draw(ports_matches))
    return canonical_clause(tuple(matches))


@st.composite
def _statements(draw: st.DrawFn) -> Statement:
    protocol = draw(st.one_of(st.none(), st.sampled_from(Protocol)))
    icmp_type = icmp_code = None
    if protocol in (Protocol.ICMP, Protocol.ICMPV6):
        icmp_type = draw(st.one_of(st.none(), st.integers(0, 254)))
        if icmp_type is not None:
            icmp_code = draw(st.one_of(st.none(), st.integers(0, 255)))
    return Statement(
        draw(st.sampled_from(Action)),
        protocol,
        icmp_type,
        icmp_code,
        draw(clauses(protocol, has_namespace=True)),
        draw(clauses(protocol, has_namespace=False)),
    )


statements = _statements()
policies = st.lists(statements, max_size=3).map(lambda found: Policy(tuple(found)))

# Texts.

_PIECES = [
    *("allow", "deny", "tcp", "udp", "icmp", "icmpv6", "type 8", "code 0", "from", "to", "TO"),
    *("port", "ports 80", "label", "label a=b", "cidr 10.0.0.0/8", "cidr", "namespace", "ns"),
    *("selector", "selector (", "(", ")", "has(", "has(a)", "all()", "!", "&&", "||", "a", "=="),
    *("'x'", '"x"', "'", '"', "in", "not in", "{", "}", ",", ";", "#", "\n", "\r\n", "\t", " "),
    *("80", "0:1", "é", "\0", "\x1b", "\N{NO-BREAK SPACE}", "\U0001f600", "=", "/", "-"),
]

soups = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=14).map(" ".join),
    st.lists(st.sampled_from(_PIECES), max_size=14).map("".join),
    st.text(max_size=40),
)
"""Texts of the languages' own words in any order, and texts of anything."""


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with one part taken out or replaced: what a slip of the hand makes of it."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 4)))
    return text[:start] + draw(st.sampled_from(["", *_PIECES])) + text[end:]
