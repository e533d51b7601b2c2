"""Pods of workloads: how many, their names, what they carry."""

import pytest

from calico_k8s.sources.replicas import decode_workload, make_pods, makes_pods
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import Metadata, OwnerReference, Pod, PodSpec

NODES = ("n1", "n2", "n3")


def names(
    *documents: dict[str, object], given: tuple[Pod, ...] = (), idle: bool = False
) -> list[str]:
    return [pod.metadata.name for pod in pods(*documents, given=given, idle=idle)]


def pods(
    *documents: dict[str, object], given: tuple[Pod, ...] = (), idle: bool = False
) -> list[Pod]:
    workloads = {}
    for document in documents:
        ref, workload, findings = decode_workload(str(document["kind"]), document)
        assert workload is not None, findings
        workloads[ref] = workload
    named = {ObjectRef("Pod", "default", pod.metadata.name): pod for pod in given}
    return [made.pod for _ref, made in make_pods(workloads, named, NODES, idle=idle)]


def workload(kind: str, spec: dict[str, object] | None = None, **more: object) -> dict[str, object]:
    return {"kind": kind, "metadata": {"name": "w"}, "spec": spec or {}, **more}


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("Deployment", {}, ["w-0"]),
        ("Deployment", {"replicas": 3}, ["w-0", "w-1", "w-2"]),
        ("Deployment", {"replicas": 0}, []),
        ("ReplicaSet", {"replicas": 2}, ["w-0", "w-1"]),
        ("ReplicationController", {}, ["w-0"]),
        ("StatefulSet", {"replicas": 2, "ordinals": {"start": 5}}, ["w-5", "w-6"]),
        ("DaemonSet", {}, ["w-0", "w-1", "w-2"]),
        ("Job", {}, ["w-0"]),
        ("Job", {"parallelism": 3, "completions": 2}, ["w-0", "w-1"]),
        ("Job", {"parallelism": 0}, []),
        ("Job", {"suspend": True}, []),
        ("CronJob", {"jobTemplate": {"spec": {"parallelism": 2}}}, ["w-0", "w-1"]),
        ("CronJob", {"suspend": True, "jobTemplate": {"spec": {}}}, []),
    ],
)
def test_a_workload_has_so_many_pods(
    kind: str, spec: dict[str, object], expected: list[str]
) -> None:
    assert names(workload(kind, spec)) == expected


def test_a_finished_job_has_no_pod() -> None:
    done = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert names(workload("Job", status=done)) == []


def test_a_workload_at_rest_has_one_pod_when_templates_are_checked() -> None:
    assert names(workload("Deployment", {"replicas": 0}), idle=True) == ["w-0"]
    assert names(workload("CronJob", {"suspend": True}), idle=True) == ["w-0"]


def test_the_pods_of_a_daemon_set_are_one_on_each_node() -> None:
    found = pods(workload("DaemonSet"))
    assert [pod.spec.node_name for pod in found if pod.spec] == list(NODES)


def test_pods_carry_their_template_and_what_the_controllers_add() -> None:
    template = {
        "metadata": {"labels": {"app": "db"}, "annotations": {"policy": "allow"}},
        "spec": {"serviceAccountName": "sa", "hostNetwork": True},
    }
    (pod,) = pods(workload("StatefulSet", {"template": template}))
    assert pod.metadata.labels == {
        "app": "db",
        "apps.kubernetes.io/pod-index": "0",
        "statefulset.kubernetes.io/pod-name": "w-0",
    }
    assert pod.metadata.annotations == {"policy": "allow"}
    assert pod.spec == PodSpec(service_account_name="sa", host_network=True)


def test_a_name_that_is_taken_gets_the_kind_put_in() -> None:
    both = (workload("Deployment", {"replicas": 2}), workload("StatefulSet"))
    assert names(*both) == ["w-0", "w-deployment-0", "w-deployment-1"]
    taken = Pod(Metadata(name="w-1"))
    assert names(workload("StatefulSet", {"replicas": 2}), given=(taken,)) == [
        "w-statefulset-0",
        "w-statefulset-1",
    ]


def test_a_workload_whose_pods_are_given_makes_none() -> None:
    owned = {"metadata": {"name": "rs", "ownerReferences": [{"kind": "Deployment", "name": "w"}]}}
    replica_set: dict[str, object] = {"kind": "ReplicaSet", **owned, "spec": {"replicas": 2}}
    deployment = workload("Deployment", {"replicas": 2})
    assert names(deployment, replica_set) == ["rs-0", "rs-1"]
    owner = OwnerReference("ReplicaSet", "rs")
    given = Pod(Metadata(name="rs-x7f", owner_references=(owner,)))
    assert names(deployment, replica_set, given=(given,)) == []


@pytest.mark.parametrize(
    ("version", "kind", "is_workload"),
    [
        ("apps/v1", "Deployment", True),
        ("extensions/v1beta1", "Deployment", True),
        ("v1", "ReplicationController", True),
        ("batch/v1", "CronJob", True),
        ("apps.openshift.io/v1", "Deployment", False),
        ("v1", "Deployment", False),
    ],
)
def test_a_workload_is_known_by_its_group_too(version: str, kind: str, is_workload: bool) -> None:
    assert makes_pods(version, kind) is is_workload


@pytest.mark.parametrize("replicas", ["2", -1, 2**31 - 1])
def test_a_broken_workload_is_found_with_its_field(replicas: object) -> None:
    """A number that no cluster has is one: its pods would take all memory."""
    written = workload("Deployment", {"replicas": replicas})
    _ref, found, findings = decode_workload("Deployment", written)
    assert found is None
    assert [finding.path for finding in findings] == [("spec", "replicas")]
