"""One rule to and from its stored form.

In: a :class:`StoredRule`, as JSON has it, or a :class:`~calico_k8s.model.resources.Rule`.  Out:
the other.  A stored rule with a field that is not named here does not decode at all: a match
that is not understood must not be dropped, since the rule would then match more than was meant.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

import grammar
from calico_k8s.errors import CodecError
from calico_k8s.model.addresses import Net, Version, parse_net
from calico_k8s.model.domains import parse_domain
from calico_k8s.model.names import NetsetName, SelectorText, TagName
from calico_k8s.model.resources import (
    PROTOCOL_NAMES,
    PROTOCOL_NUMBERS,
    PROTOCOLS_WITH_PORTS,
    Action,
    EntityMatch,
    IcmpMatch,
    Origin,
    PortRange,
    Protocol,
    Rule,
)

_Name = TypeVar("_Name")

PORT_MAX = 65535

StoredPort = int | str
"""``80``, ``"8000:8080"`` or the name of a port."""


class StoredRule(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A rule as JSON has it."""

    action: Literal["allow", "deny", "next-tier", "log"]
    origin: Origin = Origin(kind="Unknown")
    ip_version: Version | None = None
    protocol: str | int | None = None
    not_protocol: str | int | None = msgspec.field(default=None, name="!protocol")
    icmp_type: int | None = None
    icmp_code: int | None = None
    not_icmp_type: int | None = msgspec.field(default=None, name="!icmp_type")
    not_icmp_code: int | None = msgspec.field(default=None, name="!icmp_code")
    src_tag: str | None = None
    src_selector: str | None = None
    src_net_set: str | None = None
    src_nets: list[str] = []
    src_ports: list[StoredPort] = []
    not_src_tag: str | None = msgspec.field(default=None, name="!src_tag")
    not_src_selector: str | None = msgspec.field(default=None, name="!src_selector")
    not_src_net_set: str | None = msgspec.field(default=None, name="!src_net_set")
    not_src_nets: list[str] = msgspec.field(default_factory=list, name="!src_nets")
    not_src_ports: list[StoredPort] = msgspec.field(default_factory=list, name="!src_ports")
    dst_tag: str | None = None
    dst_selector: str | None = None
    dst_net_set: str | None = None
    dst_nets: list[str] = []
    dst_domains: list[str] = []
    dst_ports: list[StoredPort] = []
    not_dst_tag: str | None = msgspec.field(default=None, name="!dst_tag")
    not_dst_selector: str | None = msgspec.field(default=None, name="!dst_selector")
    not_dst_net_set: str | None = msgspec.field(default=None, name="!dst_net_set")
    not_dst_nets: list[str] = msgspec.field(default_factory=list, name="!dst_nets")
    not_dst_ports: list[StoredPort] = msgspec.field(default_factory=list, name="!dst_ports")


_ACTIONS: dict[str, Action] = {
    "allow": Action.ALLOW,
    "deny": Action.DENY,
    "next-tier": Action.PASS,
    "log": Action.LOG,
}
_WORDS: dict[Action, Literal["allow", "deny", "next-tier", "log"]] = {
    Action.ALLOW: "allow",
    Action.DENY: "deny",
    Action.PASS: "next-tier",
    Action.LOG: "log",
}


def encode_rule(rule: Rule) -> StoredRule:
    """The stored form; decoding it gives the rule back."""
    src, dst = rule.src, rule.dst
    return StoredRule(
        action=_WORDS[rule.action],
        origin=rule.origin,
        ip_version=rule.ip_version,
        protocol=None if rule.protocol is None else protocol_text(rule.protocol),
        not_protocol=None if rule.not_protocol is None else protocol_text(rule.not_protocol),
        icmp_type=rule.icmp.type if rule.icmp else None,
        icmp_code=rule.icmp.code if rule.icmp else None,
        not_icmp_type=rule.not_icmp.type if rule.not_icmp else None,
        not_icmp_code=rule.not_icmp.code if rule.not_icmp else None,
        src_tag=src.tag,
        src_selector=src.selector,
        src_net_set=src.netset,
        src_nets=list(src.nets),
        src_ports=_ports_text(src.ports, src.named_ports),
        not_src_tag=src.not_tag,
        not_src_selector=src.not_selector,
        not_src_net_set=src.not_netset,
        not_src_nets=list(src.not_nets),
        not_src_ports=_ports_text(src.not_ports, src.not_named_ports),
        dst_tag=dst.tag,
        dst_selector=dst.selector,
        dst_net_set=dst.netset,
        dst_nets=list(dst.nets),
        dst_domains=list(dst.domains),
        dst_ports=_ports_text(dst.ports, dst.named_ports),
        not_dst_tag=dst.not_tag,
        not_dst_selector=dst.not_selector,
        not_dst_net_set=dst.not_netset,
        not_dst_nets=list(dst.not_nets),
        not_dst_ports=_ports_text(dst.not_ports, dst.not_named_ports),
    )


def decode_rule(stored: StoredRule) -> Rule:
    """The rule a stored form stands for.

    Raises:
        CodecError: a value out of range, or a combination that no packet filter can decide.
    """
    rule = Rule(
        action=_ACTIONS[stored.action],
        origin=stored.origin,
        ip_version=stored.ip_version,
        protocol=None if stored.protocol is None else protocol_number(stored.protocol),
        not_protocol=None if stored.not_protocol is None else protocol_number(stored.not_protocol),
        icmp=_icmp(stored.icmp_type, stored.icmp_code),
        not_icmp=_icmp(stored.not_icmp_type, stored.not_icmp_code),
        src=_entity(stored, "src"),
        dst=msgspec.structs.replace(
            _entity(stored, "dst"), domains=tuple(map(parse_domain, stored.dst_domains))
        ),
    )
    _check(rule)
    return rule


def protocol_number(written: str | int) -> Protocol:
    """The number of a protocol given by name or number.

    Raises:
        CodecError: neither a known name nor 1 to 255.
    """
    number = PROTOCOL_NUMBERS.get(written.lower()) if isinstance(written, str) else written
    if number is None or not 0 < number < 256:
        names = ", ".join(sorted(PROTOCOL_NUMBERS))
        raise CodecError(f"protocol '{written}' is not known: give one of {names}, or 1 to 255")
    return number


def protocol_text(protocol: Protocol) -> str | int:
    """The name of a protocol where it has one, else its number."""
    return PROTOCOL_NAMES.get(protocol, protocol)


def _check(rule: Rule) -> None:
    asks_ports = any(
        entity.ports or entity.named_ports or entity.not_ports or entity.not_named_ports
        for entity in (rule.src, rule.dst)
    )
    if asks_ports and rule.protocol not in PROTOCOLS_WITH_PORTS:
        raise CodecError("ports need the protocol tcp, udp or sctp")
    if (rule.icmp or rule.not_icmp) and rule.protocol not in (
        PROTOCOL_NUMBERS["icmp"],
        PROTOCOL_NUMBERS["icmpv6"],
    ):
        raise CodecError("an ICMP type needs the protocol icmp or icmpv6")
    dst = rule.dst
    if dst.domains and rule.action is not Action.ALLOW:
        raise CodecError("domains stand in rules that allow only")
    if dst.domains and (dst.tag or dst.selector or dst.netset or dst.named_ports):
        raise CodecError("domains stand beside nets and numbers of ports only")


def _entity(stored: StoredRule, end: Literal["src", "dst"]) -> EntityMatch:
    def field(name: str) -> str | None:
        value: str | None = getattr(stored, name)
        return value

    ports, named_ports = _ports(getattr(stored, f"{end}_ports"))
    not_ports, not_named_ports = _ports(getattr(stored, f"not_{end}_ports"))
    return EntityMatch(
        tag=_optional(TagName, field(f"{end}_tag")),
        selector=_optional(decode_selector, field(f"{end}_selector")),
        netset=_optional(NetsetName, field(f"{end}_net_set")),
        nets=_nets(getattr(stored, f"{end}_nets")),
        ports=ports,
        named_ports=named_ports,
        not_tag=_optional(TagName, field(f"not_{end}_tag")),
        not_selector=_optional(decode_selector, field(f"not_{end}_selector")),
        not_netset=_optional(NetsetName, field(f"not_{end}_net_set")),
        not_nets=_nets(getattr(stored, f"not_{end}_nets")),
        not_ports=not_ports,
        not_named_ports=not_named_ports,
    )


def _optional(make: Callable[[str], _Name], text: str | None) -> _Name | None:
    return None if text is None else make(text)


def decode_selector(text: str) -> SelectorText:
    """The canonical form of a stored selector.

    Raises:
        CodecError: it does not parse.
    """
    try:
        return SelectorText(grammar.print_selector(grammar.parse_selector(text)))
    except grammar.GrammarError as error:
        raise CodecError(f"selector does not parse: {error}") from None


def _nets(texts: list[str]) -> tuple[Net, ...]:
    return tuple(parse_net(text) for text in texts)


def _icmp(type_: int | None, code: int | None) -> IcmpMatch | None:
    if type_ is None:
        if code is not None:
            raise CodecError("an ICMP code needs its type")
        return None
    if not 0 <= type_ < 256 or not 0 <= (code or 0) < 256:
        raise CodecError(f"ICMP type {type_} code {code}: both are 0 to 255")
    return IcmpMatch(type_, code)


def _ports_text(ports: Sequence[PortRange], names: Sequence[str]) -> list[StoredPort]:
    numbers: list[StoredPort] = [low if low == high else f"{low}:{high}" for low, high in ports]
    return [*numbers, *names]


def _ports(stored: list[StoredPort]) -> tuple[tuple[PortRange, ...], tuple[str, ...]]:
    ranges: list[PortRange] = []
    names: list[str] = []
    for port in stored:
        if isinstance(port, int):
            ranges.append(_range(port, port))
        elif ":" in port:
            low, _, high = port.partition(":")
            if not (low.isdecimal() and high.isdecimal()):
                raise CodecError(f"port range '{port}' is not LOW:HIGH")
            ranges.append(_range(int(low), int(high)))
        else:
            names.append(port)
    return tuple(ranges), tuple(names)


def _range(low: int, high: int) -> PortRange:
    if not 0 <= low <= high <= PORT_MAX:
        raise CodecError(f"ports {low}:{high}: give 0 to {PORT_MAX}, the lower first")
    return PortRange(low, high)
