"""What is behind a service, as kube-proxy would have it."""

from calico_k8s.sources.backends import declared_ports, service_backends
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import ClusterObjects, expand

PODS = """
kind: Pod
apiVersion: v1
metadata: {name: a, labels: {app: web}}
spec: {containers: [{ports: [{name: http, containerPort: 8001}]}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, labels: {app: web}}
spec: {containers: [{ports: [{name: http, containerPort: 8002}, {containerPort: 53, protocol: UDP}]}]}
status: {podIP: 10.0.0.2}
---
kind: Pod
apiVersion: v1
metadata: {name: c, labels: {app: web}}
status: {podIP: 10.0.0.3}
---
kind: Pod
apiVersion: v1
metadata: {name: done, labels: {app: web}}
status: {podIP: 10.0.0.4, phase: Succeeded}
---
kind: Pod
apiVersion: v1
metadata: {name: other, namespace: x, labels: {app: web}}
status: {podIP: 10.0.0.5}
---
"""


def cluster(service: str) -> ClusterObjects:
    reading = read_text(PODS + service, "f")
    assert not reading.errors
    return expand(reading.manifests)


def backends(service: str) -> list[tuple[int, int, list[tuple[str, int]]]]:
    found = cluster(service)
    return [
        (protocol, port, [(str(backend.address), backend.port) for backend in behind])
        for protocol, port, behind in service_backends(found, found.services[0])
    ]


SERVICE = "kind: Service\napiVersion: v1\nmetadata: {name: s}\nspec: "


def test_a_named_port_leads_to_each_pod_s_own_number() -> None:
    spec = "{selector: {app: web}, ports: [{port: 80, targetPort: http}]}"
    assert backends(SERVICE + spec) == [
        (6, 80, [("10.0.0.1", 8001), ("10.0.0.2", 8002), ("fd00::1", 8001)])
    ]


def test_a_number_leads_to_every_pod_that_is_not_finished() -> None:
    spec = "{selector: {app: web}, ports: [{port: 53, protocol: UDP}]}"
    assert backends(SERVICE + spec) == [
        (17, 53, [("10.0.0.1", 53), ("10.0.0.2", 53), ("10.0.0.3", 53), ("fd00::1", 53)])
    ]


def test_without_a_selector_the_slices_say_it_by_the_port_s_name() -> None:
    text = SERVICE + (
        "{ports: [{name: a, port: 80}, {name: b, port: 81}]}\n"
        "---\nkind: EndpointSlice\napiVersion: discovery.k8s.io/v1\n"
        "metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\n"
        "ports: [{name: a, port: 9000}]\nendpoints: [{addresses: [192.0.2.1, example.org]}]\n"
    )
    assert backends(text) == [(6, 80, [("192.0.2.1", 9000)]), (6, 81, [])]


def test_every_container_port_is_declared_once() -> None:
    assert declared_ports(cluster(SERVICE + "{}")) == ((6, 8001), (6, 8002), (17, 53))
