"""A live cluster as SOURCE: what commands say of it."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.controller.kube import connect
from tests import needs
from tests.cli.program import run
from tests.cluster.objects import KubeObjects
from tests.cluster.servers import NOBODY, ApiServer, api_server

pytestmark = pytest.mark.cluster

HOST_NETWORK = {"hostNetwork": True}


@pytest.fixture
def pods(objects: KubeObjects, namespace: str) -> str:
    """A namespace with a pod that takes one port from one label, and two that ask."""
    policy = {"policy": "allow tcp from label access=web to port 80"}
    net = f"10.6.{namespace.rpartition('-')[2]}"  # an address that two pods have is one's only
    objects.pod(namespace, "db", [f"{net}.1"], annotations=policy)
    objects.pod(namespace, "friend", [f"{net}.2"], labels={"access": "web"})
    objects.pod(namespace, "stranger", [f"{net}.3"])
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


@pytest.mark.kernel
def test_a_live_cluster_is_built_in_a_lab_and_asked_with_packets(tmp_path: Path) -> None:
    """A server of its own: a lab builds all that is there, whatever other tests have left."""
    needs.require_root()
    policy = {"policy": "allow tcp from label access=web to port 80"}
    with api_server(tmp_path) as kube, closing(connect(str(kube.kubeconfig()))) as api:
        objects = KubeObjects(api)
        objects.node("node-2", ["192.168.7.2"], ["10.7.2.0/24"])
        objects.namespace("shop")
        objects.pod("shop", "db", ["10.7.2.2"], annotations=policy, spec={"nodeName": "node-2"})
        objects.pod("shop", "friend", ["10.7.1.2"], labels={"access": "web"})
        objects.pod("shop", "stranger", ["10.7.1.3"])
        objects.pod("shop", "pending")
        source = ("--kubeconfig", kube.kubeconfig(), "--port", "80", "-o", "json")
        computed, seen = run("matrix", *source).json, run("lab", "matrix", *source).json
    assert seen["probes"] == computed["probes"]
    assert [pod["id"] for pod in seen["pods"]] == ["shop/db", "shop/friend", "shop/stranger"]
    assert {each["verdict"] for each in seen["probes"]} == {"allow", "deny"}


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


def test_lint_lists_what_installing_would_change_and_nothing_else(
    kube: ApiServer, objects: KubeObjects, namespace: str
) -> None:
    """Look before you leap: nothing of ours runs there."""
    flags = {"projectcalico-policy": "closed"}
    objects.pod(namespace, "plain", ["10.5.2.1"])
    objects.pod(namespace, "theirs", ["10.5.2.2"], annotations={"policy": "Always"})
    objects.pod(namespace, "ours", ["10.5.2.3"], annotations={"policy": "allow tcp to port 80"})
    objects.pod(namespace, "host", ["10.5.2.4"], annotations={"policy": ""}, spec=HOST_NETWORK)
    objects.pod(namespace, "unborn", annotations={"policy": ""})
    kube.kubectl("-n", namespace, "create", "service", "clusterip", "web", "--tcp=80")
    kube.kubectl("-n", namespace, "label", "service", "web", "projectcalico-policy=open")

    def told() -> dict[str, str]:
        found = run("lint", "--kubeconfig", kube.kubeconfig(), "--format", "json").json
        mine = [each for each in found if f"/{namespace}" in each["object"]]
        return {each["object"]: each["severity"] for each in mine if each["code"] != "host-network"}

    pods = {f"Pod/{namespace}/ours": "note", f"Pod/{namespace}/theirs": "error"}
    service = {f"Service/{namespace}/web": "warning"}  # it has no pod yet
    assert told() == pods | service
    objects.change(f"/api/v1/namespaces/{namespace}", annotations=flags)
    assert told() == pods | service | {f"Namespace/{namespace}": "note"}
    text = run("lint", "--kubeconfig", kube.kubeconfig())
    assert "only pods of it, and open services, reach its 1 pod without an annotation" in text.out
    assert re.search(r"note: policy changes who reaches \d+ of \d+ pods", text.err)
    kube.kubectl("-n", namespace, "label", "pod", "plain", "app=web")
    assert told()[f"Service/{namespace}/web"] == "note"
    quiet = run("lint", "--kubeconfig", kube.kubeconfig(), "--no-notes", "--format", "json").json
    assert {each["severity"] for each in quiet} <= {"error", "warning"}


def test_commands_run_as_a_plugin_of_kubectl(kube: ApiServer, pods: str) -> None:
    asked = ("--from", f"{pods}/friend", "--to", f"{pods}/db", "--port", "80")
    answer = kube.kubectl("calico_k8s", "can", *asked)
    assert answer.startswith("allowed: "), "kubectl's cluster, where nobody says another"
    assert answer == kube.kubectl("calico_k8s", "can", "--kubeconfig", *asked)
    affected = kube.kubectl("calico_k8s", "affected", "--policy", f"Pod/{pods}/db")
    assert f"{pods}/friend" in affected
    assert "/kubectl-calico_k8s\n" in kube.kubectl("plugin", "list")
    shown = kube.kubectl("calico_k8s", "lint", "--help")
    assert shown.startswith("Usage: kubectl calico_k8s lint")
    # kubectl runs a plugin under either spelling, and completes the one with a dash.
    completed = kube.kubectl("__complete", "calico-k8s", "ma").splitlines()
    assert completed[0].startswith("matrix")


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
