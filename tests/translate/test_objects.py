"""Decoding: only what is used, as lenient as Kubernetes, and errors that name the field."""

import msgspec
import pytest

from calico_k8s.translate import objects
from calico_k8s.translate.findings import Code, ObjectRef, Severity
from calico_k8s.translate.objects import decode_object, known_kind


def test_a_pod_is_decoded_with_the_fields_that_are_used() -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "a",
            "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}],
            "tolerations": [{"key": "x"}],
        },
        "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "phase": "Running"},
    }
    decoded = decode_object("Pod", document)
    assert decoded.ref == ObjectRef("Pod", "default", "a")
    assert decoded.findings == ()
    assert isinstance(decoded.object, objects.Pod)
    assert decoded.object.status == objects.PodStatus(
        "Running", "10.0.0.1", (objects.PodIp("10.0.0.1"),)
    )


def test_null_is_absent_as_in_kubernetes() -> None:
    document = {"metadata": {"name": "a", "labels": None, "creationTimestamp": None}, "spec": None}
    assert decode_object("Service", document).findings == ()


@pytest.mark.parametrize(
    ("kind", "document", "message"),
    [
        ("Pod", {}, "Pod/default/?: metadata is missing"),
        ("Pod", {"metadata": {}}, "Pod/default/?: metadata.name is missing"),
        ("Pod", {"metadata": None}, "Pod/default/?: metadata should be a mapping, not nothing"),
        ("Pod", [], "Pod/default/?: the object should be a mapping, not a list"),
        (
            "Namespace",
            {"metadata": {"name": "a", "annotations": {"x": "y", "flag": True}}},
            "Namespace/a: metadata.annotations.flag should be text, not true or false: put it",
        ),
        (
            "Service",
            {"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 70000}]}},
            "Service/n/s: spec.ports[0].port should be at most 65535",
        ),
        (
            "Service",
            {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "protocol": "tcp"}]}},
            "Service/default/s: spec.ports[0].protocol has the value 'tcp', which is none of its choices: TCP",
        ),
        ("Pod", {"metadata": {"name": "A_b"}}, "Pod/default/A_b: metadata.name 'A_b' is no name"),
        (
            "Pod",
            {"metadata": {"name": "a", "namespace": "x.y"}},
            "Pod/x.y/a: metadata.namespace 'x.y' is no name",
        ),
        ("Namespace", {"metadata": {"name": "x.y"}}, "Namespace/x.y: metadata.name 'x.y' is no"),
    ],
)
def test_what_cannot_be_used_is_found_with_its_object_and_field(
    kind: str, document: object, message: str
) -> None:
    decoded = decode_object(kind, document)
    assert decoded.object is None
    (finding,) = decoded.findings
    assert finding.message.startswith(message)
    assert (finding.code, finding.severity) == (Code.OBJECT_INVALID, Severity.ERROR)


def test_the_path_of_a_finding_leads_to_the_field() -> None:
    document = {"metadata": {"name": "a", "labels": {"good": "x", "version": 2}}}
    (finding,) = decode_object("Pod", document).findings
    assert finding.path == ("metadata", "labels", "version")


@pytest.mark.parametrize(
    ("api_version", "kind", "ours"),
    [
        ("v1", "Service", "Service"),
        ("serving.knative.dev/v1", "Service", None),
        ("discovery.k8s.io/v1", "EndpointSlice", "EndpointSlice"),
        ("v1", "EndpointSlice", None),
        ("v1", "ConfigMap", None),
        ("networking.k8s.io/v1", "NetworkPolicy", "NetworkPolicy"),
        ("projectcalico.org/v3", "NetworkPolicy", "CalicoNetworkPolicy"),
        ("projectcalico.org/v3", "CalicoNetworkPolicy", None),
    ],
)
def test_a_kind_is_known_by_its_group_too(api_version: str, kind: str, ours: str | None) -> None:
    assert known_kind(api_version, kind) == ours


def test_a_list_from_the_api_decodes_by_type() -> None:
    class PodList(msgspec.Struct):
        items: list[objects.Pod]

    raw = b'{"kind":"PodList","items":[{"metadata":{"name":"a"},"spec":{"containers":[]}}]}'
    decoded = msgspec.json.decode(raw, type=PodList)
    assert decoded.items[0].metadata.name == "a"
