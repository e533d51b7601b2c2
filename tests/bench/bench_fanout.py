"""From a write to the last of many agents, through etcd's own proxies: what docs/scale.md rests on.

Real: an etcd, its grpc-proxies, and of each agent the process, the syncer and the calculation over
the large cluster of ``workload.py``; only the kernel is left out.  Everything shares this machine's
processors, which bound it: the bound of the same run is agents x processor time of each for a change
/ processors + 10 ms.  Floor: a put to one watcher of the same etcd by bare gRPC.

Arguments: ``--agents N`` (100), ``--proxies N`` (2; 0: all at etcd itself), ``--changes N``.
Memory: 100 MB for each agent.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Store, transact_in_order
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import Value
from tests.bench.bed import operations_of
from tests.bench.costs import processor_s, resident_mb
from tests.bench.fanout_agent import REPORT
from tests.bench.figure import Figure, Floor, report, summary
from tests.bench.floors import watch_floor
from tests.bench.workload import LARGE, OTHER_NODES, Stored, remote_pod, turned_role
from tests.etcd.servers import EtcdCluster, GrpcProxy, etcd_cluster, grpc_proxies

ROOT = Path(__file__).resolve().parents[2]
START_TOGETHER = 4
"""More at once would only wait for one another."""
PATIENCE_S = 180.0
BETWEEN_S = 0.1
RIGHT_MS = 10.0
"""Beside the processors, for everything else."""


class Costs(NamedTuple):
    """Processor seconds so far, and what came in and went out over TCP."""

    agents_s: float
    etcd_s: float
    proxies_s: float
    received: Mapping[str, int]
    """By connection."""


def write(store: Store, items: Mapping[Key, Value | None]) -> int:
    """The revision that has them all."""
    revision = transact_in_order(store, operations_of(items))
    assert revision is not None
    return revision


class Agents:
    """Agents as processes, and what they say."""

    def __init__(self, stack: ExitStack, url: str, proxies: Sequence[str], folder: Path) -> None:
        self._stack, self._url, self._proxies = stack, url, ",".join(proxies)
        self._folder = folder
        self._ears = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._ears.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._ears.bind(("127.0.0.1", 0))
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Starts them, a few at a time, and returns when all are in sync."""
        port = str(self._ears.getsockname()[1])
        for first in range(0, count, START_TOGETHER):
            numbers = range(first, min(first + START_TOGETHER, count))
            for number in numbers:
                node = f"node{number % OTHER_NODES}"
                words = (self._url, self._proxies, node, port, str(number))
                with (self._folder / f"agent{number}").open("wb") as log:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "tests.bench.fanout_agent", *words],
                        cwd=ROOT,
                        stderr=log,
                    )
                self._stack.callback(process.wait)
                self._stack.callback(process.kill)
                self.processes.append(process)
            self.wait(set(numbers), 0)

    def wait(self, numbers: set[int], revision: int) -> dict[int, int]:
        """When each was at a revision, in ns.  Raises: TimeoutError."""
        moments: dict[int, int] = {}
        give_up_s = time.monotonic() + PATIENCE_S
        while numbers - moments.keys():
            self._ears.settimeout(max(0.01, give_up_s - time.monotonic()))
            number, reached, moment_ns = REPORT.unpack(self._ears.recv(REPORT.size))
            if reached >= revision:
                moments.setdefault(number, moment_ns)
        return moments

    @property
    def memory_mb(self) -> float:
        """Resident, of a typical one."""
        return statistics.median(resident_mb(each.pid) for each in self.processes)


class Site(NamedTuple):
    """What is measured."""

    cluster: EtcdCluster
    proxies: Sequence[GrpcProxy]
    store: Store
    stored: Stored
    agents: Agents

    @property
    def processes(self) -> list[int]:
        return [each.process.pid for each in self.proxies if each.process is not None]

    def costs(self) -> Costs:
        """So far."""
        return Costs(
            sum(processor_s(each.pid) for each in self.agents.processes),
            processor_s(self.cluster.members[0].pid),
            sum(map(processor_s, self.processes)),
            _received({each.pid for each in self.agents.processes}),
        )


def _received(pids: set[int]) -> dict[str, int]:
    """Bytes that each connection of these processes has received."""
    command = ("ss", "-tinpHO", "state", "established")
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = {}
    for line in shown.splitlines():
        pid = line.partition("pid=")[2].partition(",")[0]
        count = line.partition("bytes_received:")[2].partition(" ")[0]
        if pid.isdecimal() and int(pid) in pids and count:
            found[line.split()[2]] = int(count)
    return found


def bench_changes(site: Site, changes: int, floor: Floor) -> Iterator[Figure]:
    """A pod elsewhere gets another label, and every agent calculates what that means for its own."""
    everyone = set(range(len(site.agents.processes)))
    lasts: list[float] = []
    typical: list[float] = []
    before = site.costs()
    for number in range(changes):
        pod = remote_pod(LARGE, number, turned_role(LARGE, number, 1))
        change = site.stored.change(pod)
        start_ns = time.monotonic_ns()
        revision = write(site.store, change)
        moments = sorted(
            (ns - start_ns) / 1e6 for ns in site.agents.wait(everyone, revision).values()
        )
        lasts.append(moments[-1])
        typical.append(statistics.median(moments))
        time.sleep(BETWEEN_S)
    after = site.costs()
    each_ms = (after.agents_s - before.agents_s) * 1000 / changes / len(everyone)
    bound_ms = len(everyone) * each_ms / (os.cpu_count() or 1) + RIGHT_MS
    bound = f"bound, agents x CPU / cores + 10: {bound_ms:.0f} ms"
    name = f"{len(everyone)} agents: write -> "
    yield Figure(f"{name}last", *summary(lasts), floor, goal=50, more=bound)
    yield Figure(f"{name}half of them", *summary(typical), floor)
    yield Figure("an agent's processor time for a change", each_ms, each_ms)
    for name, spent_s in (
        ("etcd's", after.etcd_s - before.etcd_s),
        ("the proxies'", after.proxies_s - before.proxies_s),
    ):
        spent_ms = spent_s * 1000 / changes
        yield Figure(f"{name} processor time for a change", spent_ms, spent_ms)
    stayed = before.received.keys() & after.received.keys()
    grown = sum(after.received[each] - before.received[each] for each in stayed)
    size = grown / changes / len(everyone)
    yield Figure("an agent receives for a change", size, size, unit="B")


def bench_failover(site: Site) -> Iterator[Figure]:
    """A proxy is killed: from then until its agents, which go to the others, are current again."""
    if len(site.proxies) < 2:
        return
    everyone = set(range(len(site.agents.processes)))
    start_ns = time.monotonic_ns()
    site.proxies[0].kill()
    revision = write(site.store, site.stored.change(remote_pod(LARGE, 0, "r-failover")))
    last_ms = (max(site.agents.wait(everyone, revision).values()) - start_ns) / 1e6
    yield Figure("a proxy is killed -> last agent current", last_ms, last_ms)


def bench(agents: int, proxies: int, changes: int) -> Iterator[Figure]:
    """Everything; takes a second for each agent's start on two processors."""
    folder = Path(tempfile.mkdtemp(prefix="calico-k8s-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = stack.enter_context(etcd_cluster(folder / "etcd"))
        store = stack.enter_context(closing(open_store(cluster.url())))
        floor = watch_floor(cluster.url())
        stored = Stored(LARGE)
        write(store, stored.items())
        running = stack.enter_context(grpc_proxies(folder, cluster, proxies))
        crowd = Agents(stack, cluster.url(), [each.endpoint for each in running], folder)
        site = Site(cluster, running, store, stored, crowd)
        start_s = time.monotonic()
        crowd.start(agents)
        took_s, costs = time.monotonic() - start_s, site.costs()
        yield Figure(f"{agents} agents: all started", took_s, took_s, unit="s")
        for name, value, unit in (
            ("an agent's processor time to start", costs.agents_s / agents, "s"),
            ("an agent reads to start", sum(costs.received.values()) / agents / 1e6, "MB"),
            ("etcd's processor time for a start", costs.etcd_s / agents, "s"),
            ("an agent's memory", crowd.memory_mb, "MB"),
        ):
            yield Figure(name, value, value, unit=unit)
        yield from bench_changes(site, changes, floor)
        yield from bench_failover(site)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--proxies", type=int, default=2)
    parser.add_argument("--changes", type=int, default=40)
    given = parser.parse_args()
    for figure in bench(given.agents, given.proxies, given.changes):
        report(figure)


if __name__ == "__main__":
    main()
