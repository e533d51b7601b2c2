"""Rules about services, and about addresses: what opens nothing, or somebody else.

In: a view of a cluster.  Out: findings.
"""

from collections.abc import Iterator, Sequence

import grammar
from calico_k8s.lint.problems import LintCode
from calico_k8s.lint.view import View, lint_finding
from calico_k8s.model.addresses import Address, net_contains
from calico_k8s.model.resources import Direction, Policy, Rule
from calico_k8s.policy.snapshot import claim
from calico_k8s.policy.verdict import applies
from calico_k8s.sources.assign import node_addresses
from calico_k8s.sources.backends import selected_pods
from calico_k8s.sources.slices import resolve_target
from calico_k8s.translate.findings import Finding, ObjectRef
from calico_k8s.translate.objects import Pod, Service, ServicePort, ServiceSpec, object_ref
from calico_k8s.translate.services import read_service, read_slice, target_port

_EVERYWHERE = frozenset({"0.0.0.0/0", "::/0"})
_SEEN_FROM_OUTSIDE = frozenset({"NodePort", "LoadBalancer"})


def service_findings(view: View) -> Iterator[Finding]:
    """Open services that open nothing, or not what they seem to."""
    for service in view.cluster.services:
        if read_service(service).exposure is None:
            continue
        if service.spec is not None and service.spec.selector:
            yield from _selecting(view, service)
        else:
            yield from _without_selector(view, service)


def _selecting(view: View, service: Service) -> Iterator[Finding]:
    ref, spec = object_ref(service), service.spec or ServiceSpec()
    pods = [p for p in selected_pods(view.cluster, service) if object_ref(p) in view.endpoints]
    if not spec.ports:
        yield _nothing(ref, "it has no ports", ("spec",))
    elif not pods:
        words = ", ".join(f"{key}={value}" for key, value in sorted((spec.selector or {}).items()))
        yield _nothing(ref, f"no pod matches its selector, {words}", ("spec", "selector"))
    else:
        yield from _unknown_ports(ref, spec.ports, pods)


def _unknown_ports(
    ref: ObjectRef, ports: tuple[ServicePort, ...], pods: list[Pod]
) -> Iterator[Finding]:
    for index, port in enumerate(ports):
        if all(resolve_target(port, pod) is None for pod in pods):
            message = (
                f"none of the service's pods has a {port.protocol or 'TCP'} port named "
                f"'{target_port(port)}', so port {port.port} exposes nothing"
            )
            path = ("spec", "ports", index, "targetPort")
            yield lint_finding(LintCode.SERVICE_PORT_UNKNOWN, message, ref, path)


def _without_selector(view: View, service: Service) -> Iterator[Finding]:
    ref = object_ref(service)
    addresses: set[Address] = set()
    for endpoint_slice in view.cluster.slices:
        reading = read_slice(endpoint_slice)
        namespace = object_ref(endpoint_slice).namespace
        if reading is not None and (namespace, reading.service) == (ref.namespace, ref.name):
            addresses |= reading.addresses
    own = {
        address
        for endpoint in view.endpoints.values()
        if endpoint.id.namespace == ref.namespace
        for address in endpoint.addresses
    }
    foreign = sorted(addresses - own)
    if not addresses:
        yield _nothing(ref, "it has no selector, and no EndpointSlice gives it addresses", ())
    elif foreign:
        message = (
            f"{', '.join(foreign)}: no pod of namespace '{ref.namespace}' has this address, "
            "so the service exposes nothing there"
        )
        yield lint_finding(LintCode.SERVICE_FOREIGN_ADDRESS, message, ref)


def _nothing(ref: ObjectRef, reason: str, path: tuple[str | int, ...]) -> Finding:
    message = f"the service is open and exposes nothing: {reason}"
    return lint_finding(LintCode.SERVICE_EXPOSES_NOTHING, message, ref, path)


def hidden_source_findings(view: View) -> Iterator[Finding]:
    """Rules that look for a client's address where the node's own takes its place."""
    in_policies: dict[tuple[ObjectRef, int], Finding | None] = {}
    inside = [address for node in view.cluster.nodes for address in node_addresses(node)]
    inside += [address for each in view.endpoints.values() for address in each.addresses]
    for service in view.cluster.services:
        spec = service.spec or ServiceSpec()
        if spec.type not in _SEEN_FROM_OUTSIDE or spec.external_traffic_policy == "Local":
            continue
        for pod in selected_pods(view.cluster, service):
            yield from _hidden_sources(view, pod, service)
            for policy, rule in _rules_with_nets(view, pod):
                at = (ObjectRef(*policy.id), rule.origin.index)
                if at not in in_policies:
                    in_policies[at] = _hidden_block(rule, service, at, inside)
    yield from (finding for finding in in_policies.values() if finding is not None)


def _hidden_sources(view: View, pod: Pod, service: Service) -> Iterator[Finding]:
    annotation = view.annotation(pod)
    if annotation is None or object_ref(pod) not in view.endpoints:
        return
    for statement in view.statements(pod):
        cidrs = [c for m in statement.src if isinstance(m, grammar.CidrMatch) for c in m.cidrs]
        if not cidrs or _EVERYWHERE & set(cidrs):
            continue
        path = ("metadata", "annotations", annotation.key)
        span = (statement.span.start, statement.span.end)
        message = _hidden_words(service)
        yield lint_finding(LintCode.CIDR_HIDDEN, message, object_ref(pod), path, span)


def _hidden_words(service: Service) -> str:
    kind = service.spec.type if service.spec else ""
    return (
        f"clients that come through the {kind} of service '{service.metadata.name}' are seen "
        "with a node's address, so their own is never found here: "
        "set externalTrafficPolicy: Local, or allow the nodes"
    )


def _rules_with_nets(view: View, pod: Pod) -> Iterator[tuple[Policy, Rule]]:
    """Rules of policies that look for addresses of who comes to the pod."""
    endpoint = view.endpoints.get(object_ref(pod))
    if endpoint is None:
        return
    for _, policies in view.snapshot.policies_by_tier:
        for policy in policies:
            with_nets = [rule for rule in policy.ingress if rule.src.nets]
            if with_nets and applies(view.snapshot, policy, endpoint, Direction.INGRESS):
                yield from ((policy, rule) for rule in with_nets)


def _hidden_block(
    rule: Rule, service: Service, at: tuple[ObjectRef, int], inside: Sequence[Address]
) -> Finding | None:
    """A finding, unless the nets are those of nodes or pods, who come by themselves."""
    if any(net_contains(net, address) for net in rule.src.nets for address in inside):
        return None
    ref, index = at
    path = ("spec", "ingress", index)
    return lint_finding(LintCode.CIDR_HIDDEN, _hidden_words(service), ref, path)


def shared_address_findings(view: View) -> Iterator[Finding]:
    """Live pods that have one address: policy can only be told for one of them."""
    pods_by_address: dict[Address, list[ObjectRef]] = {}
    for ref, endpoint in view.endpoints.items():
        for address in endpoint.addresses:
            pods_by_address.setdefault(address, []).append(ref)
    for address, refs in sorted(pods_by_address.items()):
        if len(refs) < 2:
            continue
        owner = max(refs, key=lambda ref: claim(view.endpoints[ref]))
        for ref in sorted(refs):
            if ref != owner:
                message = (
                    f"{address} is also the address of pod {owner.namespace}/{owner.name}, "
                    "which counts as its owner: the newest does"
                )
                yield lint_finding(LintCode.ADDRESS_SHARED, message, ref, ("status",))
