"""Which pods a service with a selector leads to, and at which ports, as Kubernetes' controllers say.

In: services and pods.  Out: the pods of a service, its ports on each of them, and the endpoint
slices that a cluster would have of it.
"""

from collections.abc import Iterable, Iterator, Mapping

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, Version, address_version, parse_address
from calico_k8s.model.resources import Protocol
from calico_k8s.translate.objects import (
    EndpointSlice,
    Metadata,
    Pod,
    Service,
    ServicePort,
    SliceEndpoint,
    SlicePort,
    object_ref,
    protocol_number,
)
from calico_k8s.translate.services import SERVICE_NAME_LABEL, target_port
from calico_k8s.translate.workloads import FINISHED_PHASES, named_ports, pod_addresses


def matching_pods(pods: Iterable[Pod], service: Service) -> Iterator[Pod]:
    """The pods of its namespace that a service's selector matches; none without a selector."""
    selector = (service.spec.selector if service.spec else None) or {}
    namespace = object_ref(service).namespace
    for pod in pods if selector else ():
        labels = pod.metadata.labels or {}
        if object_ref(pod).namespace == namespace and selector.items() <= labels.items():
            yield pod


def resolve_target(port: ServicePort, pod: Pod) -> int | None:
    """The number a service port has on a pod; None if the pod has no port of that name."""
    target = target_port(port)
    if isinstance(target, int):
        return target
    protocol = protocol_number(port.protocol)
    ports: Mapping[tuple[str, Protocol], int] = {
        (named.name, named.protocol): named.port for named in named_ports(pod)
    }
    return ports.get((target, protocol))


def made_slices(services: Iterable[Service], pods: Iterable[Pod]) -> Iterator[EndpointSlice]:
    """The slices of services with a selector.

    One for each family and each choice of ports: pods may have other numbers for a named one.
    """
    every_pod = tuple(pods)
    for service in services:
        ref = object_ref(service)
        alike: dict[tuple[Version, tuple[SlicePort, ...]], set[Address]] = {}
        for pod in matching_pods(every_pod, service):
            ports = tuple(_slice_ports(service, pod))
            for address in _live_addresses(pod):
                alike.setdefault((address_version(address), ports), set()).add(address)
        for number, ((version, ports), addresses) in enumerate(sorted(alike.items(), key=str)):
            labels = {SERVICE_NAME_LABEL: ref.name}
            yield EndpointSlice(
                Metadata(name=f"{ref.name}-{number}", namespace=ref.namespace, labels=labels),
                (SliceEndpoint(tuple(sorted(addresses))),),
                f"IPv{version}",
                ports,
            )


def _slice_ports(service: Service, pod: Pod) -> Iterator[SlicePort]:
    for port in (service.spec.ports if service.spec else None) or ():
        number = resolve_target(port, pod)
        if number is not None:
            yield SlicePort(port.name, number, port.protocol)


def _live_addresses(pod: Pod) -> Iterator[Address]:
    if pod.status and pod.status.phase in FINISHED_PHASES:
        return
    for text in pod_addresses(pod):
        try:
            yield parse_address(text)
        except InputError:
            continue  # translate tells of it
