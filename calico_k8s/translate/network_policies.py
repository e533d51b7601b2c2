"""Kubernetes NetworkPolicy v1 to a policy of the tier ``default``.

In: a NetworkPolicy.  Out: a :class:`~.reading.Reading`.  Its rules only allow; that it
applies to a pod in a direction is what isolates the pod there, since the tier's end denies.  One
rule of it becomes one for each peer and protocol, with the same place.

=========================================  ==================================================
written                                    becomes
=========================================  ==================================================
no ``policyTypes``                         ingress; and egress where ``egress`` has a rule
no ``from`` or ``to``, or an empty one     any peer
no ``ports``, or an empty one              any protocol and port
``podSelector`` alone                      pods of the policy's own namespace
``namespaceSelector``                      pods of the namespaces, by ``pcns.`` labels
``ipBlock``                                nets and excepted nets, pods' addresses included
a port's name                              the number that each destination pod gives it
=========================================  ==================================================

Source: Kubernetes, api/networking/v1/types.go and pkg/apis/networking/v1/defaults.go.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

import grammar
from calico_k8s.model.addresses import Net, address_version, net_range
from calico_k8s.model.names import PolicyId, SelectorText
from calico_k8s.model.resources import (
    ANYTHING,
    Action,
    Direction,
    EntityMatch,
    Policy,
    PortRange,
    Protocol,
    Rule,
)
from calico_k8s.translate.findings import FieldPath
from calico_k8s.translate.objects import (
    NetworkPolicy,
    StagedKubernetesNetworkPolicy,
    object_ref,
    protocol_number,
)
from calico_k8s.translate.reading import (
    BOTH,
    Document,
    Misread,
    Reader,
    Reading,
    allows,
    convert,
    read_nets,
)
from calico_k8s.translate.selecting import (
    IS_POD,
    LabelSelector,
    conjunction,
    in_namespace,
    label_selector,
    namespace_terms,
)
from calico_k8s.translate.tiers import DEFAULT_TIER

KUBERNETES_ORDER = 1000.0
"""Where every NetworkPolicy stands in its tier.  Source: Calico, conversion.go."""

PORT_MAX = 65535
PORT_NAME_MAX = 63

_SPEC = ("podSelector", "policyTypes", "ingress", "egress")
_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}


class IpBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses, some excepted."""

    cidr: str
    except_: tuple[str, ...] | None = msgspec.field(default=None, name="except")


class Peer(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One of ``from`` or ``to``."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IpBlock | None = None


class RulePort(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One of ``ports``."""

    protocol: Literal["TCP", "UDP", "SCTP"] | None = None
    port: int | str | None = None
    end_port: int | None = None


class IngressRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of ``ingress``."""

    from_: tuple[Peer, ...] | None = msgspec.field(default=None, name="from")
    ports: tuple[RulePort, ...] | None = None


class EgressRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of ``egress``."""

    to: tuple[Peer, ...] | None = None
    ports: tuple[RulePort, ...] | None = None


class PortMatch(msgspec.Struct, frozen=True):
    """The ports of one protocol; without any, all of them; without a protocol, everything."""

    protocol: Protocol | None = None
    ports: tuple[PortRange, ...] = ()
    names: tuple[str, ...] = ()


def read_network_policy(value: NetworkPolicy | StagedKubernetesNetworkPolicy) -> Reading:
    """What a NetworkPolicy says."""
    reader = Reader(object_ref(value))
    ref, spec = reader.ref, value.spec
    selector, types = _subject(reader, spec), _types(reader, spec)
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    if selector is not None and isinstance(spec, dict) and reader.known_fields(spec, _SPEC):
        read = _RuleReader(reader)
        ingress = reader.rules(spec.get("ingress"), ("spec", "ingress"), allows, read.ingress)
        egress = reader.rules(spec.get("egress"), ("spec", "egress"), allows, read.egress)
    policy = Policy(
        id=PolicyId(*ref),
        tier=DEFAULT_TIER,
        selector=selector or conjunction([in_namespace(ref.namespace)]),
        types=types,
        order=KUBERNETES_ORDER,
        ingress=ingress if Direction.INGRESS in types else (),
        egress=egress if Direction.EGRESS in types else (),
    )
    return reader.policy(policy)


def _subject(reader: Reader, spec: Document) -> SelectorText | None:
    """Whom the policy isolates; None, with a finding, where that cannot be told."""
    path: FieldPath = ("spec", "podSelector")
    try:
        if not isinstance(spec, dict):
            raise Misread(("spec",), "is missing")
        written = spec.get("podSelector")
        selected = LabelSelector() if written is None else convert(written, LabelSelector, path)
        own = in_namespace(reader.ref.namespace)
        return conjunction([own, *label_selector(selected, path)])
    except Misread as error:
        reader.tell_unusable(error, "the policy isolates its whole namespace and allows nothing")
        return None


def _types(reader: Reader, spec: Document) -> tuple[Direction, ...]:
    path: FieldPath = ("spec", "policyTypes")
    if not isinstance(spec, dict):
        return BOTH
    try:
        written = convert(spec.get("policyTypes"), tuple[str, ...] | None, path)  # type: ignore[arg-type]  # msgspec takes unions
        unknown = [word for word in written or () if word not in _TYPES]
        if unknown:
            raise Misread(path, f"'{unknown[0]}' is neither Ingress nor Egress")
    except Misread as error:
        reader.tell_unusable(error, "the policy speaks of both directions")
        return BOTH
    if written:
        return tuple(way for word, way in _TYPES.items() if word in written)
    return BOTH if spec.get("egress") else (Direction.INGRESS,)


class _RuleReader:
    """Reads the rules of one policy."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def ingress(self, document: Document, path: FieldPath, index: int) -> Iterator[Rule]:
        rule = convert(document, IngressRule, path)
        for peer in self._peers(rule.from_, (*path, "from")):
            for port in port_matches(rule.ports, (*path, "ports")):
                yield self._rule(index, port, src=peer, dst=ANYTHING)

    def egress(self, document: Document, path: FieldPath, index: int) -> Iterator[Rule]:
        rule = convert(document, EgressRule, path)
        for peer in self._peers(rule.to, (*path, "to")):
            for port in port_matches(rule.ports, (*path, "ports")):
                yield self._rule(index, port, src=ANYTHING, dst=peer)

    def _rule(self, index: int, port: PortMatch, src: EntityMatch, dst: EntityMatch) -> Rule:
        return Rule(
            Action.ALLOW,
            self._reader.origin(index),
            protocol=port.protocol,
            src=src,
            dst=msgspec.structs.replace(dst, ports=port.ports, named_ports=port.names),
        )

    def _peers(self, peers: tuple[Peer, ...] | None, path: FieldPath) -> list[EntityMatch]:
        if not peers:
            return [ANYTHING]
        return [self._peer(peer, (*path, index)) for index, peer in enumerate(peers)]

    def _peer(self, peer: Peer, path: FieldPath) -> EntityMatch:
        if peer.ip_block is not None:
            if peer.pod_selector is not None or peer.namespace_selector is not None:
                raise Misread(path, "has an ipBlock beside a selector: give each its own entry")
            return ip_block(peer.ip_block, (*path, "ipBlock"))
        if peer.pod_selector is None and peer.namespace_selector is None:
            raise Misread(path, "names no peer: give a podSelector, namespaceSelector or ipBlock")
        terms: list[grammar.Selector] = [IS_POD]
        if peer.namespace_selector is None:
            terms.append(in_namespace(self._reader.ref.namespace))
        else:
            terms += namespace_terms(peer.namespace_selector, (*path, "namespaceSelector"))
        if peer.pod_selector is not None:
            terms += label_selector(peer.pod_selector, (*path, "podSelector"))
        return EntityMatch(selector=conjunction(terms))


def ip_block(block: IpBlock, path: FieldPath) -> EntityMatch:
    """The addresses of a block.

    Raises:
        Misread: no CIDR, or an exception that is not inside it.
    """
    (cidr,) = read_nets((block.cidr,), path)
    excepted = read_nets(block.except_, (*path, "except"))
    for index, net in enumerate(excepted):
        if not _is_inside(net, cidr):
            raise Misread((*path, "except", index), f"{net} is not inside {cidr}")
    return EntityMatch(nets=(cidr,), not_nets=excepted)


def _is_inside(net: Net, around: Net) -> bool:
    if address_version(net) != address_version(around) or net == around:
        return False
    inner, outer = net_range(net), net_range(around)
    return outer.first <= inner.first and inner.last <= outer.last


def port_matches(ports: tuple[RulePort, ...] | None, path: FieldPath) -> list[PortMatch]:
    """The ports of a rule, one match for each protocol: together they are any of them.

    Raises:
        Misread: a port or name that is none.
    """
    if not ports:
        return [PortMatch()]
    by_protocol: dict[Protocol, list[PortRange | str | None]] = {}
    for index, port in enumerate(ports):
        protocol = protocol_number(port.protocol)
        by_protocol.setdefault(protocol, []).append(_port(port, (*path, index)))
    return [
        PortMatch(protocol)
        if None in wanted
        else PortMatch(
            protocol,
            merge_ranges(each for each in wanted if isinstance(each, PortRange)),
            tuple(sorted({each for each in wanted if isinstance(each, str)})),
        )
        for protocol, wanted in by_protocol.items()
    ]


def _port(port: RulePort, path: FieldPath) -> PortRange | str | None:
    """A range or a name; None for every port of the protocol."""
    if port.port is None:
        if port.end_port is not None:
            raise Misread((*path, "endPort"), "needs a port to begin at")
        return None
    if isinstance(port.port, str):
        if port.end_port is not None:
            raise Misread((*path, "endPort"), "needs a port that is a number")
        return port_name(port.port, (*path, "port"))
    last = port.port if port.end_port is None else port.end_port
    if not 1 <= port.port <= last <= PORT_MAX:
        raise Misread(path, f"{port.port} to {last} are no ports: give 1 to {PORT_MAX}")
    return PortRange(port.port, last)


def port_name(name: str, path: FieldPath) -> str:
    """The name of a container's port.

    Raises:
        Misread: it is none; a number in quotes is no number to Kubernetes.
    """
    words = name.replace("-", "").replace("_", "").replace(".", "")
    if not (words.isascii() and words.isalnum()) or len(name) > PORT_NAME_MAX:
        raise Misread(path, f"'{name}' is no name of a port")
    if words.isdecimal():
        raise Misread(path, f"'{name}' is a text, so it names a port: take it out of the quotes")
    return name


def merge_ranges(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports in as few ranges as there can be, ascending."""
    merged: list[PortRange] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1].high + 1:
            merged[-1] = PortRange(merged[-1].low, max(high, merged[-1].high))
        else:
            merged.append(PortRange(low, high))
    return tuple(merged)
