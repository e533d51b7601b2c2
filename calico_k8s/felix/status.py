"""Tells the cluster how this node is: the status keys, written beside the loop and under a lease.

In: the newest :class:`NodeStatus`, whenever the loop has one.  Out: ``/felix/v2/host/NODE/status``
and a key for each endpoint, written where they differ.  A store that is slow or away delays only
this thread; the keys of a node that is gone go with its lease.
"""

import threading
import time
from collections.abc import Mapping

import msgspec

from calico_k8s.datastore.store import Delete, LeaseId, Operation, Put, Store, transact_in_order
from calico_k8s.errors import StoreError, StoreLeaseLost
from calico_k8s.model.denial import Denials, denials_path
from calico_k8s.model.names import EndpointId, NodeName
from calico_k8s.model.status import (
    ENFORCED,
    EndpointStatus,
    NodeState,
    StoredStatus,
    endpoint_status_path,
    status_path,
)

LEASE_S = 30
KEEP_ALIVE_S = 10.0
AGAIN_S = 1.0


class NodeStatus(msgspec.Struct, frozen=True):
    """How a node is, and how each endpoint of it is."""

    node: NodeName
    pid: int
    started: float
    """Seconds since the epoch."""
    state: NodeState
    revision: int = 0
    """Of the datastore, that the kernel has reached."""
    backend: str = ""
    groups: int = 0
    applied: float = 0.0
    """When the kernel was last brought to what is desired; seconds since the epoch."""
    drift_repaired: int = 0
    errors: tuple[str, ...] = ()
    endpoints: dict[EndpointId, EndpointStatus] = {}
    denials: Denials | None = None
    """None: it is not told which packets are denied."""


class StatusWriter:
    """A thread that writes the newest status; older ones that it had no time for are skipped."""

    def __init__(self, store: Store, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._store = store
        self._keep_alive_s = keep_alive_s
        self._kept_s = 0.0
        """When the lease was last granted or kept, of the monotonic clock."""
        self._news = threading.Condition()
        self._newest: NodeStatus | None = None
        self._is_closed = False
        self._lease: LeaseId | None = None
        self._written: dict[str, bytes] = {}
        self._endpoints: tuple[Mapping[EndpointId, EndpointStatus], Mapping[str, bytes]] = ({}, {})
        """Those that were last told, and how they are stored: they are seldom other ones."""
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: it ends by :meth:`close`, or by a mistake of ours."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell(self, status: NodeStatus) -> None:
        """Take a status for writing; never blocks for longer than a lock."""
        with self._news:
            self._newest = status
            self._news.notify()

    def close(self) -> None:
        """Take the keys away, as far as the store is there, and end the thread."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        latest: NodeStatus | None = None
        pause_s = self._keep_alive_s
        while True:
            with self._news:
                if self._newest is None and not self._is_closed:
                    self._news.wait(timeout=pause_s)
                is_closed = self._is_closed
                latest, self._newest = self._newest or latest, None
            try:
                if is_closed:
                    self._leave()
                    return
                if latest is not None:
                    self._write(self._encode(latest))
                pause_s = self._keep_alive_s
            except StoreError:
                # The store is away or slow.  What was written goes with its lease; everything is
                # written again.
                self._forget()
                pause_s = min(AGAIN_S, self._keep_alive_s)
                if is_closed:
                    return

    def _write(self, wanted: dict[str, bytes]) -> None:
        lease = self._hold_lease(time.monotonic())
        operations: list[Operation] = [
            Put(path, raw, lease) for path, raw in wanted.items() if self._written.get(path) != raw
        ]
        operations += [Delete(path) for path in self._written if path not in wanted]
        transact_in_order(self._store, operations)
        self._written = wanted

    def _encode(self, status: NodeStatus) -> dict[str, bytes]:
        told, stored = self._endpoints
        if status.endpoints != told:
            told = status.endpoints
            stored = {endpoint_status_path(e): msgspec.json.encode(s) for e, s in told.items()}
            self._endpoints = told, stored
        keys = {status_path(status.node): _encode_node(status), **stored}
        if status.denials is not None:
            keys[denials_path(status.node)] = msgspec.json.encode(status.denials)
        return keys

    def _hold_lease(self, now_s: float) -> LeaseId:
        """Our lease, kept alive where it is time to."""
        if self._lease is not None and now_s - self._kept_s < self._keep_alive_s:
            return self._lease
        try:
            if self._lease is not None:
                self._store.keep_alive(self._lease)
        except StoreLeaseLost:
            self._forget()
        if self._lease is None:
            self._lease = self._store.grant_lease(LEASE_S)
        self._kept_s = now_s
        return self._lease

    def _leave(self) -> None:
        if self._lease is not None:
            self._store.revoke_lease(self._lease)

    def _forget(self) -> None:
        self._lease = None
        self._written = {}


def _encode_node(status: NodeStatus) -> bytes:
    states = status.endpoints
    node = StoredStatus(
        node=status.node,
        pid=status.pid,
        started=status.started,
        state=status.state,
        revision=status.revision,
        backend=status.backend,
        endpoints=len(states),
        enforced=sum(each.state == ENFORCED for each in states.values()),
        groups=status.groups,
        applied=status.applied,
        drift_repaired=status.drift_repaired,
        errors=status.errors,
    )
    return msgspec.json.encode(node)
