"""Other programs' firewalls beside the agents: each goes on doing what it does, and so do ours."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from calico_k8s.lab.beats import SETTLE_S
from calico_k8s.lab.kubeproxy import IptablesFlavour
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import PodNetwork
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.model.resources import Action
from tests.felix.nodes import until
from tests.lab.walls import (
    API,
    NODE_1,
    OBJECTS,
    SERVICES,
    WEB,
    address,
    arrives,
    assert_as_defined,
    backend,
    cluster,
    held,
    kernels,
    on_node,
    question,
)
from tests.namespaces import run

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

KINDS: list[tuple[PodNetwork, IptablesFlavour]] = [
    (PodNetwork.BRIDGE, "nft"),
    (PodNetwork.PTP, "legacy"),
]
MENDED_S = 1.5
"""The place of our jumps is looked at each second."""
EVENT_MENDED_S = 0.7
"""What nftables tell of is mended at once: 30 ms on an idle machine."""

FIREWALL = """
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct state invalid drop
        tcp dport 4001 reject with icmpx admin-prohibited
    }
}
"""
"""As firewalld writes it: behind iptables, and with its own opinion of a port."""
RELOAD = f"table inet firewalld\ndelete table inet firewalld\n{FIREWALL}"


@pytest.fixture(params=KINDS, ids="-".join, scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    network, flavour = request.param
    with lab_up(cluster(OBJECTS), LabOptions(network, flavour, services=SERVICES)) as up:
        yield up


def nft(lab: Lab, text: str) -> None:
    """Another program's transaction on the first node."""
    with entered(lab.cluster.nodes[NODE_1].namespace):
        run("nft", "-f", "-", stdin=text)


def iptables(lab: Lab, words: str) -> None:
    """Another program's command on the first node, in both families."""
    for family in ("iptables", "ip6tables"):
        on_node(lab, NODE_1, f"{family}-{backend(lab).value}", "-w", "10", *words.split())


@contextmanager
def steady(lab: Lab, *extra: tuple[str, str, Action]) -> Iterator[None]:
    """The block changes no verdict: not one new connection."""
    wanted = (
        ("ops/near", "ops/far", Action.ALLOW),
        ("ops/far", "ops/near", Action.ALLOW),
        ("ops/near", "web/front", Action.DENY),
        ("ops/far", "web/front", Action.DENY),
        *extra,
    )
    expected = [
        (question(lab, src, dst, WEB, version), verdict)
        for src, dst, verdict in wanted
        for version in (4, 6)
    ]
    with held(lab.prober, expected, interval_s=0.01):
        yield


def test_a_firewall_that_is_loaded_and_reloaded_drops_what_it_did_and_nothing_else_changes(
    lab: Lab,
) -> None:
    api = question(lab, "web/front", "web/back", API)
    assert lab.prober.probe([api])[0].verdict is Action.ALLOW
    before = kernels(lab)
    with steady(lab):
        for _ in range(10):
            nft(lab, RELOAD)
            time.sleep(0.05)
        assert lab.prober.probe([api])[0].verdict is Action.DENY, "an allow binds no other program"
        nft(lab, "delete table inet firewalld")
    assert kernels(lab) == before
    assert_as_defined(lab)


def test_a_docker_that_starts_and_restarts_changes_no_verdict(lab: Lab) -> None:
    """It has FORWARD drop what nobody accepts, and puts its chains first."""
    with steady(lab):
        iptables(lab, "-N DOCKER-USER")
        iptables(lab, "-A DOCKER-USER -j RETURN")
        iptables(lab, "-P FORWARD DROP")
        for _ in range(3):
            iptables(lab, "-I FORWARD -j DOCKER-USER")
            iptables(lab, "-D FORWARD -j DOCKER-USER")
        iptables(lab, "-P FORWARD ACCEPT")
        iptables(lab, "-F DOCKER-USER")
        iptables(lab, "-X DOCKER-USER")
    assert_as_defined(lab)


def test_what_others_accept_in_the_filter_table_opens_nothing(lab: Lab) -> None:
    """Not for a moment: we deny before it is asked."""
    with steady(lab):
        iptables(lab, "-I FORWARD -j ACCEPT")
        time.sleep(0.2)
        iptables(lab, "-D FORWARD -j ACCEPT")
    assert_as_defined(lab)


def test_what_others_drop_at_the_end_of_the_filter_table_stays_dropped(lab: Lab) -> None:
    """Our accept is kept behind every rule: it answers the chain's policy, and nobody's rule."""
    near = question(lab, "ops/near", "ops/far", WEB)
    iptables(lab, "-A FORWARD -i veth+ -j DROP" if is_routed(lab) else "-A FORWARD -i cbr0 -j DROP")
    assert until(lambda: lab.prober.probe([near])[0].verdict is Action.DENY, MENDED_S)
    iptables(lab, "-D FORWARD -i veth+ -j DROP" if is_routed(lab) else "-D FORWARD -i cbr0 -j DROP")
    assert_as_defined(lab)


def is_routed(lab: Lab) -> bool:
    return lab.options.network is PodNetwork.PTP


def test_a_ruleset_flushed_and_loaded_anew_is_mended_at_once(lab: Lab) -> None:
    """What the start of ``nftables.service`` does; legacy tables are none of it."""
    before = ours(lab)
    nft(lab, FIREWALL)
    denied = lab.prober.stream(question(lab, "ops/near", "web/front", WEB), interval_s=0.005)
    allowed = lab.prober.stream(question(lab, "ops/near", "ops/far", WEB), interval_s=0.005)
    try:
        nft(lab, f"flush ruleset\n{FIREWALL}")
        mended_s = time.monotonic() + EVENT_MENDED_S
        time.sleep(EVENT_MENDED_S + SETTLE_S + 0.3)
        passed = [beat for beat in denied.beats() if beat.verdict is Action.ALLOW]
        assert not [beat for beat in passed if beat.sent_s > mended_s]
        assert {beat.verdict for beat in allowed.beats()} == {Action.ALLOW}
        if backend(lab).value == "legacy":
            assert not passed
    finally:
        for stream in (denied, allowed):
            lab.prober.stop(stream)
        nft(lab, "delete table inet firewalld")
    assert ours(lab) == before
    assert not arrives(lab, "ops/near", address(lab, "web/plain"), "web/front")
    assert_as_defined(lab)


def ours(lab: Lab) -> list[str]:
    """What is ours on the first node, the bridges' table too."""
    bridges = on_node(lab, NODE_1, "nft", "-s", "-t", "list", "ruleset", "bridge")
    return [line for line in kernels(lab)[NODE_1].splitlines() if "cali" in line] + [bridges]
