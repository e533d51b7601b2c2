"""The same laws for what users write: policies of every kind at once, on a whole cluster.

A random cluster with annotations, flags, services, NetworkPolicies, Calico's policies and
ClusterNetworkPolicies is translated; what calc's groups say, and what the simulated chains of its
nodes let through, is what the definition says.
"""

from collections.abc import Iterator, Mapping
from itertools import product

import pytest
from hypothesis import given

from calico_k8s.calc.graph import Graph
from calico_k8s.calc.judge import judge_local
from calico_k8s.model.addresses import Address, address_version, parse_address
from calico_k8s.model.keys import Key
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import ICMP, ICMPV6, IcmpMatch, Value
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import judge
from calico_k8s.translate.cluster import translate_all
from tests.calc.summed import fresh
from tests.lab.clusters import NODES, TCP_PORTS, UDP_PORT, Object, clusters, expanded
from tests.lab.plans import SCTP, TCP, UDP
from tests.laws.test_simulated_definition import SimulatedNode

pytestmark = pytest.mark.timeout(900)  # with "thorough", 5,000 clusters

OUTSIDE = (parse_address("198.51.100.7"), parse_address("2001:db8::7"))
NODE_NAMES = tuple(map(NodeName, NODES))


def flows(snapshot: Snapshot) -> Iterator[Flow]:
    """Every pair of pods, nodes and the outside, by each protocol that rules tell apart."""
    addresses: list[Address] = [*sorted(snapshot.owner_by_address), *OUTSIDE]
    for node in snapshot.nodes.values():
        addresses += node.addresses
    for src, dst in product(addresses, addresses):
        version = address_version(src)
        if version == address_version(dst) and not {src, dst} <= {*OUTSIDE, *_nodes(snapshot)}:
            for port in TCP_PORTS:
                yield Flow(src, dst, TCP, 40000, port)
            yield Flow(src, dst, UDP, 40000, UDP_PORT)
            yield Flow(src, dst, SCTP, 40000, TCP_PORTS[0])
            icmp, echo = (ICMP, 8) if version == 4 else (ICMPV6, 128)
            yield Flow(src, dst, icmp, icmp=IcmpMatch(echo, 0))


def _nodes(snapshot: Snapshot) -> set[Address]:
    return {address for node in snapshot.nodes.values() for address in node.addresses}


def translated(objects: list[Object]) -> Mapping[Key, Value]:
    return translate_all(expanded(objects).objects()).items


@given(clusters())
def test_calc_says_of_every_policy_what_the_definition_says(objects: list[Object]) -> None:
    items = translated(objects)
    snapshot = Snapshot.from_items(items)
    graphs: list[Graph] = [fresh(node, items)[0] for node in NODE_NAMES]
    for flow in list(flows(snapshot))[::3]:
        said = all(judge_local(graph, flow).is_allowed for graph in graphs)
        assert said == judge(snapshot, flow).allowed, flow


@given(clusters())
def test_simulated_chains_let_through_what_every_policy_allows(objects: list[Object]) -> None:
    items = translated(objects)
    snapshot = Snapshot.from_items(items)
    nodes = [SimulatedNode(node, items) for node in NODE_NAMES]
    for flow in list(flows(snapshot))[::7]:
        assert all(node.passes(flow) for node in nodes) == judge(snapshot, flow).allowed, flow
