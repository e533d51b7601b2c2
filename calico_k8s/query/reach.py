"""Can one party reach another: every flow that the question stands for, judged.

In: a snapshot and two parties, each a pod, a node, an address or a CIDR.  Out: an :class:`Answer`,
which allows only if every flow is allowed.  A question stands for several flows where

* a pod has an address of each family: one flow for each family that both ends have;
* a node has several addresses, or interfaces of which the question does not choose one: each;
* a CIDR is given: one flow for each part of it that rules, pods or nodes can tell apart;
* rules ask for source ports: one flow for each part of the ephemeral ports they tell apart.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import (
    Address,
    Net,
    Version,
    address_from_number,
    address_net,
    address_number,
    address_version,
    net_range,
    parse_net,
)
from calico_k8s.model.failsafes import Failsafe
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import (
    ICMP,
    ICMPV6,
    Direction,
    IcmpMatch,
    PortRange,
    Protocol,
    Rule,
    WorkloadEndpoint,
)
from calico_k8s.policy.host_verdict import failsafes_of
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.ways import Judged, Via, Ways, nodes_known

EPHEMERAL_PORTS = PortRange(32768, 60999)
"""A client's source port is any of these.  Source: Linux, net.ipv4.ip_local_port_range."""

NODE_PREFIX = "node/"
"""What a node is called by; a pod of a namespace of that name goes before it."""

ECHO_REQUEST: dict[Version, tuple[Protocol, IcmpMatch]] = {
    4: (ICMP, IcmpMatch(8, 0)),
    6: (ICMPV6, IcmpMatch(128, 0)),
}


class Service(NamedTuple):
    """What is asked for at the destination: a protocol and port; ICMP is an echo, port 0."""

    protocol: Protocol
    port: int


class Party(NamedTuple):
    """One end of a question: the nets it stands for, and its name as it was written."""

    name: str
    nets: tuple[Net, ...]
    interface: str | None = None
    """The one of the node's that is meant; None: each that the flow may pass."""


class Answer(msgspec.Struct, frozen=True):
    """Every flow the question stands for; never empty."""

    flows: tuple[Judged, ...]

    @property
    def allowed(self) -> bool:
        """Whether every flow is allowed."""
        return all(judged.allowed for judged in self.flows)

    @property
    def deciding(self) -> Judged:
        """A denied flow where there is one, else the first."""
        denied = (judged for judged in self.flows if not judged.allowed)
        return next(denied, self.flows[0])


def find_party(snapshot: Snapshot, text: str) -> Party:
    """The party somebody named.

    That is ``namespace/pod``, ``node/name`` or ``node/name:interface``, an address, or a CIDR.

    Raises:
        InputError: no such pod or node (with the nearest name), or not an address.
    """
    by_pod = {endpoint.id.pod: endpoint for endpoint in snapshot.endpoints.values()}
    if text in by_pod:
        return party_of(by_pod[text])
    if text.startswith(NODE_PREFIX):
        return _node_party(snapshot, text)
    if text[:1].isdigit() or ":" in text:
        return Party(text, (parse_net(text),))
    raise InputError(
        f"no pod '{text}' with an address of its own is known: "
        f"give NAMESPACE/POD, node/NAME, an address or a CIDR{_nearest(text, by_pod)}"
    )


def _node_party(snapshot: Snapshot, text: str) -> Party:
    name, colon, interface = text.removeprefix(NODE_PREFIX).partition(":")
    nodes = nodes_known(snapshot)
    if name not in nodes:
        near = _nearest(f"{NODE_PREFIX}{name}", [f"{NODE_PREFIX}{known}" for known in nodes])
        raise InputError(f"no node '{name}' is known: give node/NAME or node/NAME:INTERFACE{near}")
    if colon and not interface:
        raise InputError(
            f"'{text}': give an interface after the colon, as in {NODE_PREFIX}{name}:eth0"
        )
    addresses = nodes[NodeName(name)]
    if not addresses:
        raise InputError(
            f"no address of node '{name}' is known: its Node object has no InternalIP, "
            "and no HostEndpoint of it has expectedIPs"
        )
    return Party(text, tuple(map(address_net, addresses)), interface or None)


def _nearest(text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def party_of(endpoint: WorkloadEndpoint) -> Party:
    """The pod as a party."""
    return Party(endpoint.id.pod, tuple(address_net(a) for a in endpoint.addresses))


def ask(snapshot: Snapshot, src: Party, dst: Party, service: Service) -> Answer:
    """Judge every flow from one party to the other.

    Raises:
        InputError: the two have no address family in common.
    """
    versions: tuple[Version, ...] = (4, 6)
    ways, via = Ways(snapshot), Via(src.interface, dst.interface)
    flows = tuple(
        judged
        for version in versions
        for flow in _flows(snapshot, src, dst, service, version)
        for judged in ways.judge(flow, via)
    )
    if not flows:
        raise InputError(f"'{src.name}' and '{dst.name}' have no address family in common")
    return Answer(flows)


def source_ports(snapshot: Snapshot) -> tuple[int, ...]:
    """One of each part of the ephemeral ports that some rule tells apart; mostly just one."""
    low, high = EPHEMERAL_PORTS
    starts = {low}
    for rule in _all_rules(snapshot):
        for ports in (*rule.src.ports, *rule.src.not_ports):
            starts |= {ports.low, ports.high + 1}
    names = {
        name
        for rule in _all_rules(snapshot)
        for name in (*rule.src.named_ports, *rule.src.not_named_ports)
    }
    for endpoint in snapshot.everybody.values() if names else ():
        for named in endpoint.named_ports:
            if named.name in names:
                starts |= {named.port, named.port + 1}
    for failsafe in _failsafes(snapshot):
        starts |= {failsafe.port, failsafe.port + 1}
    return tuple(sorted(port for port in starts if low <= port <= high))


def flows_between(
    src: Address, dst: Address, service: Service, ports: tuple[int, ...]
) -> Iterator[Flow]:
    """The flows of one address pair; ``ports`` are :func:`source_ports`."""
    if service.protocol in (ICMP, ICMPV6):
        protocol, echo = ECHO_REQUEST[address_version(src)]
        yield Flow(src, dst, protocol, icmp=echo)
        return
    for port in ports:
        yield Flow(src, dst, service.protocol, port, service.port)


def _flows(
    snapshot: Snapshot, src: Party, dst: Party, service: Service, version: Version
) -> Iterator[Flow]:
    ports = source_ports(snapshot)
    cuts = _boundaries(snapshot, version)
    for src_address in _parts(src, version, cuts):
        for dst_address in _parts(dst, version, cuts):
            yield from flows_between(src_address, dst_address, service, ports)


def _parts(party: Party, version: Version, cuts: tuple[int, ...]) -> Iterator[Address]:
    """One address of each part of the party's nets that the cuts tell apart."""
    for net in party.nets:
        bounds = net_range(net)
        if bounds.version != version:
            continue
        yield address_from_number(bounds.first, version)
        if bounds.first != bounds.last:
            inside = (cut for cut in cuts if bounds.first < cut <= bounds.last)
            yield from (address_from_number(cut, version) for cut in inside)


def _boundaries(snapshot: Snapshot, version: Version) -> tuple[int, ...]:
    """The first address of every part of the family's space that a verdict can tell apart."""
    cuts: set[int] = set()
    for net in _all_nets(snapshot):
        bounds = net_range(net)
        if bounds.version == version:
            cuts |= {bounds.first, bounds.last + 1}
    for address in _all_addresses(snapshot):
        if address_version(address) == version:
            number = address_number(address)
            cuts |= {number, number + 1}
    return tuple(sorted(cuts))


def _all_addresses(snapshot: Snapshot) -> Iterator[Address]:
    for endpoint in snapshot.everybody.values():
        yield from endpoint.addresses
    for node in snapshot.nodes.values():
        yield from node.addresses


def _failsafes(snapshot: Snapshot) -> Iterator[Failsafe]:
    """The ports that stay open on nodes with host endpoints."""
    for node in {endpoint.node for endpoint in snapshot.host_endpoints.values()}:
        for direction in Direction:
            yield from failsafes_of(snapshot, node, direction)


def _all_nets(snapshot: Snapshot) -> Iterator[Net]:
    for failsafe in _failsafes(snapshot):
        if failsafe.net is not None:
            yield failsafe.net
    for netset in snapshot.netsets.values():
        yield from netset.nets
    for rule in _all_rules(snapshot):
        for entity in (rule.src, rule.dst):
            yield from entity.nets
            yield from entity.not_nets


def _all_rules(snapshot: Snapshot) -> Iterator[Rule]:
    for profile in snapshot.profile_rules.values():
        yield from profile.ingress
        yield from profile.egress
    for policy in snapshot.policies.values():
        yield from policy.ingress
        yield from policy.egress
