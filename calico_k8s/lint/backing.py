"""Rules about pods that the API server or an Ingress must reach from outside their namespace.

In: a view of a cluster.  Out: findings on webhooks, APIServices and Ingresses whose pods let
nobody of the kind in that calls them, with the statement that repairs it.

The API server calls from a node.  Which addresses nodes have is known where Node objects are
given; else a pod that lets any address in at all is taken to let the nodes in.  An Ingress is
served by a node or by pods of any other namespace.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from calico_k8s.lint.problems import LintCode
from calico_k8s.lint.view import View, lint_finding
from calico_k8s.model.addresses import (
    Address,
    address_from_number,
    address_net,
    address_version,
    net_range,
)
from calico_k8s.model.resources import PROTOCOL_NUMBERS, WorkloadEndpoint
from calico_k8s.policy.match import Flow
from calico_k8s.policy.verdict import judge
from calico_k8s.sources.assign import node_addresses
from calico_k8s.sources.backends import selected_pods
from calico_k8s.sources.documents import Manifest
from calico_k8s.sources.expand import Written, other_ref
from calico_k8s.sources.slices import resolve_target
from calico_k8s.translate.findings import Finding, ObjectRef
from calico_k8s.translate.objects import (
    DEFAULT_NAMESPACE,
    Node,
    Pod,
    Service,
    api_group,
    object_ref,
)

Path = tuple[str | int, ...]
Fields = Mapping[str, Any]  # Any: what JSON can say

OUTSIDE = (Address("198.51.100.7"), Address("2001:db8::7"))
"""Addresses of no node or pod.  Source: RFC 5737, RFC 3849: for documentation."""

CLIENT_PORT = 40000
CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"
HTTPS = 443
"""The port of a webhook's or APIService's service where none is written."""

NODES_LISTED_MAX = 4


class Reference(NamedTuple):
    """A field that says: pods of this service will be called."""

    code: LintCode
    caller: str
    service: ObjectRef
    port: int | str
    path: Path


class PlacedReference(NamedTuple):
    """A reference and the object it stands in."""

    reference: Reference
    written: Written


class PlacedFinding(NamedTuple):
    """A finding on an object that is no part of the cluster, and where that is."""

    finding: Finding
    written: Written


def backing_findings(view: View) -> Iterator[PlacedFinding]:
    """Pods that are called from outside and let nobody in who calls."""
    services = {object_ref(service): service for service in view.cluster.services}
    for manifest in view.cluster.others:
        written = Written(other_ref(manifest), manifest, ())
        for reference in _references(manifest):
            service = services.get(reference.service)
            if service is not None:
                finding = _check(view, PlacedReference(reference, written), service)
                if finding is not None:
                    yield PlacedFinding(finding, written)


def _references(manifest: Manifest) -> Iterator[Reference]:
    path: Path
    match (api_group(manifest.api_version), manifest.kind):
        case ("admissionregistration.k8s.io", _):
            for index, webhook in enumerate(_list(manifest.value, "webhooks")):
                path = ("webhooks", index, "clientConfig", "service")
                yield from _called(LintCode.WEBHOOK_UNREACHABLE, webhook, path[2:], path)
        case ("apiextensions.k8s.io", "CustomResourceDefinition"):
            path = ("spec", "conversion", "webhook", "clientConfig", "service")
            yield from _called(LintCode.WEBHOOK_UNREACHABLE, manifest.value, path, path)
        case ("apiregistration.k8s.io", "APIService"):
            path = ("spec", "service")
            yield from _called(LintCode.APISERVICE_UNREACHABLE, manifest.value, path, path)
        case ("networking.k8s.io" | "extensions", "Ingress"):
            yield from _of_ingress(manifest)
        case _:
            return


def _called(code: LintCode, fields: object, steps: Path, path: Path) -> Iterator[Reference]:
    """The service of a client configuration, called by the API server."""
    service = _field(fields, *steps)
    name, namespace = _field(service, "name"), _field(service, "namespace")
    port = _field(service, "port") or HTTPS
    if isinstance(name, str) and isinstance(namespace, str) and isinstance(port, int):
        ref = ObjectRef("Service", namespace, name)
        yield Reference(code, "the API server", ref, port, path)


def _of_ingress(manifest: Manifest) -> Iterator[Reference]:
    namespace = other_ref(manifest).namespace or DEFAULT_NAMESPACE
    for path in _ingress_backends(manifest.value):
        service = _field(manifest.value, *path, "service")
        name = _field(service, "name")
        port = _field(service, "port", "number") or _field(service, "port", "name")
        if isinstance(name, str) and isinstance(port, int | str):
            ref = ObjectRef("Service", namespace, name)
            caller = "an Ingress controller"
            yield Reference(LintCode.INGRESS_UNREACHABLE, caller, ref, port, (*path, "service"))


def _ingress_backends(value: Fields) -> Iterator[Path]:
    yield ("spec", "defaultBackend")
    for rule_index, rule in enumerate(_list(_field(value, "spec"), "rules")):
        for index, _path in enumerate(_list(_field(rule, "http"), "paths")):
            yield ("spec", "rules", rule_index, "http", "paths", index, "backend")


def _check(view: View, placed: PlacedReference, service: Service) -> Finding | None:
    """A finding if one of the service's pods cannot be called."""
    reference = placed.reference
    ports = (service.spec.ports if service.spec else None) or ()
    port = next((p for p in ports if reference.port in (p.port, p.name)), None)
    if port is None:
        return None
    for pod in selected_pods(view.cluster, service):
        number = resolve_target(port, pod)
        endpoint = view.endpoints.get(object_ref(pod))
        if number is None or endpoint is None or _can_be_called(view, reference, endpoint, number):
            continue
        message = (
            f"{reference.caller} cannot reach the pods of service {service.metadata.name} at port "
            f"{number}: {_repair(view, pod, number)}"
        )
        return lint_finding(reference.code, message, placed.written.ref, reference.path)
    return None


def _can_be_called(view: View, reference: Reference, endpoint: WorkloadEndpoint, port: int) -> bool:
    if reference.code is not LintCode.INGRESS_UNREACHABLE:
        callers = _callers(view, endpoint)
        if callers:
            return all(_reaches(view, address, endpoint, port) for address in callers)
        return any(_reaches(view, a, endpoint, port) for a in _anywhere(view, endpoint))
    others = (
        address
        for other in view.endpoints.values()
        if other.id.namespace != endpoint.id.namespace
        for address in other.addresses
    )
    sources = [*_anywhere(view, endpoint), *others]
    return any(_reaches(view, address, endpoint, port) for address in sources)


def _callers(view: View, endpoint: WorkloadEndpoint) -> list[Address]:
    """Addresses the API server may have; its own node always reaches a pod."""
    given = _given_nodes(view)
    masters = [node for node in given if CONTROL_PLANE_LABEL in (node.metadata.labels or {})]
    versions = {address_version(address) for address in endpoint.addresses}
    return [
        address
        for node in masters or given
        if node.metadata.name != endpoint.id.node
        for address in node_addresses(node)
        if address_version(address) in versions
    ]


def _given_nodes(view: View) -> list[Node]:
    """The nodes whose addresses somebody gave; those made up here say nothing."""
    if not view.cluster.written:
        return list(view.cluster.nodes)
    return [node for node in view.cluster.nodes if object_ref(node) in view.cluster.written]


def _anywhere(view: View, endpoint: WorkloadEndpoint) -> Iterator[Address]:
    """An address that is nobody's, and one of each net that the endpoint's rules speak of."""
    yield from OUTSIDE
    for profile in endpoint.profiles:
        for rule in view.snapshot.rules_of(profile).ingress:
            for net in rule.src.nets:
                bounds = net_range(net)
                yield address_from_number(bounds.first, bounds.version)


def _reaches(view: View, src: Address, endpoint: WorkloadEndpoint, port: int) -> bool:
    """Whether packets from the address reach the endpoint at its address of the same family."""
    return any(
        judge(view.snapshot, Flow(src, dst, PROTOCOL_NUMBERS["tcp"], CLIENT_PORT, port)).allowed
        for dst in endpoint.addresses
        if address_version(dst) == address_version(src)
    )


def _repair(view: View, pod: Pod, port: int) -> str:
    """What to write so that the pods can be called."""
    addresses = [a for node in _given_nodes(view) for a in node_addresses(node)]
    nodes = ",".join(address_net(address) for address in addresses)
    if not addresses or len(addresses) > NODES_LISTED_MAX:
        nodes = "NODES"
    statement = f"allow tcp from cidr {nodes} to port {port}"
    what = " (NODES: the CIDR of the nodes)" if nodes == "NODES" else ""
    if view.annotation(pod) is not None:
        return f"add '{statement}' to their annotation{what}"
    namespace = object_ref(pod).namespace
    return f"annotate them with 'allow from namespace {namespace}; {statement}'{what}"


def _field(value: object, *path: str | int) -> object:
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _list(value: object, key: str) -> Iterable[object]:
    found = _field(value, key)
    return found if isinstance(found, list) else ()
