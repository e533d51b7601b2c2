"""A stream says when a verdict changed, and whether anything passed or failed between."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from calico_k8s.errors import InputError, KernelError
from calico_k8s.lab.beats import SETTLE_S, arrival_gaps, verdict_runs
from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import Place
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import Probe
from calico_k8s.lab.stream import Stream, StreamKind
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import ICMP, Action
from tests.lab.plans import SCTP, TCP, UDP, plan, pod

pytestmark = pytest.mark.kernel

PLAN = plan(2)
PORTS = {TCP: 80, UDP: 53, SCTP: 9899, ICMP: 0}
INTERVAL_S = 0.005
CUT_S = 0.6
SENDING_S = 0.05
"""A beat is noted before it is sent: what was noted last may find the wall gone."""
PATIENCE_S = 30.0
"""For what a machine with other things to do is slow at."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_up(PLAN) as up:
        yield up


@pytest.fixture(scope="module")
def prober(cluster: Cluster) -> Iterator[Prober]:
    with Prober(PLAN, cluster.places()) as made:
        yield made


def question(protocol: int, family: int = 0) -> Probe:
    return Probe(Place("default/p0"), pod(1, 1).addresses[family], PORTS[protocol], protocol)


def verdicts(stream: Stream, from_s: float, until_s: float) -> set[Action]:
    """What became of the beats that were sent in a time; there are some."""
    return {beat.verdict for beat in stream.beats(from_s) if beat.sent_s < until_s}


@contextmanager
def wall(cluster: Cluster) -> Iterator[None]:
    """Nothing passes between the nodes of the cluster, in either family."""
    programs = ("iptables", "ip6tables")
    with entered(cluster.nodes[NodeName("node1")].namespace):
        for program in programs:
            subprocess.run([program, "-w", "-I", "FORWARD", "-j", "DROP"], check=True)
        try:
            yield
        finally:
            for program in programs:
                subprocess.run([program, "-w", "-F", "FORWARD"], check=True)


@pytest.mark.parametrize("protocol", PORTS)
def test_new_connections_fail_exactly_while_there_is_a_wall(
    cluster: Cluster, prober: Prober, protocol: int
) -> None:
    stream = prober.stream(question(protocol), StreamKind.NEW, INTERVAL_S)
    stream.wait_for(Action.ALLOW, since_s=0.0, within_s=PATIENCE_S)
    before_s = time.monotonic()
    with wall(cluster):
        up_s = time.monotonic()
        denied = stream.wait_for(Action.DENY, since_s=before_s, within_s=PATIENCE_S)
        time.sleep(CUT_S)
        down_s = time.monotonic()
    gone_s = time.monotonic()
    stream.wait_for(Action.ALLOW, since_s=gone_s, within_s=PATIENCE_S)
    prober.stop(stream)
    time.sleep(SETTLE_S)
    runs = verdict_runs(stream.beats())
    assert [run.verdict for run in runs] == [Action.ALLOW, Action.DENY, Action.ALLOW]
    assert denied.sent_s == runs[1].first_s
    # Beats sent while a rule is on its way may have either verdict; no others.
    assert runs[0].last_s < up_s
    assert runs[1].last_s < gone_s
    assert verdicts(stream, up_s, down_s - SENDING_S) == {Action.DENY}


@pytest.mark.parametrize("kind", [StreamKind.CLIENT, StreamKind.SERVER])
@pytest.mark.parametrize("family", [0, 1])
def test_a_cut_udp_flow_loses_exactly_what_was_sent_meanwhile(
    cluster: Cluster, prober: Prober, kind: StreamKind, family: int
) -> None:
    stream = prober.stream(question(UDP, family), kind, INTERVAL_S)
    stream.wait_for(Action.ALLOW, since_s=0.0, within_s=PATIENCE_S)
    with wall(cluster):
        up_s = time.monotonic()
        time.sleep(CUT_S)
        down_s = time.monotonic()
    stream.wait_for(Action.ALLOW, since_s=time.monotonic(), within_s=PATIENCE_S)
    prober.stop(stream)
    time.sleep(SETTLE_S)
    runs = verdict_runs(stream.beats())
    assert [run.verdict for run in runs] == [Action.ALLOW, Action.DENY, Action.ALLOW]
    assert runs[0].last_s < up_s
    assert verdicts(stream, up_s, down_s - SENDING_S) == {Action.DENY}


@pytest.mark.parametrize("kind", [StreamKind.CLIENT, StreamKind.SERVER])
def test_a_cut_tcp_connection_goes_silent_and_repeats_what_was_lost(
    cluster: Cluster, prober: Prober, kind: StreamKind
) -> None:
    stream = prober.stream(question(TCP), kind, INTERVAL_S)
    stream.wait_for(Action.ALLOW, since_s=0.0, within_s=PATIENCE_S)
    with wall(cluster):
        up_s = time.monotonic()
        time.sleep(CUT_S)
        down_s = time.monotonic()
    gone_s = time.monotonic()
    stream.wait_for(Action.ALLOW, since_s=gone_s, within_s=PATIENCE_S)
    # What was lost is repeated, with growing pauses, before what was sent then.
    beats = [beat for beat in stream.beats() if beat.sent_s < gone_s]
    prober.stop(stream)
    assert {beat.verdict for beat in beats} == {Action.ALLOW}
    (gap,) = arrival_gaps(beats, CUT_S / 2)
    assert gap.after_s < up_s + CUT_S / 2
    assert gap.until_s > down_s


def test_a_connection_that_a_wall_leaves_alone_loses_nothing(
    cluster: Cluster, prober: Prober
) -> None:
    own = Probe(Place("node1"), pod(1, 1).addresses[0], PORTS[TCP], TCP)
    streams = [prober.stream(own, kind, INTERVAL_S) for kind in StreamKind]
    with wall(cluster):
        for stream in streams:
            stream.wait_for(Action.ALLOW, since_s=time.monotonic() + CUT_S, within_s=PATIENCE_S)
    for stream in streams:
        prober.stop(stream)
        assert {beat.verdict for beat in stream.beats()} == {Action.ALLOW}


def test_a_connection_that_cannot_be_opened_is_an_error(cluster: Cluster, prober: Prober) -> None:
    with wall(cluster), pytest.raises(KernelError, match=r"default/p0 to 10.244.1.11 port 80"):
        prober.stream(question(TCP), StreamKind.CLIENT)


def test_waiting_for_a_verdict_that_does_not_come_is_an_error(prober: Prober) -> None:
    stream = prober.stream(question(TCP), StreamKind.NEW, INTERVAL_S)
    with pytest.raises(KernelError, match=r"no beat with verdict deny within 0.1 s"):
        stream.wait_for(Action.DENY, since_s=0.0, within_s=0.1)
    prober.stop(stream)
    prober.stop(stream)


def test_an_echo_is_no_connection_that_stays(prober: Prober) -> None:
    with pytest.raises(InputError, match="of tcp or udp"):
        prober.stream(question(ICMP), StreamKind.SERVER)


def test_a_removed_pods_streams_end_with_it(cluster: Cluster, prober: Prober) -> None:
    late = pod(5, 0)
    cluster.add_pods([late])
    prober.add_pod(late, cluster.pods[late.id].namespace)
    probe = Probe(Place(late.id), pod(1, 1).addresses[0], 80, TCP)
    stream = prober.stream(probe, StreamKind.CLIENT, INTERVAL_S)
    prober.remove_pod(late.id)
    cluster.remove_pod(late.id)
    time.sleep(SETTLE_S)
    count = len(stream.beats())
    time.sleep(0.1)
    assert len(stream.beats()) == count
