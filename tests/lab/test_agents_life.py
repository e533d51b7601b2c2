"""Agents die, return, reboot and are meddled with; walls and live connections do not notice."""

import re
import time
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import msgspec
import pytest

from calico_k8s.config import Layer
from calico_k8s.felix import drift as drifts
from calico_k8s.felix.drift import Drift, DriftFinder
from calico_k8s.felix.saved import SavedState
from calico_k8s.lab.beats import SETTLE_S, verdict_runs
from calico_k8s.lab.kubeproxy import IptablesFlavour
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import PodNetwork
from calico_k8s.lab.run import Lab, LabOptions, agent_arguments, lab_up
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Action
from tests.lab.walls import (
    API,
    NODE_1,
    NODE_2,
    OBJECTS,
    SERVICES,
    WEB,
    assert_as_defined,
    backend,
    cluster,
    felix_clean,
    kernels,
    on_node,
    question,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

KINDS: list[tuple[PodNetwork, IptablesFlavour]] = [
    (PodNetwork.PTP, "nft"),
    (PodNetwork.BRIDGE, "legacy"),
]
MENDED_S = 1.5
"""The place of our jumps is looked at each second."""


@pytest.fixture(params=KINDS, ids="-".join, scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    network, flavour = request.param
    with lab_up(cluster(OBJECTS), LabOptions(network, flavour, services=SERVICES)) as up:
        yield up


@pytest.fixture(autouse=True)
def agents_run(lab: Lab) -> None:
    """Every test starts with both agents in force."""
    for node in {NODE_1, NODE_2} - lab.agents.running:
        lab.start_agent(node)
    lab.wait_in_force()


WATCHED = [
    ("web/front", "web/back", API, Action.ALLOW),
    ("web/front", "web/rear", API, Action.ALLOW),
    ("ops/near", "ops/far", WEB, Action.ALLOW),
    ("ops/far", "ops/near", WEB, Action.ALLOW),
    ("web/plain", "web/back", API, Action.DENY),
    ("web/front", "web/rear", WEB, Action.DENY),
    ("ops/near", "web/front", WEB, Action.DENY),
    ("ops/far", "web/plain", WEB, Action.DENY),
]


class Watch:
    """Streams over the walls, and through their doors, of both families."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._streams = [
            (lab.prober.stream(question(lab, src, dst, to, version), interval_s=0.02), verdict)
            for (src, dst, to, verdict), version in product(WATCHED, (4, 6))
        ]

    def assert_that_nothing_changed(self) -> None:
        """Every beat had the verdict that it should have."""
        time.sleep(SETTLE_S)
        for stream, verdict in self._streams:
            self._lab.prober.stop(stream)
            runs = verdict_runs(stream.beats())
            assert [run.verdict for run in runs] == [verdict], (stream.probe, runs)
            assert runs[0].beats > 10


def test_agents_killed_and_started_change_no_verdict_and_write_nothing(lab: Lab) -> None:
    before = kernels(lab)
    logs = {node: len(lab.agents.log_path(node).read_text()) for node in lab.cluster.nodes}
    watch = Watch(lab)
    for node in (NODE_1, NODE_2):
        lab.kill_agent(node)
    time.sleep(0.3)
    assert kernels(lab) == before
    for node in (NODE_1, NODE_2):
        lab.agents.start(node)
    lab.wait_in_force()
    time.sleep(1.2)
    watch.assert_that_nothing_changed()
    assert kernels(lab) == before
    for node, length in logs.items():
        assert "kernel written" not in lab.agents.log_path(node).read_text()[length:]


def test_an_agent_stopped_in_order_leaves_the_walls(lab: Lab) -> None:
    before = kernels(lab)
    watch = Watch(lab)
    lab.agents.stop(NODE_1)
    time.sleep(0.3)
    watch.assert_that_nothing_changed()
    assert kernels(lab) == before


def test_what_was_denied_while_the_agent_was_away_is_in_force_when_it_is_back(lab: Lab) -> None:
    lab.kill_agent(NODE_2)
    lab.apply(cluster([each for each in OBJECTS if each["kind"] != "Namespace"], lab))
    lab.start_agent(NODE_2)
    assert_as_defined(lab)
    lab.kill_agent(NODE_1)
    lab.apply(cluster(OBJECTS, lab))
    lab.start_agent(NODE_1)
    assert_as_defined(lab)


def test_a_rebooted_node_enforces_what_it_did_before_the_datastore_answers(lab: Lab) -> None:
    before = kernels(lab)[NODE_1]
    lab.agents.stop(NODE_1)
    path = lab.agents.state_path(NODE_1)
    state = msgspec.msgpack.decode(path.read_bytes(), type=SavedState)
    path.write_bytes(msgspec.msgpack.encode(msgspec.structs.replace(state, boot_id="another")))
    felix_clean(lab, NODE_1)
    assert kernels(lab)[NODE_1] != before
    # A store that is there, and has nothing: it never says that it is complete.
    lab.agents.start(NODE_1, "--datastore", f"sqlite://{lab.cluster.directory / 'empty.db'}")
    deadline_s = time.monotonic() + 5
    while "cali-FORWARD" not in kernels(lab)[NODE_1]:
        assert time.monotonic() < deadline_s, lab.agents.log_path(NODE_1).read_text()[-2000:]
        time.sleep(0.05)
    time.sleep(0.3)
    assert_as_defined(lab)
    lab.kill_agent(NODE_1)
    lab.start_agent(NODE_1)
    assert_as_defined(lab)


class Meddling(NamedTuple):
    """What another program does, with ``iptables`` left out, and how it takes it back.

    Each is one transaction, as the agent may have mended one before the next.
    """

    commands: tuple[str, ...]
    undo: tuple[str, ...] = ()


MEDDLING = {
    "another program's accept before ours": Meddling(
        ("-t mangle -I FORWARD -j ACCEPT",), ("-t mangle -D FORWARD -j ACCEPT",)
    ),
    "our table flushed": Meddling(("-t mangle -F",)),
    "our accept flushed where nothing else accepts": Meddling(
        ("-t filter -P FORWARD DROP", "-t filter -F"), ("-t filter -P FORWARD ACCEPT",)
    ),
    "our chains flushed and deleted": Meddling(("restore *mangle COMMIT",)),
    "our jump deleted": Meddling(("-t mangle -D FORWARD -j cali-FORWARD",)),
}


@pytest.mark.parametrize("meddling", MEDDLING.values(), ids=MEDDLING)
@pytest.mark.parametrize("version", [4, 6])
def test_what_another_program_does_to_our_rules_is_mended(
    lab: Lab, meddling: Meddling, version: int
) -> None:
    denied = lab.prober.stream(question(lab, "ops/near", "web/front", WEB, version))
    allowed = lab.prober.stream(question(lab, "ops/near", "ops/far", WEB, version))
    try:
        iptables(lab, version, meddling.commands)
        mended_s = time.monotonic() + MENDED_S
        time.sleep(MENDED_S + SETTLE_S + 0.3)
        for stream, verdict in ((denied, Action.DENY), (allowed, Action.ALLOW)):
            late = stream.beats(mended_s)
            assert late
            assert {beat.verdict for beat in late} == {verdict}
    finally:
        for stream in (denied, allowed):
            lab.prober.stop(stream)
        iptables(lab, version, meddling.undo)
    assert_as_defined(lab)


def iptables(lab: Lab, version: int, commands: tuple[str, ...]) -> None:
    """Runs what another program would on the first node."""
    program = f"{'iptables' if version == 4 else 'ip6tables'}-{backend(lab).value}"
    for command in commands:
        words = command.split()
        if words[0] == "restore":
            text = "\\n".join(words[1:])
            on_node(lab, NODE_1, "sh", "-c", f"printf '{text}\\n' | {program}-restore -w 10")
        else:
            on_node(lab, NODE_1, program, "-w", "10", *words)


def drift(lab: Lab, node: NodeName) -> Drift:
    """What the command that looks finds on a node, given the agent's flags."""
    pairs = zip(*2 * [iter(agent_arguments(lab.options))], strict=True)
    flags = Layer("command line", {name.removeprefix("--"): value for name, value in pairs})
    with entered(lab.cluster.nodes[node].namespace):
        return DriftFinder(node, (flags,), lab.store.store, backend(lab)).find()


def test_no_node_drifts_and_what_was_meddled_with_is_found_or_mended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [drift(lab, node).findings for node in (NODE_1, NODE_2)] == [(), ()]
    lab.agents.stop(NODE_1)
    monkeypatch.setattr(drifts, "SETTLE_S", 0.0)
    meddled = {"member"}
    element = on_node(lab, NODE_1, "ipset", "save", "cali4-dst").split("add cali4-dst ")[1]
    on_node(lab, NODE_1, "ipset", "del", "cali4-dst", element.split()[0])
    if lab.options.network is PodNetwork.BRIDGE:
        meddled |= {"bridge", "interface"}
        table = on_node(lab, NODE_1, "nft", "list", "set", "bridge", "calico_k8s", "bound4")
        bound = re.search(r'"\S+" \. [\d.]+', table)
        assert bound, table
        on_node(lab, NODE_1, "nft", f"delete element bridge calico_k8s bound4 {{ {bound[0]} }}")
        bridge = re.search(
            r"^\d+: (\S+):", on_node(lab, NODE_1, "ip", "link", "show", "type", "bridge")
        )
        assert bridge
        words = ("set", bridge[1], "type", "bridge", "nf_call_iptables", "0")
        on_node(lab, NODE_1, "ip", "link", *words)
    assert {finding.kind for finding in drift(lab, NODE_1).findings} == meddled
    monkeypatch.undo()
    lab.start_agent(NODE_1)
    lab.wait_in_force()
    assert drift(lab, NODE_1).findings == ()


def test_clean_leaves_nothing(lab: Lab) -> None:
    lab.agents.stop(NODE_2)
    assert "nothing of ours is left" in felix_clean(lab, NODE_2)
    assert "nothing of ours is left" in felix_clean(lab, NODE_2, "--verify")
    assert "cali" not in kernels(lab)[NODE_2]
    assert "calico" not in on_node(lab, NODE_2, "nft", "list", "ruleset")
    links = on_node(lab, NODE_2, "ip", "link")
    groups = re.findall(r" group (\S+)", links)
    assert set(groups) == {"default"}, links
