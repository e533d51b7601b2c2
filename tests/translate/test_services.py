"""Services: which label values expose, which ports they open, which slices count."""

import pytest

from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import EntityMatch, PortRange
from calico_k8s.translate.findings import Code
from calico_k8s.translate.namespaces import FLAG
from calico_k8s.translate.objects import (
    EndpointSlice,
    Metadata,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
)
from calico_k8s.translate.services import (
    SERVICE_NAME_LABEL,
    SliceReading,
    read_service,
    read_slice,
)


def service(flag: str | None = "open", spec: ServiceSpec | None = None) -> Service:
    labels = {} if flag is None else {FLAG: flag}
    return Service(Metadata(name="web", namespace="prod", labels=labels), spec)


def spec(*ports: ServicePort, type_: str | None = None) -> ServiceSpec:
    return ServiceSpec(selector={"app": "web"}, ports=ports, type=type_)


@pytest.mark.parametrize(
    ("flag", "type_", "is_exposed", "codes"),
    [
        ("open", None, True, []),
        ("open", "NodePort", True, []),
        (None, None, False, []),
        ("closed", None, False, [Code.SERVICE_FLAG_VALUE]),
        ("Open", None, False, [Code.SERVICE_FLAG_VALUE]),
        ("open", "ExternalName", False, [Code.SERVICE_EXTERNAL_NAME]),
        (None, "ExternalName", False, []),
    ],
)
def test_only_the_value_open_exposes_and_an_external_name_never_does(
    flag: str | None, type_: str | None, is_exposed: bool, codes: list[Code]
) -> None:
    reading = read_service(service(flag, spec(type_=type_)))
    assert (reading.exposure is not None) is is_exposed
    assert [finding.code for finding in reading.findings] == codes


@pytest.mark.parametrize(
    ("port", "protocol", "dst"),
    [
        (ServicePort(80), 6, EntityMatch(ports=(PortRange(80, 80),))),
        (ServicePort(80, target_port=8080), 6, EntityMatch(ports=(PortRange(8080, 8080),))),
        (ServicePort(80, target_port=0), 6, EntityMatch(ports=(PortRange(80, 80),))),
        (ServicePort(80, target_port="http"), 6, EntityMatch(named_ports=("http",))),
        (ServicePort(53, protocol="UDP"), 17, EntityMatch(ports=(PortRange(53, 53),))),
        (ServicePort(9, protocol="SCTP"), 132, EntityMatch(ports=(PortRange(9, 9),))),
    ],
)
def test_a_port_opens_exactly_the_target_port(
    port: ServicePort, protocol: int, dst: EntityMatch
) -> None:
    exposure = read_service(service(spec=spec(port))).exposure
    assert exposure is not None
    (rule,) = exposure.rules.ingress
    assert (rule.protocol, rule.src, rule.dst) == (protocol, EntityMatch(), dst)


def test_a_service_without_ports_or_spec_opens_nothing() -> None:
    for empty in (spec(), None):
        exposure = read_service(service(spec=empty)).exposure
        assert exposure is not None
        assert exposure.rules.ingress == ()


def test_a_service_limits_nothing_outbound() -> None:
    exposure = read_service(service(spec=spec(ServicePort(80)))).exposure
    assert exposure is not None
    assert exposure.rules.egress == ()


def test_a_slice_gives_its_service_addresses_and_leaves_names_out() -> None:
    endpoints = (SliceEndpoint(("10.0.0.1", "example.org")), SliceEndpoint(("::ffff:10.0.0.2",)))
    labelled = Metadata(name="x", namespace="prod", labels={SERVICE_NAME_LABEL: "web"})
    assert read_slice(EndpointSlice(labelled, endpoints)) == SliceReading(
        "web", frozenset({Address("10.0.0.1"), Address("10.0.0.2")})
    )
    assert read_slice(EndpointSlice(Metadata(name="x"), endpoints)) is None
