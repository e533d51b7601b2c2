"""Where services lead, and which ports there are to ask for: for a proxy, a matrix and lint.

In: a cluster.  Out: for each port of a service the addresses and ports behind it, as kube-proxy
would have them; and every port that containers declare.  Whether a packet gets there is not known
here.
"""

from collections.abc import Iterator
from typing import NamedTuple

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, parse_address
from calico_k8s.model.resources import Protocol
from calico_k8s.sources.expand import ClusterObjects
from calico_k8s.sources.slices import matching_pods, resolve_target
from calico_k8s.translate.objects import (
    EndpointSlice,
    Pod,
    Service,
    ServicePort,
    ServiceSpec,
    object_ref,
    protocol_number,
)
from calico_k8s.translate.services import SERVICE_NAME_LABEL
from calico_k8s.translate.workloads import (
    FINISHED_PHASES,
    container_ports,
    pod_addresses,
)


class Backend(NamedTuple):
    """One place a service port leads to."""

    address: Address
    port: int


class PortBackends(NamedTuple):
    """A port of a service and what is behind it, both families, sorted."""

    protocol: Protocol
    port: int
    backends: tuple[Backend, ...]


class DeclaredPort(NamedTuple):
    """A port that some container says it listens on."""

    protocol: Protocol
    port: int


def declared_ports(cluster: ClusterObjects) -> tuple[DeclaredPort, ...]:
    """Every container port of the pods, each once, sorted; of pods on the node's network too."""
    found = {
        DeclaredPort(protocol_number(port.protocol), port.container_port)
        for pod in cluster.pods
        for port in container_ports(pod)
    }
    return tuple(sorted(found))


def selected_pods(cluster: ClusterObjects, service: Service) -> tuple[Pod, ...]:
    """The pods of its namespace that a service's selector matches; none without a selector."""
    return tuple(matching_pods(cluster.pods, service))


def service_backends(cluster: ClusterObjects, service: Service) -> tuple[PortBackends, ...]:
    """What is behind each port of a service."""
    spec = service.spec or ServiceSpec()
    selected = selected_pods(cluster, service)
    slices = () if spec.selector else tuple(_slices(cluster, service))
    return tuple(
        PortBackends(
            protocol_number(port.protocol),
            port.port,
            tuple(sorted({*_of_pods(port, selected), *_of_slices(port, slices)})),
        )
        for port in spec.ports or ()
    )


def _of_pods(port: ServicePort, pods: tuple[Pod, ...]) -> Iterator[Backend]:
    for pod in pods:
        number = resolve_target(port, pod)
        if number is None or (pod.status and pod.status.phase in FINISHED_PHASES):
            continue
        for text in pod_addresses(pod):
            yield from _backend(text, number)


def _slices(cluster: ClusterObjects, service: Service) -> Iterator[EndpointSlice]:
    ref = object_ref(service)
    for endpoint_slice in cluster.slices:
        labels = endpoint_slice.metadata.labels or {}
        is_its = labels.get(SERVICE_NAME_LABEL) == ref.name
        if is_its and object_ref(endpoint_slice).namespace == ref.namespace:
            yield endpoint_slice


def _of_slices(port: ServicePort, slices: tuple[EndpointSlice, ...]) -> Iterator[Backend]:
    """Source: Kubernetes, a service's port and its slices' ports go together by name."""
    for endpoint_slice in slices:
        for slice_port in endpoint_slice.ports or ():
            if (slice_port.name or "") != (port.name or "") or slice_port.port is None:
                continue
            for endpoint in endpoint_slice.endpoints or ():
                for text in endpoint.addresses or ():
                    yield from _backend(text, slice_port.port)


def _backend(text: str, port: int) -> Iterator[Backend]:
    try:
        yield Backend(parse_address(text), port)
    except InputError:
        return  # a name, or nothing that packets could be sent to
