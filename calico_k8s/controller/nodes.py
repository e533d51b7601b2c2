"""What nodes tell of themselves, followed: who is alive, and which pods they cannot enforce.

In: the keys that each Felix writes (:mod:`calico_k8s.model.status`).  Out: how many nodes and
endpoints are in which state, and a finding for each pod whose node has not enforced its policy for
some time.  A pod that starts or ends is in between for moments: nobody is told of those.

A thread of its own follows; the loop asks now and then.  The datastore being away changes nothing.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog

from calico_k8s.datastore.store import Revision, Store
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import Update
from calico_k8s.errors import StoreError
from calico_k8s.model.names import EndpointId, NodeName
from calico_k8s.model.status import (
    ENFORCED,
    HOSTS,
    EndpointStatus,
    StoredStatus,
    decode_status,
    parse_status_path,
)
from calico_k8s.translate.findings import Finding, ObjectRef, Severity

NOT_ENFORCED = "not-enforced"
"""The code of its findings; docs/status.md explains it, as docs/lint.md the others."""
LASTING_S = 15.0
"""A state that a pod has for so long is told: the interface of one that ends goes before it does."""
LOG_AGAIN_S = 60.0

log = structlog.get_logger()


class _Lacking(NamedTuple):
    """An endpoint that is not enforced, or not wholly, and since when, of the monotonic clock."""

    status: EndpointStatus
    since_s: float


class NodeReports:
    """Follows one store; ``start`` and ``close`` once each, the rest from the loop's thread."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._nodes: dict[NodeName, str] = {}
        self._revisions: dict[NodeName, Revision] = {}
        self._has_heard = False
        self._states: dict[EndpointId, str] = {}
        self._lacking: dict[EndpointId, _Lacking] = {}
        self._told: dict[EndpointId, EndpointStatus] = {}
        self._logged_s = -LOG_AGAIN_S
        self._syncer = Syncer(store, HOSTS, self, self)

    def start(self) -> None:
        """Begins to follow."""
        self._syncer.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._syncer.is_alive

    def close(self) -> None:
        """Follows no more."""
        if self._syncer.is_alive:
            self._syncer.close()

    def nodes(self) -> Mapping[str, int]:
        """How many nodes tell that they are in which state."""
        with self._lock:
            return Counter(self._nodes.values())

    def revisions(self) -> Mapping[NodeName, Revision] | None:
        """The revision that each node has in its kernel, of those that tell; None: not known yet."""
        with self._lock:
            return dict(self._revisions) if self._has_heard else None

    def endpoints(self) -> Mapping[str, int]:
        """How many endpoints are in which state, as their nodes tell."""
        with self._lock:
            return Counter(self._states.values())

    def news(self) -> Mapping[EndpointId, Finding | None]:
        """What is to be told of endpoints since the last call; None: nothing any more.

        Cost: O(endpoints that are not enforced).
        """
        now_s = self._clock()
        with self._lock:
            lasting = {
                endpoint: lacking.status
                for endpoint, lacking in self._lacking.items()
                if now_s - lacking.since_s >= LASTING_S
            }
        before, self._told = self._told, lasting
        return {
            endpoint: _finding(endpoint, status) if (status := lasting.get(endpoint)) else None
            for endpoint in lasting.keys() | before.keys()
            if lasting.get(endpoint) != before.get(endpoint)
        }

    # What the syncer's thread tells.

    def on_updates(self, updates: Sequence[Update], revision: Revision) -> None:  # noqa: ARG002 - a sink's
        """Takes in what nodes have written."""
        with self._lock:
            for path, raw in updates:
                match parse_status_path(path):
                    case EndpointId() as endpoint:
                        status = None if raw is None else decode_status(raw, EndpointStatus)
                        self._note_endpoint(endpoint, status)
                    case str() as node:
                        told = None if raw is None else decode_status(raw, StoredStatus)
                        self._note_node(node, told)
                    case None:
                        pass  # a newer version's

    def on_in_sync(self) -> None:
        """What was told until now is all there was."""
        with self._lock:
            self._has_heard = True

    def on_state(self, state: SyncState) -> None:
        """Nothing follows from it."""

    def on_error(self, error: StoreError) -> None:
        """Says so now and then: the loop meets the same, and counts it."""
        if self._clock() >= self._logged_s + LOG_AGAIN_S:
            self._logged_s = self._clock()
            log.warning("nodes not heard", error=str(error))

    def _note_endpoint(self, endpoint: EndpointId, status: EndpointStatus | None) -> None:
        if status is None:
            self._states.pop(endpoint, None)
            self._lacking.pop(endpoint, None)
            return
        self._states[endpoint] = status.state
        if status.state == ENFORCED and not status.reason:
            self._lacking.pop(endpoint, None)
            return
        before = self._lacking.get(endpoint)
        since_s = self._clock() if before is None else before.since_s
        self._lacking[endpoint] = _Lacking(status, since_s)

    def _note_node(self, node: NodeName, told: StoredStatus | None) -> None:
        self._revisions.pop(node, None)
        if told is not None and told.revision:  # an agent that has just begun has none yet
            self._revisions[node] = Revision(told.revision)
        before, now = self._nodes.pop(node, None), None if told is None else told.state
        if now is not None:
            self._nodes[node] = now
        if now == before:
            return
        if now == "failing" and told is not None:
            log.error("node", node=node, state=now, error=told.errors[0] if told.errors else "")
        else:
            log.info("node", node=node, state=now or "silent")


def _finding(endpoint: EndpointId, status: EndpointStatus) -> Finding:
    if status.state == ENFORCED:
        what = f"node {endpoint.node} enforces this pod's policy only in part"
    else:
        what = f"node {endpoint.node} cannot enforce this pod's policy ({status.state})"
    ref = ObjectRef("Pod", endpoint.namespace, endpoint.name)
    return Finding(NOT_ENFORCED, Severity.ERROR, f"{what}: {status.reason}", ref)
