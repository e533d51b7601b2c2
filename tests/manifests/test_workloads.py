"""What every container of ours holds to, as the manifests are written.

That the API server takes them and that everything runs by them is tested in tests/cluster.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from calico_k8s.certificates.names import AUTHORITY_NAME, MEMBER, SIGNER_NAME, Holder
from calico_k8s.cli.certificates import METRICS_PORT as SIGNER_PORT
from calico_k8s.cli.controller import METRICS_PORT as CONTROLLER_PORT
from calico_k8s.cli.node import DEFAULT_STATE, FELIX_METRICS_PORT
from calico_k8s.controller.process import LEASE_NAME

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
Document = dict[str, Any]  # Any: what YAML can say


def documents() -> list[Document]:
    return [
        document
        for folder in ("base", "clean", "proxies")
        for path in sorted((MANIFESTS / folder).glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def workloads() -> list[Document]:
    return [
        each for each in documents() if each["kind"] in ("Deployment", "DaemonSet", "StatefulSet")
    ]


def pod(workload: Document) -> Document:
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Document) -> list[Document]:
    return [*pod(workload).get("initContainers", ()), *pod(workload)["containers"]]


CONTAINERS = [(workload, each) for workload in workloads() for each in containers(workload)]
IDS = [f"{workload['metadata']['name']}/{each['name']}" for workload, each in CONTAINERS]


@pytest.mark.parametrize(("workload", "container"), CONTAINERS, ids=IDS)
def test_a_container_gets_nothing_that_it_does_not_need(
    workload: Document, container: Document
) -> None:
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"]["drop"] == ["ALL"]
    added = security["capabilities"].get("add", [])
    changes_kernel = container["name"] in ("felix", "kernel")
    assert added == (["NET_ADMIN", "NET_RAW"] if changes_kernel else [])
    assert "privileged" not in security
    assert container["resources"].keys() == {"requests", "limits"}
    assert "memory" in container["resources"]["limits"]
    assert "cpu" not in container["resources"]["limits"], "policy that is throttled is late policy"
    assert ("livenessProbe" in container) is (workload["metadata"]["name"] != "calico-k8s-clean")
    mounts = {each["mountPath"] for each in container.get("volumeMounts", ())}
    has_token = "/var/run/secrets/kubernetes.io/serviceaccount" in mounts
    speaks_to_kubernetes = container["name"] in ("controller", "signer", "certificate")
    assert has_token is speaks_to_kubernetes


@pytest.mark.parametrize("workload", workloads(), ids=lambda each: str(each["metadata"]["name"]))
def test_a_pod_needs_no_dns_no_service_and_no_network_of_pods(workload: Document) -> None:
    spec = pod(workload)
    assert spec["hostNetwork"] is True
    assert spec["dnsPolicy"] == "Default"
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["priorityClassName"].startswith("system-")
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"operator": "Exists"}.items() <= spec["tolerations"][0].items()
    name = workload["metadata"]["name"]
    assert workload["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}
    for each in containers(workload):
        if "kube-api" in {mount["name"] for mount in each.get("volumeMounts", ())}:
            names = {variable["name"] for variable in each["env"]}
            assert {"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"} <= names


def test_names_in_the_manifests_are_those_in_the_program() -> None:
    folders = (MANIFESTS / "base", MANIFESTS / "proxies")
    text = "".join(path.read_text() for folder in folders for path in folder.glob("*.yaml"))
    for holder in Holder:
        assert f"serviceAccountName: {holder.value}\n" in text
    assert f"resourceNames: [{SIGNER_NAME}]" in text
    assert f"resourceNames: [{AUTHORITY_NAME}]" in text
    assert f"resourceNames: [{LEASE_NAME}]" in text
    assert f"--peer-cert-allowed-cn={MEMBER}\n" in text
    ports = {
        "calico-k8s-controller": CONTROLLER_PORT,
        "calico-k8s-felix": FELIX_METRICS_PORT,
        "calico-k8s-signer": SIGNER_PORT,
    }
    for workload in workloads():
        told = workload["spec"]["template"]["metadata"].get("annotations", {})
        port = ports.get(workload["metadata"]["name"])
        assert told.get("prometheus.io/port") == (None if port is None else str(port))


def test_etcd_is_the_release_that_is_tested() -> None:
    (tested,) = re.findall(r"server/v3 (v[\d.]+)\n", (ROOT / "tests/etcd/go.mod").read_text())
    (used,) = {each["image"] for _, each in CONTAINERS if each["name"] in ("etcd", "etcd-proxy")}
    assert used.endswith(f":{tested}")


def test_what_a_booted_node_starts_from_is_where_felix_keeps_it() -> None:
    unit = (MANIFESTS / "node" / "calico-k8s-restore.service").read_text()
    assert f"ConditionPathExists={DEFAULT_STATE}\n" in unit
    (felix,) = (each for each in workloads() if each["metadata"]["name"] == "calico-k8s-felix")
    (state,) = (
        each["hostPath"]["path"] for each in pod(felix)["volumes"] if each["name"] == "state"
    )
    assert Path(DEFAULT_STATE).parent == Path(state)
    capabilities = {"CAP_NET_ADMIN", "CAP_NET_RAW"}
    assert set(re.findall(r"CAP_\w+", unit)) == capabilities
