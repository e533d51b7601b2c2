"""The agent of one node: one loop that follows the datastore and keeps the kernel as it says.

In: the datastore's updates, the node's network, the time.  Out: kernel writes, and status::

    datastore ─ syncer's thread ─► queue ─┐
    links, routes, neighbours ────────────┼─► loop ─► enforcer ─► kernel
    timers ───────────────────────────────┘            └──► live flows judged, status told

Nothing is written before the store's first snapshot is in and says that it is complete; what an
earlier run left stands until then.  A write that fails is tried again, with growing delays, from
what the kernel then holds, and with what the datastore says by then.
"""

import os
import selectors
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec
import structlog

from calico_k8s.calc.graph import Graph
from calico_k8s.config import Layer
from calico_k8s.datastore.updates import UpdateQueue
from calico_k8s.errors import KernelError
from calico_k8s.felix.allowance import Allowance
from calico_k8s.felix.attachments import Attachments, wanted_places
from calico_k8s.felix.cutting import Cutting
from calico_k8s.felix.denials import DenialBook
from calico_k8s.felix.enforce import Applied, Enforcer
from calico_k8s.felix.garbage import keep_what_is_there, without_collections
from calico_k8s.felix.interfaces import Wanted
from calico_k8s.felix.iptables.programs import PROGRAM_TIMEOUT_S
from calico_k8s.felix.kernel import Kernel
from calico_k8s.felix.metrics import Metrics
from calico_k8s.felix.names.learning import Learning
from calico_k8s.felix.report import Report
from calico_k8s.felix.saved import StateFile, current_boot
from calico_k8s.felix.schedule import Schedule, Task
from calico_k8s.felix.settings import Settings
from calico_k8s.felix.status import NodeStatus
from calico_k8s.model import codec, keys
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Ready
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.settings import RenderConfig

RETRY_FIRST_S, RETRY_LONGEST_S = 0.1, 10.0
JUDGE_AGAIN_S = 1.0
"""Packets on their way while a change was written can open a flow that it denies."""
JUDGE_PAUSE_S, JUDGE_WAIT_S = 0.03, 0.015
"""A look for live flows, 0.4 ms, that found none puts the next off for so long; then it goes with a
change, for a wake of its own would cost as much again, or comes so long after that."""
SAVE_AFTER_S, PREPARE_AFTER_S = 5.0, 1.0
TELL_AFTER_S = 0.01
"""A revision that is reached is told after this: what it tells of is then on no other node's way."""
TELL_EVERY_S = 0.05
"""It is told no more often than this ..."""
TELL_EVERY_ENDPOINTS_S = 0.0001
"""... and, while its state is the same, this for each endpoint of the cluster: each node tells of all."""
COLLECT_EVERY_S = 5.0
BEAT_S = 5.0
"""The loop comes round so often at least: how it shows that it lives."""
COUNT_AFTER_S = 5.0
"""Counters are read no more often: it takes a look at whole tables."""
LOOK_PAUSE_S = 0.02
"""After a transaction of nftables the place of our rules is looked at, and no more often than this
..."""
LOOK_SHARE = 0.1
"""... and for no more than this of a core in the long run: a busy program may write all the time."""

log = structlog.get_logger()


class Identity(msgspec.Struct, frozen=True):
    """Which node this is, the settings of its command line and environment, and its state file."""

    node: NodeName
    layers: tuple[Layer, ...] = ()
    state_path: Path | None = None
    denials_path: Path | None = None
    """Where programs of this machine ask for its denials."""


class Agent:
    """One node's agent; everything but ``stop`` is for one thread."""

    def __init__(
        self,
        identity: Identity,
        queue: UpdateQueue,
        kernel: Kernel,
        tell: Callable[[NodeStatus], None],
        metrics: Metrics,
    ) -> None:
        self._queue = queue
        self._kernel = kernel
        self._tell = tell
        self._graph = Graph(identity.node)
        self._settings = Settings(identity.layers)
        self._rendered: tuple[tuple[object, ...], RenderConfig] = ((), RenderConfig())
        self._attachments = Attachments(kernel.interfaces, kernel.bridges)
        self._enforcer = Enforcer(self._graph, kernel.applier, kernel.versions, kernel.left)
        cut = mark_layout(self._settings.config.mark_mask).cut
        self._cutting = Cutting(cut, self._graph)
        self.learning = Learning(self._graph, identity.state_path, metrics.on_answer_held)
        finds = (self._enforcer.note, metrics.on_denied, kernel.telling_problem)
        self.denials = DenialBook(self._graph, *finds, self.learning.called, time.monotonic())
        self._schedule = Schedule()
        self._report = Report(identity.node, kernel.backend.value, time.time(), metrics)
        self._metrics = metrics
        metrics.begin(identity.node, kernel.backend.value, lambda: queue.waits_since_s)
        self.beat_s = time.monotonic()
        """When the loop last came round."""
        self._file = StateFile(identity.state_path) if identity.state_path is not None else None
        self._is_ready = False
        self._is_complete = False
        self._has_news = False
        self._is_guarding = False
        """Whether the kernel holds chains of an earlier run, or of another boot."""
        self._retry_s = RETRY_FIRST_S
        self._told_s = 0.0
        self._looks = Allowance(LOOK_SHARE, time.monotonic())
        self._look_from_s = 0.0
        """Our place is not looked at before."""
        self._judge_again: set[Address] = set()
        self._judge_from_s = 0.0
        """Flows that a change touches are not looked for before."""
        self._wake_up, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        sources = (queue, kernel.interfaces, kernel.transactions, self._cutting, self.denials)
        for source in (*sources, self.learning, self._wake_up):
            self._selector.register(source, selectors.EVENT_READ)
        self._is_stopping = False

    @property
    def is_store_away(self) -> bool:
        """Whether the datastore cannot be reached now; set by whoever follows it."""
        return self._report.is_store_away

    @is_store_away.setter
    def is_store_away(self, is_away: bool) -> None:
        self._report.is_store_away = is_away

    @property
    def is_enforcing(self) -> bool:
        """Whether the kernel is as the datastore last said: what readiness means."""
        return self._report.is_enforcing

    @property
    def longest_turn_s(self) -> float:
        """How long one turn of the loop may take where nothing hangs: every wait in it is shorter."""
        return 2 * PROGRAM_TIMEOUT_S + self._settings.config.lock_timeout_s

    def problem(self) -> str | None:
        """Why it is not enforcing; from any thread."""
        return self._report.problem()

    def stop(self) -> None:
        """Have :meth:`run` return; from any thread, or a signal's handler."""
        self._is_stopping = True
        os.write(self._waker, b"x")

    def close(self) -> None:
        """Release what it opened itself; after :meth:`run`, whose kernel state stays."""
        self._selector.close()
        self._cutting.close()
        self.denials.close()
        self.learning.close()
        if self._file is not None:
            self._file.close()
        for descriptor in (self._wake_up, self._waker):
            os.close(descriptor)

    def run(self) -> None:
        """Follow the datastore until :meth:`stop`; the kernel keeps its state."""
        self._restore_after_boot()
        now_s = time.monotonic()
        self._schedule.at(Task.TELL, now_s)
        while not self._is_stopping:
            wait_s = self._schedule.wait_s(now_s)
            ready = self._ready(BEAT_S if wait_s is None else min(wait_s, BEAT_S))
            now_s = time.monotonic()
            self._turn(now_s, ready)
        self._save()

    def run_once(self, timeout_s: float) -> bool:
        """Bring the kernel to the datastore's state and return; whether that was reached."""
        end_s = time.monotonic() + timeout_s
        while (now_s := time.monotonic()) < end_s:
            self.step(now_s)
            if self._report.is_enforcing and not self._has_news and self._cutting.is_done:
                return True
            self._ready(min(0.05, self._schedule.wait_s(now_s) or 0.05))
        return False

    def step(self, now_s: float) -> None:
        """Do what there is to do now."""
        self._turn(now_s, self._ready(0))

    def _ready(self, wait_s: float) -> AbstractSet[object]:
        """The sources that have something, as soon as one has."""
        return {key.fileobj for key, _ in self._selector.select(wait_s)}

    def _turn(self, now_s: float, ready: AbstractSet[object]) -> None:
        self.beat_s = now_s
        if self._queue in ready:
            self._take_updates()
        self._has_news |= self.learning.take(now_s, has_answers=self.learning in ready)
        self._follow(now_s, ready)
        if not self._has_news:
            self.learning.release()
        rest_s = self.denials.take(now_s, time.time())
        if rest_s is not None:
            self._schedule.by(Task.LISTEN, now_s + rest_s)
            self._schedule.by(Task.TELL, self.denials.share_at(now_s))
            if self.denials.needs_count:
                self._schedule.by(Task.COUNT, now_s + COUNT_AFTER_S)
        if self._cutting in ready and self._cutting.has_news:
            self._schedule.by(Task.JUDGE, now_s)
        for task in self._schedule.take_due(now_s):
            self._do(task, now_s)

    def _take_updates(self) -> None:
        pending = self._queue.take()
        with without_collections(pending.values_by_key):
            self._take_values(pending.values_by_key)
        self._is_complete = self._is_ready and pending.is_in_sync
        if pending.values_by_key:
            self._report.note_changes(pending.first, pending.revision)

    def _take_values(self, values_by_key: Mapping[str, bytes | None]) -> None:
        # Last come hosts: what a pod's profiles give it is then there before the pod.
        for path, raw in sorted(values_by_key.items(), reverse=True):
            key = keys.parse_path(path)
            if key is None:
                continue
            value, problems = codec.decode(key, raw) if raw is not None else (None, ())
            self._report.note_stored(path, problems)
            if isinstance(key, keys.ReadyKey):
                self._is_ready = value == Ready(True)
            self._graph.update(key, value)
            self._has_news = True

    def _follow(self, now_s: float, ready: AbstractSet[object]) -> None:
        """Bring the kernel to what is new, unless a failed write waits for its next try."""
        try:
            others = self._kernel.transactions
            if others in ready and others.has_news() and self._enforcer.has_begun:
                self._schedule.by(Task.CHECK_PLACE, max(now_s, self._look_from_s))
            if self._kernel.interfaces in ready:
                self._attachments.notice()
            is_stale = self._attachments.is_stale
            if not self._is_complete:
                if is_stale and self._is_guarding:
                    self._attachments.close_new(self._wanted())
            elif self._report.is_well and (
                self._has_news or is_stale or not self._enforcer.has_begun
            ):
                self._enforce(now_s)
        except KernelError as error:
            self._fail(error, now_s)

    def _enforce(self, now_s: float) -> None:
        """Bring the kernel to what the datastore and the network say now."""
        self._has_news = False
        has_begun = self._enforcer.has_begun
        if self._enforcer.flush() or not has_begun:
            self._take_settings(now_s)
        self.learning.follow(self._settings.config.dns_extra_ttl_s, now_s)
        if not has_begun:
            self._enforcer.begin(self._render_config(), now_s)
        before = self._attachments.found
        if self._attachments.is_stale or self._enforcer.moves_places:
            self._attachments.find(self._wanted())
        found = self._attachments.found
        self._enforcer.configure(self._render_config(found.pod_nets))
        self._report.note_calculated()
        places, start_s = self._attachments.by_address, time.perf_counter()
        applied = self._enforcer.carry_out(places, now_s, found.node_addresses)
        duration_s = time.perf_counter() - start_s
        self._retry_s = RETRY_FIRST_S
        is_found = (found.missing, found.unsettled) != (before.missing, before.unsettled)
        if self._report.note_applied(applied.written, duration_s, time.time()) or is_found:
            self._tell_soon(now_s)
        problems = (*self._enforcer.problems, *self.denials.problems, *self.learning.problems)
        self._report.note_problems(problems)
        self._note_changes(applied, now_s)

    def _render_config(self, pod_nets: tuple[Net, ...] = ()) -> RenderConfig:
        """What chains show; the same object, kept with what it was made of, until something differs."""
        learns, can_tell = bool(self._graph.domains), self.denials.is_possible
        shown = (self._settings.config, pod_nets, learns, can_tell)
        if shown != self._rendered[0]:
            found = self._settings.render_config(pod_nets, learns_names=learns)
            self._rendered = shown, self._kernel.fitted(found, can_tell=can_tell)
        return self._rendered[1]

    def _note_changes(self, applied: Applied, now_s: float) -> None:
        needs_judging = self._cutting.holds_cut or not applied.only_opens
        if applied.touched and needs_judging and self._settings.config.cut_connections:
            self._cutting.touch(applied.touched)
            rests = now_s < self._judge_from_s
            self._schedule.by(Task.JUDGE, self._judge_from_s + JUDGE_WAIT_S if rests else now_s)
            self._judge_again |= applied.touched
            self._schedule.by(Task.JUDGE_AGAIN, now_s + JUDGE_AGAIN_S)
        if any(applied.written) and self._file is not None:
            self._schedule.by(Task.SAVE, now_s + SAVE_AFTER_S)

    def _take_settings(self, now_s: float) -> None:
        before = self._settings.config
        is_first = not self._enforcer.has_begun
        self._settings.take(self._graph.settings)
        config = self._settings.config
        self._report.note_settings(self._settings.problems)
        self._cutting.pod_to_host = config.pod_to_host_action
        self._schedule.by(Task.CHECK_PLACE, now_s + config.place_check_interval_s)
        self._schedule.by(Task.RESYNC, now_s + config.resync_interval_s)
        self._schedule.by(Task.COLLECT, now_s + COLLECT_EVERY_S)
        self._schedule.by(Task.TELL, now_s + config.status_interval_s)
        if is_first:
            self._schedule.at(Task.PREPARE, now_s + PREPARE_AFTER_S)
        if config.cut_connections:
            self._cutting.touch_all()
        elif before.cut_connections or is_first:
            self._cutting.restore_all()
        self._schedule.by(Task.JUDGE, now_s)
        self._listen(now_s)

    def _wanted(self) -> Wanted:
        return wanted_places(self._graph, self._settings.config)

    def _do(self, task: Task, now_s: float) -> None:  # noqa: C901 - one arm for each task
        """Do a task that is due, and say when it is due again."""
        config = self._settings.config
        match task:
            case Task.CHECK_PLACE:
                self._schedule.at(task, now_s + config.place_check_interval_s)
            case Task.RESYNC:
                self._schedule.at(task, now_s + config.resync_interval_s)
            case Task.COLLECT:
                self._schedule.at(task, now_s + COLLECT_EVERY_S)
            case Task.TELL:
                self._schedule.at(task, now_s + config.status_interval_s)
                self._told_s = now_s
                self._listen(now_s)
                self._tell(self._status())
            case Task.JUDGE:
                self._judge(now_s)
            case Task.JUDGE_AGAIN:
                self._cutting.touch(self._judge_again)
                self._judge_again = set()
                self._judge(now_s)
            case Task.SAVE:
                self._save()
            case Task.PREPARE:
                self._prepare(now_s)
            case Task.RETRY:
                self._retry(now_s)
            case Task.COUNT:
                self._count_denials(now_s)
            case Task.LISTEN:
                pass  # each turn of the loop does
        if task in (Task.CHECK_PLACE, Task.RESYNC, Task.COLLECT) and self._report.is_well:
            self._maintain(task, now_s)

    def _listen(self, now_s: float) -> None:
        """Hear of denied packets where that is wanted."""
        if self.denials.listen(tells=self._settings.config.denials, now_s=now_s):
            self._count_denials(now_s, is_first=True)

    def _count_denials(self, now_s: float, *, is_first: bool = False) -> None:
        try:
            dropped = self._kernel.told_packets()
        except KernelError as error:
            log.warning("denied packets could not be counted", error=str(error))
        else:
            if is_first:
                self.denials.begin_count(dropped)
            else:
                self.denials.count(dropped, now_s)
        if self.denials.needs_count:
            self._schedule.by(Task.COUNT, now_s + COUNT_AFTER_S)

    def _prepare(self, now_s: float) -> None:
        """What there is time for once everything is enforced."""
        if not self._report.is_enforcing:
            self._schedule.at(Task.PREPARE, now_s + PREPARE_AFTER_S)
            return
        self._kernel.prepare()
        self._kernel.sweep_other_backends()
        self._look_at_others(now_s)
        keep_what_is_there()

    def _look_at_others(self, now_s: float) -> None:
        """Tell of other programs' chains that drop what policy allows."""
        try:
            if self._report.note_foreign(self._kernel.foreign_drops()):
                self._tell_soon(now_s)
        except KernelError as error:
            log.info("other programs' chains could not be looked at", error=str(error))

    def _maintain(self, task: Task, now_s: float) -> None:
        """Keep the kernel as it should be, though nothing is new."""
        try:
            match task:
                case Task.CHECK_PLACE:
                    start_s = time.thread_time()
                    self._report.note_drift("tables", self._kernel.applier.mend_tables())
                    self._report.note_drift("bridges", self._attachments.mend())
                    rest_s = self._looks.spend(time.thread_time() - start_s, now_s)
                    self._look_from_s = now_s + max(LOOK_PAUSE_S, rest_s)
                case Task.RESYNC:
                    self._resync(now_s)
                case _ if not self._kernel.keeps_writes_waiting:
                    self._enforcer.collect(now_s)
                case _:
                    pass  # what is left over can wait, and what is new may need sets alone
        except KernelError as error:
            self._fail(error, now_s)

    def _resync(self, now_s: float) -> None:
        self._attachments.forget()
        self._report.note_drift("bridges", self._attachments.repair())
        drifted = self._kernel.ipsets.resync()
        if drifted:
            self._enforcer.mend()
        self._report.note_drift("ipsets", drifted)
        self._report.note_drift("tables", self._kernel.applier.mend_words())
        self._look_at_others(now_s)
        if self._settings.config.cut_connections:
            self._cutting.touch_all()
            self._schedule.by(Task.JUDGE, now_s)

    def _judge(self, now_s: float) -> None:
        """Judge some live flows."""
        try:
            result = self._cutting.work()
        except KernelError as error:
            log.warning("live flows could not be judged", error=str(error))
            self._schedule.at(Task.JUDGE, now_s + JUDGE_AGAIN_S)
            return
        if any(result):
            self._metrics.on_judged(result)
        if result.cut or result.restored:
            log.info("live flows judged", cut=result.cut, restored=result.restored)
        if self._cutting.has_work:
            self._schedule.at(Task.JUDGE, now_s)
        elif self._cutting.is_done and not result.judged:
            self._judge_from_s = now_s + JUDGE_PAUSE_S

    def _fail(self, error: KernelError, now_s: float) -> None:
        log.error("the kernel was not brought to what is desired", error=str(error))
        self._report.note_failed(error)
        self._schedule.at(Task.RETRY, now_s + self._retry_s)
        self._retry_s = min(2 * self._retry_s, RETRY_LONGEST_S)
        self._tell_soon(now_s)

    def _retry(self, now_s: float) -> None:
        self._attachments.forget()
        self._enforcer.doubt()
        if not self._is_complete:
            self._report.note_well()
            return
        try:
            self._enforce(now_s)
        except KernelError as error:
            self._fail(error, now_s)

    def _tell_soon(self, now_s: float) -> None:
        endpoints = 0 if self._report.has_turned else self._graph.endpoint_count
        pause_s = max(TELL_EVERY_S, TELL_EVERY_ENDPOINTS_S * endpoints)
        pause_s = min(pause_s, self._settings.config.status_interval_s)
        moment_s = max(now_s + TELL_AFTER_S, self._told_s + pause_s)
        self._schedule.by(Task.TELL, moment_s)

    def _status(self) -> NodeStatus:
        found, groups = self._attachments.found, self._enforcer.group_count
        self._metrics.on_names(self.learning.sizes, self.learning.counts)
        status = self._report.status(self._graph, found, groups, self._kernel.ipsets.sizes())
        return msgspec.structs.replace(status, denials=self.denials.shared(self._told_s))

    def _restore_after_boot(self) -> None:
        try:
            self._is_guarding = bool(self._kernel.ipsets.existing())
            state = self._file.load() if self._file is not None else None
            if state is None or self._is_guarding:
                return
            self._is_guarding = True
            self._kernel.restore(state)
            log.info("restored what this node enforced before it was booted")
        except KernelError as error:
            log.warning("the state before the boot could not be restored", error=str(error))

    def _save(self) -> None:
        if self._file is not None and self._enforcer.has_begun:
            self._file.save(self._kernel.saved(current_boot()))
