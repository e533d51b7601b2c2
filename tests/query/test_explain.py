"""The walk of the definition as people and programs read it."""

from typing import Literal

import msgspec
import pytest

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    PROTOCOL_NUMBERS,
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    HostHook,
    Node,
    Origin,
    Policy,
    PortRange,
    Rule,
)
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.explain import explain_lines, headline, report
from calico_k8s.query.reach import Answer, Service, ask, find_party
from calico_k8s.translate.host_endpoints import ALLOW_ALL_PROFILE, allow_all_rules
from tests.states import State, both, pod, policy, profile, selector, tier

TCP = PROTOCOL_NUMBERS["tcp"]
N1, NODE = NodeName("n1"), Address("192.168.0.1")
PASS: Literal[Action.PASS] = Action.PASS


def rule(action: Action, index: int, src: EntityMatch | None = None) -> Rule:
    origin = Origin("NetworkPolicy", "prod", "p", index)
    return Rule(action, origin, src=src or EntityMatch())


NEVER = rule(Action.DENY, 0, selector("app == 'nobody'"))
STATE = both(
    pod("a", "10.0.0.1", profiles=("namespace.prod", "pod-labels.prod.1")),
    pod("b", "10.0.0.2", profiles=("namespace.prod",)),
    profile(
        "namespace.prod",
        Rule(Action.ALLOW, Origin("Namespace", name="prod", index=0)),
        origin=Origin("Namespace", name="prod"),
    ),
    profile("pod-labels.prod.1", tags=["prod_app_a"]),
    tier("none", 1.0),
    tier("first", 2.0, PASS),
    tier("default", 3.0),
    policy("p", "all()", NEVER, rule(Action.PASS, 1), tier="first"),
    policy("q", "all()", NEVER, tier="default"),
)


def answer(src: str = "prod/b", dst: str = "prod/a") -> Answer:
    snapshot = Snapshot.from_items(STATE)
    return ask(snapshot, find_party(snapshot, src), find_party(snapshot, dst), Service(TCP, 80))


def test_tiers_stand_before_their_policies_and_those_before_their_rules() -> None:
    lines = list(explain_lines(answer("192.0.2.1"), "192.0.2.1", "prod/a"))
    assert lines == [
        "denied: 192.0.2.1 → prod/a, tcp 80: end of tier default",
        "  ingress of prod/a: deny",
        "    tier none … skipped",
        "    tier first … pass",
        "      policy NetworkPolicy/prod/p … pass",
        "        NetworkPolicy prod/p, rule 1: deny from selector (app == 'nobody') … no match",
        "        NetworkPolicy prod/p, rule 2: pass … pass",
        "    tier default … deny",
        "      policy NetworkPolicy/prod/q … no match",
        "        NetworkPolicy prod/p, rule 1: deny from selector (app == 'nobody') … no match",
        "    end of tier default: deny  ← decides",
    ]


def test_the_report_has_the_same_steps_in_the_same_order() -> None:
    found = report(answer("192.0.2.1"))
    assert found.egress is None
    assert found.ingress is not None
    assert [(step.kind, step.outcome) for step in found.ingress.steps] == [
        ("tier", "skipped"),
        ("tier", "pass"),
        ("policy", "pass"),
        ("rule", "no match"),
        ("rule", "pass"),
        ("tier", "deny"),
        ("policy", "no match"),
        ("rule", "no match"),
    ]
    assert found.flow.src == Address("192.0.2.1")


def test_a_question_of_many_flows_says_how_many_are_denied() -> None:
    lines = list(explain_lines(answer("0.0.0.0/0", "prod/a"), "0.0.0.0/0", "prod/a"))
    assert "kinds of flow that this stands for are denied" in lines[1]
    found = report(answer("0.0.0.0/0", "prod/a"))
    assert 0 < found.denied_flows < found.flows


def test_a_verdict_that_no_policy_was_asked_for_says_why() -> None:
    assert headline(answer("prod/a", "prod/a"), "prod/a", "prod/a").endswith(
        "a pod always reaches itself"
    )
    outside = headline(answer("192.0.2.1", "192.0.2.2"), "x", "y")
    assert outside == "allowed: x → y, tcp 80: neither end is a pod: nothing of ours judges it"


ETH0 = HostEndpoint(N1, "n1-eth0", "eth0", (NODE,), {"role": "node"})
HOSTS = both(
    STATE, {keys.NodeKey(N1): Node(N1, (NODE,)), keys.HostEndpointKey(N1, "n1-eth0"): ETH0}
)


def of_hosts(hook: HostHook, action: Action, port: int) -> State:
    """A policy of host endpoints alone, with one rule."""
    origin = Origin("GlobalNetworkPolicy", name="nodes", index=0)
    ports = EntityMatch(ports=(PortRange(port, port),))
    made = Policy(
        PolicyId("GlobalNetworkPolicy", "", "nodes"),
        TierName("first"),
        SelectorText("role == 'node'"),
        (Direction.INGRESS,),
        ingress=(Rule(action, origin, protocol=TCP, dst=ports),),
        host_hook=hook,
    )
    return {keys.PolicyKey(made.tier, made.id): made}


def asked(state: State, src: str, dst: str, port: int) -> Answer:
    snapshot = Snapshot.from_items(state)
    return ask(snapshot, find_party(snapshot, src), find_party(snapshot, dst), Service(TCP, port))


def told(state: State, src: str, dst: str, port: int) -> list[str]:
    return list(explain_lines(asked(state, src, dst, port), src, dst))


def test_what_a_host_endpoint_denies_is_told_with_its_interface_and_hook() -> None:
    state = both(HOSTS, of_hosts(HostHook.LOCAL, Action.ALLOW, 9100))
    assert told(state, "192.0.2.1", "node/n1", 9101) == [
        "denied: 192.0.2.1 → node/n1, tcp 9101: end of tier default, at eth0 of n1",
        "  ingress of HostEndpoint n1-eth0, at eth0 of n1, of the node's own traffic: deny",
        "    tier none … skipped",
        "    tier first … pass",
        "      policy NetworkPolicy/prod/p … pass",
        "        NetworkPolicy prod/p, rule 1: deny from selector (app == 'nobody') … no match",
        "        NetworkPolicy prod/p, rule 2: pass … pass",
        "    tier default … deny",
        "      policy NetworkPolicy/prod/q … no match",
        "        NetworkPolicy prod/p, rule 1: deny from selector (app == 'nobody') … no match",
        "    end of tier default: deny  ← decides",
    ]


def test_the_end_of_a_host_endpoints_profiles_is_told_as_its_own() -> None:
    alone = {key: value for key, value in HOSTS.items() if not isinstance(value, Policy)}
    first, *_ = told(alone, "192.0.2.1", "node/n1", 80)
    assert first.endswith("80: end of profiles of HostEndpoint n1-eth0, at eth0 of n1")


def test_a_port_that_stays_open_is_told_with_its_setting() -> None:
    lines = told(HOSTS, "192.0.2.1", "node/n1", 22)
    stays = "tcp 22 stays open whatever policy says, by failsafe-inbound-ports"
    assert lines == [
        f"allowed: 192.0.2.1 → node/n1, tcp 22: {stays}, at eth0 of n1",
        f"  HostEndpoint n1-eth0, at eth0 of n1: {stays}",
    ]
    found = report(asked(HOSTS, "192.0.2.1", "node/n1", 22))
    assert (found.verdict, found.reason) == ("allow", "failsafe")
    assert {host.verdict for host in found.hosts} == {"open"}


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (HostHook.PRE_DNAT, "before DNAT (preDNAT)"),
        (HostHook.UNTRACKED, "before any connection (doNotTrack)"),
    ],
)
def test_what_an_early_hook_allows_is_told_to_be_asked_no_more(hook: HostHook, words: str) -> None:
    lines = told(both(HOSTS, of_hosts(hook, Action.ALLOW, 80)), "192.0.2.1", "node/n1", 80)
    assert lines[0].endswith("80: GlobalNetworkPolicy nodes, rule 1, at eth0 of n1")
    assert f"  ingress of HostEndpoint n1-eth0, at eth0 of n1, {words}: allow" in lines
    assert lines[-1] == "    what is allowed here is not asked at later hooks of n1"


def test_what_passes_through_is_judged_beside_the_pods_policy() -> None:
    state = both(HOSTS, of_hosts(HostHook.FORWARDED, Action.DENY, 80))
    passing = policy("q", "all()", rule(Action.ALLOW, 0), tier="default")
    lines = told(both(state, passing), "192.0.2.1", "prod/a", 80)
    assert lines[0].endswith("80: GlobalNetworkPolicy nodes, rule 1, at eth0 of n1")
    assert any("of what passes through (applyOnForward): deny" in line for line in lines)


def test_an_interface_that_no_host_endpoint_is_about_is_said_to_be_nobodys() -> None:
    (line,) = told(HOSTS, "192.0.2.1", "node/n1:eth7", 80)
    assert line.endswith("no HostEndpoint is about eth7 of n1: nothing of ours judges it")


def test_the_built_in_profile_is_told_by_its_name() -> None:
    host = msgspec.structs.replace(ETH0, profiles=(ALLOW_ALL_PROFILE,))
    alone = {key: value for key, value in HOSTS.items() if not isinstance(value, Policy)}
    state = both(
        alone,
        {keys.HostEndpointKey(N1, "n1-eth0"): host},
        {keys.ProfileRulesKey(ALLOW_ALL_PROFILE): allow_all_rules()},
    )
    first, *_ = told(state, "192.0.2.1", "node/n1", 80)
    assert first.endswith("80: Profile projectcalico-default-allow, rule 1, at eth0 of n1")
