"""The controller as a process: waits for its turn, writes while it has it, and ends.

In: an API server, a store, and how to run.  Out: a datastore that follows Kubernetes.

::

    STARTING ─► STANDBY ─────────────► LEADING ─► end
    which cluster  another holds the     the loop works under the fence; ends when told to,
    is this?       Lease                 or when another controller writes
"""

import enum
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import structlog

from calico_k8s.config import Layer, resolve
from calico_k8s.controller.events import Announcer
from calico_k8s.controller.fence import Fence, Writer, check_cluster, claim
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.lease import Elector, Lease, LeaseTimes
from calico_k8s.controller.metrics import Metrics
from calico_k8s.controller.reflector import Pause
from calico_k8s.controller.run import Loop, Parts
from calico_k8s.datastore.store import Delete, Put, Store
from calico_k8s.errors import (
    CalicoError,
    Deposed,
    KubeConflict,
    KubeError,
    KubeNotFound,
    KubeUnavailable,
    StoreUnavailable,
)
from calico_k8s.model import codec, keys
from calico_k8s.model.resources import Setting
from calico_k8s.telemetry import Telemetry, serving
from calico_k8s.translate.namespaces import TranslateSettings
from calico_k8s.translate.objects import Namespace

LEASE_NAME = "calico-k8s-controller"
SYSTEM_NAMESPACE_PATH = "/api/v1/namespaces/kube-system"
LIVE_S = 120.0
"""A loop that has not come round for so long hangs: every call has a shorter limit."""

log = structlog.get_logger()


class LeaseOptions(msgspec.Struct, frozen=True):
    """Which Lease decides."""

    namespace: str
    name: str = LEASE_NAME
    times: LeaseTimes = LeaseTimes()


class Options(msgspec.Struct, frozen=True):
    """How to run."""

    identity: str
    """Of this process, never used again."""
    layers: tuple[Layer, ...] = ()
    """Settings of the command line and the environment; the datastore's come after them."""
    lease: LeaseOptions | None = None
    """None: no election, and this one writes from now on."""
    metrics_port: int = 0
    """0: nothing is served."""


class _Turn(NamedTuple):
    """What a term as writer begins with."""

    fence: Fence
    settings: TranslateSettings


class Phase(enum.Enum):
    """What a controller does."""

    STARTING = "starting"
    STANDBY = "standby"
    LEADING = "leading"


class Controller:
    """One process's controller; ``run`` belongs to one thread, the rest to any."""

    def __init__(self, api: KubeApi, store: Store, options: Options) -> None:
        self._api = api
        self._store = store
        self._options = options
        self.metrics = Metrics()
        self.phase = Phase.STARTING
        self._stopping = threading.Event()
        self._loop: Loop | None = None
        self._fence: Fence | None = None
        """Of the term as writer; None before it."""
        self._beat_s = time.monotonic()
        self._problem: CalicoError | None = None
        self._lost: Deposed | None = None
        self.beside: Callable[[], str | None] = lambda: None
        """What else this process is not ready for, in a sentence."""

    def run(self) -> None:
        """Works until stopped.

        Raises: Deposed when another controller writes; StoreForeign where the store is another
        cluster's; StoreForbidden, KubeForbidden; UnavailableError for a port that is taken.
        """
        telemetry = Telemetry(self.metrics.registry, self.is_live, self.is_ready)
        if not self._options.metrics_port:
            self._run()
            return
        with serving(self._options.metrics_port, telemetry):
            self._run()

    def stop(self) -> None:
        """Ends ``run`` soon; from any thread, of which a signal's handler is none."""
        self._stopping.set()
        loop = self._loop
        if loop is not None:
            loop.stop()

    def is_live(self) -> str | None:
        """None while the process works."""
        loop = self._loop
        quiet_s = time.monotonic() - max(self._beat_s, loop.beat_s if loop else 0.0)
        return f"nothing has moved for {quiet_s:.0f} s" if quiet_s > LIVE_S else None

    def is_ready(self) -> str | None:
        """None while standing by, or while the datastore is what Kubernetes wants."""
        loop = self._loop
        if self.phase is Phase.LEADING and loop is not None:
            return loop.problem() or self.beside()
        if self._problem is not None:
            return str(self._problem)
        return self.beside() if self.phase is Phase.STANDBY else self.phase.value

    def _run(self) -> None:
        cluster_uid = self._cluster_uid()
        if cluster_uid is None:
            return
        elector = self._elector()
        turn = self._wait_for_turn(cluster_uid, elector)
        if turn is None:
            return
        with self._holding(elector):
            self._lead(turn)
        if self._lost is not None:
            raise self._lost

    def _cluster_uid(self) -> str | None:
        """The UID of kube-system, once the API server answers; None when told to stop."""
        pause = Pause()
        while not self._stopping.is_set():
            self._beat_s = time.monotonic()
            try:
                body = self._api.get(SYSTEM_NAMESPACE_PATH)
                uid = msgspec.json.decode(body, type=Namespace).metadata.uid or ""
                check_cluster(self._store, uid)
                self._problem = None
                return uid
            except (KubeUnavailable, KubeNotFound, StoreUnavailable) as error:
                self._wait(error, pause.next_s())
        return None

    def _elector(self) -> Elector | None:
        lease = self._options.lease
        if lease is None:
            return None
        return Elector(self._api, lease.namespace, lease.name, self._options.identity, lease.times)

    def _wait_for_turn(self, cluster_uid: str, elector: Elector | None) -> _Turn | None:
        """The right to write, as soon as it can be had; None when told to stop."""
        pause = Pause()
        log.info("standing by", identity=self._options.identity)
        while not self._stopping.is_set():
            self._beat_s = time.monotonic()
            try:
                lease = elector.attempt() if elector else None
                self._problem = None
                if elector is None or lease is not None:
                    return _Turn(self._claim(cluster_uid, elector), self.settings())
                self.phase = Phase.STANDBY
                self._stopping.wait(elector.times.retry_s)
            except StoreUnavailable as error:
                if elector is not None:
                    _release(elector)  # another may reach the store
                self._wait(error, elector.times.retry_s if elector else pause.next_s())
            except (KubeConflict, KubeUnavailable) as error:
                self._wait(error, elector.times.retry_s if elector else pause.next_s())
        return None

    def _claim(self, cluster_uid: str, elector: Elector | None) -> Fence:
        identity = self._options.identity

        def writer_after(before: Writer | None) -> Writer:
            if elector is None:
                count = before.transitions if before and not before.lease_uid else 0
                return Writer(identity, "", count + 1)
            lease = _held(elector)
            uid = lease.metadata.uid
            if before and before.identity != identity and before.lease_uid == uid:
                lease = elector.surpass(before.transitions)
            return Writer(identity, uid, lease.transitions)

        fence = claim(self._store, cluster_uid, writer_after)
        log.info("writing from now on", identity=identity)
        return fence

    def _lead(self, turn: _Turn) -> None:
        announcer = Announcer(
            self._api,
            self._options.identity,
            lambda result: self.metrics.events.labels(result).inc(),
        )
        parts = Parts(self._api, self._store, turn.fence, self.metrics, announcer, turn.settings)
        self._fence = turn.fence
        self._loop = Loop(parts)
        self.phase = Phase.LEADING
        self.metrics.is_leader.set(1)
        announcer.start()
        try:
            if not self._stopping.is_set():  # told while there was no loop to tell
                self._loop.run()
        finally:
            self.metrics.is_leader.set(0)
            announcer.close()

    def tell(self, path: str, value: bytes | None) -> None:
        """Have the datastore hold what ``status`` reads there, where this one writes; None: nothing.

        Raises: StoreError.
        """
        fence = self._fence
        if fence is None or not self.is_leading:
            return
        entry = self._store.get(path)
        if (entry.value if entry is not None else None) != value:
            operation = Delete(path) if value is None else Put(path, value)
            self._store.transact([operation], fence.compares)

    @property
    def is_leading(self) -> bool:
        """Whether this one writes."""
        return self.phase is Phase.LEADING

    def settings(self) -> TranslateSettings:
        """The settings that hold; those of the datastore are read now.

        Raises: StoreError.
        """
        stored: dict[str, str] = {}
        for entry in self._store.read(f"{keys.V1}config/").entries:
            key = keys.parse_path(entry.key)
            value = codec.decode(key, entry.value).value if key else None
            if isinstance(key, keys.SettingKey) and isinstance(value, Setting):
                stored[key.name] = value.value
        return self._resolved(Layer("datastore", stored))

    def own_settings(self) -> TranslateSettings:
        """Those of the command line and the environment alone."""
        return self._resolved()

    def _resolved(self, *more: Layer) -> TranslateSettings:
        found = resolve((*self._options.layers, *more))
        for problem in found.problems:
            log.warning("setting not used", problem=problem)
        return TranslateSettings(
            found.config.annotation_keys,
            found.config.default_namespace_policy,
            found.config.auto_host_endpoints,
            found.config.dns_trusted_servers,
        )

    @contextmanager
    def _holding(self, elector: Elector | None) -> Iterator[None]:
        """Renews the Lease beside the loop, and gives it up at the end."""
        if elector is None:
            yield
            return
        is_over = threading.Event()
        thread = threading.Thread(
            target=self._renew, args=(elector, is_over), name="lease", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            if self._lost is None:
                _release(elector)

    def _renew(self, elector: Elector, is_over: threading.Event) -> None:
        while not is_over.wait(elector.times.retry_s):
            try:
                elector.renew()
            except Deposed as error:
                self._lost = error
                self.stop()
                return
            except KubeError as error:
                log.warning("lease not renewed", error=str(error))

    def _wait(self, error: CalicoError, duration_s: float) -> None:
        self._problem = error
        log.warning(self.phase.name.lower(), error=str(error), retry_s=round(duration_s, 2))
        self._stopping.wait(duration_s)


def _held(elector: Elector) -> Lease:
    lease = elector.read()
    if lease.holder != elector.identity:
        raise KubeConflict(f"the Lease is held by {lease.holder or 'nobody'}")
    return lease


def _release(elector: Elector) -> None:
    try:
        elector.release()
    except KubeError as error:
        log.warning("lease not released", error=str(error))
