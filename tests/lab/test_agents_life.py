"""Agents die, return, reboot and are meddled with; walls and live connections do not notice."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import msgspec
import pytest

from calico_k8s.config import Layer
from calico_k8s.felix import drift as drifts
from calico_k8s.felix.drift import Drift, DriftFinder
from calico_k8s.felix.saved import SavedState
from calico_k8s.lab.kubeproxy import IptablesFlavour
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import PodNetwork
from calico_k8s.lab.run import Lab, LabOptions, agent_arguments, lab_up
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Action
from tests.felix.nodes import until
from tests.lab.walls import (
    API,
    NODE_1,
    NODE_2,
    OBJECTS,
    PATIENCE_S,
    SERVICES,
    WEB,
    assert_as_defined,
    backend,
    cluster,
    felix_clean,
    held,
    is_as_defined,
    kernels,
    on_node,
    question,
    wait_for_beats,
)

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

KINDS: list[tuple[PodNetwork, IptablesFlavour]] = [
    (PodNetwork.PTP, "nft"),
    (PodNetwork.BRIDGE, "legacy"),
]
NODES = (NODE_1, NODE_2)
MENDED = "mended what another program had changed"
"""What an agent tells once it has; the place of our jumps is looked at each second."""


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


@contextmanager
def watching(lab: Lab) -> Iterator[None]:
    """The block changes nothing for who goes over the walls, or through their doors."""
    expected = [
        (question(lab, src, dst, to, version), verdict)
        for (src, dst, to, verdict), version in product(WATCHED, (4, 6))
    ]
    with held(lab.prober, expected, interval_s=0.02):
        yield


def test_agents_killed_and_started_change_no_verdict_and_write_nothing(lab: Lab) -> None:
    before = kernels(lab)
    logs = {node: len(told(lab, node)) for node in lab.cluster.nodes}
    with watching(lab):
        for node in (NODE_1, NODE_2):
            lab.kill_agent(node)
        time.sleep(0.3)
        assert kernels(lab) == before
        for node in (NODE_1, NODE_2):
            lab.agents.start(node)
        lab.wait_in_force()
        time.sleep(1.2)
    assert kernels(lab) == before
    for node, length in logs.items():
        assert "kernel written" not in told(lab, node)[length:]


def told(lab: Lab, node: NodeName) -> str:
    """What a node's agents have logged."""
    return lab.agents.log_path(node).read_text()


def test_an_agent_stopped_in_order_leaves_the_walls(lab: Lab) -> None:
    before = kernels(lab)
    with watching(lab):
        lab.agents.stop(NODE_1)
        time.sleep(0.3)
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
    is_back = until(lambda: "cali-FORWARD" in kernels(lab)[NODE_1], PATIENCE_S)
    assert is_back, told(lab, NODE_1)[-2000:]
    assert until(lambda: is_as_defined(lab), PATIENCE_S)
    lab.kill_agent(NODE_1)
    lab.start_agent(NODE_1)
    assert_as_defined(lab)


def drift(lab: Lab, node: NodeName) -> Drift:
    """What the command that looks finds on a node, given the agent's flags."""
    pairs = zip(*2 * [iter(agent_arguments(lab.options))], strict=True)
    flags = Layer("command line", {name.removeprefix("--"): value for name, value in pairs})
    with entered(lab.cluster.nodes[node].namespace):
        return DriftFinder(node, (flags,), lab.store.store, backend(lab)).find()


def test_no_node_drifts_and_what_was_meddled_with_is_found_or_mended(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What passed while an earlier test had the rules away is known to conntrack for ten seconds.
    assert until(lambda: not any(drift(lab, each).findings for each in NODES), PATIENCE_S), [
        drift(lab, node).findings for node in NODES
    ]
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
    verdicts = [Action.DENY, Action.ALLOW]
    told_before = len(told(lab, NODE_1))
    try:
        iptables(lab, version, meddling.commands)
        assert until(lambda: MENDED in told(lab, NODE_1)[told_before:], PATIENCE_S)
        mended_s = time.monotonic()
        wait_for_beats((denied, allowed), mended_s)
        for stream, verdict in zip((denied, allowed), verdicts, strict=True):
            assert {beat.verdict for beat in stream.beats(mended_s)} == {verdict}
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


def test_clean_leaves_nothing(lab: Lab) -> None:
    lab.agents.stop(NODE_2)
    assert "nothing of ours is left" in felix_clean(lab, NODE_2)
    assert "nothing of ours is left" in felix_clean(lab, NODE_2, "--verify")
    assert "cali" not in kernels(lab)[NODE_2]
    assert "calico" not in on_node(lab, NODE_2, "nft", "list", "ruleset")
    links = on_node(lab, NODE_2, "ip", "link")
    groups = re.findall(r" group (\S+)", links)
    assert set(groups) == {"default"}, links
