"""A directory of manifests, enforced on one node, and followed as its files are saved."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import LabNode, LabPlan, LabPod, ListenPort, Place, PodId
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import Probe
from calico_k8s.lab.stream import StreamKind
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import PROTOCOL_NUMBERS, Action
from tests.felix.nodes import until

pytestmark = pytest.mark.kernel

TCP = PROTOCOL_NUMBERS["tcp"]
NODE = LabNode(NodeName("n1"), (Address("192.168.0.1"),), (Net("10.1.0.0/24"),))
FRONT = LabPod(PodId("web/front"), NODE.name, (Address("10.1.0.1"),))
BACK = LabPod(PodId("web/back"), NODE.name, (Address("10.1.0.2"),))
PLAN = LabPlan((NODE,), (FRONT, BACK), (), (ListenPort(TCP, 80), ListenPort(TCP, 81)))
START_S, SAVED_S = 60.0, 30.0
"""How long a verdict is waited for; how quick it is, the benches tell."""


def manifest(name: str, address: str, policy: str | None = None) -> str:
    annotation = "" if policy is None else f"\n  annotations: {{policy: '{policy}'}}"
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: web\n"
        f"  labels: {{app: {name}}}{annotation}\n"
        f"spec:\n  nodeName: n1\n  containers: []\n"
        f"status:\n  phase: Running\n  podIP: {address}\n"
    )


@contextmanager
def standalone(cluster: Cluster, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    site = cluster.nodes[NODE.name]
    words = ["standalone", str(folder), "--node", NODE.name, "--iptables-backend", "nft"]
    words += ["--datastore", f"sqlite://{log.parent}/state.db", "--state-file", f"{log.parent}/s"]
    environment = {**os.environ, "XTABLES_LOCKFILE": str(site.xtables_lockfile)}
    with log.open("wb") as errors, entered(site.namespace):
        process = subprocess.Popen(
            [sys.executable, "-m", "calico_k8s", *words], env=environment, stderr=errors
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[Cluster, Prober, Path]]:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "front.yaml").write_text(manifest("front", "10.1.0.1"))
    (folder / "back.yaml").write_text(manifest("back", "10.1.0.2"))
    with cluster_up(PLAN) as cluster, Prober(PLAN, cluster.places()) as prober:
        yield cluster, prober, folder


def question(port: int) -> Probe:
    return Probe(Place("web/front"), BACK.addresses[0], port, TCP)


def wait_for(prober: Prober, port: int, verdict: Action, within_s: float) -> None:
    stream = prober.stream(question(port), StreamKind.NEW, 0.005)
    try:
        stream.wait_for(verdict, since_s=time.monotonic(), within_s=within_s)
    finally:
        prober.stop(stream)


def test_a_saved_policy_is_in_force_and_a_broken_file_changes_nothing(
    lab: tuple[Cluster, Prober, Path], tmp_path: Path
) -> None:
    cluster, prober, folder = lab
    log = tmp_path / "log"
    back = folder / "back.yaml"
    with standalone(cluster, folder, log) as process:
        back.write_text(manifest("back", "10.1.0.2", "allow tcp from label app=front to port 81"))
        wait_for(prober, 80, Action.DENY, START_S)
        assert prober.probe([question(81)])[0].verdict is Action.ALLOW

        back.write_text(manifest("back", "10.1.0.2", "allow tcp to port 80"))
        wait_for(prober, 80, Action.ALLOW, SAVED_S)
        wait_for(prober, 81, Action.DENY, SAVED_S)

        back.write_text("kind: Pod\nmetadata: {name: [")
        assert until(lambda: "back.yaml" in log.read_text(), SAVED_S)
        assert prober.probe([question(80)])[0].verdict is Action.ALLOW
        assert prober.probe([question(81)])[0].verdict is Action.DENY

        back.write_text(manifest("back", "10.1.0.2", "alow tcp"))
        wait_for(prober, 80, Action.DENY, SAVED_S)
        assert until(lambda: "alow" in log.read_text(), SAVED_S)
        assert process.poll() is None


def test_what_standalone_enforced_stands_when_it_has_ended(
    lab: tuple[Cluster, Prober, Path], tmp_path: Path
) -> None:
    cluster, prober, folder = lab
    with standalone(cluster, folder, tmp_path / "log") as process:
        (folder / "back.yaml").write_text(manifest("back", "10.1.0.2", "deny"))
        wait_for(prober, 80, Action.DENY, START_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert prober.probe([question(80)])[0].verdict is Action.DENY
