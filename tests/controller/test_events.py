"""Findings as Kubernetes Events: what they say, and how many there are."""

import itertools
from typing import get_args

import pytest

from calico_k8s.controller.events import (
    API_VERSIONS,
    BURST,
    MESSAGE_BYTES_MAX,
    PER_S,
    Allowance,
    event_document,
    event_name,
)
from calico_k8s.controller.wire import PATHS
from calico_k8s.translate.cluster import translate_all
from calico_k8s.translate.findings import Code, Finding, ObjectRef, make_finding
from calico_k8s.translate.objects import (
    KINDS,
    CalicoNetworkPolicy,
    CalicoTier,
    Metadata,
    Namespace,
    NetworkPolicy,
    Pod,
    PolicyObject,
)

POD = ObjectRef("Pod", "shop", "web")


def finding_of(annotation: str) -> Finding:
    pod = Pod(Metadata("web", "shop", annotations={"policy": annotation}))
    (finding,) = translate_all([pod]).findings
    return finding


def test_a_mistake_is_told_with_line_column_and_a_caret() -> None:
    document = event_document(POD, "uid", finding_of("allow tcp\nallow tcp frm label a=b"), "me")
    assert document["reason"] == "AnnotationSyntax"
    assert document["type"] == "Warning"
    message = str(document["message"])
    assert message.splitlines()[1:] == [
        "annotation policy, line 2, column 11:",
        "  allow tcp frm label a=b",
        "            ^^^",
    ]
    assert "did you mean 'from'" in message.splitlines()[0]


def test_a_namespaces_own_event_is_in_that_namespace() -> None:
    namespace = Namespace(Metadata("shop", annotations={"projectcalico-policy": "shut"}))
    (finding,) = translate_all([namespace]).findings
    document = event_document(finding.object, "uid", finding, "me")
    assert document["metadata"] == {
        "name": event_name(finding.object, "uid", finding),
        "namespace": "shop",
    }
    involved = document["involvedObject"]
    assert isinstance(involved, dict)
    assert (involved["kind"], involved["name"], involved["namespace"]) == (
        "Namespace",
        "shop",
        "shop",
    )


def test_a_policys_event_is_about_an_object_of_its_own_api() -> None:
    policy = NetworkPolicy(Metadata("deny", "shop"), {"podSelector": {}, "ingress": [7]})
    (finding,) = translate_all([policy]).findings
    document = event_document(finding.object, "uid", finding, "me")
    assert document["reason"] == "PolicyInvalid"
    involved = document["involvedObject"]
    assert isinstance(involved, dict)
    assert (involved["apiVersion"], involved["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    assert "spec.ingress[0] should be a mapping" in str(document["message"])


def test_an_object_that_is_in_no_namespace_has_its_events_in_the_default_one() -> None:
    (finding,) = translate_all([CalicoTier(Metadata("security"), {"order": "first"})]).findings
    document = event_document(finding.object, "uid", finding, "me")
    assert document["metadata"] == {
        "name": event_name(finding.object, "uid", finding),
        "namespace": "default",
    }
    assert document["involvedObject"] == {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Tier",
        "name": "security",
        "uid": "uid",
    }


def test_a_calico_policys_event_has_the_kind_as_it_is_written() -> None:
    policy = CalicoNetworkPolicy(Metadata("deny", "shop"), {"types": ["Sideways"]})
    (finding,) = translate_all([policy]).findings
    involved = event_document(finding.object, "uid", finding, "me")["involvedObject"]
    assert isinstance(involved, dict)
    assert (involved["apiVersion"], involved["kind"]) == ("projectcalico.org/v3", "NetworkPolicy")


def test_findings_of_every_kind_of_policy_are_told() -> None:
    policies = {kind for kind, info in KINDS.items() if info.type in get_args(PolicyObject)}
    assert policies <= API_VERSIONS.keys()
    for kind in API_VERSIONS:
        assert (
            PATHS[kind]
            .removeprefix("/apis/")
            .removeprefix("/api/")
            .startswith(f"{API_VERSIONS[kind]}/")
        )


@pytest.mark.parametrize("letter", ["x", "ü", "界"])
def test_a_message_is_never_longer_than_the_api_server_takes(letter: str) -> None:
    for length in range(MESSAGE_BYTES_MAX - 10, MESSAGE_BYTES_MAX + 10):
        finding = make_finding(Code.FLAG_VALUE, letter * length, POD)
        message = str(event_document(POD, "uid", finding, "me")["message"])
        assert len(message.encode()) <= MESSAGE_BYTES_MAX


def test_names_are_the_same_for_the_same_finding_and_fit() -> None:
    first, second = (make_finding(Code.FLAG_VALUE, text, POD) for text in ("one", "two"))
    assert event_name(POD, "uid", first) == event_name(POD, "uid", first)
    names = {
        event_name(POD, uid, finding)
        for uid, finding in itertools.product(("uid", "other"), (first, second))
    }
    assert len(names) == 4
    long = POD._replace(name="a" * 199 + "." + "b" * 53)
    assert len(event_name(long, "uid", first)) <= 253
    assert ".." not in event_name(long, "uid", first)


def test_a_thousand_mistakes_are_told_slowly_and_a_few_at_once() -> None:
    allowance = Allowance(BURST, PER_S)
    now_s = 100.0
    waits = []
    for _ in range(1000):
        wait_s = allowance.wait_s(now_s)
        now_s += wait_s
        waits.append(wait_s)
    assert waits[:BURST] == [0.0] * BURST
    assert now_s - 100.0 == pytest.approx((1000 - BURST) / PER_S)
    assert allowance.wait_s(now_s + 3600) == 0.0
