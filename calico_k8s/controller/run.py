"""The controller's loop: what changes in Kubernetes, into the datastore.

In: changes from the reflectors, in any order.  Out: transactions that hold what differs, under the
fence; findings to Events, log and metrics.  What objects mean is translate's matter, in which order
keys are written the reconciler's.

::

    reflectors ─► inbox ─► Translator ─► Reconciler ─► store
    one a kind    news     changes       transactions
                              └► findings ─┐
    nodes' status ─► NodeReports ─► findings ─┴► Teller ─► Events, log, metrics
                         └─► revisions ─► PolicyStatuses ─► conditions, summary

After any error of the store its state is unknown: the fence is renewed, so that nothing sent before
can still be done, everything is read again, and what differs is written.  The same happens now and
then without an error, and puts right what somebody else has changed.
"""

import gc
import random
import threading
import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from calico_k8s.controller.events import Announcer
from calico_k8s.controller.fence import Fence
from calico_k8s.controller.inbox import Inbox
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.listing import list_objects
from calico_k8s.controller.metrics import Metrics
from calico_k8s.controller.nodes import NodeReports
from calico_k8s.controller.reconcile import Reconciler, Written
from calico_k8s.controller.reflector import Pause, Reflector, ReflectorState
from calico_k8s.controller.statuses import PolicyStatuses, Told
from calico_k8s.controller.summary import SummaryKeeper
from calico_k8s.controller.telling import Source, Teller
from calico_k8s.controller.wire import PATHS, Change, uid_of
from calico_k8s.datastore.store import Store
from calico_k8s.errors import (
    CalicoError,
    KubeError,
    StoreConflict,
    StoreError,
    UnavailableError,
)
from calico_k8s.model import keys
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import Value, WorkloadEndpoint
from calico_k8s.translate.cluster import Translator, translate_all
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.namespaces import TranslateSettings
from calico_k8s.translate.objects import Decoded

RESYNC_S = 600.0
"""How often everything stored is compared with what is wanted, errors aside."""
DOUBT_S = 5.0
"""How soon everything is compared again after two looks at Kubernetes did not agree."""
IDLE_S = 1.0
"""The longest wait for news: how soon the loop shows that it lives."""

log = structlog.get_logger()


class Parts(msgspec.Struct, frozen=True):
    """What the loop works with, all of it started and closed by others."""

    api: KubeApi
    store: Store
    fence: Fence
    metrics: Metrics
    announcer: Announcer
    settings: TranslateSettings


class Loop:
    """One writer's term, from its claim to its end."""

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._clock = clock
        self._inbox = Inbox(PATHS)
        self._reflectors = [
            Reflector(parts.api, kind, self._inbox, parts.metrics) for kind in PATHS
        ]
        self._translator = Translator(parts.settings, sees_all=True)
        self._nodes = NodeReports(parts.store)
        self._nodes_at_s: float | None = None
        """When nodes' reports are looked at next; None until the first sync is in."""
        self._teller = Teller(parts.metrics, parts.announcer)
        self._statuses = PolicyStatuses(
            parts.api,
            self._nodes,
            SummaryKeeper(parts.store, lambda: parts.fence.compares),
            lambda result: parts.metrics.statuses.labels(result).inc(),
            parts.metrics.set_policies,
        )
        self._untold: set[ObjectRef] = set()
        """Policy objects that may have changed, until the datastore has them."""
        self._reconciler: Reconciler | None = Reconciler(parts.store, parts.fence.compares)
        self._uids: dict[ObjectRef, str] = {}
        self._too_large: set[keys.Key] = set()
        self._synced_at = 0.0
        """When the datastore was last known to be complete, in seconds since the epoch."""
        parts.metrics.endpoints.set_function(lambda: self._translator.endpoint_count)
        parts.metrics.synced_at.set_function(lambda: self._synced_at)
        self._pause = Pause()
        self._sync_at_s = self._check_at_s = 0.0
        self._is_in_sync = False
        self._is_doubtful = False
        self._stopping = threading.Event()
        self._store_error: StoreError | None = None
        self.beat_s = clock()
        """When the loop last came round."""

    def run(self) -> None:
        """Works until stopped.

        Raises: Deposed when another controller writes now; UnavailableError when one of the threads
        beside it has ended, which is a mistake of ours: the process is better started anew.
        """
        for reflector in self._reflectors:
            reflector.start()
        try:
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._is_in_sync = False
            self._parts.metrics.is_in_sync.set(0)
            for reflector in self._reflectors:
                reflector.stop()
            for reflector in self._reflectors:
                reflector.close()
            self._statuses.close()
            self._nodes.close()

    def stop(self) -> None:
        """Ends ``run`` soon; from any thread."""
        self._stopping.set()
        self._inbox.wake()

    def problem(self) -> str | None:
        """Why the datastore may not be what Kubernetes wants; None where it is."""
        if self._store_error is not None:
            return f"the datastore is not written: {self._store_error}"
        away = [
            kind
            for kind, reflector in zip(PATHS, self._reflectors, strict=True)
            if reflector.state not in (ReflectorState.WATCHING, ReflectorState.ABSENT)
        ]
        if away:
            return f"not watched: {', '.join(away)}"
        return None if self._is_in_sync else "the first sync is not in"

    def _turn(self) -> None:
        arrivals = self._inbox.take(self._wait_s())
        self.beat_s = self._clock()
        if self.beat_s >= self._check_at_s:
            self._check_at_s = self.beat_s + IDLE_S
            self._check_threads()
        for ref, change in arrivals.changes.items():
            self._translate(ref, change)
        if not arrivals.is_complete:
            return
        changes = self._translator.flush()
        for ref, findings in changes.findings.items():
            self._teller.tell(Source.TRANSLATION, ref, self._uids.get(ref, ""), findings)
        self._uids.clear()
        self._untold |= changes.policies
        try:
            if self._clock() >= self._sync_at_s:
                self._sync()
            elif self._is_in_sync and (changes.puts or changes.deletes):
                self._write(changes.puts, changes.deletes, arrivals.first_s)
        except StoreError as error:
            self._fail(error)
            return
        except KubeError as error:  # only a sync that looks twice asks Kubernetes
            self._put_off(error)
            return
        if self._is_in_sync and arrivals.first_s is not None:
            self._parts.metrics.latency_s.observe(time.monotonic() - arrivals.first_s)
        self._tell_statuses()
        self._hear_nodes()

    def _tell_statuses(self) -> None:
        """Say what has become of policy objects, once the datastore has it."""
        if not (self._untold and self._is_in_sync and self._reconciler is not None):
            return
        news: dict[ObjectRef, Told | None] = {}
        for ref in self._untold:
            standing = self._translator.standing(ref)
            news[ref] = None
            if standing is not None:
                news[ref] = Told(standing, self._reconciler.revision(standing.keys))
        self._untold = set()
        self._statuses.tell(news)

    def _hear_nodes(self) -> None:
        """Tell what nodes say of pods; they are followed once the datastore is as it should be."""
        if self._nodes_at_s is None:
            if self._is_in_sync:
                self._nodes.start()
                self._statuses.tell_nodes(self._translator.nodes_with_endpoints())
                self._statuses.start()
                self._nodes_at_s = self._clock()
            return
        if self._clock() < self._nodes_at_s:
            return
        self._nodes_at_s = self._clock() + IDLE_S
        self._statuses.tell_nodes(self._translator.nodes_with_endpoints())
        self._parts.metrics.set_nodes(self._nodes.nodes(), self._nodes.endpoints())
        for endpoint, finding in self._nodes.news().items():
            ref = ObjectRef("Pod", endpoint.namespace, endpoint.name)
            findings = () if finding is None else (finding,)
            self._teller.tell(Source.NODE, ref, self._uid(endpoint), findings)

    def _uid(self, endpoint: EndpointId) -> str:
        stored = self._translator.items.get(keys.EndpointKey(endpoint))
        return stored.uid if isinstance(stored, WorkloadEndpoint) else ""

    def _wait_s(self) -> float:
        """Until the next try where one is due, else until the next sign of life."""
        if self._is_in_sync or not self._sync_at_s:
            return IDLE_S
        return min(IDLE_S, max(0.0, self._sync_at_s - self._clock()))

    def _check_threads(self) -> None:
        are_alive = [reflector.is_alive for reflector in self._reflectors]
        if self._nodes_at_s is not None:
            are_alive += (self._nodes.is_alive, self._statuses.is_alive)
        if not (all(are_alive) and self._parts.announcer.is_alive):
            raise UnavailableError("a thread has ended: its last words are above, please report it")

    def _translate(self, ref: ObjectRef, change: Change) -> None:
        if not isinstance(change, Decoded):
            self._translator.remove(ref)
            return
        self._uids[ref] = uid_of(change)
        if change.object is None:
            self._translator.report(ref, change.findings)
        else:
            self._translator.update(change.object)

    # The store.

    def _write(
        self, puts: Mapping[keys.Key, Value], deletes: set[keys.Key], first_s: float | None
    ) -> None:
        assert self._reconciler is not None
        if self._reconciler.is_mass_deletion(deletes):
            self._sync()  # which looks twice
            return
        changed_at = None if first_s is None else time.time() - (time.monotonic() - first_s)
        self._count(self._reconciler.write(puts, deletes, changed_at), puts.keys() | deletes)

    def _sync(self) -> None:
        """Compares everything; where the state of the store is unknown, makes it certain first."""
        started_s = self._clock()
        was_in_sync = self._is_in_sync
        if self._reconciler is None:
            self._parts.fence.renew()
            self._reconciler = Reconciler(self._parts.store, self._parts.fence.compares)
        wanted = self._translator.items
        written = self._reconciler.sync(wanted, self._look_again)
        self._untold.update(self._translator.policies)
        self._count(written, set(wanted))
        if was_in_sync:
            self._parts.metrics.drift.inc(written.put + written.deleted)
        duration_s = self._clock() - started_s
        self._parts.metrics.sync_s.observe(duration_s)
        self._is_in_sync, self._store_error = True, None
        self._parts.metrics.is_in_sync.set(1)
        if not was_in_sync:
            gc.freeze()  # the cluster, loaded: a full collection would look at all of it, in the loop
        self._pause.reset()
        wait_s = DOUBT_S if self._is_doubtful else random.uniform(0.9, 1.1) * RESYNC_S
        self._sync_at_s, self._is_doubtful = self._clock() + wait_s, False
        log.info(
            "synced",
            endpoints=self._translator.endpoint_count,
            put=written.put,
            deleted=written.deleted,
            duration_s=round(duration_s, 3),
        )

    def _look_again(self) -> Mapping[keys.Key, Value]:
        """What Kubernetes wants, by a list of its own; where it differs, reflectors list again."""
        self._parts.metrics.held.inc()
        listed = translate_all(list_objects(self._parts.api).objects, self._parts.settings).items
        before, now = (
            {key for key in items if isinstance(key, keys.EndpointKey)}
            for items in (self._translator.items, listed)
        )
        log.warning("most endpoints would go: listed again", before=len(before), now=len(now))
        if before != now:
            self._is_doubtful = True
            for reflector in self._reflectors:
                reflector.list_again()
        return listed

    def _count(self, written: Written, keys_written: set[keys.Key]) -> None:
        metrics = self._parts.metrics
        metrics.put.add(written.put)
        metrics.deleted.add(written.deleted)
        self._synced_at = time.time()
        if not (written.too_large or self._too_large):
            return
        too_large = set(written.too_large)
        for key in sorted(too_large - self._too_large, key=keys.key_path):
            log.error("too large for the datastore, so closed", key=keys.key_path(key))
        self._too_large = (self._too_large - keys_written) | too_large
        metrics.too_large.set(len(self._too_large))

    def _fail(self, error: StoreError) -> None:
        """Raises: Deposed."""
        self._parts.metrics.store_errors.labels(type(error).__name__).inc()
        self._reconciler, self._store_error = None, error
        if isinstance(error, StoreConflict):
            self._check()
        self._put_off(error)

    def _put_off(self, error: CalicoError) -> None:
        pause_s = self._pause.next_s()
        self._is_in_sync, self._sync_at_s = False, self._clock() + pause_s
        self._parts.metrics.is_in_sync.set(0)
        log.warning("not synced", error=str(error), retry_s=round(pause_s, 2))

    def _check(self) -> None:
        try:
            self._parts.fence.check()
        except StoreError as error:
            log.warning(
                "datastore", error=str(error)
            )  # the renewal before the next sync asks again
