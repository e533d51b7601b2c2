"""What a virtual cluster is made of, as values.

In: nodes, pods and services that somebody has placed and addressed.  Out: a :class:`LabPlan`, and
:func:`check_plan`, which says why a plan cannot be built.  No kernel here.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple, NewType, TypeVar

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import (
    Address,
    Net,
    Version,
    address_from_number,
    address_version,
    net_contains,
    net_range,
)
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import PROTOCOL_NAMES, PROTOCOLS_WITH_PORTS, Protocol

_Value = TypeVar("_Value", str, int)

PodId = NewType("PodId", str)
"""``namespace/name`` of a pod."""

Place = NewType("Place", str)
"""Where a packet can start: the text of a :data:`PodId`, or of a node's name (no slash in it)."""


class PodNetwork(StrEnum):
    """How a pod is attached to its node."""

    PTP = "ptp"
    """A routed veth, the node answering for every address, as Calico does."""
    BRIDGE = "bridge"
    """A port of the node's Linux bridge, as kubenet does."""


class ListenPort(NamedTuple):
    """A port that every pod answers on."""

    protocol: Protocol
    port: int


class Backend(NamedTuple):
    """Where a service sends a connection."""

    address: Address
    port: int


class LabNode(msgspec.Struct, frozen=True):
    """A node: its own addresses (at most one a family), and the nets its pods come from."""

    name: NodeName
    addresses: tuple[Address, ...]
    pod_cidrs: tuple[Net, ...] = ()


class LabPod(msgspec.Struct, frozen=True):
    """A pod: at most one address a family, inside its node's nets or not."""

    id: PodId
    node: NodeName
    addresses: tuple[Address, ...]


class LabServicePort(msgspec.Struct, frozen=True):
    """A port of a service; without backends of a family, connections of it are refused."""

    protocol: Protocol
    port: int
    backends: tuple[Backend, ...] = ()


class LabService(msgspec.Struct, frozen=True):
    """Cluster IPs and where each of their ports leads."""

    cluster_ips: tuple[Address, ...]
    ports: tuple[LabServicePort, ...]


class LabPlan(msgspec.Struct, frozen=True):
    """A whole virtual cluster."""

    nodes: tuple[LabNode, ...]
    pods: tuple[LabPod, ...] = ()
    services: tuple[LabService, ...] = ()
    listen: tuple[ListenPort, ...] = ()
    """What every pod answers on, beside echo."""
    node_listen: tuple[ListenPort, ...] = ()
    """What every node answers on at its own addresses."""


def place_of(pod: PodId | NodeName) -> Place:
    """The place that a pod or a node is."""
    return Place(pod)


def is_pod(place: Place) -> bool:
    """Whether the place is a pod, not a node."""
    return "/" in place


def versions(addresses: Iterable[Address]) -> frozenset[Version]:
    """The families of some addresses."""
    return frozenset(address_version(address) for address in addresses)


def of_version(addresses: Iterable[Address], version: Version) -> Address | None:
    """The first address of a family; None where there is none."""
    return next((each for each in addresses if address_version(each) == version), None)


def is_inside(address: Address, nets: Iterable[Net]) -> bool:
    """Whether one of the nets covers the address."""
    return any(net_contains(net, address) for net in nets)


def bridge_gateway(net: Net, taken: Iterable[Address]) -> Address:
    """The address of a node's pod bridge in a net: its first that no pod has.

    Raises:
        InputError: the net has no address left.
    """
    gone, (version, first, last) = set(taken), net_range(net)
    for number in range(min(first + 1, last), last + 1):
        address = address_from_number(number, version)
        if address not in gone:
            return address
    raise InputError(f"net {net} has no address left for the node's bridge: give it a wider one")


def check_plan(plan: LabPlan) -> None:
    """Makes sure that a plan can be built.

    Raises:
        InputError: the first thing that is wrong, by name.
    """
    nodes = {node.name: node for node in plan.nodes}
    if len(nodes) != len(plan.nodes):
        raise InputError("two nodes have the same name")
    for node in plan.nodes:
        _check_families(f"node {node.name}", node.addresses)
    for name in _repeated([pod.id for pod in plan.pods]):
        raise InputError(f"two pods are named {name}")
    _check_nets([net for node in plan.nodes for net in node.pod_cidrs])
    for pod in plan.pods:
        check_pod(pod, nodes.get(pod.node))
    for service in plan.services:
        _check_service(service)
    of_nodes = [address for node in plan.nodes for address in node.addresses]
    of_pods = [address for pod in plan.pods for address in pod.addresses]
    of_services = [address for service in plan.services for address in service.cluster_ips]
    for address in _repeated([*of_nodes, *of_pods, *of_services]):
        raise InputError(f"address {address} is given twice: pods, nodes and services share none")
    for port in (*plan.listen, *plan.node_listen):
        _check_port(port.protocol, port.port)


def check_pod(pod: LabPod, node: LabNode | None) -> None:
    """Makes sure that a pod fits its node; ``node`` is None where the plan has none of that name.

    Raises:
        InputError: it does not.
    """
    namespace, slash, name = pod.id.partition("/")
    if not (namespace and slash and name):
        raise InputError(f"pod '{pod.id}' is not named namespace/name")
    if node is None:
        raise InputError(f"pod {pod.id} is on node '{pod.node}', which does not exist")
    _check_families(f"pod {pod.id}", pod.addresses)
    for version in versions(pod.addresses) - versions(node.addresses):
        raise InputError(
            f"pod {pod.id} has an IPv{version} address and its node {node.name} has none:"
            " nothing could be routed to it"
        )


def _check_nets(nets: Sequence[Net]) -> None:
    ranges = sorted((net_range(net), net) for net in nets)
    for (first, earlier), (second, later) in pairwise(ranges):
        if first.version == second.version and second.first <= first.last:
            raise InputError(f"pod nets {earlier} and {later} overlap: each node has its own")


def _check_families(who: str, addresses: Sequence[Address]) -> None:
    if not addresses:
        raise InputError(f"{who} has no address")
    for version in _repeated([address_version(address) for address in addresses]):
        raise InputError(f"{who} has more than one IPv{version} address")


def _check_service(service: LabService) -> None:
    for port in service.ports:
        _check_port(port.protocol, port.port)
        for backend in port.backends:
            _check_port(port.protocol, backend.port)


def _check_port(protocol: Protocol, port: int) -> None:
    if protocol not in PROTOCOLS_WITH_PORTS:
        name = PROTOCOL_NAMES.get(protocol, str(protocol))
        raise InputError(f"protocol {name} has no ports: a port is of tcp, udp or sctp")
    if not 0 < port < 65536:
        raise InputError(f"port {port} is not between 1 and 65535")


def _repeated(values: Sequence[_Value]) -> Iterator[_Value]:
    seen: set[_Value] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)
