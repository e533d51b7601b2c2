"""Tells what has become of each policy object: in its status, and all together in the datastore.

In: each object's standing and the revision that has it, once that is written; what nodes have in
their kernels.  Out: conditions (:mod:`.conditions`) by server-side apply, and a summary that
``calico-k8s status`` reads.  Nothing that is enforced waits for any of it.

A thread of its own writes, and only what differs.  Its pace is what bounds the cost, whatever the
cluster does: a change is told when all nodes have it, or after :data:`HOLD_S`; then each object at
most once in :data:`EVERY_S`; all of them together :data:`WRITES_PER_TICK` in :data:`TICK_S`.  What
follows from nodes alone is seen by a round of all objects, :data:`CHECKS_PER_TICK` at a time.  So
1,000 nodes that come to a change one by one, within seconds, are two or three writes; and a node
more, which is another number in 10,000 statuses, is 7 minutes of 24 writes a second, behind all that
is new.

The status in the API server is read at a term's beginning, and now and then, so that what others
did to it is mended; between, it is what was written.  An event of our own writing is no change to
whoever translates: nothing comes of it.
"""

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Protocol

import msgspec
import structlog

from calico_k8s.controller.conditions import (
    ACCEPTED,
    PROGRAMMED,
    WITH_STATUS,
    Condition,
    conditions_of,
    is_same,
    missing,
    said_programmed,
    status_document,
    status_path,
    timed,
)
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.reach import GRACE_S, Count, Reach, RollCall
from calico_k8s.controller.shown import read_shown
from calico_k8s.controller.summary import SummaryKeeper
from calico_k8s.datastore.store import Revision
from calico_k8s.errors import KubeError, KubeUnavailable
from calico_k8s.model.names import NodeName
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.policy_book import Standing

MANAGER = "calico-k8s-controller"
"""Whose the conditions are, by ``metadata.managedFields``."""
TICK_S = 0.5
HOLD_S = 1.0
"""So long after a change its first status waits for nodes, and for what the object names."""
EVERY_S = 3.0
WRITES_PER_TICK = 12
CHECKS_PER_TICK = 250
RETRY_S = 10.0
REFUSED_S = 60.0
"""How soon an object is tried again whose status the API server would not have."""
REFUSALS_MAX = 5
"""After so many in a row a kind is left alone until its statuses are read again: its definition may have
no status, as Calico's own, or there is no right to it."""
READ_AGAIN_S = 600.0
CLOSE_S = 0.5

log = structlog.get_logger()


class Told(msgspec.Struct, frozen=True):
    """What is known of an object since the datastore has it."""

    standing: Standing
    revision: Revision | None
    """That has all of it; None: it is not stored."""


class Nodes(Protocol):
    """Who knows what nodes tell."""

    def revisions(self) -> Mapping[NodeName, Revision] | None:
        """What each has in its kernel; None: not known yet."""


class _Subject(msgspec.Struct):
    """An object, and what its status says."""

    told: Told
    since_s: float
    shown: tuple[Condition, ...] = ()
    not_before_s: float = 0.0
    state: str = ""


class _Kind(msgspec.Struct):
    """What is known of a kind's statuses."""

    read_s: float
    """When they were read."""
    refusals: int = 0
    """Since the last that the API server took."""


class PolicyStatuses:
    """One writer's term; ``on_result`` is told how each write went, ``on_states`` how many are how."""

    def __init__(
        self,
        api: KubeApi,
        nodes: Nodes,
        summary: SummaryKeeper,
        on_result: Callable[[str], None],
        on_states: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._api = api
        self._nodes = nodes
        self._summary = summary
        self._on_result = on_result
        self._on_states = on_states
        self._news = threading.Condition()
        self._told: dict[ObjectRef, Told | None] = {}
        self._with_pods: AbstractSet[NodeName] | None = None
        self._is_over = False
        # What follows is the thread's.
        self._subjects: dict[ObjectRef, _Subject] = {}
        self._states: Counter[str] = Counter()
        self._fresh: dict[ObjectRef, None] = {}
        """What is to be looked at soon, the oldest first."""
        self._round: Iterator[ObjectRef] = iter(())
        self.rounds = 0
        """How often all objects have been looked at."""
        self._kinds: dict[str, _Kind] = {}
        self._began_s = 0.0
        self._writes_left = 0
        self._paused_until_s = 0.0
        self._thread = threading.Thread(target=self._run, name="statuses", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: it ends by ``close``, or by a mistake of ours."""
        return self._thread.is_alive()

    def tell(self, news: Mapping[ObjectRef, Told | None]) -> None:
        """What has become of objects; None: gone."""
        with self._news:
            self._told.update(news)

    def tell_nodes(self, with_pods: AbstractSet[NodeName]) -> None:
        """The nodes that have pods."""
        with self._news:
            self._with_pods = with_pods

    def close(self) -> None:
        """Ends; what is not yet written is left to the next controller."""
        with self._news:
            self._is_over = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_S)

    def _run(self) -> None:
        roll = RollCall()
        self._began_s = time.monotonic()
        while True:
            with self._news:
                if self._news.wait_for(lambda: self._is_over, TICK_S):
                    return
                told, self._told = self._told, {}
                with_pods = self._with_pods
            now_s = time.monotonic()
            for ref, each in told.items():
                self._note(ref, each, now_s)
            self._summary.keep(now_s)
            revisions = self._nodes.revisions()
            if revisions is not None and with_pods is not None:
                self._work(roll.call(revisions, with_pods, now_s), now_s)

    def _note(self, ref: ObjectRef, told: Told | None, now_s: float) -> None:
        before = self._subjects.get(ref)
        self._summary.note(ref, told.standing.findings if told is not None else None)
        if told is None:
            if before is not None:
                self._enter(before, "")
                del self._subjects[ref]
                self._fresh.pop(ref, None)
            return
        if before is None or before.told.standing.uid != told.standing.uid:
            if before is not None:
                self._enter(before, "")
            self._subjects[ref] = _Subject(told, now_s)
        elif before.told != told:
            before.told, before.since_s = told, now_s
        else:
            return
        self._fresh[ref] = None

    def _work(self, reach: Reach, now_s: float) -> None:
        """Look at what is new, and at the next of the round; write what differs."""
        self._writes_left = WRITES_PER_TICK if now_s >= self._paused_until_s else 0
        fresh = tuple(islice(self._fresh, CHECKS_PER_TICK))
        for ref in fresh:
            del self._fresh[ref]
            if not self._look_at(ref, self._subjects[ref], reach, now_s):
                self._fresh[ref] = None
        for ref in self._next_of_round(CHECKS_PER_TICK - len(fresh)):
            subject = self._subjects.get(ref)
            if subject is not None and ref not in self._fresh:
                self._look_at(ref, subject, reach, now_s)
        self._on_states(self._states)

    def _next_of_round(self, count: int) -> Iterator[ObjectRef]:
        """The next of all objects, each once before the round begins anew."""
        found = tuple(islice(self._round, count))
        if len(found) < count:
            self._round = iter(tuple(self._subjects))
            self.rounds += 1
        return iter(found)

    def _look_at(self, ref: ObjectRef, subject: _Subject, reach: Reach, now_s: float) -> bool:
        """Whether the status says what is so; it is written if it is time to."""
        told = subject.told
        count = reach.of(told.revision) if told.revision is not None else None
        wanted = conditions_of(told.standing, count)
        self._enter(subject, _state(wanted))
        if ref.kind not in WITH_STATUS:
            return True
        if now_s < self._paused_until_s:
            return False
        try:
            kind = self._kind(ref.kind, now_s)
            if is_same(wanted, subject.shown) or kind.refusals >= REFUSALS_MAX:
                return True
            if not self._writes_left or self._is_held(subject, count, now_s):
                return False
            return self._write(ref, subject, wanted, now_s)
        except KubeUnavailable as error:
            self._paused_until_s, self._writes_left = now_s + RETRY_S, 0
            self._on_result("delayed")
            log.warning("statuses are not written", error=str(error))
            return False

    def _kind(self, name: str, now_s: float) -> _Kind:
        """What is known of a kind, read where it is time to.  Raises: KubeUnavailable."""
        known = self._kinds.get(name)
        if known is not None and now_s < known.read_s + READ_AGAIN_S:
            return known
        try:
            shown = read_shown(self._api, name)
        except KubeUnavailable:
            raise
        except KubeError as error:
            log.warning("statuses are not read", kind=name, error=str(error))
            shown = {}
        for ref, each in shown.items():
            subject = self._subjects.get(ref)
            if subject is not None and subject.told.standing.uid == each.uid:
                subject.shown = each.conditions
        self._kinds[name] = known = _Kind(now_s)
        return known

    def _is_held(self, subject: _Subject, count: Count | None, now_s: float) -> bool:
        """Whether it is too early to say how it is."""
        if now_s < subject.not_before_s:
            return True
        if count is not None and count.is_all:
            return (
                bool(missing(subject.told.standing.findings)) and now_s < subject.since_s + HOLD_S
            )
        generation = subject.told.standing.generation
        if said_programmed(subject.shown, generation) and now_s < self._began_s + GRACE_S:
            return True  # an agent that was replaced while the writer was: it has yet to tell
        return now_s < subject.since_s + HOLD_S

    def _write(
        self, ref: ObjectRef, subject: _Subject, wanted: tuple[Condition, ...], now_s: float
    ) -> bool:
        """Whether that is done with, well or not.  Raises: KubeUnavailable."""
        self._writes_left -= 1
        conditions = timed(wanted, subject.shown, _now())
        document = status_document(ref, conditions)
        subject.not_before_s = now_s + EVERY_S
        try:
            self._api.apply(status_path(ref), document, MANAGER)
        except KubeUnavailable:
            raise
        except KubeError as error:  # gone, a definition without status, no right to
            subject.not_before_s = now_s + REFUSED_S
            self._kinds[ref.kind].refusals += 1
            self._on_result("refused")
            log.info("status refused", object=str(ref), error=str(error))
            return True
        subject.shown = conditions
        self._kinds[ref.kind].refusals = 0
        self._on_result("written")
        return True

    def _enter(self, subject: _Subject, state: str) -> None:
        """Count an object as being in a state; empty: no more."""
        if state != subject.state:
            self._states[subject.state] -= 1
            self._states[state] += 1
            subject.state = state


def _state(conditions: tuple[Condition, ...]) -> str:
    by_type = {condition.type: condition for condition in conditions}
    if by_type[ACCEPTED].status != "True":
        return "not-accepted"
    return "programmed" if by_type[PROGRAMMED].status == "True" else "behind"


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
