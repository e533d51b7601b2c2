"""One agent of ``bench_fanout``: a real syncer and calculation; what would be written is dropped.

In: a datastore's URL, proxies or nothing, a node's name, a port on loopback, a number.  Out: a
datagram there whenever everything that has come is calculated: the number, the revision, when.
"""

import gc
import selectors
import signal
import socket
import struct
import sys
import time

from calico_k8s.calc.graph import Graph
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import Pending, UpdateQueue
from calico_k8s.errors import StoreError
from calico_k8s.felix.process import SWITCH_S
from calico_k8s.model import codec, keys
from calico_k8s.model.names import NodeName

REPORT = struct.Struct("=iqq")


class _Quiet:
    """Says what went wrong, for whoever looks into the log."""

    def on_state(self, state: SyncState) -> None: ...

    def on_error(self, error: StoreError) -> None:
        print(error, file=sys.stderr, flush=True)


def take(graph: Graph, pending: Pending) -> None:
    """Calculates what has come, as the agent does."""
    for path, raw in pending.values_by_key.items():
        key = keys.parse_path(path)
        if key is not None:
            value, _ = codec.decode(key, raw) if raw is not None else (None, ())
            graph.update(key, value)
    if pending.is_in_sync:
        graph.flush()


def main(url: str, proxies: str, node: str, port: str, number: str) -> None:
    """Until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_S)
    store = open_store(url, proxies=tuple(filter(None, proxies.split(","))))
    queue, graph = UpdateQueue(), Graph(NodeName(node))
    Syncer(store, keys.V1, queue, _Quiet()).start()
    is_frozen = False
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        selectors.DefaultSelector() as selector,
    ):
        out.connect(("127.0.0.1", int(port)))
        selector.register(queue, selectors.EVENT_READ)
        while True:
            selector.select()
            pending = queue.take()
            take(graph, pending)
            if pending.is_in_sync and not is_frozen:
                gc.collect()
                gc.freeze()  # as the agent does
                is_frozen = True
            if pending.is_in_sync:
                out.send(REPORT.pack(int(number), pending.revision, time.monotonic_ns()))


if __name__ == "__main__":
    main(*sys.argv[1:])
