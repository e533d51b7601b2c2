"""A service labelled open to the rules that let everybody in to its ports.

In: a Service, or an EndpointSlice.  Out: the rules of the service's profile and which pods it is
for: those its selector matches, or, without a selector, those at its slices' addresses.  A named
target port stays a name here: each pod has its own number for it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, parse_address
from calico_k8s.model.names import ProfileId
from calico_k8s.model.resources import (
    Action,
    EntityMatch,
    Origin,
    PortRange,
    Rule,
    Rules,
)
from calico_k8s.translate.findings import Code, Finding, ObjectRef, make_finding
from calico_k8s.translate.namespaces import FLAG
from calico_k8s.translate.objects import (
    EndpointSlice,
    Service,
    ServicePort,
    object_ref,
    protocol_number,
)

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
"""On an EndpointSlice: the service it belongs to.  Source: KEP-752."""

EXTERNAL_NAME = "ExternalName"


class Exposure(NamedTuple):
    """What an open service opens; ``selector`` None: the pods at its slices' addresses."""

    rules: Rules
    selector: Mapping[str, str] | None


class ServiceReading(NamedTuple):
    """What a service says; ``exposure`` None opens nothing."""

    exposure: Exposure | None
    findings: tuple[Finding, ...] = ()


class SliceReading(NamedTuple):
    """The addresses a slice gives for a service of its namespace, each once."""

    service: str
    addresses: frozenset[Address]


def service_profile(namespace: str, name: str) -> ProfileId:
    """The profile of an open service."""
    return ProfileId(f"service.{namespace}.{name}")


def read_service(service: Service) -> ServiceReading:
    """What a service says."""
    ref = object_ref(service)
    value = (service.metadata.labels or {}).get(FLAG)
    path = ("metadata", "labels", FLAG)
    if value is None:
        return ServiceReading(None)
    if value != "open":
        message = (
            f"the label {FLAG} is '{value}', so the service exposes nothing: "
            "give 'open', or remove the label"
        )
        return ServiceReading(None, (make_finding(Code.SERVICE_FLAG_VALUE, message, ref, path),))
    spec = service.spec
    if spec is not None and spec.type == EXTERNAL_NAME:
        message = "a service of type ExternalName has no pods, so it exposes nothing"
        return ServiceReading(None, (make_finding(Code.SERVICE_EXTERNAL_NAME, message, ref, path),))
    ports = (spec.ports if spec else None) or ()
    rules = tuple(_port_rule(ref, port, index) for index, port in enumerate(ports))
    origin = Origin(kind="Service", namespace=ref.namespace, name=ref.name)
    selector = (spec.selector if spec else None) or None
    return ServiceReading(Exposure(Rules(ingress=rules, origin=origin), selector))


def target_port(port: ServicePort) -> int | str:
    """The port of the pods that a service port leads to: a number, or a name of theirs."""
    return port.target_port or port.port


def read_slice(endpoint_slice: EndpointSlice) -> SliceReading | None:
    """What a slice says; None if it belongs to no service.  What is no address is left out."""
    service = (endpoint_slice.metadata.labels or {}).get(SERVICE_NAME_LABEL)
    if not service:
        return None
    addresses = (
        _address(text)
        for endpoint in endpoint_slice.endpoints or ()
        for text in endpoint.addresses or ()
    )
    return SliceReading(service, frozenset(a for a in addresses if a is not None))


def _address(text: str) -> Address | None:
    try:
        return parse_address(text)
    except InputError:
        return None  # addressType FQDN has names here


def _port_rule(ref: ObjectRef, port: ServicePort, index: int) -> Rule:
    target = target_port(port)
    return Rule(
        action=Action.ALLOW,
        origin=Origin(kind="Service", namespace=ref.namespace, name=ref.name, index=index),
        protocol=protocol_number(port.protocol),
        dst=EntityMatch(named_ports=(target,))
        if isinstance(target, str)
        else EntityMatch(ports=(PortRange(target, target),)),
    )
