"""The whole engine on real packets: what becomes of pods, of live connections, of liars."""

import copy
import time
from collections.abc import Callable, Iterator
from itertools import product

import pytest

from calico_k8s.errors import InputError
from calico_k8s.lab.beats import SETTLE_S, arrival_gaps, verdict_runs
from calico_k8s.lab.kubeproxy import IptablesFlavour
from calico_k8s.lab.plan import Place, PodId, PodNetwork
from calico_k8s.lab.question import Probe
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.lab.stream import Stream, StreamKind
from calico_k8s.model.addresses import Address, Version
from calico_k8s.model.resources import Action
from calico_k8s.sources.assign import cluster_ips
from tests.lab.clusters import Object
from tests.lab.walls import (
    API,
    DNS,
    NODE_1,
    OBJECTS,
    PATIENCE_S,
    SERVICES,
    WEB,
    address,
    answers,
    arrives,
    assert_as_defined,
    cluster,
    pod,
    question,
    with_policy,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

KINDS: list[tuple[PodNetwork, IptablesFlavour]] = [
    (PodNetwork.PTP, "nft"),
    (PodNetwork.BRIDGE, "legacy"),
]
CUT_WITHIN_S = 5.0
"""Live flows are read beside the loop, and once more a second after a change; a busy machine's
pauses on top."""
RESTORED_S = 15.0
VERSIONS: tuple[Version, ...] = (4, 6)


@pytest.fixture(params=KINDS, ids="-".join, scope="module")
def made(request: pytest.FixtureRequest) -> Iterator[Lab]:
    network, flavour = request.param
    with lab_up(cluster(OBJECTS), LabOptions(network, flavour, services=SERVICES)) as up:
        yield up


@pytest.fixture
def lab(made: Lab) -> Lab:
    """With the objects of every test's beginning."""
    made.apply(cluster(OBJECTS, made))
    return made


def test_packets_pass_as_the_definition_says(lab: Lab) -> None:
    assert_as_defined(lab)


# A pod that starts.


def test_a_new_pod_is_closed_until_its_policy_is_in_the_kernel(lab: Lab) -> None:
    lab.place(cluster([*OBJECTS, pod("ops/new", "node-1", app="new")], lab))
    pairs = [
        ("ops/new", "ops/near"),
        ("ops/new", "ops/far"),
        ("ops/near", "ops/new"),
        ("ops/far", "ops/new"),
    ]
    streams = [
        lab.prober.stream(question(lab, src, dst, WEB, version), interval_s=0.01)
        for (src, dst), version in product(pairs, VERSIONS)
    ]
    own = lab.prober.probe([question(lab, NODE_1, "ops/new", WEB, version) for version in VERSIONS])
    assert [each.verdict for each in own] == [Action.ALLOW, Action.ALLOW]
    assert until(lambda: all(len(each.beats()) > 30 for each in streams), PATIENCE_S)
    written_s = time.monotonic()
    lab.write()
    lab.wait_in_force()
    in_force_s = time.monotonic()
    time.sleep(2 * SETTLE_S)
    for stream in streams:
        lab.prober.stop(stream)
        runs = verdict_runs(stream.beats())
        assert [run.verdict for run in runs] == [Action.DENY, Action.ALLOW], stream.probe
        assert runs[1].first_s > written_s
        assert runs[0].last_s < in_force_s + 0.05
    assert_as_defined(lab)


def test_pods_come_go_and_change_their_labels_while_others_talk(lab: Lab) -> None:
    stream = lab.prober.stream(question(lab, "ops/near", "ops/far", WEB), interval_s=0.01)
    for number in range(4):
        objects = [*OBJECTS, pod(f"web/p{number % 2}", f"node-{1 + number % 2}", access="yes")]
        lab.apply(cluster(objects, lab))
        assert_as_defined(lab)
    lab.prober.stop(stream)
    assert {beat.verdict for beat in stream.beats()} == {Action.ALLOW}


def claimed(name: str, node: str, at: str, year: int, **labels: str) -> Object:
    """A pod with an address of its own choice."""
    made = pod(name, node, **labels)
    made["metadata"]["creationTimestamp"] = f"{year}-01-01T00:00:00Z"
    made["status"] = {"podIP": at, "podIPs": [{"ip": at}], "phase": "Running"}
    return made


@pytest.mark.parametrize("node", ["node-1", "node-2"])
def test_of_two_pods_with_one_address_the_newest_owns_it(lab: Lab, node: str) -> None:
    shared = "10.9.9.9"
    old = claimed("web/old", "node-1", shared, 2024, access="yes")
    new = claimed("ops/new", node, shared, 2025)
    for objects, owner in (([old], "web/old"), ([old, new], "ops/new"), ([old], "web/old")):
        lab.apply(cluster([*OBJECTS, *objects], lab))
        owners = [name for name, site in lab.cluster.pods.items() if shared in site.pod.addresses]
        assert owners == [owner]
        assert_as_defined(lab)


# Live connections.


def denied_flows(lab: Lab) -> list[Stream]:
    """Connections that the next change denies."""
    return [
        lab.prober.stream(question(lab, "web/front", dst, service, version), kind, 0.02)
        for dst in ("web/back", "web/rear")
        for service in (API, DNS)
        for kind in (StreamKind.CLIENT, StreamKind.SERVER)
        for version in VERSIONS
    ]


def untouched_flows(lab: Lab) -> list[Stream]:
    """Connections that it does not concern, some of them to the very same pods."""
    pairs = [("ops/near", "ops/far", API), ("web/back", "web/front", WEB)]
    return [
        lab.prober.stream(question(lab, src, dst, service, version), kind, 0.02)
        for src, dst, service in pairs
        for kind in (StreamKind.CLIENT, StreamKind.SERVER)
        for version in VERSIONS
    ]


def last_arrival_s(stream: Stream) -> float:
    """When something arrived last."""
    return max(each.answered_s or 0.0 for each in stream.beats())


def until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether the condition comes true in time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def test_a_denied_flows_live_connections_end_and_no_others(lab: Lab) -> None:
    doomed, safe = denied_flows(lab), untouched_flows(lab)
    time.sleep(0.3)
    only_icmp = with_policy("web/rear", "allow icmp", with_policy("web/back", "allow icmp"))
    lab.apply(cluster(only_icmp, lab))
    in_force_s = time.monotonic()

    def are_silent() -> bool:
        return all(time.monotonic() - last_arrival_s(each) > 0.5 for each in doomed)

    assert until(are_silent, CUT_WITHIN_S + 0.5), [
        f"{each.probe} {each.kind}" for each in doomed if last_arrival_s(each) > in_force_s + 0.5
    ]
    time.sleep(0.5)
    assert are_silent()
    lab.apply(cluster(OBJECTS, lab))
    back_s = time.monotonic()
    # TCP repeats what was lost with growing pauses.
    assert until(lambda: all(last_arrival_s(each) > back_s for each in doomed), RESTORED_S), [
        f"{each.probe} {each.kind}" for each in doomed if last_arrival_s(each) < back_s
    ]
    for stream in (*doomed, *safe):
        lab.prober.stop(stream)
    for stream in safe:
        assert {beat.verdict for beat in stream.beats()} == {Action.ALLOW}
        assert arrival_gaps(stream.beats(), 0.5) == [], f"{stream.probe} {stream.kind}"


def test_what_was_denied_while_the_agent_was_away_ends_when_it_is_back(lab: Lab) -> None:
    stream = lab.prober.stream(question(lab, "web/front", "web/back", API), StreamKind.SERVER, 0.02)
    lab.kill_agent(NODE_1)
    lab.apply(cluster(with_policy("web/back", "allow icmp"), lab))
    time.sleep(0.3)
    lab.start_agent(NODE_1)
    assert last_arrival_s(stream) > 0
    assert until(lambda: time.monotonic() - last_arrival_s(stream) > 1.0, CUT_WITHIN_S + 1.0)
    lab.prober.stop(stream)


# Liars.


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pod_speaks_with_its_own_address_only(lab: Lab, version: Version) -> None:
    node = next(a for a in lab.cluster.nodes[NODE_1].addresses if (":" in a) == (version == 6))
    foreign = Address("fd00:dead::1" if version == 6 else "203.0.113.7")
    for dst in ("ops/far", "ops/near"):
        assert arrives(lab, "web/front", address(lab, "web/front", version), dst)
        for source in (
            address(lab, "web/back", version),
            address(lab, "web/rear", version),
            node,
            foreign,
        ):
            assert not arrives(lab, "web/front", source, dst), f"as {source} to {dst}"


# Itself and its node.


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pod_reaches_itself_whatever_its_policy(lab: Lab, version: Version) -> None:
    probes = [question(lab, "web/sealed", "web/sealed", WEB, version)]
    assert [each.verdict for each in lab.prober.probe(probes)] == [Action.ALLOW]


def test_a_pod_reaches_itself_through_its_own_service(lab: Lab) -> None:
    (service,) = (each for each in lab.objects.services if each.metadata.name == "sealed")
    (front,) = cluster_ips(service)
    assert answers(lab, "web/sealed", front, 80)
    assert not answers(lab, "web/back", front, 80, timeout_s=0.5)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_node_reaches_its_own_pods_and_others_as_their_policy_says(
    lab: Lab, version: Version
) -> None:
    def verdict(src: str, dst: str) -> Action:
        (answer,) = lab.prober.probe([question(lab, src, dst, WEB, version)])
        return answer.verdict

    assert verdict("node-1", "web/sealed") is Action.ALLOW
    assert verdict("node-1", "web/front") is Action.ALLOW
    assert verdict("node-2", "web/sealed") is Action.DENY
    assert verdict("node-2", "web/front") is Action.DENY
    assert verdict("node-2", "ops/near") is Action.ALLOW


# What cannot be built.


def test_a_node_that_appears_is_refused_and_changes_nothing(lab: Lab) -> None:
    before = lab.snapshot
    with pytest.raises(InputError, match="nodes cannot come or go"):
        lab.apply(cluster([*OBJECTS, pod("ops/new", "node-3")], lab))
    assert lab.snapshot == before
    assert PodId("ops/new") not in lab.cluster.pods


def test_a_new_port_is_listened_on_everywhere(lab: Lab) -> None:
    objects = copy.deepcopy(OBJECTS)
    new = pod("ops/new", "node-1")
    new["spec"]["containers"] = [{"name": "c", "ports": [{"containerPort": 9999}]}]
    lab.apply(cluster([*objects, new], lab))
    probe = Probe(Place("ops/new"), address(lab, "ops/far"), 9999, API.protocol)
    assert [each.verdict for each in lab.prober.probe([probe])] == [Action.ALLOW]
