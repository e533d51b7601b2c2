"""Flows watched without a pause while things change: each has the verdict of before or of after.

In: flows between pods of a live cluster, with the verdict each should have.  Out: nothing, or an
AssertionError with what was seen.  A flow that a change does not name must not notice it: nothing
of it may pass or fail against its verdict.  One that it names turns once, from the old verdict to
the new, in the time that the change may take.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from calico_k8s.lab.beats import SETTLE_S, Run, verdict_runs
from calico_k8s.lab.plan import Place, PodId, of_version
from calico_k8s.lab.question import Probe
from calico_k8s.lab.stream import Stream, StreamKind
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Action
from calico_k8s.query.reach import Service
from tests.cluster.live import LiveCluster

INTERVAL_S = 0.05
ALLOW, DENY = Action.ALLOW, Action.DENY


class Flow(NamedTuple):
    """What one pod sends another, over one family."""

    src: str
    dst: str
    service: Service
    version: Version = 4
    kind: StreamKind = StreamKind.NEW
    """A new connection for each beat, or one that stays."""


def flows(src: str, dst: str, service: Service) -> list[Flow]:
    """New connections over both families."""
    return [Flow(src, dst, service, 4), Flow(src, dst, service, 6)]


class _Watched:
    """A flow's stream, and what of it is known to be right."""

    def __init__(self, flow: Flow, stream: Stream, verdict: Action) -> None:
        self.flow = flow
        self.stream = stream
        self.verdict = verdict
        self._checked_s = 0.0

    def has_turned(self, verdict: Action, deadline_s: float) -> bool:
        """Whether a beat sent before the deadline has the verdict."""
        return any(run.verdict is verdict and run.first_s <= deadline_s for run in self._runs())

    def check(self, *verdicts: Action) -> None:
        """Makes sure that since the last time these were the verdicts, in this order.

        Raises: AssertionError.
        """
        runs = self._runs()
        assert [run.verdict for run in runs] == list(verdicts), (
            f"{self.flow}: {' then '.join(verdicts)} is right, and it was {self.told()}"
        )
        self._checked_s = runs[-1].last_s

    def told(self) -> str:
        """What was seen, by seconds before now."""
        now_s = time.monotonic()
        return ", ".join(
            f"{run.beats} {run.verdict} from {now_s - run.first_s:.2f} to {now_s - run.last_s:.2f} s ago"
            for run in self._runs()
        )

    def _runs(self) -> list[Run]:
        return verdict_runs(self.stream.beats(self._checked_s))


class Watch:
    """Flows of a cluster, each asked every 50 ms; for one thread."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster = cluster
        self._watched: dict[Flow, _Watched] = {}

    def add(self, verdict: Action, more: Sequence[Flow]) -> None:
        """Watches flows from now on."""
        for flow in more:
            self._watched[flow] = _Watched(flow, self._start(flow), verdict)

    def drop(self, *pods: str) -> None:
        """Watches no flow of these pods any more: they are to end.

        Raises: AssertionError for what one did until now.
        """
        gone = [flow for flow in self._watched if {flow.src, flow.dst} & set(pods)]
        for flow in gone:
            self._cluster.prober.stop(self._watched[flow].stream)
        time.sleep(SETTLE_S)
        for flow in gone:
            watched = self._watched.pop(flow)
            watched.check(watched.verdict)

    @contextmanager
    def change(
        self, within_s: float, *, opens: Collection[Flow] = (), closes: Collection[Flow] = ()
    ) -> Iterator[None]:
        """What the block does turns these flows, and no other, within so long of its end.

        Raises: AssertionError for each flow of which that is not so.
        """
        wanted = dict.fromkeys(opens, ALLOW) | dict.fromkeys(closes, DENY)
        assert wanted.keys() <= self._watched.keys()
        yield
        deadline_s = time.monotonic() + within_s
        for flow, verdict in wanted.items():
            _wait_for(self._watched[flow], verdict, deadline_s)
        time.sleep(SETTLE_S + 2 * INTERVAL_S)  # so that beats of after the last turn are known
        for flow, watched in self._watched.items():
            if flow in wanted:
                watched.check(watched.verdict, wanted[flow])
                watched.verdict = wanted[flow]
            else:
                watched.check(watched.verdict)

    def _start(self, flow: Flow) -> Stream:
        pod = self._cluster.network.pods[PodId(flow.dst)].pod
        address = of_version(pod.addresses, flow.version)
        assert address is not None
        probe = Probe(Place(flow.src), address, flow.service.port, flow.service.protocol)
        return self._cluster.prober.stream(probe, flow.kind, INTERVAL_S)


def _wait_for(watched: _Watched, verdict: Action, deadline_s: float) -> None:
    """Returns when what was sent before the deadline has the verdict.

    Raises: AssertionError when nothing has.
    """
    while not watched.has_turned(verdict, deadline_s):
        in_time = time.monotonic() < deadline_s + SETTLE_S + INTERVAL_S
        assert in_time, f"{watched.flow}: {verdict} is wanted, and it was {watched.told()}"
        time.sleep(0.01)
