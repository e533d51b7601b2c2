"""What the controller costs on a real API server and etcd, each beside its floor.

In comes nothing; out go: a start with 10,000 pods, beside a Python that reads the same list as bytes
and decodes nothing; a thousand changes in twenty seconds, beside a bare watch of the API server;
changes as fast as four writers have them, and at a given rate from a watch that repeats them; and a
label's way from the API server's answer to the datastore, beside a bare watch and a bare etcd.
"""

import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from calico_k8s.controller.kube import Query, connect
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Store
from calico_k8s.errors import KubeUnavailable
from calico_k8s.model import keys
from tests.bench.costs import processor_s, resident_mb
from tests.bench.figure import Figure, Floor, report, summary
from tests.bench.floors import watch_floor
from tests.bench.replay import replay
from tests.cluster.objects import KubeObjects, pod_path
from tests.cluster.servers import ApiServer, api_server
from tests.etcd.servers import etcd_cluster

PODS = 10_000
NAMESPACES = 100
WRITERS = 4
CHANGES = 5_000
SPREAD, SPREAD_S = 1_000, 20.0
RATE = 2_000
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


_READING = """
import sys, time
from pathlib import Path
from calico_k8s.controller.kube import connect
api, rest, size = connect(sys.argv[1]), "", 0
while True:
    page = api.get("/api/v1/pods", {"limit": 500} | ({"continue": rest} if rest else {}))
    size += len(page)
    _, found, tail = page[:2000].partition(b'"continue":"')
    rest = tail.partition(b'"')[0].decode() if found else ""
    if not rest:
        break
peak_kb = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(time.monotonic_ns(), peak_kb, size)
api.close()
"""

_WATCHING = """
import sys
from calico_k8s.controller.kube import connect
print("watches", flush=True)
query = {"watch": "true", "resourceVersion": "0", "timeoutSeconds": 600}
for line in connect(sys.argv[1]).follow("/api/v1/pods", query, 600):
    pass
"""


def reading_floor(kubeconfig: Path) -> tuple[float, float]:
    """Seconds and megabytes of a process that only reads all pods, in pages, as bytes."""
    start_ns = time.monotonic_ns()
    command = (sys.executable, "-c", _READING, str(kubeconfig))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    end_ns, peak_kb, size = map(int, done.stdout.split())
    print(f"({size / 1e6:.0f} MB of pods)")
    return (end_ns - start_ns) / 1e9, peak_kb / 1024


def bench_start(server: ApiServer, url: str, store: Store) -> None:
    """From the process' start until the datastore is ready and complete."""
    floor_s, floor_mb = reading_floor(server.kubeconfig())
    started_s = time.perf_counter()
    with controller(server.kubeconfig(), url) as process:
        wait_for(lambda: store.get("/v1/Ready") is not None)
        duration_s = time.perf_counter() - started_s
        entries = store.read("/v1/host/").entries
        assert sum("/workload/" in entry.key for entry in entries) == PODS
        peak_mb = resident_mb(process.pid, "VmHWM")
        now_mb = f"{resident_mb(process.pid):.0f} MB then"
    name, did = f"controller, {PODS} pods", "pods read, not decoded"
    report(Figure(f"{name}: start to etcd", duration_s, 0, Floor(did, floor_s), "s", goal=5))
    memory = Figure(f"{name}: resident", peak_mb, 0, Floor(did, floor_mb), "MB", goal=150)
    report(msgspec.structs.replace(memory, more=now_mb))
    before = store.get("/v1/leader")
    with controller(server.kubeconfig(), url) as process:
        wait_for(lambda: store.get("/v1/leader") != before)
        time.sleep(6)
        print(f"start, nothing to write: {processor_s(process.pid):.2f} s of processor in all")


def bench_spread(server: ApiServer, url: str) -> None:
    """A label of a thousand pods, over twenty seconds."""
    kubeconfig = str(server.kubeconfig())
    watching = (sys.executable, "-c", _WATCHING, kubeconfig)
    with (
        closing(connect(kubeconfig)) as api,
        controller(server.kubeconfig(), url) as process,
        subprocess.Popen(watching, stdout=subprocess.PIPE) as bare,
    ):
        time.sleep(8)  # both have heard of all pods
        objects, started_s = KubeObjects(api), time.monotonic()
        before_s, floor_s = processor_s(process.pid), processor_s(bare.pid)
        for number in range(SPREAD):
            time.sleep(max(0.0, started_s + number * SPREAD_S / SPREAD - time.monotonic()))
            relabel(objects, number, f"spread-{number}")
        time.sleep(0.5)
        used_s, floor_s = processor_s(process.pid) - before_s, processor_s(bare.pid) - floor_s
        bare.kill()
    name = f"controller, {PODS} pods: CPU of {SPREAD} changes in {SPREAD_S:.0f} s"
    report(Figure(name, used_s, 0, Floor("bare API watch", floor_s), "s", goal=0.8))


def relabel(objects: KubeObjects, number: int, value: str) -> None:
    """Another label for a pod: a value that it has already would be no change, and no event."""
    objects.change(pod_path(*names(number)), labels={"bench": value})


def change(objects: KubeObjects, number: int) -> None:
    """Another label for a pod."""
    relabel(objects, number, f"r{number}")


def bench_changes(server: ApiServer, url: str, store: Store) -> None:
    """Labels of pods changed by several writers at once; each must reach the datastore."""
    with controller(server.kubeconfig(), url) as process:
        time.sleep(5)
        before_s = processor_s(process.pid)
        duration_s = in_parallel(change, CHANGES, server)
        started_s = time.perf_counter()
        path = f"/v1/host/node-1/workload/k8s/{'.'.join(names(CHANGES - 1))}/endpoint/eth0"

        def has_arrived() -> bool:
            entry = store.get(path)
            return entry is not None and bench_label(entry.value) == f"r{CHANGES - 1}"

        wait_for(has_arrived)
        lag_s = time.perf_counter() - started_s
        used_s = processor_s(process.pid) - before_s
        print(
            f"changes: {CHANGES} in {duration_s:.1f} s by {WRITERS} writers, {CHANGES / duration_s:.0f}/s,"
            f" as fast as this API server takes them; the last in the datastore {lag_s * 1000:.0f} ms after its"
            f" answer; {used_s * 1e6 / CHANGES:.0f} us of processor each, so {CHANGES / used_s:.0f}/s"
            " on a core of its own"
        )


def bench_sustained(server: ApiServer, url: str, store: Store, folder: Path) -> None:
    """A label of each pod, at a given rate: faster than an API server on this machine says them."""
    label = "sustained"
    wanted = f'"bench":"{label}"'.encode()
    with (
        replay(server.kubeconfig(), folder, label, RATE) as feed,
        controller(feed.kubeconfig, url) as process,
    ):
        before = store.get("/v1/leader")
        wait_for(lambda: store.get("/v1/leader") != before)
        time.sleep(6)
        before_s = processor_s(process.pid)
        duration_s, count = feed.play()
        said_s = time.perf_counter()

        def missing() -> int:
            entries = store.read("/v1/host/").entries
            return sum(wanted not in entry.value for entry in entries)

        behind = missing()
        wait_for(lambda: not missing())
        used_s = processor_s(process.pid) - before_s
        later_s = time.perf_counter() - said_s
    kept, said = count / (duration_s + later_s), count / duration_s
    more = (
        f"{behind} not yet stored when the last was said, all {later_s:.2f} s later;"
        f" {used_s * 1e6 / count:.0f} us of processor each"
    )
    name = f"controller, {PODS} pods: changes stored"
    figure = Figure(name, kept, 0, Floor("changes said by the watch", said), "/s", better="more")
    report(msgspec.structs.replace(figure, goal=RATE, more=more))


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
        relabel(objects, number, text)
        answered_s = time.perf_counter()
        with news:
            assert news.wait_for(lambda text=text: text in arrived, 5)  # type: ignore[misc]  # mypy cannot infer it
        times.append(arrived[text] - answered_s)
        time.sleep(PAUSE_S)
    return times


def bench_label(raw: bytes) -> str:
    """The value of the label in JSON; empty where there is none."""
    return raw.partition(b'"bench":"')[2].partition(b'"')[0].decode()


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

        watch = in_ms(latencies(objects, bare))
        hop = watch_floor(url)
        # The event is there before the API server answers: then its watch takes nothing.
        floor = [max(0.0, part) + more for part, more in zip(watch, hop[1:], strict=True)]
        took = in_ms(latencies(objects, stored))
    name = "a label: API's answer to datastore's watcher"
    report(Figure(name, *took, Floor(f"bare API watch + {hop.name}", *floor)))


def in_ms(times_s: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    return summary([each * 1000 for each in times_s])


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
        bench_spread(server, etcd.url())
        bench_changes(server, etcd.url(), store)
        bench_sustained(server, etcd.url(), store, Path(folder))


if __name__ == "__main__":
    main()
