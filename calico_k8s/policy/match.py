"""When a rule matches a flow: every criterion that the rule gives must hold.

In: a rule, a flow, the snapshot that says who carries which label, tag and named port, and what the
destination's address was learnt to be called.  Out: a truth value.  The order of rules, policies and tiers is :mod:`.verdict`'s.
"""

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from calico_k8s.model.addresses import Address, Net, address_version, net_contains
from calico_k8s.model.domains import DomainName, DomainPattern, domain_matches
from calico_k8s.model.names import NetsetName, SelectorText, TagName
from calico_k8s.model.resources import (
    ICMP,
    ICMPV6,
    Action,
    EntityMatch,
    IcmpMatch,
    PortRange,
    Protocol,
    Rule,
)
from calico_k8s.policy.snapshot import Snapshot, selector
from grammar import evaluate


class Flow(NamedTuple):
    """The first packet of a connection, as it arrives at the pod's node: after DNAT."""

    src: Address
    dst: Address
    protocol: Protocol
    src_port: int = 0
    dst_port: int = 0
    icmp: IcmpMatch | None = None
    """The type and code of an ICMP packet; None for other protocols."""


NAMELESS: AbstractSet[DomainName] = frozenset()


def rule_matches(
    snapshot: Snapshot, rule: Rule, flow: Flow, names: AbstractSet[DomainName] = NAMELESS
) -> bool:
    """Whether every criterion of the rule holds for the flow.

    ``names`` are what the node that asks has learnt its destination to be called, for an egress
    rule; they count for rules that allow, and open nothing anywhere else.
    """
    counting = names if rule.action is Action.ALLOW else NAMELESS
    return (
        rule.ip_version in (None, address_version(flow.src))
        and rule.protocol in (None, flow.protocol)
        and (rule.not_protocol is None or rule.not_protocol != flow.protocol)
        and (rule.icmp is None or icmp_matches(rule.icmp, flow))
        and (rule.not_icmp is None or not icmp_matches(rule.not_icmp, flow))
        and _entity_matches(snapshot, rule.src, flow.src, flow.src_port, flow.protocol)
        and _entity_matches(snapshot, rule.dst, flow.dst, flow.dst_port, flow.protocol, counting)
    )


def icmp_matches(match: IcmpMatch, flow: Flow) -> bool:
    """Whether the flow is ICMP of this type, and of this code where one is given."""
    if flow.icmp is None or flow.protocol not in (ICMP, ICMPV6):
        return False
    return match.type == flow.icmp.type and match.code in (None, flow.icmp.code)


def address_matches(
    snapshot: Snapshot,
    entity: EntityMatch,
    address: Address,
    names: AbstractSet[DomainName] = NAMELESS,
) -> bool:
    """Whether every criterion but those on ports holds for one end of a flow."""
    return (
        (entity.tag is None or _has_tag(snapshot, entity.tag, address))
        and (entity.not_tag is None or not _has_tag(snapshot, entity.not_tag, address))
        and (
            entity.selector is None
            or _is_selected(snapshot, entity.selector, address)
            or (entity.learns and _is_selected_by_name(snapshot, entity.selector, names))
        )
        and (not entity.domains or _is_called(entity.domains, names))
        and (
            entity.not_selector is None or not _is_selected(snapshot, entity.not_selector, address)
        )
        and (entity.netset is None or _in_netset(snapshot, entity.netset, address))
        and (entity.not_netset is None or not _in_netset(snapshot, entity.not_netset, address))
        and (not entity.nets or in_nets(entity.nets, address))
        and (not entity.not_nets or outside_nets(entity.not_nets, address))
    )


def _entity_matches(
    snapshot: Snapshot,
    entity: EntityMatch,
    address: Address,
    port: int,
    protocol: Protocol,
    names: AbstractSet[DomainName] = NAMELESS,
) -> bool:
    return address_matches(snapshot, entity, address, names) and _port_matches(
        snapshot, entity, address, port, protocol
    )


def _has_tag(snapshot: Snapshot, tag: TagName, address: Address) -> bool:
    owner = snapshot.peer_by_address.get(address)
    return owner is not None and tag in snapshot.tags_of(owner)


def _is_selected(snapshot: Snapshot, text: SelectorText, address: Address) -> bool:
    """Whether the address' owner, or a network set that holds it, has labels the selector takes."""
    owner = snapshot.peer_by_address.get(address)
    if owner is not None and snapshot.selects(text, owner):
        return True
    return any(
        netset.labels is not None and evaluate(selector(text), netset.labels)
        for netset in snapshot.netsets_of(address)
    )


def _is_selected_by_name(
    snapshot: Snapshot, text: SelectorText, names: AbstractSet[DomainName]
) -> bool:
    """Whether a network set whose labels the selector takes has a domain that means a name."""
    return any(
        netset.labels is not None
        and _is_called(netset.domains, names)
        and evaluate(selector(text), netset.labels)
        for netset in (snapshot.netsets.values() if names else ())
    )


def _is_called(patterns: tuple[DomainPattern, ...], names: AbstractSet[DomainName]) -> bool:
    return any(domain_matches(pattern, name) for pattern in patterns for name in names)


def _in_netset(snapshot: Snapshot, name: NetsetName, address: Address) -> bool:
    return any(netset.name == name for netset in snapshot.netsets_of(address))


def in_nets(nets: tuple[Net, ...], address: Address) -> bool:
    """Whether one of the nets holds the address."""
    return any(net_contains(net, address) for net in nets)


def outside_nets(nets: tuple[Net, ...], address: Address) -> bool:
    """Whether the address is outside all of them.

    A list with no net of the address' family matches nothing.  Source: Calico,
    felix/rules/policy.go FilterRuleToIPVersion: a list that had entries and is empty for a family
    takes the rule out of that family, negated lists too.
    """
    version = address_version(address)
    family = [net for net in nets if address_version(net) == version]
    return bool(family) and not in_nets(tuple(family), address)


def _port_matches(
    snapshot: Snapshot, entity: EntityMatch, address: Address, port: int, protocol: Protocol
) -> bool:
    if entity.ports or entity.named_ports:
        wanted = in_ranges(entity.ports, port) or _is_named(
            snapshot, entity.named_ports, address, port, protocol
        )
        if not wanted:
            return False
    return not in_ranges(entity.not_ports, port) and not _is_named(
        snapshot, entity.not_named_ports, address, port, protocol
    )


def in_ranges(ranges: tuple[PortRange, ...], port: int) -> bool:
    """Whether one of the ranges holds the port."""
    return any(low <= port <= high for low, high in ranges)


def _is_named(
    snapshot: Snapshot, names: tuple[str, ...], address: Address, port: int, protocol: Protocol
) -> bool:
    """Whether the endpoint at the address declares this port under one of the names."""
    owner = snapshot.peer_by_address.get(address)
    if owner is None or not names:
        return False
    return any(
        named.name in names and named.protocol == protocol and named.port == port
        for named in owner.named_ports
    )
