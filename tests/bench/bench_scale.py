"""What a cluster's size costs a node: a real Felix process on the clusters of ``workload.py``.

A prober says, as in ``bench_felix``, when packets met the other verdict.  Floors of the same run: a
hop of the store and a member of an ipset by one netlink message; for the start, its memory and
processor time, a Python that reads the same values and does nothing with them.

Needs root.  Arguments: ``--changes N``, then sizes (small, large, together), stores
(sqlite, etcd) and backends (legacy, nft, nftables); of each all but etcd unless given.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import pairwise, repeat
from pathlib import Path
from typing import NamedTuple

from calico_k8s.datastore.store import Store
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import Value
from tests.bench.bed import Bed, Felix, local_address, remote_address, write
from tests.bench.bench_felix import BACKENDS, stores
from tests.bench.costs import processor_s
from tests.bench.figure import Figure, Floor, report, summary
from tests.bench.floors import convergence_floor
from tests.bench.live import PORT as LIVE_PORT
from tests.bench.live import Listener
from tests.bench.stamped import PORT, StampedFlow
from tests.bench.workload import (
    ALONE,
    LARGE,
    SMALL,
    UNSELECTED,
    Document,
    Size,
    Stored,
    local_pod,
    new_policy,
    remote_pod,
    turned_role,
)

CHANGES, SPREAD_S = 1_000, 20.0
BURSTS = 9
LIVES = 15
STARTS = 5
UDP: Document = {"protocol": "UDP", "port": PORT}
SENDER = 0
"""The remote pod that sends, of the first namespace."""
TOGETHER = SMALL._replace(name="together", local=50 + UNSELECTED, is_together=True)
"""For a policy that selects fifty pods of this node at once."""

_READING = """
import sys, time
from pathlib import Path
from calico_k8s.datastore.factory import open_store
from calico_k8s.model import codec, keys
store = open_store(sys.argv[1])
values = [codec.decode(k, e.value) for e in store.read(keys.V1).entries if (k := keys.parse_path(e.key))]
print(time.monotonic_ns(), Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
store.close()
"""

_FOLLOWING = """
import sys
from calico_k8s.datastore.factory import open_store
from calico_k8s.model import codec, keys
store = open_store(sys.argv[1])
watcher = store.watch(keys.V1, store.read(keys.V1).revision)
print("follows", flush=True)
for batch in watcher:
    for change in batch.changes:
        key = keys.parse_path(change.key)
        if key is not None and change.value is not None:
            codec.decode(key, change.value)
"""

Items = Mapping[Key, Value | None]


class Goals(NamedTuple):
    """What is wanted of a size; milliseconds, megabytes, seconds."""

    start_ms: float
    peak_mb: float
    label_ms: float = 2.5
    pod_ms: float = 5
    policy_ms: float = 10
    cpu_s: float = 0.8
    burst_ms: float = 100
    live_ms: float = 50


GOALS = {"small": Goals(600, 80), "large": Goals(1200, 120), "together": Goals(600, 80)}


class Setting(NamedTuple):
    """A size on a node with a store."""

    size: Size
    stored: Stored
    bed: Bed
    store: Store
    url: str
    felix: Felix
    changes: int
    where: str

    @property
    def goals(self) -> Goals:
        return GOALS[self.size.name]

    def figure(self, what: str, times: list[float], goal: float, floor: Floor) -> Figure:
        """Times beside the floor that each has."""
        p90 = f"p90 {sorted(times)[int(len(times) * 0.9)]:.1f}"
        return Figure(f"{self.where}: {what}", *summary(times), floor, goal=goal, more=p90)


def alternate(
    setting: Setting, flow: StampedFlow, pairs: Iterable[tuple[Items, Items]], targets: int
) -> list[float]:
    """From a write returned to the last of the verdicts, there and back: opens and closes."""
    times: list[float] = []
    for number, (opens, closes) in enumerate(pairs):
        times.append(flow.first_passed(write(setting.store, opens), targets))
        time.sleep(0.002 * (number % 11))
        times.append(flow.last_passed(write(setting.store, closes)))
        time.sleep(0.002 * (number % 7))
    return times


def again(setting: Setting, opens: Items, closes: Items) -> Iterable[tuple[Items, Items]]:
    """The same, as often as is asked for."""
    return repeat((opens, closes), setting.changes // 2)


def policies(setting: Setting, selected: Document, peer: Document) -> list[tuple[Items, Items]]:
    """Policies of other names, each to be stored and to go: none is known from before."""
    made = [new_policy(selected, peer, UDP, f"new{n}") for n in range(setting.changes // 2)]
    return [(setting.stored.change(each), setting.stored.remove(each)) for each in made]


def peer(role: str) -> Document:
    """Pods of a role."""
    return {"matchLabels": {"role": role}}


def alone() -> Document:
    """The pods that no policy of the cluster selects."""
    return {"matchLabels": {"app": ALONE}}


def reading_floor(url: str) -> tuple[float, float]:
    """Milliseconds and megabytes of a process that only reads the store's values."""
    start_ns = time.monotonic_ns()
    command = (sys.executable, "-c", _READING, url)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    end_ns, peak_kb = map(int, done.stdout.split())
    return (end_ns - start_ns) / 1e6, peak_kb / 1024


def start_ms(setting: Setting) -> float:
    """From the process' start to its word that all verdicts are as the store says."""
    start_ns = setting.felix.start()
    return (setting.felix.wait_in_sync(setting.store) - start_ns) / 1e6


def bench_start(setting: Setting) -> Iterator[Figure]:
    """From the process' start on an empty node to all verdicts, and again with nothing to write."""
    where, goals, felix = setting.where, setting.goals, setting.felix
    started: list[float] = []
    floors: list[tuple[float, float]] = []
    for _ in range(STARTS):
        felix.stop()
        felix.clean()
        floors.append(reading_floor(setting.url))
        started.append(start_ms(setting))
    floor_ms, floor_mb = map(statistics.median, zip(*floors, strict=True))
    floor = Floor("values read", floor_ms)
    yield Figure(f"{where}: start to verdicts", *summary(started), floor, goal=goals.start_ms)
    peak_mb = felix.resident_mb("VmHWM")
    floor = Floor("values read", floor_mb)
    yield Figure(f"{where}: ... resident", peak_mb, 0, floor, unit="MB", goal=goals.peak_mb)
    felix.stop()
    yield Figure(f"{where}: ... again, nothing to write", start_ms(setting), 0)


def bench_fifty(setting: Setting, floor: Floor) -> Iterator[Figure]:
    """A policy that opens a port of fifty pods of five groups."""
    selected: Document = {
        "matchExpressions": [{"key": "app", "operator": "NotIn", "values": [ALONE]}]
    }
    pairs = policies(setting, selected, peer("r0"))
    fifty = setting.size.local - UNSELECTED
    with setting.bed.flow.sending(setting.bed.outside, remote_address(SENDER)):
        time.sleep(0.5)
        times = alternate(setting, setting.bed.flow, pairs, fifty)
    yield setting.figure("a policy of 50 pods", times, setting.goals.policy_ms, floor)


def bench_changes(setting: Setting, floor: Floor) -> Iterator[Figure]:
    """A policy, a label, a pod, one after another, each there and back."""
    size, stored, flow, goals = setting.size, setting.stored, setting.bed.flow, setting.goals
    pairs = policies(setting, alone(), peer("nobody"))
    with flow.sending(setting.bed.outside, remote_address(SENDER)):
        flow.first_passed(time.monotonic_ns(), UNSELECTED)
        write(setting.store, pairs[0][0])
        flow.last_passed(time.monotonic_ns())
        turns = [(gone, made) for (_, gone), (made, _) in pairwise(pairs)]
        times = alternate(setting, flow, turns, UNSELECTED)
        write(setting.store, pairs[-1][1])
        yield setting.figure("a policy, to its last pod", times, goals.policy_ms, floor)
        write(setting.store, stored.change(new_policy(alone(), peer("caller"), UDP)))
        calls, is_silent = sender(setting, "caller"), sender(setting, "nobody")
        times = alternate(setting, flow, again(setting, calls, is_silent), UNSELECTED)
        yield setting.figure("a label", times, goals.label_ms, floor)
        write(setting.store, calls)
    joiner = local_pod(size, size.local - UNSELECTED)
    gone, back = stored.remove(joiner), stored.change(joiner)
    target = local_address(size.local - UNSELECTED)
    with flow.sending(setting.bed.outside, remote_address(SENDER), [target]):
        time.sleep(0.5)
        times = alternate(setting, flow, again(setting, back, gone), 1)
        yield setting.figure("a pod that joins", times, goals.pod_ms, floor)
        write(setting.store, back)


def bench_live(setting: Setting, floor: Floor) -> Iterator[Figure]:
    """A TCP connection that talks all the time is denied: from the write to the last that arrives."""
    port: Document = {"protocol": "TCP", "port": LIVE_PORT}
    lets_in = setting.stored.change(new_policy(alone(), peer("caller"), port, "live"))
    write(setting.store, lets_in)
    calls, is_silent = sender(setting, "caller"), sender(setting, "nobody")
    # The last pod's interface is the way back for all who listen.
    ends = (remote_address(SENDER), local_address(setting.size.local - 1))
    times: list[float] = []
    with setting.bed.server:
        listener = Listener()
    with closing(listener):
        for _ in range(LIVES):
            write(setting.store, calls)
            with closing(listener.connection(setting.bed.outside, *ends)) as connection:
                times.append(connection.cut_ms(write(setting.store, is_silent)))
    yield setting.figure("a live connection is cut", times, setting.goals.live_ms, floor)


def sender(setting: Setting, role: str) -> Items:
    """What is stored when the sender takes a role."""
    return setting.stored.change(remote_pod(setting.size, SENDER, role))


def relabellings(setting: Setting, turn: int) -> list[Items]:
    """Another role for each of a thousand pods of other nodes."""
    return [
        setting.stored.change(
            remote_pod(setting.size, number, turned_role(setting.size, number, turn))
        )
        for number in range(1, CHANGES)
    ]


@contextmanager
def following(url: str) -> Iterator[int]:
    """A process that follows the store and decodes what changes, and nothing else."""
    command = (sys.executable, "-c", _FOLLOWING, url)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def bench_spread(setting: Setting) -> Iterator[Figure]:
    """A thousand changes of pods, spread."""
    felix, store = setting.felix, setting.store
    changes = relabellings(setting, 1)
    with following(setting.url) as pid:
        cpu_s, floor_s, started_s = felix.cpu_s(), processor_s(pid), time.monotonic()
        for number, items in enumerate(changes):
            time.sleep(max(0.0, started_s + number * SPREAD_S / CHANGES - time.monotonic()))
            write(store, items)
        time.sleep(0.5)
        used_s, floor_s = felix.cpu_s() - cpu_s, processor_s(pid) - floor_s
    floor = Floor("values followed and decoded", floor_s)
    name = f"{setting.where}: CPU of 1,000 changes in 20 s"
    yield Figure(name, used_s, 0, floor, unit="s", goal=setting.goals.cpu_s)


def bench_bursts(setting: Setting, floor: Floor) -> Iterator[Figure]:
    """A thousand changes of pods as fast as the store takes them."""
    store, flow = setting.store, setting.bed.flow
    lags_ms = []
    calls, is_silent = sender(setting, "caller"), sender(setting, "nobody")
    with flow.sending(setting.bed.outside, remote_address(SENDER)):
        for turn in range(2, 2 + BURSTS):
            flow.first_passed(write(store, calls), UNSELECTED)
            for items in relabellings(setting, turn):
                write(store, items)
            lags_ms.append(flow.last_passed(write(store, is_silent)))
    yield setting.figure("right after a burst of 1,000", lags_ms, setting.goals.burst_ms, floor)


def bench(setting: Setting) -> Iterator[Figure]:
    """All figures of one size, store and backend."""
    floor = convergence_floor(setting.bed, setting.url)
    write(setting.store, setting.stored.items())
    yield from bench_start(setting)
    time.sleep(2)  # what there is time for later is loaded
    if setting.size is TOGETHER:
        yield from bench_fifty(setting, floor)
        return
    yield from bench_changes(setting, floor)
    yield from bench_live(setting, floor)
    yield from bench_spread(setting)
    yield from bench_bursts(setting, floor)
    yield Figure(f"{setting.where}: resident", setting.felix.resident_mb(), unit="MB")


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=60)
    parser.add_argument("what", nargs="*")
    given = parser.parse_args()
    chosen = partial(choose, given.what)
    for kind in chosen(["sqlite"], ["sqlite", "etcd"]):
        for backend in chosen([*BACKENDS], [*BACKENDS]):
            for name in chosen([*GOALS], [*GOALS]):
                size = {"small": SMALL, "large": LARGE, "together": TOGETHER}[name]
                for figure in run_one(size, kind, backend, given.changes):
                    report(figure)


def choose(given: list[str], usual: list[str], known: list[str]) -> list[str]:
    """What of the known is given, else the usual."""
    return [each for each in known if each in given] or usual


def run_one(size: Size, kind: str, backend: str, changes: int) -> Iterator[Figure]:
    """One size on a node of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = size.local - UNSELECTED
        listening = range(first) if size.is_together else range(first, size.local)
        bed = Bed(stack, size.local, listening)
        stack.enter_context(bed.node)  # where etcd's loopback address is the agent's
        store, url = stack.enter_context(stores(kind, folder))
        felix = Felix(bed, url, backend, folder)
        stack.callback(felix.stop)
        where = f"{size.name} {kind} {backend}"
        yield from bench(Setting(size, Stored(size), bed, store, url, felix, changes, where))


if __name__ == "__main__":
    main()
