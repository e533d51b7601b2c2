"""The agent of one node: one loop that follows the datastore and keeps the kernel as it says.

In: the datastore's updates, the node's network, the time.  Out: kernel writes, and status::

    datastore ─ syncer's thread ─► queue ─┐
    links, routes, neighbours ────────────┼─► loop ─► calc ─► desired ─► kernel
    timers ───────────────────────────────┘             └──► live flows judged, status told

Nothing is written before the store's first snapshot is in and says that it is complete; what an
earlier run left stands until then.  A write that fails is tried again, with growing delays, from
what the kernel then holds.
"""

import os
import selectors
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from calico_k8s.calc.deltas import Deltas
from calico_k8s.calc.graph import Graph
from calico_k8s.config import Config, Layer, resolve
from calico_k8s.datastore.updates import UpdateQueue
from calico_k8s.errors import KernelError
from calico_k8s.felix.attachments import Attachments
from calico_k8s.felix.conntrack import FlowCutter
from calico_k8s.felix.cutting import Cutting
from calico_k8s.felix.desired import Desired, Left, Plan, changed_peers
from calico_k8s.felix.interfaces import Wanted
from calico_k8s.felix.kernel import Kernel, Written
from calico_k8s.felix.report import Report
from calico_k8s.felix.saved import current_boot, load_state, save_state
from calico_k8s.felix.schedule import Schedule, Task
from calico_k8s.felix.status import NodeStatus
from calico_k8s.model import codec, keys
from calico_k8s.model.addresses import Address, Net, parse_net
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Ready
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.settings import RenderConfig, interface_pattern

RETRY_FIRST_S = 0.1
RETRY_LONGEST_S = 10.0
JUDGE_AGAIN_S = 1.0
"""Packets on their way while a change was written can open a flow that it denies."""
SAVE_AFTER_S = 5.0
TELL_EVERY_S = 0.05
"""A revision that is reached is told at once, and no more often than this."""
COLLECT_EVERY_S = 5.0

RESTART_SETTINGS = ("mark_mask", "iptables_backend")
"""Settings that hold from the next start: what is in the kernel depends on them."""

log = structlog.get_logger()


class Identity(msgspec.Struct, frozen=True):
    """Which node this is, the settings of its command line and environment, and its state file."""

    node: NodeName
    layers: tuple[Layer, ...] = ()
    state_path: Path | None = None


class Agent:
    """One node's agent; everything but ``stop`` is for one thread."""

    def __init__(
        self,
        identity: Identity,
        queue: UpdateQueue,
        kernel: Kernel,
        tell: Callable[[NodeStatus], None],
    ) -> None:
        self._identity = identity
        self._queue = queue
        self._kernel = kernel
        self._tell = tell
        self._graph = Graph(identity.node)
        self._config = resolve(identity.layers).config
        self._layout = mark_layout(self._config.mark_mask)
        self._attachments = Attachments(kernel.interfaces, kernel.bridges)
        self._cutting = Cutting(FlowCutter(self._layout.cut), self._graph)
        self._desired: Desired | None = None
        self._schedule = Schedule()
        self._report = Report(identity.node, kernel.backend.value, time.time())
        self._is_ready = False
        self._is_complete = False
        self._has_news = False
        self._retry_s = RETRY_FIRST_S
        self._told_s = 0.0
        self._judge_again: set[Address] = set()
        self._wake_up, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_stopping = False

    @property
    def is_store_away(self) -> bool:
        """Whether the datastore cannot be reached now; set by whoever follows it."""
        return self._report.is_store_away

    @is_store_away.setter
    def is_store_away(self, is_away: bool) -> None:
        self._report.is_store_away = is_away

    def stop(self) -> None:
        """Have :meth:`run` return; from any thread, or a signal's handler."""
        self._is_stopping = True
        os.write(self._waker, b"x")

    def run(self) -> None:
        """Follow the datastore until :meth:`stop`; the kernel keeps its state."""
        self._restore_after_boot()
        now_s = time.monotonic()
        self._schedule.at(Task.TELL, now_s)
        with selectors.DefaultSelector() as selector:
            for source in (self._queue, self._kernel.interfaces, self._wake_up):
                selector.register(source, selectors.EVENT_READ)
            while not self._is_stopping:
                selector.select(0 if self._cutting.has_work else self._schedule.wait_s(now_s))
                now_s = time.monotonic()
                self.step(now_s)
        self._save()

    def run_once(self, timeout_s: float) -> bool:
        """Bring the kernel to the datastore's state and return; whether that was reached."""
        end_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._queue, selectors.EVENT_READ)
            while time.monotonic() < end_s:
                self.step(time.monotonic())
                if self._desired is not None and self._report.is_well and not self._has_news:
                    while self._cutting.has_work:
                        self._judge()
                    return True
                selector.select(0.05)
        return False

    def step(self, now_s: float) -> None:
        """Do what there is to do now."""
        self._take_updates()
        for task in self._schedule.take_due(now_s):
            self._do(task, now_s)
        if self._is_complete and self._report.is_well:
            self._apply(now_s)
        if self._cutting.has_work:
            self._judge()

    def _take_updates(self) -> None:
        pending = self._queue.take()
        for path, raw in pending.values_by_key.items():
            key = keys.parse_path(path)
            if key is None:
                continue
            value, problems = codec.decode(key, raw) if raw is not None else (None, ())
            self._report.note_stored(path, problems)
            if isinstance(key, keys.ReadyKey):
                self._is_ready = value == Ready(True)
            self._graph.update(key, value)
            self._has_news = True
        self._is_complete = self._is_ready and pending.is_in_sync
        if pending.values_by_key:
            self._report.seen_revision = pending.revision

    def _apply(self, now_s: float) -> None:
        """Bring the kernel to what the datastore and the network say now."""
        was_read = self._attachments.read()
        if not (self._has_news or was_read or self._desired is None):
            return
        deltas = self._graph.flush() if self._has_news else Deltas()
        self._has_news = False
        if self._desired is None:
            deltas = self._start(now_s)
        elif deltas.settings_changed:
            deltas = self._reconfigure(deltas, now_s)
        self._carry_out(deltas, now_s)

    def _start(self, now_s: float) -> Deltas:
        """Begin, or begin anew, from what is in the kernel."""
        self._take_settings()
        try:
            left = self._kernel.left(self._layout)
        except KernelError as error:
            # Without the earlier run's numbers its chains are rewritten; what is denied stays so.
            log.warning("could not read what an earlier run left", error=str(error))
            left = Left()
        self._desired = Desired(_render_config(self._config), self._kernel.versions, left, now_s)
        self._cutting.touch_all()
        self._schedule.at(Task.CHECK_PLACE, now_s + self._config.place_check_interval_s)
        self._schedule.at(Task.RESYNC, now_s + self._config.resync_interval_s)
        self._schedule.at(Task.COLLECT, now_s + COLLECT_EVERY_S)
        return self._graph.state()

    def _reconfigure(self, deltas: Deltas, now_s: float) -> Deltas:
        before = _render_config(self._config)
        self._take_settings()
        self._cutting.touch_all()
        return deltas if _render_config(self._config) == before else self._start(now_s)

    def _carry_out(self, deltas: Deltas, now_s: float) -> None:
        desired = self._desired
        if desired is None:
            return
        wanted = frozenset(a for e in self._graph.endpoints.values() for a in e.addresses)
        try:
            self._attachments.find(
                Wanted(wanted, self._config.workload_interfaces, self._pod_nets())
            )
            plan = desired.take(deltas, self._attachments.by_address, now_s)
            written = Written() if plan.is_empty else self._kernel.carry_out(plan)
        except KernelError as error:
            self._fail(error, now_s)
            return
        if self._report.note_applied(written, time.time()):
            self._schedule.by(Task.TELL, max(now_s, self._told_s + TELL_EVERY_S))
        self._report.note_problems(desired.problems)
        self._note_touched(plan, deltas, now_s)
        if not plan.is_empty:
            self._schedule.by(Task.SAVE, now_s + SAVE_AFTER_S)

    def _note_touched(self, plan: Plan, deltas: Deltas, now_s: float) -> None:
        touched = plan.touched.union(changed_peers(deltas))
        if touched and self._config.cut_connections:
            self._cutting.touch(touched)
            self._judge_again |= touched
            self._schedule.by(Task.JUDGE_AGAIN, now_s + JUDGE_AGAIN_S)

    def _do(self, task: Task, now_s: float) -> None:
        try:
            match task:
                case Task.RETRY:
                    self._mend()
                case Task.CHECK_PLACE:
                    self._schedule.at(task, now_s + self._config.place_check_interval_s)
                    self._report.note_drift("tables", self._kernel.mend_tables())
                case Task.RESYNC:
                    self._schedule.at(task, now_s + self._config.resync_interval_s)
                    self._resync()
                case Task.COLLECT:
                    self._schedule.at(task, now_s + COLLECT_EVERY_S)
                    self._collect(now_s)
                case Task.JUDGE_AGAIN:
                    self._cutting.touch(self._judge_again)
                    self._judge_again = set()
                case Task.TELL:
                    self._told_s = now_s
                    self._schedule.at(task, now_s + self._config.status_interval_s)
                    self._tell(self._status())
                case Task.SAVE:
                    self._save()
        except KernelError as error:
            self._fail(error, now_s)

    def _mend(self) -> None:
        self._attachments.forget()
        if self._desired is not None:
            self._kernel.mend(self._desired.everything())
        self._report.note_mended(time.time())
        self._retry_s = RETRY_FIRST_S
        self._has_news = True

    def _resync(self) -> None:
        self._attachments.forget()
        self._report.note_drift("bridges", self._attachments.repair())
        drifted = self._kernel.resync()
        if drifted and self._desired is not None:
            self._kernel.mend(self._desired.everything())
        self._report.note_drift("ipsets", drifted)
        if self._config.cut_connections:
            self._cutting.touch_all()

    def _collect(self, now_s: float) -> None:
        if self._desired is not None and self._report.is_well:
            plan = self._desired.collect(now_s)
            if not plan.is_empty:
                self._kernel.carry_out(plan)

    def _judge(self) -> None:
        try:
            result = self._cutting.work()
        except KernelError as error:
            log.warning("live flows could not be judged", error=str(error))
            return
        if result.cut or result.restored:
            log.info("live flows judged", cut=result.cut, restored=result.restored)

    def _fail(self, error: KernelError, now_s: float) -> None:
        log.error("the kernel was not brought to what is desired", error=str(error))
        self._report.note_failed(str(error))
        self._schedule.at(Task.RETRY, now_s + self._retry_s)
        self._retry_s = min(2 * self._retry_s, RETRY_LONGEST_S)
        self._schedule.by(Task.TELL, now_s)

    def _take_settings(self) -> None:
        stored = Layer("datastore", self._graph.settings)
        resolved = resolve((*self._identity.layers, stored))
        kept = {name: getattr(self._config, name) for name in RESTART_SETTINGS}
        self._report.note_settings(resolved.problems)
        self._config = msgspec.structs.replace(resolved.config, **kept)

    def _pod_nets(self) -> tuple[Net, ...]:
        if self._config.pod_cidr:
            return tuple(map(parse_net, self._config.pod_cidr))
        return self._graph.record.pod_cidrs if self._graph.record is not None else ()

    def _status(self) -> NodeStatus:
        missing = self._attachments.missing
        return self._report.status(
            self._graph.endpoints.values(),
            missing,
            self._desired.group_count if self._desired else 0,
        )

    def _restore_after_boot(self) -> None:
        path = self._identity.state_path
        state = load_state(path) if path is not None else None
        if state is None or self._kernel.ipsets.existing():
            return
        try:
            self._kernel.restore(state)
            log.info("restored what this node enforced before it was booted")
        except KernelError as error:
            log.warning("the state before the boot could not be restored", error=str(error))

    def _save(self) -> None:
        path = self._identity.state_path
        if path is None or self._desired is None:
            return
        try:
            save_state(path, self._kernel.saved(current_boot()))
        except OSError as error:
            log.warning("state not saved: a reboot starts without it", error=str(error))


def _render_config(config: Config) -> RenderConfig:
    return RenderConfig(
        mark_mask=config.mark_mask,
        allow_action=config.allow_action,
        pod_to_host_action=config.pod_to_host_action,
        unknown_endpoint_action=config.unknown_endpoint_action,
        invalid_action=config.invalid_action,
        workload_interfaces=tuple(interface_pattern(p) for p in config.workload_interfaces),
    )
