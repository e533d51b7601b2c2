"""A live cluster as SOURCE: what commands say of it."""

from pathlib import Path

import pytest

from tests.cli.program import run
from tests.cluster.objects import KubeObjects
from tests.cluster.servers import NOBODY, ApiServer

pytestmark = pytest.mark.cluster


@pytest.fixture
def pods(objects: KubeObjects, namespace: str) -> str:
    """A namespace with a pod that takes one port from one label, and two that ask."""
    policy = {"policy": "allow tcp from label access=web to port 80"}
    objects.pod(namespace, "db", ["10.5.0.1"], annotations=policy)
    objects.pod(namespace, "friend", ["10.5.0.2"], labels={"access": "web"})
    objects.pod(namespace, "stranger", ["10.5.0.3"])
    return namespace


def test_can_and_explain_answer_for_a_live_cluster(kube: ApiServer, pods: str) -> None:
    source = ("--kubeconfig", kube.kubeconfig(), "--context", "admin")
    for name, code in (("friend", 0), ("stranger", 1)):
        question = ("--from", f"{pods}/{name}", "--to", f"{pods}/db", "--port", "80")
        assert run("can", *source, *question).code == code
    denied = run(
        "explain", *source, "--from", f"{pods}/stranger", "--to", f"{pods}/db", "--port", 80
    )
    assert f"{pods}/db" in denied.out


def test_a_live_cluster_gives_the_same_matrix_as_its_manifests(
    kube: ApiServer, pods: str, tmp_path: Path
) -> None:
    file = tmp_path / "live.json"
    file.write_text(kube.kubectl("get", "nodes,namespaces,services,pods", "-A", "-o", "json"))
    ports = ("--port", "80", "-o", "json")
    live = run("matrix", "--kubeconfig", kube.kubeconfig(), *ports).json
    written = run("matrix", file, *ports).json
    assert len(live["pods"]) >= 3
    # Nodes that no object stands for are made up for manifests only.
    assert live["probes"] == written["probes"]


def test_lint_tells_what_is_wrong_in_a_live_cluster(
    kube: ApiServer, objects: KubeObjects, namespace: str
) -> None:
    objects.pod(namespace, "web", ["10.5.1.1"], annotations={"policy": "allow tcp frm label a"})
    ran = run("lint", "--kubeconfig", kube.kubeconfig(), "--format", "json")
    assert ran.code == 1
    assert [each["code"] for each in ran.json if each["object"] == f"Pod/{namespace}/web"] == [
        "annotation-syntax"
    ]
    text = run("lint", "--kubeconfig", kube.kubeconfig()).out
    shown = "    allow tcp frm label a\n              ^^^"
    assert f"(Pod/{namespace}/web) [annotation-syntax]\n{shown}" in text


def test_what_is_missing_is_said(kube: ApiServer, tmp_path: Path) -> None:
    question = ("--from", "a/b", "--to", "a/c", "--port", "80")
    missing = run("can", "--kubeconfig", tmp_path / "none", *question)
    assert (missing.code, "--kubeconfig PATH" in missing.err) == (2, True)
    context = run("can", "--kubeconfig", kube.kubeconfig(), "--context", "other", *question)
    assert (context.code, "--context NAME" in context.err) == (2, True)
    refused = run("can", "--kubeconfig", kube.kubeconfig(NOBODY), *question)
    assert (refused.code, "forbidden" in refused.err) == (3, True)
    away = tmp_path / "away"
    away.write_text(kube.kubeconfig().read_text().replace(kube.url, "https://127.0.0.1:1"))
    assert run("can", "--kubeconfig", away, *question).code == 3
    both = run("can", tmp_path, "--kubeconfig", kube.kubeconfig(), *question)
    assert (both.code, "not both" in both.err) == (2, True)
