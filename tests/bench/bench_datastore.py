"""What the datastore costs, each beside its floor: the same deed by bare grpc or bare SQLite.

In comes nothing; out go milliseconds, the median and the 99th percentile of many, or the median of
some rounds, and the ratio of the medians to the floor's.  The etcd is a current one that doesn't
wait for its disk; values have 500 bytes.
"""

import select
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from calico_k8s.datastore.etcd import transport, wire
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import OPERATIONS_MAX, Put, Store, transact_in_order
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import UpdateQueue
from calico_k8s.errors import StoreError
from tests.bench import figure
from tests.bench.figure import Figure, Floor, summary
from tests.bench.floors import (
    BARE_GRPC,
    BARE_SQLITE,
    INSERT,
    VALUE,
    Write,
    bare_sqlite,
    grpc_latencies,
    latencies,
    sqlite_latencies,
)
from tests.etcd.servers import etcd_cluster

PUTS = 10_000
ENTRIES = 100_000
ROUNDS = 5


class Silent:
    """An observer that has nothing to say."""

    def on_state(self, state: SyncState) -> None: ...

    def on_error(self, error: StoreError) -> None: ...


def report(name: str, times_s: list[float], floor_name: str, floor_s: list[float]) -> None:
    """The deed beside its floor."""
    ours, floor = (summary([each * 1000 for each in times]) for times in (times_s, floor_s))
    figure.report(Figure(name, *ours, Floor(floor_name, *floor)))


def rounds(work: Callable[[], object]) -> list[float]:
    """Seconds of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def store_latencies(store: Store) -> list[float]:
    """From a put to its watcher's batch."""
    watcher = store.watch("/v1/w/", store.transact([Put("/v1/w/0", b"")]))

    def arrivals(on_arrival: Callable[[], None]) -> None:
        for batch in watcher:
            if batch.changes:
                on_arrival()

    times = latencies(lambda: store.transact([Put("/v1/w/1", VALUE)]), arrivals)
    watcher.close()
    return times


def loop_latencies(store: Store) -> list[float]:
    """From a put to a loop that waits for a syncer's queue, as Felix does."""
    numbers = iter(range(10**9))
    with closing(UpdateQueue()) as queue:
        syncer = Syncer(store, "/v1/l/", queue, Silent())
        syncer.start()
        is_over = threading.Event()

        def arrivals(on_arrival: Callable[[], None]) -> None:
            while not is_over.is_set():
                if select.select([queue], [], [], 0.1)[0] and queue.take().values_by_key:
                    on_arrival()

        times = latencies(
            lambda: store.transact([Put("/v1/l/1", VALUE + b"%d" % next(numbers))]), arrivals
        )
        is_over.set()
        time.sleep(0.2)
        syncer.close()
    return times


def fill(store: Store) -> None:
    """The entries that are read."""
    transact_in_order(store, [Put(f"/v1/k/{number:06}", VALUE) for number in range(ENTRIES)])


def puts_of(store: Store) -> Write:
    """Many puts, in full transactions."""
    return lambda: transact_in_order(
        store, [Put(f"/v1/p/{number:06}", VALUE) for number in range(PUTS)]
    )


def bench_etcd(folder: Path) -> None:
    """Our store over etcd, beside grpc with the same bytes, made before and never parsed."""
    with ExitStack() as stack:
        cluster = stack.enter_context(etcd_cluster(folder))
        store = stack.enter_context(closing(open_store(cluster.url())))
        floor = grpc_latencies(cluster.members[0].endpoint)
        report("etcd: put to watcher", store_latencies(store), BARE_GRPC, floor)
        report("etcd: put to loop, by syncer", loop_latencies(store), BARE_GRPC, floor)
        member = stack.enter_context(closing(transport.Member(cluster.members[0].endpoint, None)))
        batches = [
            [Put(f"/v1/p/{number:06}", VALUE) for number in range(start, start + OPERATIONS_MAX)]
            for start in range(0, PUTS, OPERATIONS_MAX)
        ]
        ready = [wire.encode_txn("/calico", batch, ()) for batch in batches]
        report(
            f"etcd: {PUTS} puts",
            rounds(puts_of(store)),
            "bare calls, requests ready",
            rounds(lambda: [member.call(transport.TXN, request) for request in ready]),
        )
        fill(store)
        everything = wire.encode_range(b"/calico/v1/k/", b"/calico/v1/k0", limit=0)
        report(
            f"etcd: read {ENTRIES} entries",
            rounds(lambda: store.read("/v1/k/")),
            "bare call, one answer, not parsed",
            rounds(lambda: member.call(transport.RANGE, everything, 60)),
        )


def bench_sqlite(folder: Path) -> None:
    """Our store over a file, beside SQLite with one table and no log."""
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(f"sqlite://{folder}/state.db")))
        bare = stack.enter_context(bare_sqlite(folder / "bare.db"))
        floor = sqlite_latencies(bare)
        report("sqlite: put to watcher", store_latencies(store), BARE_SQLITE, floor)
        report("sqlite: put to loop, by syncer", loop_latencies(store), BARE_SQLITE, floor)

        def bare_puts() -> None:
            for start in range(0, PUTS, OPERATIONS_MAX):
                rows = [(f"/v1/p/{n:06}", VALUE) for n in range(start, start + OPERATIONS_MAX)]
                bare.execute("begin immediate")
                bare.executemany(INSERT, rows)
                bare.execute("commit")

        report(f"sqlite: {PUTS} puts", rounds(puts_of(store)), "bare inserts", rounds(bare_puts))
        fill(store)
        rows = [(f"/v1/k/{number:06}", VALUE) for number in range(ENTRIES)]
        bare.execute("begin")
        bare.executemany(INSERT, rows)
        bare.execute("commit")
        select_all = "select key, value from entry where key >= '/v1/k/' and key < '/v1/k0'"
        report(
            f"sqlite: read {ENTRIES} entries",
            rounds(lambda: store.read("/v1/k/")),
            "bare select",
            rounds(lambda: bare.execute(select_all).fetchall()),
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        bench_etcd(Path(name) / "etcd")
        bench_sqlite(Path(name))
