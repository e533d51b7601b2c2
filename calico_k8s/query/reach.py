"""Can one party reach another: every flow that the question stands for, judged.

In: a snapshot and two parties, each a pod, an address or a CIDR.  Out: an :class:`Answer`, which
allows only if every flow is allowed.  A question stands for several flows where

* a pod has an address of each family: one flow for each family that both ends have;
* a CIDR is given: one flow for each part of it that rules, pods or nodes can tell apart;
* rules ask for source ports: one flow for each part of the ephemeral ports they tell apart.
"""

import difflib
from collections.abc import Iterator
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
from calico_k8s.model.resources import (
    ICMP,
    ICMPV6,
    IcmpMatch,
    PortRange,
    Protocol,
    Rule,
    WorkloadEndpoint,
)
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import Verdict, judge

EPHEMERAL_PORTS = PortRange(32768, 60999)
"""A client's source port is any of these.  Source: Linux, net.ipv4.ip_local_port_range."""

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


class Judged(NamedTuple):
    """A flow and its verdict."""

    flow: Flow
    verdict: Verdict


class Answer(msgspec.Struct, frozen=True):
    """Every flow the question stands for; never empty."""

    flows: tuple[Judged, ...]

    @property
    def allowed(self) -> bool:
        """Whether every flow is allowed."""
        return all(judged.verdict.allowed for judged in self.flows)

    @property
    def deciding(self) -> Judged:
        """A denied flow where there is one, else the first."""
        denied = (judged for judged in self.flows if not judged.verdict.allowed)
        return next(denied, self.flows[0])


def find_party(snapshot: Snapshot, text: str) -> Party:
    """The party somebody named: ``namespace/pod``, an address, or a CIDR.

    Raises:
        InputError: no such pod (with the nearest name), or not an address.
    """
    by_pod = {endpoint.id.pod: endpoint for endpoint in snapshot.endpoints.values()}
    if text in by_pod:
        return party_of(by_pod[text])
    if text[:1].isdigit() or ":" in text:
        return Party(text, (parse_net(text),))
    near = difflib.get_close_matches(text, by_pod, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(
        f"no pod '{text}' with an address of its own is known: "
        f"give NAMESPACE/POD, an address or a CIDR{hint}"
    )


def party_of(endpoint: WorkloadEndpoint) -> Party:
    """The pod as a party."""
    return Party(endpoint.id.pod, tuple(address_net(a) for a in endpoint.addresses))


def ask(snapshot: Snapshot, src: Party, dst: Party, service: Service) -> Answer:
    """Judge every flow from one party to the other.

    Raises:
        InputError: the two have no address family in common.
    """
    versions: tuple[Version, ...] = (4, 6)
    flows = tuple(
        Judged(flow, judge(snapshot, flow))
        for version in versions
        for flow in _flows(snapshot, src, dst, service, version)
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
    for endpoint in snapshot.endpoints.values() if names else ():
        for named in endpoint.named_ports:
            if named.name in names:
                starts |= {named.port, named.port + 1}
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
    for endpoint in snapshot.endpoints.values():
        yield from endpoint.addresses
    for node in snapshot.nodes.values():
        yield from node.addresses


def _all_nets(snapshot: Snapshot) -> Iterator[Net]:
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
