"""What the controller costs on a real API server and etcd, each beside its floor.

In comes nothing; out go: a start with 10,000 pods, beside the same list as bytes that nobody
decodes; changes of pods while others change, beside the rate at which the API server takes them
from four writers, and at a given rate from a watch that repeats them; and a label's way from the API server's answer to the datastore, beside a bare
watch of the API server.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from calico_k8s.controller.kube import KubeApi, Query, connect
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Store
from calico_k8s.errors import KubeUnavailable
from calico_k8s.model import keys
from tests.bench.replay import replay
from tests.cluster.objects import KubeObjects, pod_path
from tests.cluster.servers import ApiServer, api_server
from tests.etcd.servers import etcd_cluster

PODS = 10_000
NAMESPACES = 100
WRITERS = 4
CHANGES = 5_000
RATE = 1_000
LATENCIES = 500
PAUSE_S = 0.01


Work = Callable[[KubeObjects, int], None]


def run_share(kubeconfig: str, work: Work, numbers: range) -> None:
    """One writer's share of the work."""
    with closing(connect(kubeconfig)) as api:
        for number in numbers:
            work(KubeObjects(api), number)


def in_parallel(work: Work, count: int, server: ApiServer) -> float:
    """Seconds for so many pieces of work, by several writers, each a process of its own."""
    kubeconfig = str(server.kubeconfig())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WRITERS, mp_context=context) as pool:
        list(pool.map(abs, range(100 * WRITERS)))  # until all have started
        started_s = time.perf_counter()
        shares = [
            pool.submit(run_share, kubeconfig, work, range(first, count, WRITERS))
            for first in range(WRITERS)
        ]
        for share in shares:
            share.result()
        return time.perf_counter() - started_s


def names(number: int) -> tuple[str, str]:
    """Namespace and name of a pod."""
    return f"team-{number % NAMESPACES:03}", f"web-{number:05}"


def make(objects: KubeObjects, number: int) -> None:
    """A pod of a team; every second one has a policy of its own."""
    address = f"10.{128 + number // 65536}.{number // 256 % 256}.{number % 256}"
    labels = {"app": f"app-{number % 20}", "tier": "web", "pod-template-hash": f"{number:08x}"}
    annotations = {"policy": f"allow tcp from label app=app-{number % 7} to port 80"}
    objects.pod(
        *names(number), [address], labels=labels, annotations=annotations if number % 2 else {}
    )


def fill(server: ApiServer) -> None:
    """Namespaces and pods as a cluster of many teams has them."""
    with closing(connect(str(server.kubeconfig()))) as api:
        for number in range(NAMESPACES):
            KubeObjects(api).namespace(f"team-{number:03}")

    duration_s = in_parallel(make, PODS, server)
    print(f"({PODS} pods made in {duration_s:.0f} s)")


@contextmanager
def controller(kubeconfig: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A controller as a process."""
    command = [sys.executable, "-m", "calico_k8s", "controller", "--datastore", url]
    command += ["--kubeconfig", str(kubeconfig), "--metrics-port", "0"]
    with subprocess.Popen([*command, "--log-level", "error"]) as process:
        try:
            yield process
        finally:
            process.terminate()


def wait_for(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Returns when it holds."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def resident_mb(process: subprocess.Popen[bytes], field: str) -> float:
    """Memory now (VmRSS), or the most there was (VmHWM)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def bench_start(server: ApiServer, url: str, store: Store) -> None:
    """From the process' start until the datastore is ready and complete."""
    with closing(connect(str(server.kubeconfig()))) as api:
        started_s = time.perf_counter()
        size = len(read_pages(api))
        floor_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    with controller(server.kubeconfig(), url) as process:
        wait_for(lambda: store.get("/v1/Ready") is not None)
        duration_s = time.perf_counter() - started_s
        entries = store.read("/v1/host/").entries
        assert sum("/workload/" in entry.key for entry in entries) == PODS
        print(
            f"start, {PODS} pods to etcd: {duration_s:.2f} s (budget 5), {resident_mb(process, 'VmHWM'):.0f}"
            f" MB at most, {resident_mb(process, 'VmRSS'):.0f} MB then (budget 200)"
            f"   floor: {size / 1e6:.0f} MB of pods read in pages of 500, not decoded: {floor_s:.2f} s"
        )
    started_s = time.perf_counter()
    before = store.get("/v1/leader")
    with controller(server.kubeconfig(), url) as process:
        wait_for(lambda: store.get("/v1/leader") != before)
        time.sleep(6)
        print(f"start, nothing to write: {processor_s(process):.2f} s of processor in all")


def processor_s(process: subprocess.Popen[bytes]) -> float:
    """Seconds that a process has computed."""
    ticks = Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def read_pages(api: KubeApi) -> bytes:
    """All pods, as bytes."""
    body, rest = b"", ""
    while True:
        query = {"limit": 500} | ({"continue": rest} if rest else {})
        page = api.get("/api/v1/pods", query)
        body += page
        head = page[:2000]
        _, found, tail = head.partition(b'"continue":"')
        rest = tail.partition(b'"')[0].decode() if found else ""
        if not rest:
            return body


def change(objects: KubeObjects, number: int) -> None:
    """Another label for a pod."""
    objects.change(pod_path(*names(number)), labels={"bench": f"r{number}"})


def bench_changes(server: ApiServer, url: str, store: Store) -> None:
    """Labels of pods changed by several writers at once; each must reach the datastore."""
    with controller(server.kubeconfig(), url) as process:
        time.sleep(5)
        before_s = processor_s(process)
        duration_s = in_parallel(change, CHANGES, server)
        started_s = time.perf_counter()
        path = f"/v1/host/node-1/workload/k8s/{'.'.join(names(CHANGES - 1))}/endpoint/eth0"

        def has_arrived() -> bool:
            entry = store.get(path)
            return entry is not None and bench_label(entry.value) == f"r{CHANGES - 1}"

        wait_for(has_arrived)
        lag_s = time.perf_counter() - started_s
        used_s = processor_s(process) - before_s
        print(
            f"changes: {CHANGES} in {duration_s:.1f} s by {WRITERS} writers, {CHANGES / duration_s:.0f}/s,"
            f" as fast as this API server takes them; the last in the datastore {lag_s * 1000:.0f} ms after its"
            f" answer; {used_s * 1e6 / CHANGES:.0f} us of processor each, so {CHANGES / used_s:.0f}/s"
            " on a core of its own"
        )


def bench_sustained(server: ApiServer, url: str, store: Store, folder: Path) -> None:
    """A label of each pod, 1,000 a second: faster than an API server on this machine says them."""
    label = "sustained"
    wanted = f'"bench":"{label}"'.encode()
    with (
        replay(server.kubeconfig(), folder, label, RATE) as feed,
        controller(feed.kubeconfig, url) as process,
    ):
        before = store.get("/v1/leader")
        wait_for(lambda: store.get("/v1/leader") != before)
        time.sleep(6)
        before_s = processor_s(process)
        duration_s, count = feed.play()
        said_s = time.perf_counter()

        def missing() -> int:
            entries = store.read("/v1/host/").entries
            return sum(wanted not in entry.value for entry in entries)

        behind = missing()
        wait_for(lambda: not missing())
        used_s = processor_s(process) - before_s
        print(
            f"sustained: {count / duration_s:.0f} changes a second (wanted {RATE}) for {duration_s:.1f} s;"
            f" {behind} not yet stored when the last was said, all {time.perf_counter() - said_s:.2f} s"
            f" later; {used_s * 1e6 / count:.0f} us of processor each"
        )


def latencies(
    objects: KubeObjects, arrivals: Callable[[Callable[[str], None]], None]
) -> list[float]:
    """Seconds from the API server's answer to each label's arrival."""
    arrived: dict[str, float] = {}
    news = threading.Condition()

    def on_arrival(text: str) -> None:
        with news:
            arrived[text] = time.perf_counter()
            news.notify()

    threading.Thread(target=arrivals, args=(on_arrival,), daemon=True).start()
    time.sleep(0.5)
    times = []
    for number in range(LATENCIES):
        text = f"{time.monotonic_ns()}"
        objects.change(pod_path(*names(number)), labels={"bench": text})
        answered_s = time.perf_counter()
        with news:
            assert news.wait_for(lambda text=text: text in arrived, 5)  # type: ignore[misc]  # mypy cannot infer it
        times.append(arrived[text] - answered_s)
        time.sleep(PAUSE_S)
    return times


def bench_label(raw: bytes) -> str:
    """The value of the label in JSON; empty where there is none."""
    return raw.partition(b'"bench":"')[2].partition(b'"')[0].decode()


def report(name: str, times: list[float], floor: list[float]) -> None:
    """One line."""
    ours, bare = (
        (statistics.median(each) * 1000, sorted(each)[int(len(each) * 0.99)] * 1000)
        for each in (times, floor)
    )
    print(
        f"{name}: median {ours[0]:.2f} p99 {ours[1]:.2f} ms"
        f"   floor, a bare watch of the API server: {bare[0]:.2f} {bare[1]:.2f} ms"
    )


def bench_latency(server: ApiServer, url: str, store: Store) -> None:
    """One label at a time, at a quiet moment."""
    with closing(connect(str(server.kubeconfig()))) as api, controller(server.kubeconfig(), url):
        wait_for(lambda: store.get("/v1/Ready") is not None)
        time.sleep(4)
        objects = KubeObjects(api)

        def bare(on_arrival: Callable[[str], None]) -> None:
            query: Query = {"watch": "true", "resourceVersion": "0", "timeoutSeconds": 120}
            with suppress(KubeUnavailable):  # the server ends first
                for line in api.follow("/api/v1/pods", query, 150):
                    on_arrival(bench_label(line))

        def stored(on_arrival: Callable[[str], None]) -> None:
            for batch in store.watch(keys.V1, store.read(keys.V1).revision):
                for change in batch.changes:
                    on_arrival(bench_label(change.value or b""))

        floor = latencies(objects, bare)
        report("a label: answer to datastore's watcher", latencies(objects, stored), floor)


def main() -> None:
    """Everything, on one API server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        api_server(Path(folder) / "kube") as server,
        etcd_cluster(Path(folder) / "etcd") as etcd,
        closing(open_store(etcd.url())) as store,
    ):
        fill(server)
        bench_start(server, etcd.url(), store)
        bench_latency(server, etcd.url(), store)
        bench_changes(server, etcd.url(), store)
        bench_sustained(server, etcd.url(), store, Path(folder))


if __name__ == "__main__":
    main()
