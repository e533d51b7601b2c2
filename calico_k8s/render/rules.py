"""One resolved rule as the rules of a chain, for one family.

In: a :class:`~calico_k8s.calc.deltas.ResolvedRule`, and what to do with a packet that matches.
Out: rule texts, and the sets of nets they ask.  None where the rule cannot match in this family;
more than one where a rule holds more ports than one match takes.

=====================  ==========================================  ==============================
criterion              one                                         several
=====================  ==========================================  ==============================
nets                   ``-s``, ``-d``                              a set that never changes
ports                  ``-m tcp --dport``                          ``-m multiport``, 15 slots
peer ipset             ``--match-set ID src`` of an ingress rule   always one
ports of the peer      ``--match-set ID src,src``                  always one
=====================  ==========================================  ==============================
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from calico_k8s.calc.deltas import Ipset, IpsetKind, ResolvedRule
from calico_k8s.model.addresses import ADDRESS_BITS, Net, Version, address_version, net_range
from calico_k8s.model.resources import ICMP, ICMPV6, Direction, IcmpMatch, PortRange, Protocol
from calico_k8s.render import text
from calico_k8s.render.names import ipset_name, nets_name
from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember, RuleText
from calico_k8s.render.text import Match, Target

ICMP_OF_FAMILY: dict[Version, Protocol] = {4: ICMP, 6: ICMPV6}
ICMP_TYPE_ANY = 255
"""To iptables any type, in IPv4; no message has it."""


class NetsIpset(NamedTuple):
    """A set of nets that some rule asks: named by its content, so its members never change."""

    ipset: KernelIpset
    members: tuple[KernelMember, ...]


class RenderedRule(msgspec.Struct, frozen=True):
    """A rule in one family; without texts it matches nothing there."""

    texts: tuple[RuleText, ...] = ()
    nets: tuple[NetsIpset, ...] = ()
    is_unconditional: bool = False
    """Whether it matches every packet: nothing after it is ever asked."""


class _Never(Exception):
    """A criterion that no packet of this family meets; caught in this module, always."""


def render_rule(
    rule: ResolvedRule, direction: Direction, version: Version, target: Target
) -> RenderedRule:
    """The rule's texts in one family."""
    if rule.ip_version not in (None, version):
        return RenderedRule()
    words = _Words(version)
    try:
        words.add_nets("src", rule.src_nets, rule.src_not_nets)
        words.add_nets("dst", rule.dst_nets, rule.dst_not_nets)
        words.add_protocol(rule.protocol, rule.not_protocol)
        port_choices = [*_port_choices(rule)]
        words.add_icmp(rule)
    except _Never:
        return RenderedRule()
    words.add_peers(rule, direction)
    texts = tuple(
        text.rule(*words.head, *ports, *words.tail, target) for ports in port_choices or [()]
    )
    return RenderedRule(
        texts=texts,
        nets=tuple(words.nets),
        is_unconditional=texts == (text.rule(target),),
    )


class _Words:
    """The matches of one rule, collected: ``head`` before its ports, ``tail`` after."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self.head: list[Match] = []
        self.tail: list[Match] = []
        self.nets: list[NetsIpset] = []

    def add_nets(self, end: str, nets: tuple[Net, ...], not_nets: tuple[Net, ...]) -> None:
        """At most one net is written out for an end, positive or not; others become sets."""
        positive = self._family(nets)
        negative = self._family(not_nets)
        if any(_is_everything(net) for net in negative):
            raise _Never
        if any(_is_everything(net) for net in positive):
            positive = ()
        if len(positive) == 1:
            self.head.append(text.net_is(end, positive[0]))
        elif positive:
            self.tail.append(text.in_set(self._keep(positive), end))
        if len(negative) == 1 and len(positive) != 1:
            self.head.append(text.net_is_not(end, negative[0]))
        elif negative:
            self.tail.append(text.not_in_set(self._keep(negative), end))

    def add_protocol(self, protocol: Protocol | None, not_protocol: Protocol | None) -> None:
        if protocol is not None:
            if protocol == not_protocol:
                raise _Never
            self.head.append(text.protocol_is(protocol))
        elif not_protocol is not None:
            self.head.append(text.protocol_is_not(not_protocol))

    def add_icmp(self, rule: ResolvedRule) -> None:
        """Types are only readable in the family's own ICMP; the codec asks for the protocol."""
        is_own = rule.protocol == ICMP_OF_FAMILY[self.version]
        if rule.icmp is not None:
            if not is_own or self._is_no_type(rule.icmp):
                raise _Never
            self.tail.append(text.icmp_is(rule.icmp, self.version))
        if rule.not_icmp is not None and is_own and not self._is_no_type(rule.not_icmp):
            self.tail.append(text.icmp_is_not(rule.not_icmp, self.version))

    def add_peers(self, rule: ResolvedRule, direction: Direction) -> None:
        peer, own = ("src", "dst") if direction is Direction.INGRESS else ("dst", "src")
        for end, asked, not_asked in (
            (peer, rule.peer_ipset, rule.peer_not_ipsets),
            (own, rule.own_ipset, rule.own_not_ipsets),
        ):
            if asked is not None:
                self.tail.append(text.in_set(*self._asked(asked, end)))
            for ipset in not_asked:
                self.tail.append(text.not_in_set(*self._asked(ipset, end)))

    def _asked(self, ipset: Ipset, end: str) -> tuple[IpsetName, str]:
        ends = end if ipset.kind is IpsetKind.NET else f"{end},{end}"
        return ipset_name(ipset.id, self.version), ends

    def _is_no_type(self, icmp: IcmpMatch) -> bool:
        return self.version == 4 and icmp.type == ICMP_TYPE_ANY

    def _family(self, nets: tuple[Net, ...]) -> tuple[Net, ...]:
        """The nets of this family; a list that has only others takes the rule out of it.

        Source: Calico, felix/rules/policy.go FilterRuleToIPVersion, for negated lists too.
        """
        own = tuple(net for net in nets if address_version(net) == self.version)
        if nets and not own:
            raise _Never
        return own

    def _keep(self, nets: tuple[Net, ...]) -> IpsetName:
        made = render_nets(nets, self.version)
        self.nets.append(made)
        return made.ipset.name


def render_nets(nets: tuple[Net, ...], version: Version) -> NetsIpset:
    """The set of exactly these nets, all of one family; equal nets give an equal set."""
    ordered = sorted(set(nets))
    name = nets_name(" ".join(ordered), version)
    return NetsIpset(
        KernelIpset(name, "hash:net", version),
        tuple(KernelMember(net_text(net)) for net in ordered),
    )


def net_text(net: Net) -> str:
    """A net as ``ipset`` prints it: a single address without its length."""
    address, _, length = net.partition("/")
    return address if int(length) == ADDRESS_BITS[address_version(net)] else net


def _is_everything(net: Net) -> bool:
    bounds = net_range(net)
    return bounds.last - bounds.first + 1 == 1 << ADDRESS_BITS[bounds.version]


def _port_choices(rule: ResolvedRule) -> Iterator[tuple[Match, ...]]:
    """The ways to meet the rule's ports, each the matches of one text; nothing without ports."""
    sports, dports = _whole(rule.src_ports), _whole(rule.dst_ports)
    not_sports, not_dports = rule.src_not_ports, rule.dst_not_ports
    if _whole(not_sports) != not_sports or _whole(not_dports) != not_dports:
        raise _Never
    if not (sports or dports or not_sports or not_dports):
        return
    if rule.protocol is None:
        raise ValueError("a rule with ports has a protocol: the codec lets no other through")
    negative = (*_none_of("src", not_sports), *_none_of("dst", not_dports))
    if len(sports) <= 1 and len(dports) <= 1:
        ends = text.ports_are(rule.protocol, _first(sports), _first(dports))
        yield (ends, *negative) if sports or dports else negative
        return
    for source in _chunks(sports) or [()]:
        for destination in _chunks(dports) or [()]:
            positive = [
                text.ports_in(end, ranges)
                for end, ranges in (("src", source), ("dst", destination))
                if ranges
            ]
            yield (*positive, *negative)


def _first(ranges: tuple[PortRange, ...]) -> PortRange | None:
    return ranges[0] if ranges else None


def _whole(ranges: tuple[PortRange, ...]) -> tuple[PortRange, ...]:
    """Ranges, or none where one of them is every port."""
    return () if PortRange(0, text.PORT_MAX) in ranges else ranges


def _none_of(end: str, ranges: tuple[PortRange, ...]) -> list[Match]:
    return [text.ports_not_in(end, chunk) for chunk in _chunks(ranges)]


def _chunks(ranges: tuple[PortRange, ...]) -> list[tuple[PortRange, ...]]:
    """Ranges in portions of what one multiport match takes: a range fills two slots."""
    chunks: list[tuple[PortRange, ...]] = []
    chunk: list[PortRange] = []
    slots = 0
    for ports in ranges:
        needed = 1 if ports.low == ports.high else 2
        if slots + needed > text.MULTIPORT_SLOTS:
            chunks.append(tuple(chunk))
            chunk, slots = [], 0
        chunk.append(ports)
        slots += needed
    return [*chunks, tuple(chunk)] if chunk else chunks
