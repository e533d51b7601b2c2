"""What is refused at the door: what the writer of an object does wrong, in lint's words."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from calico_k8s.admission.review import Answer, Request, answer, answer_document
from calico_k8s.lint.problems import CODES
from calico_k8s.lint.rules import lint_manifests
from calico_k8s.sources.documents import read_text
from calico_k8s.translate.namespaces import TranslateSettings

Document = dict[str, Any]  # Any: what JSON can say

BAD, GOOD = "allow tcp from lable a=b to port 22", "allow tcp from label a=b to port 22"
REFUSAL = """\
the policy does not parse, so nothing reaches the pod: expected 'label', 'port', 'namespace', \
'cidr' or 'selector', found 'lable'; did you mean 'label'?
annotation policy, line 1, column 16:
  allow tcp from lable a=b to port 22
                 ^^^^^"""


def metadata(annotations: Mapping[str, str] | None = None, **more: Any) -> Document:  # Any: JSON
    return {"name": "x", "namespace": "shop", "annotations": dict(annotations or {}), **more}


def pod(policy: str | None, **more: Any) -> Document:  # Any: as above
    annotations = {} if policy is None else {"policy": policy}
    spec = {"containers": [{"name": "main", "image": "none"}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(annotations, **more),
        "spec": spec,
    }


def template(policy: str) -> Document:
    made = pod(policy)
    return {"metadata": made["metadata"], "spec": made["spec"]}


def workload(kind: str, policy: str) -> Document:
    spec: Document = {"template": template(policy), "selector": {}, "replicas": 50_000}
    group = "apps/v1"
    match kind:
        case "ReplicationController":
            group = "v1"
        case "Job":
            spec, group = {"template": template(policy), "parallelism": 9}, "batch/v1"
        case "CronJob":
            inner = {"template": template(policy), "completions": 1_000_000}
            spec, group = {"jobTemplate": {"spec": inner}, "suspend": True}, "batch/v1"
        case _:
            pass
    return {"apiVersion": group, "kind": kind, "metadata": metadata(), "spec": spec}


def asked(now: Document | None, before: Document | None = None) -> Answer:
    return answer(Request("1", "CREATE", now, before), TranslateSettings())


WORKLOADS = (
    *("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController"),
    *("Job", "CronJob"),
)


@pytest.mark.parametrize("bad", [pod(BAD), *(workload(kind, BAD) for kind in WORKLOADS)])
def test_a_bad_annotation_is_refused_with_its_place_and_the_nearest_word(bad: Document) -> None:
    assert asked(bad) == Answer(REFUSAL)


@pytest.mark.parametrize("good", [pod(GOOD), pod(None), *(workload(k, GOOD) for k in WORKLOADS)])
def test_what_is_right_is_let_in(good: Document) -> None:
    assert asked(good) == Answer()


def flagged(kind: str, value: str) -> Document:
    labels = {"projectcalico-policy": value}
    made: Document = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "labels": labels}}
    if kind == "Service":
        made["metadata"]["namespace"] = "shop"
        made["spec"] = {"selector": {"a": "b"}, "ports": [{"port": 80}]}
    return made


def calico(spec: Document, kind: str = "NetworkPolicy") -> Document:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": metadata(),
        "spec": spec,
    }


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (flagged("Namespace", "close"), "close"),
        (flagged("Service", "opne"), "opne"),
        (calico({"selector": "app = 'x'"}), "selector"),
        (calico({"ingress": [{"action": "Alow"}]}), "Alow"),
        (calico({"order": 1}, "Tier") | {"metadata": {"name": "default"}}, "order"),
    ],
)
def test_a_bad_flag_selector_policy_or_tier_is_refused(bad: Document, words: str) -> None:
    assert words in asked(bad).refusal


@pytest.mark.parametrize(
    "fine",
    [
        flagged("Namespace", "closed"),
        flagged("Service", "open"),
        calico({"selector": "app == 'x'", "tier": "nowhere"}),
        pod("allow tcp from namespace nowhere to port 80"),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(), "data": {"a": "b"}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}, "spec": {}},
    ],
)
def test_what_only_other_objects_would_show_to_be_wrong_is_no_reason(fine: Document) -> None:
    assert asked(fine) == Answer()


def test_what_was_wrong_in_the_same_words_does_not_stop_another_change() -> None:
    labelled = pod(BAD, labels={"touched": "by a controller"})
    assert asked(labelled, pod(BAD)).refusal == ""
    assert asked(labelled, pod(BAD)).warnings == (REFUSAL.partition("\n")[0],)
    assert asked(pod(BAD), pod(GOOD)).refusal == REFUSAL
    assert asked(pod(BAD + "0"), pod(BAD)).refusal, "another wrong text"
    assert asked(pod(GOOD), pod(BAD)) == Answer()


def test_what_a_controller_makes_of_what_was_let_in_is_let_in() -> None:
    owner = {"kind": "ReplicaSet", "name": "x", "controller": True}
    assert asked(pod(BAD, ownerReferences=[owner])).refusal == ""
    assert asked(pod(BAD, ownerReferences=[owner])).warnings
    assert asked(pod(BAD, ownerReferences=[owner | {"controller": False}])).refusal == REFUSAL


def test_what_is_probably_not_meant_is_a_warning() -> None:
    found = asked(pod("allow; deny tcp"))
    assert found.refusal == ""
    (warning,) = found.warnings
    assert warning.startswith("statement 2 never matches")


def test_ports_of_containers_are_known() -> None:
    named = pod("allow tcp to port web")
    assert asked(named).warnings, "no container has such a port"
    ports = [{"name": "web", "containerPort": 80}]
    named["spec"]["containers"][0] |= {"ports": ports, "env": [{"name": "A", "value": "b" * 9}]}
    assert asked(named) == Answer()


def test_a_deletion_is_not_looked_at() -> None:
    assert asked(None, pod(BAD)) == Answer()


def test_the_text_is_that_of_lint() -> None:
    (problem,) = lint_manifests(read_text(json.dumps(pod(BAD)), "").manifests)
    assert asked(pod(BAD)).refusal.startswith(problem.message + "\n")
    assert problem.excerpt.splitlines()[1:3] == REFUSAL.splitlines()[2:]
    assert CODES[problem.code].severity == "error"


def test_the_answer_is_one_of_the_api_servers() -> None:
    request = Request("42")
    refused = msgspec.json.decode(answer_document(request, Answer("no", ("a",))))
    assert refused == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": "42",
            "allowed": False,
            "status": {"code": 422, "message": "no"},
            "warnings": ["a"],
        },
    }
    allowed = msgspec.json.decode(answer_document(request, Answer()))
    assert allowed["response"] == {"uid": "42", "allowed": True}


def test_a_long_text_is_cut_and_a_large_object_is_answered_soon() -> None:
    many = "\n".join(["allow frm x"] * 2000)
    found = asked(pod(many))
    assert len(found.refusal) <= 8192
    assert all(len(warning) <= 256 for warning in found.warnings)


def calicos(kind: str, spec: Document) -> Document:
    made = {"name": "x"} | (
        {} if "Global" in kind or kind == "HostEndpoint" else {"namespace": "s"}
    )
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": made, "spec": spec}


GLOBAL = {"selector": "all()", "ingress": [{"action": "Alow"}]}
PRE_DNAT = {"selector": "all()", "preDNAT": True, "types": ["Ingress"]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (calicos("StagedGlobalNetworkPolicy", GLOBAL), "Alow"),
        (calicos("StagedNetworkPolicy", GLOBAL), "Alow"),
        (calicos("StagedNetworkPolicy", {"stagedAction": "Sett"}), "'Sett' is none of Set,"),
        (
            calicos("StagedKubernetesNetworkPolicy", {"podSelector": {"matchLabels": 1}}),
            "spec.podSelector",
        ),
        (calicos("StagedGlobalNetworkPolicy", PRE_DNAT), "preDNAT needs applyOnForward"),
        (calicos("GlobalNetworkPolicy", PRE_DNAT), "preDNAT needs applyOnForward"),
        (calicos("HostEndpoint", {"interfaceName": "eth0"}), "spec.node is missing"),
        (calicos("HostEndpoint", {"node": "n"}), "no expectedIPs tells the interface"),
        (
            calicos("HostEndpoint", {"node": "n", "interfaceName": "e/0"}),
            "'e/0' is neither an interface's name",
        ),
    ],
)
def test_staged_kinds_and_host_endpoints_are_refused_as_the_others(
    document: Document, words: str
) -> None:
    assert words in asked(document).refusal


def test_a_whole_staged_policy_and_host_endpoint_are_let_in() -> None:
    for document in (
        calicos("StagedGlobalNetworkPolicy", {"stagedAction": "Delete"}),
        calicos("StagedNetworkPolicy", {"ingress": [{"action": "Allow"}]}),
        calicos("StagedKubernetesNetworkPolicy", {"podSelector": {}}),
        calicos("HostEndpoint", {"node": "n", "interfaceName": "eth0"}),
    ):
        assert asked(document) == Answer()
