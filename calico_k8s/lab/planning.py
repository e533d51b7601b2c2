"""From Kubernetes objects to what is to be built.

In: a cluster's objects, and the snapshot that they translate to.  Out: a
:class:`~calico_k8s.lab.plan.LabPlan`.  Pure.

An address is built once, in the pod that owns it: the newest of those that claim it, as the policy
has it.  A pod that has lost all its addresses to others is not built.
"""

from collections.abc import Iterable, Iterator

from calico_k8s.lab.plan import (
    Backend,
    LabNode,
    LabPlan,
    LabPod,
    LabService,
    LabServicePort,
    ListenPort,
    PodId,
    of_version,
)
from calico_k8s.model.addresses import Address, Version
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import PROTOCOLS_WITH_PORTS
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.reach import Service
from calico_k8s.sources.assign import cluster_ips, node_addresses
from calico_k8s.sources.backends import declared_ports, service_backends
from calico_k8s.sources.expand import ClusterObjects
from calico_k8s.translate import objects

_VERSIONS: tuple[Version, ...] = (4, 6)


def lab_plan(
    cluster: ClusterObjects, snapshot: Snapshot, services: Iterable[Service] = ()
) -> LabPlan:
    """The plan of a cluster; every pod listens on ``services`` and on every port of the objects."""
    leading = lab_services(cluster, snapshot)
    listen = {ListenPort(*port) for port in declared_ports(cluster)}
    listen |= {ListenPort(*each) for each in services if each.protocol in PROTOCOLS_WITH_PORTS}
    listen |= {
        ListenPort(port.protocol, backend.port)
        for service in leading
        for port in service.ports
        for backend in port.backends
    }
    return LabPlan(
        nodes=tuple(lab_node(node, snapshot) for node in cluster.nodes),
        pods=lab_pods(snapshot),
        services=leading,
        listen=tuple(sorted(listen)),
    )


def lab_node(node: objects.Node, snapshot: Snapshot) -> LabNode:
    """A node: its first internal address of each family, and its pod nets."""
    name = NodeName(node.metadata.name)
    addresses = node_addresses(node)
    firsts = (of_version(addresses, version) for version in _VERSIONS)
    return LabNode(
        name=name,
        addresses=tuple(address for address in firsts if address is not None),
        pod_cidrs=snapshot.nodes[name].pod_cidrs,
    )


def lab_pods(snapshot: Snapshot) -> tuple[LabPod, ...]:
    """Every pod that owns an address, with those that it owns; sorted."""
    owners = snapshot.owner_by_address
    pods = (
        LabPod(
            id=PodId(endpoint.id.pod),
            node=endpoint.id.node,
            addresses=tuple(a for a in endpoint.addresses if owners[a].id == endpoint.id),
        )
        for endpoint in snapshot.endpoints.values()
    )
    return tuple(sorted((pod for pod in pods if pod.addresses), key=lambda pod: pod.id))


def lab_services(cluster: ClusterObjects, snapshot: Snapshot) -> tuple[LabService, ...]:
    """Every service with a cluster IP; backends are the lab's pods, as nothing else is built."""
    built = frozenset(snapshot.owner_by_address)
    services = (
        LabService(cluster_ips(service), tuple(_service_ports(cluster, service, built)))
        for service in cluster.services
    )
    return tuple(service for service in services if service.cluster_ips)


def lost_addresses(snapshot: Snapshot) -> tuple[str, ...]:
    """Addresses that a pod claims and another, newer one owns: one sentence each, sorted."""
    return tuple(
        sorted(
            f"address {address} of pod {endpoint.id.pod} belongs to {owner.id.pod}, which is newer"
            for endpoint in snapshot.endpoints.values()
            for address in endpoint.addresses
            if (owner := snapshot.owner_by_address[address]).id != endpoint.id
        )
    )


def _service_ports(
    cluster: ClusterObjects, service: objects.Service, built: frozenset[Address]
) -> Iterator[LabServicePort]:
    for port in service_backends(cluster, service):
        backends = tuple(
            Backend(each.address, each.port) for each in port.backends if each.address in built
        )
        yield LabServicePort(port.protocol, port.port, backends)
