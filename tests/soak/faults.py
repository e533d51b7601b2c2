"""What other programs do to an agent at work, for as long as they really may.

Two acts beside a stream of packets that says when verdicts change: another program holds the xtables
lock for half a minute, and more of the network changes than the agent's socket has room for.  The
agent is asked over HTTP meanwhile: it lives, and says what is wrong.

In: a node, a store, an agent for it.  Out: a line of figures for each act, and a sentence for each
thing that is not as it should be.  A set at its size limit is a test's (``tests/felix/test_process.py``):
the limit is a million members.
"""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from calico_k8s.cli.node import FELIX_METRICS_PORT
from calico_k8s.datastore.store import Store
from calico_k8s.felix.metrics import FaultKind
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP
from tests.bench.bed import Bed, Felix, remote_address, write
from tests.bench.bench_scale import UDP, alone, peer
from tests.bench.workload import SMALL, UNSELECTED, Stored, new_policy, remote_pod
from tests.namespaces import run
from tests.test_telemetry import ask

HOLD_S = 30.0
"""So long another program holds the lock: three times what an agent waits for it at once."""
SETS_ALONE_S = 15.0
"""So long no change needs more than sets; what was in force before is cleared away meanwhile."""
VERDICT_MS = 1000.0
"""For a change, and for what waited for the lock; on a machine that does other work as well."""
PATIENCE_S = 20.0
CHANGES = 40_000
"""Of neighbours: more than the 4 MB of a netlink socket hold."""
FORMER, EVERYBODY = (new_policy(alone(), {}, UDP, name=name) for name in ("former", "everybody"))
"""One more policy of the pods that hear, for which chains are written."""
REPLACE = "neigh replace 10.9.9.9 dev cali0"
REPLUGGED = SMALL.local - 1
"""One of the pods that hear."""


class Faults:
    """All acts, on one node."""

    def __init__(self, bed: Bed, store: Store, felix: Felix, backend: str) -> None:
        self._bed, self._store, self._felix = bed, store, felix
        self._takes_lock = backend == "legacy"
        self._stored = Stored(SMALL)

    def play(self) -> Iterator[str]:
        """What was not as it should be, in an order of time."""
        write(self._store, self._stored.items())
        callers = new_policy(alone(), peer("caller"), UDP)
        write(self._store, self._stored.change(callers))
        self._felix.start()
        self._felix.wait_in_sync(self._store)
        with self._bed.flow.sending(self._bed.outside, remote_address(0)):
            self._relabel()  # whatever is loaded for a first change
            yield from self._lock_held()
            yield from self._events_lost()

    def _lock_held(self) -> Iterator[str]:
        """The nft backend takes no lock: nothing waits there."""
        before, label_ms = self._faults("lock-held"), 0.0
        self._first_passed(write(self._store, self._stored.change(FORMER)))
        self._bed.flow.last_passed(write(self._store, self._stored.remove(FORMER)))
        with self._holding():
            end_s = time.monotonic() + HOLD_S
            while time.monotonic() < end_s - HOLD_S + SETS_ALONE_S:
                label_ms = max(label_ms, self._relabel())
            if self._faults("lock-held") != before or self._ask("/readyz")[0] != 200:
                yield "a change of sets alone waits for the lock"
            written_ns = write(self._store, self._stored.change(EVERYBODY))
            chains_ms = 0.0 if self._takes_lock else self._first_passed(written_ns)
            while time.monotonic() < end_s:
                if self._ask("/healthz")[0] != 200:
                    yield f"not alive: {self._ask('/healthz')[1]}"
                time.sleep(0.2)
            faults, (ready, why) = self._faults("lock-held") - before, self._ask("/readyz")
            free_ns = time.monotonic_ns()
        if self._takes_lock:
            chains_ms = self._first_passed(free_ns)
        _tell("lock held", label_ms=label_ms, chains_ms=chains_ms, faults=faults, readyz=ready)
        if self._takes_lock != (faults >= 1):
            yield f"the lock was wanted in vain {faults:g} times"
        if self._takes_lock != (ready == 503 and "lock" in why):
            yield f"/readyz says {ready} {why}"
        if max(label_ms, chains_ms) > VERDICT_MS:
            yield f"with the lock held a label took {label_ms:.0f} ms, chains {chains_ms:.0f} ms"
        self._bed.flow.last_passed(write(self._store, self._stored.remove(EVERYBODY)))
        if not _until(lambda: self._ask("/readyz")[0] == 200):
            yield f"not ready again: {self._ask('/readyz')[1]}"

    def _events_lost(self) -> Iterator[str]:
        """An agent that hears of nothing for a while looks anew, and misses nothing."""
        before = self._faults("events-lost")
        os.kill(self._felix.pid, signal.SIGSTOP)
        try:
            with self._bed.node:
                lines = (f"{REPLACE} lladdr 02:00:00:00:00:0{n % 2}\n" for n in range(CHANGES))
                run("ip", "-batch", "-", stdin="".join(lines))
            self._bed.replug(REPLUGGED)
        finally:
            os.kill(self._felix.pid, signal.SIGCONT)
        start_s = time.monotonic()
        is_seen = _until(self._is_known)
        seen_ms, faults = 1000 * (time.monotonic() - start_s), self._faults("events-lost") - before
        _tell("events lost", interface_ms=seen_ms, label_ms=self._relabel(), faults=faults)
        if not is_seen:
            yield "an interface that came while events were lost is not known as a workload's"
        if not faults:
            yield "lost events are not counted"

    def _is_known(self) -> bool:
        with self._bed.node:
            (link,) = json.loads(run("ip", "-j", "link", "show", f"cali{REPLUGGED}"))
        return str(link["group"]).isdecimal() and bool(int(link["group"]) & WORKLOAD_LINK_GROUP)

    @contextmanager
    def _holding(self) -> Iterator[None]:
        with self._felix.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _relabel(self) -> float:
        """The sender gets a label that is let in, and loses it: the slower of both verdicts."""
        calls = write(self._store, self._stored.change(remote_pod(SMALL, 0, "caller")))
        came_ms = self._first_passed(calls)
        goes = write(self._store, self._stored.change(remote_pod(SMALL, 0, "nobody")))
        return max(came_ms, self._bed.flow.last_passed(goes))

    def _first_passed(self, since_ns: int) -> float:
        return self._bed.flow.first_passed(since_ns, UNSELECTED)

    def _ask(self, path: str) -> tuple[int, str]:
        with self._bed.node:
            return ask(FELIX_METRICS_PORT, path)

    def _faults(self, kind: FaultKind) -> float:
        name = f'calico_k8s_felix_kernel_faults_total{{kind="{kind}"}} '
        lines = self._ask("/metrics")[1].splitlines()
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def _tell(act: str, **figures: float) -> None:
    print(json.dumps({"act": act} | figures), flush=True)


def _until(condition: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + PATIENCE_S
    while not (is_so := condition()) and time.monotonic() < end_s:
        time.sleep(0.02)
    return is_so
