"""What the datastore costs, each beside its floor: the same deed by bare grpc or bare SQLite.

In comes nothing; out go milliseconds, the median and the 99th percentile of many, or the median of
some rounds, and the ratio of the medians to the floor's.  The etcd is a current one that doesn't
wait for its disk; values have 500 bytes.
"""

import os
import select
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from calico_k8s.datastore.etcd import transport, wire
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import OPERATIONS_MAX, Put, Store, transact_in_order
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import UpdateQueue
from calico_k8s.errors import StoreError
from tests.etcd.servers import etcd_cluster

VALUE = b"x" * 500
LATENCIES = 1500
PAUSE_S = 0.001
PUTS = 10_000
ENTRIES = 100_000
ROUNDS = 5

Write = Callable[[], object]


class Silent:
    """An observer that has nothing to say."""

    def on_state(self, state: SyncState) -> None: ...

    def on_error(self, error: StoreError) -> None: ...


def report(name: str, times_s: list[float], floor_name: str, floor_s: list[float]) -> None:
    """One line: the deed, its floor, and the ratio of the medians."""
    ours, floor = (
        (statistics.median(each) * 1000, sorted(each)[int(len(each) * 0.99)] * 1000)
        for each in (times_s, floor_s)
    )
    print(
        f"{name:38} median {ours[0]:8.3f} p99 {ours[1]:8.3f} ms   {floor_name:36}"
        f" {floor[0]:8.3f} {floor[1]:8.3f} ms   {ours[0] / floor[0]:5.2f}"
    )


def rounds(work: Callable[[], object]) -> list[float]:
    """Seconds of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def latencies(write: Write, arrivals: Callable[[Callable[[], None]], None]) -> list[float]:
    """Seconds from before each write to its arrival, in a thread that calls its argument then."""
    arrived_at = 0.0
    has_arrived = threading.Event()

    def on_arrival() -> None:
        nonlocal arrived_at
        arrived_at = time.perf_counter()
        has_arrived.set()

    thread = threading.Thread(target=arrivals, args=(on_arrival,), daemon=True)
    thread.start()
    time.sleep(0.5)
    times = []
    for _ in range(LATENCIES):
        has_arrived.clear()
        start = time.perf_counter()
        write()
        has_arrived.wait(5)
        times.append(arrived_at - start)
        time.sleep(PAUSE_S)
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
    with etcd_cluster(folder) as cluster, closing(open_store(cluster.url())) as store:
        member = transport.Member(cluster.members[0].endpoint, None)
        put = wire.encode_txn("/calico", [Put("/v1/w/1", VALUE)], ())
        stop = threading.Event()

        def requests() -> Iterator[bytes]:
            yield wire.encode_watch(b"/calico/v1/w/", b"/calico/v1/w0", 0)
            stop.wait()

        def bare_arrivals(on_arrival: Callable[[], None]) -> None:
            try:
                for _ in member.stream(transport.WATCH, requests(), None):
                    on_arrival()
            except transport.STREAM_ERRORS:
                return

        floor = latencies(lambda: member.call(transport.TXN, put), bare_arrivals)
        stop.set()
        report("etcd: put to watcher", store_latencies(store), "bare grpc, one stream", floor)
        report(
            "etcd: put to loop, by syncer", loop_latencies(store), "bare grpc, one stream", floor
        )
        batches = [
            [Put(f"/v1/p/{number:06}", VALUE) for number in range(start, start + OPERATIONS_MAX)]
            for start in range(0, PUTS, OPERATIONS_MAX)
        ]
        ready = [wire.encode_txn("/calico", batch, ()) for batch in batches]
        report(
            f"etcd: {PUTS} puts",
            rounds(puts_of(store)),
            "bare grpc, requests ready",
            rounds(lambda: [member.call(transport.TXN, request) for request in ready]),
        )
        fill(store)
        everything = wire.encode_range(b"/calico/v1/k/", b"/calico/v1/k0", limit=0)
        report(
            f"etcd: read {ENTRIES} entries",
            rounds(lambda: store.read("/v1/k/")),
            "bare grpc, one answer, not parsed",
            rounds(lambda: member.call(transport.RANGE, everything, 60)),
        )
        member.close()


@contextmanager
def bare_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """SQLite with one table, set up as ours is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("create table entry (key text primary key, value blob) without rowid")
        yield connection


def bench_sqlite(folder: Path) -> None:
    """Our store over a file, beside SQLite with one table and no log."""
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(f"sqlite://{folder}/state.db")))
        bare = stack.enter_context(bare_sqlite(folder / "bare.db"))
        reader, writer = os.pipe()
        insert = "insert or replace into entry values (?, ?)"

        def write_and_say_so() -> None:
            bare.execute(insert, ("/v1/w/1", VALUE))
            os.write(writer, b"x")

        def bare_arrivals(on_arrival: Callable[[], None]) -> None:
            while os.read(reader, 1) != b"e":
                on_arrival()

        floor = latencies(write_and_say_so, bare_arrivals)
        os.write(writer, b"e")
        floor_name = "bare insert, then a byte by a pipe"
        report("sqlite: put to watcher", store_latencies(store), floor_name, floor)
        report("sqlite: put to loop, by syncer", loop_latencies(store), floor_name, floor)

        def bare_puts() -> None:
            for start in range(0, PUTS, OPERATIONS_MAX):
                rows = [(f"/v1/p/{n:06}", VALUE) for n in range(start, start + OPERATIONS_MAX)]
                bare.execute("begin immediate")
                bare.executemany(insert, rows)
                bare.execute("commit")

        report(f"sqlite: {PUTS} puts", rounds(puts_of(store)), "bare inserts", rounds(bare_puts))
        fill(store)
        rows = [(f"/v1/k/{number:06}", VALUE) for number in range(ENTRIES)]
        bare.execute("begin")
        bare.executemany(insert, rows)
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
