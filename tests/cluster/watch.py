"""Flows watched without a pause while things change: each has the verdict of before or of after.

In: flows between pods of a live cluster, with the verdict each should have.  Out: nothing, or an
AssertionError with what was seen.  A flow that a change does not name must not notice it: not one
new connection may pass or fail against its verdict.  One that it names turns once, from the old
verdict to the new, in the time that the change may take.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from calico_k8s.lab.beats import SETTLE_S, Run, verdict_runs
from calico_k8s.lab.plan import Place, PodId
from calico_k8s.lab.question import Probe
from calico_k8s.lab.stream import Stream
from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import Action
from calico_k8s.query.reach import Service
from tests.cluster.live import LiveCluster

INTERVAL_S = 0.05
ALLOW, DENY = Action.ALLOW, Action.DENY


class Flow(NamedTuple):
    """New connections of one pod to another, over both families where both have them."""

    src: str
    dst: str
    service: Service


class _Watched:
    """A flow's stream of one family."""

    def __init__(self, stream: Stream, verdict: Action) -> None:
        self.stream = stream
        self.verdict = verdict
        self.checked_s = 0.0

    def runs(self) -> list[Run]:
        """What was seen since it was last looked at."""
        return verdict_runs(self.stream.beats(self.checked_s))


class Watch:
    """Flows of a cluster, each asked every 50 ms; for one thread."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster = cluster
        self._watched: dict[Flow, list[_Watched]] = {}

    def add(self, verdict: Action, *flows: Flow) -> None:
        """Watches flows from now on."""
        pods = self._cluster.network.pods
        for flow in flows:
            addresses = pods[PodId(flow.dst)].pod.addresses
            families = {":" in each for each in pods[PodId(flow.src)].pod.addresses}
            self._watched[flow] = [
                _Watched(self._start(flow, address), verdict)
                for address in addresses
                if (":" in address) in families
            ]

    def drop(self, *pods: str) -> None:
        """Watches no flow of these pods any more: they are to end.

        Raises: AssertionError for what one did until now.
        """
        gone = [flow for flow in self._watched if {flow.src, flow.dst} & set(pods)]
        streams = [(flow, each) for flow in gone for each in self._watched.pop(flow)]
        for _, each in streams:
            self._cluster.prober.stop(each.stream)
        time.sleep(SETTLE_S)
        for flow, each in streams:
            _check(flow, each, [each.verdict])

    @contextmanager
    def change(
        self, *, within_s: float, opens: Collection[Flow] = (), closes: Collection[Flow] = ()
    ) -> Iterator[None]:
        """What the block does turns these flows, and no other, within so long of its end.

        Raises: AssertionError for each flow of which that is not so.
        """
        wanted = dict.fromkeys(opens, ALLOW) | dict.fromkeys(closes, DENY)
        yield
        deadline_s = time.monotonic() + within_s
        for flow, verdict in wanted.items():
            for each in self._watched[flow]:
                _wait_for(flow, each, verdict, deadline_s)
        time.sleep(SETTLE_S + 2 * INTERVAL_S)
        for flow, watched in self._watched.items():
            for each in watched:
                verdict = wanted.get(flow, each.verdict)
                runs = [each.verdict, *([verdict] if verdict is not each.verdict else [])]
                _check(flow, each, runs)
                each.verdict = verdict

    def _start(self, flow: Flow, address: Address) -> Stream:
        probe = Probe(Place(flow.src), address, flow.service.port, flow.service.protocol)
        return self._cluster.prober.stream(probe, interval_s=INTERVAL_S)


def _wait_for(flow: Flow, each: _Watched, verdict: Action, deadline_s: float) -> None:
    """Returns when a connection asked for before the deadline has the verdict.

    Raises: AssertionError when none has.
    """
    while True:
        now_s = time.monotonic()
        runs = [run for run in each.runs() if run.verdict is verdict and run.first_s <= deadline_s]
        if runs:
            return
        assert now_s < deadline_s + SETTLE_S, (
            f"not in force in time: {flow} to {each.stream.probe.address}, {verdict} is wanted:"
            f" {_told(each)}"
        )
        time.sleep(0.01)


def _check(flow: Flow, each: _Watched, verdicts: list[Action]) -> None:
    runs = each.runs()
    assert [run.verdict for run in runs] == verdicts, (
        f"{flow} to {each.stream.probe.address}, {' then '.join(verdicts)} is right: {_told(each)}"
    )
    each.checked_s = runs[-1].last_s


def _told(each: _Watched) -> str:
    now_s = time.monotonic()
    return ", ".join(
        f"{run.beats} {run.verdict} from {run.first_s - now_s:.2f} to {run.last_s - now_s:.2f} s"
        for run in each.runs()
    )
