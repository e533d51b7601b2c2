"""How soon a saved manifest is a verdict on packets, under `standalone`.

A directory of 50 pods in 50 files, two of which run in network namespaces of a lab node.  One pod's
annotation is saved anew, opened and closed in turn, in place and by replacing the file, at a quiet
moment; new connections are asked for every 2 ms.  Out: milliseconds from the write's return to the
first connection with the other verdict, beside the floor: the time until a bare watch of the
directory says that it changed.  Exit 1 where one takes longer than the budget.  Needs root.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import LabNode, LabPlan, LabPod, ListenPort, Place, PodId
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import TCP, Probe
from calico_k8s.lab.stream import Stream
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Action
from calico_k8s.sources.follow import Watch

CHANGES, PODS = 60, 50
BUDGET_MS = 200.0
START_S, PATIENCE_S, QUIET_S = 20.0, 5.0, 0.15
NODE = LabNode(NodeName("n1"), (Address("192.168.0.1"),), (Net("10.1.0.0/24"),))
FRONT = LabPod(PodId("web/front"), NODE.name, (Address("10.1.0.1"),))
BACK = LabPod(PodId("web/back"), NODE.name, (Address("10.1.0.2"),))
PLAN = LabPlan((NODE,), (FRONT, BACK), (), (ListenPort(TCP, 80),))
OPEN, CLOSED = "allow tcp to port 80", "allow tcp to port 81"


def manifest(name: str, address: str, policy: str) -> str:
    """A pod as `kubectl get -o yaml` gives it."""
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: web\n"
        f"  labels: {{app: {name}}}\n  annotations: {{policy: '{policy}'}}\n"
        "spec:\n  nodeName: n1\n  containers: []\n"
        f"status:\n  phase: Running\n  podIP: {address}\n"
    )


@contextmanager
def standalone(cluster: Cluster, folder: Path, backend: str, state: Path) -> Iterator[None]:
    """The real process, in the node's namespace, until the block ends."""
    site = cluster.nodes[NODE.name]
    words = ["standalone", str(folder), "--node", NODE.name, "--iptables-backend", backend]
    words += ["--datastore", f"sqlite://{state}/state.db", "--state-file", f"{state}/felix"]
    environment = {**os.environ, "XTABLES_LOCKFILE": str(site.xtables_lockfile)}
    with (state / "log").open("wb") as errors, entered(site.namespace):
        process = subprocess.Popen(
            [sys.executable, "-m", "calico_k8s", *words], env=environment, stderr=errors
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def save(path: Path, text: str, *, is_replaced: bool) -> float:
    """Writes a file in place, or as most editors do; when that was done."""
    target = path.with_name(f".{path.name}~") if is_replaced else path
    target.write_text(text)
    if is_replaced:
        target.replace(path)
    return time.monotonic()


def floor_ms(folder: Path) -> list[float]:
    """How soon a bare watch says that a file was saved."""
    news = threading.Event()
    times = []
    path = folder / "floor.yaml"
    with closing(Watch([str(folder)], news.set)):
        time.sleep(0.5)
        for number in range(CHANGES):
            news.clear()
            saved_s = save(path, f"# {number}\n", is_replaced=bool(number % 4 > 1))
            news.wait(PATIENCE_S)
            times.append((time.monotonic() - saved_s) * 1000)
            time.sleep(QUIET_S)
    path.unlink()
    return times


def verdict_ms(stream: Stream, path: Path) -> list[float]:
    """How soon each of the changes met a packet."""
    times = []
    for number in range(CHANGES):
        policy, verdict = ((OPEN, Action.ALLOW), (CLOSED, Action.DENY))[number % 2]
        text = manifest("back", BACK.addresses[0], policy)
        saved_s = save(path, text, is_replaced=bool(number % 4 > 1))
        beat = stream.wait_for(verdict, since_s=saved_s, within_s=PATIENCE_S)
        times.append((beat.sent_s - saved_s) * 1000)
        time.sleep(QUIET_S)
    return times


def line(name: str, times: list[float]) -> str:
    """A row of the report."""
    return f"{name:52} median {statistics.median(times):7.1f} max {max(times):7.1f} ms"


def main() -> int:
    """Prints the figures; 1 if one is over its budget."""
    is_slow = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "manifests")
        folder.mkdir()
        for number in range(3, PODS + 1):
            text = manifest(f"p{number}", f"10.1.0.{number}", f"allow tcp to port {number}")
            (folder / f"p{number}.yaml").write_text(text)
        (folder / "front.yaml").write_text(manifest("front", FRONT.addresses[0], OPEN))
        path = folder / "back.yaml"
        print(line("floor: a watch of the directory says so", floor_ms(folder)))
        for backend in ("legacy", "nft"):
            path.write_text(manifest("back", BACK.addresses[0], CLOSED))
            state = Path(name, backend)
            state.mkdir()
            with (
                cluster_up(PLAN) as cluster,
                Prober(PLAN, cluster.places()) as prober,
                standalone(cluster, folder, backend, state),
            ):
                question = Probe(Place("web/front"), BACK.addresses[0], 80, TCP)
                stream = prober.stream(question, interval_s=0.002)
                stream.wait_for(Action.DENY, since_s=time.monotonic(), within_s=START_S)
                time.sleep(2.0)
                times = verdict_ms(stream, path)
                prober.stop(stream)
            print(line(f"{backend}: annotation saved to the packet's verdict", times))
            is_slow |= max(times) > BUDGET_MS
    print(f"budget: {BUDGET_MS} ms, each of {CHANGES}")
    return int(is_slow)


if __name__ == "__main__":
    sys.exit(main())
