"""Deltas added up, as Felix adds them up in the kernel; every addition checks that it is needed.

In come the deltas of one graph, flush by flush; out goes what they amount to.  An addition of what
is there, a removal of what is not, or a reference to what no delta has brought is an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from calico_k8s.calc.deltas import (
    DNS_SERVERS,
    Deltas,
    Group,
    GroupId,
    Ipset,
    IpsetId,
    IpsetKind,
    LocalEndpoint,
    LocalHostEndpoint,
    Member,
    PortMember,
)
from calico_k8s.calc.graph import Graph
from calico_k8s.model.addresses import Address, Net, net_contains
from calico_k8s.model.keys import Key
from calico_k8s.model.names import EndpointId, NodeName
from calico_k8s.model.resources import Protocol, Value


@dataclass
class Summed:
    """What a node's kernel should hold after some deltas."""

    ipsets: dict[IpsetId, Ipset] = field(default_factory=dict)
    members: dict[IpsetId, set[Member]] = field(default_factory=dict)
    groups: dict[GroupId, Group] = field(default_factory=dict)
    endpoints: dict[EndpointId, LocalEndpoint] = field(default_factory=dict)
    hosts: dict[EndpointId, LocalHostEndpoint] = field(default_factory=dict)

    def add(self, deltas: Deltas) -> None:
        """Add one flush; fails where it says more than it must, or less."""
        self._add_sets(deltas)
        for identity, group in deltas.groups_updated.items():
            assert group.id == identity
            assert self.groups.get(identity) != group, "an update that changes nothing"
            self.groups[identity] = group
        for identity in deltas.groups_removed:
            assert identity not in deltas.groups_updated
            del self.groups[identity]
        for endpoint_id, endpoint in deltas.endpoints_updated.items():
            assert endpoint.id == endpoint_id
            assert self.endpoints.get(endpoint_id) != endpoint, "an update that changes nothing"
            self.endpoints[endpoint_id] = endpoint
        for endpoint_id in deltas.endpoints_removed:
            assert endpoint_id not in deltas.endpoints_updated
            del self.endpoints[endpoint_id]
        for endpoint_id, host in deltas.hosts_updated.items():
            assert host.endpoint.id == endpoint_id
            assert self.hosts.get(endpoint_id) != host, "an update that changes nothing"
            self.hosts[endpoint_id] = host
        for endpoint_id in deltas.hosts_removed:
            assert endpoint_id not in deltas.hosts_updated
            del self.hosts[endpoint_id]
        self._check_references()

    def _add_sets(self, deltas: Deltas) -> None:
        assert not deltas.ipsets_created.keys() & deltas.ipsets_removed
        for identity, ipset in deltas.ipsets_created.items():
            assert ipset.id == identity
            assert identity not in self.ipsets
            self.ipsets[identity], self.members[identity] = ipset, set()
        for identity in deltas.ipsets_removed:
            del self.ipsets[identity], self.members[identity]
        for identity, members in deltas.members_removed.items():
            assert members
            assert members <= self.members[identity], "removes what is not there"
            self.members[identity] -= members
        for identity, members in deltas.members_added.items():
            assert members
            is_net = self.ipsets[identity].kind is IpsetKind.NET
            assert {isinstance(member, str) for member in members} == {is_net}
            assert not members & self.members[identity], "adds what is there"
            assert not members & deltas.members_removed.get(identity, set())
            self.members[identity] |= members

    def _check_references(self) -> None:
        used = {g for e in self.endpoints.values() for g in (e.ingress, e.egress)}
        used |= {asked.group for host in self.hosts.values() for asked in host.groups}
        assert used == self.groups.keys()
        asked = {ipset.id: ipset for ipset in asked_by(self.groups.values())}
        assert self.ipsets in (asked, asked | {DNS_SERVERS.id: DNS_SERVERS})

    def holds(self, identity: IpsetId, address: Address, protocol: Protocol, port: int) -> bool:
        """What the kernel's match of the set would say, the slow and obvious way."""
        if self.ipsets[identity].kind is IpsetKind.ADDRESS_PORT:
            return PortMember(address, protocol, port) in self.members[identity]
        return any(
            net_contains(Net(member), address)
            for member in self.members[identity]
            if isinstance(member, str)
        )


def asked_by(groups: Iterable[Group]) -> Iterable[Ipset]:
    """Every set that a rule of these groups asks, as often as it is asked."""
    for group in groups:
        yield from group.ipsets()


def fresh(node: NodeName, items: Mapping[Key, Value]) -> tuple[Graph, Summed]:
    """A graph that has seen these items and nothing else, flushed once."""
    graph, summed = Graph(node), Summed()
    for key, value in items.items():
        graph.update(key, value)
    summed.add(graph.flush())
    return graph, summed
