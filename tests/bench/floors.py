"""What no change can be quicker than: one hop of the store, and one message to the kernel.

In: a datastore's URL, or a node.  Out: milliseconds of the same deeds with nothing of ours: a put to
its watcher by bare gRPC or bare SQLite, a member of an ipset to the verdict on a packet.
"""

import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc

from calico_k8s.datastore.etcd import transport, wire
from calico_k8s.datastore.location import EtcdLocation, parse_url
from calico_k8s.datastore.store import Put
from calico_k8s.netlink.ipset import Edit, IpsetSocket, MemberCommand
from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember
from tests.bench.bed import Bed, remote_address
from tests.bench.figure import Floor, summary
from tests.namespaces import run

VALUE = b"x" * 500
LATENCIES = 1500
FLOORS, IPSETS = 400, 300
PAUSE_S = 0.001
BARE_GRPC = "bare grpc, one stream"
BARE_SQLITE = "bare insert, then a byte by a pipe"
INSERT = "insert or replace into entry values (?, ?)"

Write = Callable[[], object]
Arrivals = Callable[[Callable[[], None]], None]


def latencies(write: Write, arrivals: Arrivals, count: int = LATENCIES) -> list[float]:
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
    for _ in range(count):
        has_arrived.clear()
        start = time.perf_counter()
        write()
        has_arrived.wait(5)
        times.append(arrived_at - start)
        time.sleep(PAUSE_S)
    return times


def grpc_latencies(endpoint: str, count: int = LATENCIES) -> list[float]:
    """Seconds of a put to an etcd's own watch; the request is ready and the answer is not read."""
    with closing(grpc.insecure_channel(endpoint)) as channel:
        transact = channel.unary_unary(transport.TXN)
        put = wire.encode_txn("/floor", [Put("/w/1", VALUE)], ())
        stop = threading.Event()

        def requests() -> Iterator[bytes]:
            yield wire.encode_watch(b"/floor/w/", b"/floor/w0", 0)
            stop.wait()

        def arrivals(on_arrival: Callable[[], None]) -> None:
            try:
                for _ in channel.stream_stream(transport.WATCH)(requests()):
                    on_arrival()
            except grpc.RpcError:
                return

        times = latencies(lambda: transact(put), arrivals, count)
        stop.set()
        return times


@contextmanager
def bare_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """SQLite with one table, set up as ours is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("create table entry (key text primary key, value blob) without rowid")
        yield connection


def sqlite_latencies(bare: sqlite3.Connection, count: int = LATENCIES) -> list[float]:
    """Seconds of an insert to whoever waits at the other end of a pipe."""
    reader, writer = os.pipe()

    def write_and_say_so() -> None:
        bare.execute(INSERT, ("/v1/w/1", VALUE))
        os.write(writer, b"x")

    def arrivals(on_arrival: Callable[[], None]) -> None:
        while os.read(reader, 1) != b"e":
            on_arrival()
        os.close(reader)

    times = latencies(write_and_say_so, arrivals, count)
    os.write(writer, b"e")
    os.close(writer)
    return times


def watch_floor(url: str) -> Floor:
    """A put to a watcher of it, with nothing of ours, in milliseconds."""
    location = parse_url(url)
    if isinstance(location, EtcdLocation):
        times, name = grpc_latencies(location.endpoints[0], FLOORS), "bare etcd watch"
    else:
        with (
            tempfile.TemporaryDirectory(dir=location.path.parent) as folder,
            bare_sqlite(Path(folder, "bare.db")) as bare,
        ):
            times, name = sqlite_latencies(bare, FLOORS), "bare insert"
    return Floor(name, *summary([second * 1000 for second in times]))


def ipset_floor(bed: Bed, changes: int) -> list[float]:
    """From just before a netlink message to a verdict: a member of a set that one rule asks."""
    ipset = KernelIpset(IpsetName("floor"), "hash:net", 4)
    member = [KernelMember(remote_address(0))]
    times: list[float] = []
    with bed.node:
        sets = IpsetSocket()
        sets.create(ipset)
        match = ("-m", "set", "!", "--match-set", ipset.name, "src")
        rule = ("FORWARD", "-i", "eth0", *match, "-j", "DROP")
        run("iptables-nft", "-A", *rule)
    with bed.flow.sending(bed.outside, remote_address(0)):
        time.sleep(0.3)
        for _ in range(changes // 2):
            start_ns = time.monotonic_ns()
            sets.edit([Edit(ipset, MemberCommand.ADD, member)])
            times.append(bed.flow.first_passed(start_ns))
            start_ns = time.monotonic_ns()
            sets.edit([Edit(ipset, MemberCommand.DELETE, member)])
            times.append(bed.flow.last_passed(start_ns))
    with bed.node:
        run("iptables-nft", "-D", *rule)
        time.sleep(0.1)
        sets.destroy([ipset.name])
        sets.close()
    return times


def convergence_floor(bed: Bed, url: str) -> Floor:
    """A hop of the store and a message to the kernel: what a change takes at least.

    Of the messages the mean counts, without the slowest tenth: half of them close, and take nothing
    that the prober sees, half open, and take up to its step.  The median lies between the two, and
    varied by a fifth from run to run where this varies by a twentieth.
    """
    hop = watch_floor(url)
    times = sorted(ipset_floor(bed, IPSETS))
    message = statistics.fmean(times[: int(len(times) * 0.9)])
    return Floor(f"{hop.name} + ipset add", hop.median + message, hop.p99 + summary(times)[1])
