"""Nodes and addresses for whatever has none yet.

In: nodes, services and pods, some of them with addresses, and those of a state before.  Out: the
same with a node and an address of each wanted family.  What is given stays; what is not is chosen
by this one function of the sorted input, so that every command chooses alike::

    nodes       10.64.0.0/16    fd00:10:64::/112       counted up
    pods        10.128.0.0/9    fd00:10:128::/48       a /20 or /64 for each node without pod CIDRs
    services    10.96.0.0/16    fd00:10:96::/112       from the third address on

An address that is given anywhere is never chosen for something else.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import (
    Address,
    Net,
    Version,
    address_from_number,
    address_number,
    address_version,
    net_range,
    parse_address,
    parse_net,
)
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import (
    KubeObject,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    Pod,
    PodIp,
    PodSpec,
    PodStatus,
    Service,
    ServiceSpec,
    object_ref,
)
from calico_k8s.translate.services import EXTERNAL_NAME
from calico_k8s.translate.workloads import FINISHED_PHASES, pod_addresses

HEADLESS = "None"
"""The cluster IP of a service that has none."""

FAMILY_NAMES: Mapping[str, Version] = {"IPv4": 4, "IPv6": 6}

_NODE_NETS: Mapping[Version, Net] = {4: Net("10.64.0.0/16"), 6: Net("fd00:10:64::/112")}
_SERVICE_NETS: Mapping[Version, Net] = {4: Net("10.96.0.0/16"), 6: Net("fd00:10:96::/112")}
_POD_NETS: Mapping[Version, Net] = {4: Net("10.128.0.0/9"), 6: Net("fd00:10:128::/48")}
_POD_BLOCK_BITS: Mapping[Version, int] = {4: 12, 6: 64}
"""Address bits of one node's block: 4,094 pods, and as many as anybody has."""

_FIRST = 2
"""The first address handed out of a net: the one before is a gateway's, or the API's."""


class Assigned(NamedTuple):
    """Everything with its place; sorted by namespace and name."""

    nodes: tuple[Node, ...]
    services: tuple[Service, ...]
    pods: tuple[Pod, ...]


class Unassigned(NamedTuple):
    """What there is, as far as it is given."""

    nodes: Iterable[Node]
    services: Iterable[Service]
    pods: Iterable[Pod]


def assign(
    given: Unassigned, families: tuple[Version, ...], before: Mapping[ObjectRef, KubeObject]
) -> Assigned:
    """Give everything its place; what had one in ``before`` keeps it where it still can.

    Raises:
        InputError: there are no nodes, or a net has no address left.
    """
    nodes = sorted(given.nodes, key=object_ref)
    services = sorted(given.services, key=object_ref)
    pods = sorted(given.pods, key=object_ref)
    everything: list[KubeObject] = [*nodes, *services, *pods]
    kept = [before[ref] for value in everything if (ref := object_ref(value)) in before]
    taken = {address for value in [*everything, *kept] for address in _addresses(value)}
    chooser = _Chooser(families, taken, before)
    placed_nodes = chooser.nodes(nodes)
    return Assigned(
        placed_nodes,
        tuple(chooser.service(service) for service in services),
        chooser.pods(pods, placed_nodes),
    )


def written_families(values: Iterable[KubeObject]) -> frozenset[Version]:
    """The families of every address that objects carry, or that services ask for."""
    found: set[Version] = set()
    for value in values:
        found |= {address_version(address) for address in _addresses(value)}
        if isinstance(value, Service) and value.spec:
            names = value.spec.ip_families or ()
            found |= {FAMILY_NAMES[name] for name in names if name in FAMILY_NAMES}
    return frozenset(found)


def node_addresses(node: Node) -> tuple[Address, ...]:
    """The internal addresses of a node."""
    entries = (node.status.addresses if node.status else None) or ()
    return _parsed(entry.address for entry in entries if entry.type == "InternalIP")


def cluster_ips(service: Service) -> tuple[Address, ...]:
    """The cluster IPs of a service, none for a headless one."""
    spec = service.spec or ServiceSpec()
    return _parsed(spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ()))


def _addresses(value: KubeObject) -> tuple[Address, ...]:
    match value:
        case Node():
            return node_addresses(value)
        case Service():
            return cluster_ips(value)
        case Pod():
            return _parsed(pod_addresses(value))
        case _:
            return ()


def _parsed(texts: Iterable[str]) -> tuple[Address, ...]:
    """The texts that are addresses; translate tells of the others."""
    found = []
    for text in texts:
        try:
            found.append(parse_address(text))
        except InputError:
            continue
    return tuple(found)


class _Chooser:
    """Hands out what is free, in order."""

    def __init__(
        self,
        families: tuple[Version, ...],
        taken: set[Address],
        before: Mapping[ObjectRef, KubeObject],
    ) -> None:
        self._families = families
        self._taken = taken
        self._before = before
        self._next: dict[Net, int] = {}

    def nodes(self, nodes: list[Node]) -> tuple[Node, ...]:
        """Every node with an address and pod CIDRs."""
        with_addresses = [self._node_with_addresses(node) for node in nodes]
        used = [net for node in nodes for net in _pod_nets(node)]
        used += [net for node in nodes for net in _pod_nets(self._node_before(node))]
        blocks = {version: _free_blocks(version, used, self._taken) for version in self._families}
        return tuple(self._node_with_nets(node, blocks) for node in with_addresses)

    def service(self, service: Service) -> Service:
        """The service with cluster IPs, if it is one that has any."""
        spec = service.spec or ServiceSpec()
        if spec.cluster_ip or spec.cluster_ips or spec.type == EXTERNAL_NAME:
            return service
        before = self._before.get(object_ref(service))
        addresses = cluster_ips(before) if isinstance(before, Service) else ()
        if not addresses:
            versions = _service_families(spec, self._families)
            addresses = tuple(self._take(_SERVICE_NETS[version]) for version in versions)
        return msgspec.structs.replace(
            service,
            spec=msgspec.structs.replace(spec, cluster_ip=addresses[0], cluster_ips=addresses),
        )

    def pods(self, pods: list[Pod], nodes: tuple[Node, ...]) -> tuple[Pod, ...]:
        """Every pod with a node, and with an address if it is one that has any."""
        by_name = {node.metadata.name: node for node in nodes}
        names = sorted(by_name)
        placed = []
        turn = 0
        for pod in pods:
            name = self._node_of(pod, by_name)
            if name is None:
                name = names[turn % len(names)]
                turn += 1
            placed.append(self._place(pod, by_name[name]))
        return tuple(placed)

    def _node_before(self, node: Node) -> Node:
        before = self._before.get(object_ref(node))
        return before if isinstance(before, Node) else node

    def _node_with_addresses(self, node: Node) -> Node:
        if node_addresses(node):
            return node
        addresses = node_addresses(self._node_before(node)) or tuple(
            self._take(_NODE_NETS[version]) for version in self._families
        )
        given = (node.status.addresses if node.status else None) or ()
        chosen = tuple(NodeAddress("InternalIP", address) for address in addresses)
        return msgspec.structs.replace(node, status=NodeStatus((*given, *chosen)))

    def _node_with_nets(self, node: Node, blocks: Mapping[Version, Iterator[Net]]) -> Node:
        nets = list(_pod_nets(node) or _pod_nets(self._node_before(node)))
        for version in self._families:
            if not any(address_version(net) == version for net in nets):
                nets.append(next(blocks[version]))
        return msgspec.structs.replace(node, spec=NodeSpec(nets[0] if nets else None, tuple(nets)))

    def _node_of(self, pod: Pod, nodes: Mapping[str, Node]) -> str | None:
        if pod.spec and pod.spec.node_name:
            return pod.spec.node_name
        before = self._before.get(object_ref(pod))
        if isinstance(before, Pod) and before.spec and before.spec.node_name in nodes:
            return before.spec.node_name
        return None

    def _place(self, pod: Pod, node: Node) -> Pod:
        spec = msgspec.structs.replace(pod.spec or PodSpec(), node_name=node.metadata.name)
        status = pod.status or PodStatus()
        phase = status.phase or "Running"
        addresses: tuple[str, ...] = pod_addresses(pod)
        if not addresses and phase not in FINISHED_PHASES:
            addresses = self._pod_addresses(pod, spec, node)
        status = PodStatus(
            phase, addresses[0] if addresses else None, tuple(PodIp(a) for a in addresses)
        )
        return msgspec.structs.replace(pod, spec=spec, status=status)

    def _pod_addresses(self, pod: Pod, spec: PodSpec, node: Node) -> tuple[str, ...]:
        if spec.host_network:
            return node_addresses(node)
        before = self._before.get(object_ref(pod))
        if isinstance(before, Pod) and before.spec and not before.spec.host_network:
            kept = pod_addresses(before)
            if kept and before.spec.node_name == node.metadata.name:
                return kept
        nets = _pod_nets(node)
        return tuple(
            self._take(next(net for net in nets if address_version(net) == version))
            for version in self._families
        )

    def _take(self, net: Net) -> Address:
        bounds = net_range(net)
        number = self._next.get(net, bounds.first + _FIRST)
        while number < bounds.last or (number == bounds.last and bounds.version == 6):
            address = address_from_number(number, bounds.version)
            number += 1
            if address not in self._taken:
                self._taken.add(address)
                self._next[net] = number
                return address
        raise InputError(
            f"no address is left in {net}: there are too many nodes, services or pods of one node"
        )


def _pod_nets(node: Node) -> tuple[Net, ...]:
    spec = node.spec or NodeSpec()
    nets = []
    for text in spec.pod_cidrs or ((spec.pod_cidr,) if spec.pod_cidr else ()):
        try:
            nets.append(parse_net(text))
        except InputError:
            continue
    return tuple(nets)


def _free_blocks(version: Version, used: Iterable[Net], taken: set[Address]) -> Iterator[Net]:
    """Blocks of the pods' net in which nothing is given, ascending."""
    bounds = net_range(_POD_NETS[version])
    bits = _POD_BLOCK_BITS[version]
    busy = {
        (address_number(address) - bounds.first) >> bits
        for address in taken
        if address_version(address) == version
        and bounds.first <= address_number(address) <= bounds.last
    }
    ranges = [net_range(net) for net in used if address_version(net) == version]
    for index in range((bounds.last - bounds.first + 1) >> bits):
        first = bounds.first + (index << bits)
        last = first + (1 << bits) - 1
        if index in busy or any(r.first <= last and first <= r.last for r in ranges):
            continue
        length = (32 if version == 4 else 128) - bits
        yield Net(f"{address_from_number(first, version)}/{length}")
    raise InputError(f"no block is left in {_POD_NETS[version]}: there are too many nodes")


def _service_families(spec: ServiceSpec, families: tuple[Version, ...]) -> tuple[Version, ...]:
    """Source: KEP-563: the first family unless more are named, or preferred."""
    named = tuple(FAMILY_NAMES[name] for name in spec.ip_families or () if name in FAMILY_NAMES)
    if named and spec.ip_family_policy not in ("PreferDualStack", "RequireDualStack"):
        return named
    if spec.ip_family_policy in ("PreferDualStack", "RequireDualStack"):
        first = named or families
        return (*first, *(version for version in families if version not in first))
    return families[:1]
