"""What host endpoints mean, as packets: each line is one packet and what becomes of it.

The tables restate docs/design/policy-semantics.md section 6.  The node has ``eth0`` with a host
endpoint of profile ``p``, and ``eth1`` with none; ``pod`` is a pod of another node.
"""

from typing import NamedTuple

import pytest

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName, PolicyId, ProfileId, SelectorText, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    HostHook,
    IcmpMatch,
    Node,
    Origin,
    Policy,
    PortRange,
    Rule,
    Rules,
    Setting,
    Value,
)
from calico_k8s.policy.host_verdict import Passage, find_host_endpoint, judge_host
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from tests.states import State, both, tier

TCP, UDP, ICMPV6 = 6, 17, 58
NODE, CLIENT, POD = Address("192.168.0.1"), Address("198.51.100.7"), Address("10.0.1.1")
N1, TIER = NodeName("n1"), TierName("default")
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
ALLOW, DENY, PASS = Action.ALLOW, Action.DENY, Action.PASS
EVERYTHING = EntityMatch()


def rule(action: Action, port: int | None = None, peer: str | None = None) -> Rule:
    dst = EntityMatch(ports=(PortRange(port, port),)) if port else EVERYTHING
    src = EntityMatch(selector=SelectorText(peer)) if peer else EVERYTHING
    return Rule(action, Origin("Rule"), protocol=TCP if port else None, src=src, dst=dst)


def policy(
    hook: HostHook, *ingress: Rule, egress: tuple[Rule, ...] = (), name: str = ""
) -> dict[keys.Key, Value]:
    types = (*([INGRESS] if ingress else []), *([EGRESS] if egress else []))
    identity = PolicyId("GlobalNetworkPolicy", "", name or hook.value)
    selector = SelectorText('role == "host"')
    made = Policy(identity, TIER, selector, types, 1.0, ingress, egress, host_hook=hook)
    return {keys.PolicyKey(TIER, identity): made}


def host(
    name: str, interface: str, *expected: Address, profiles: tuple[str, ...] = ("p",)
) -> dict[keys.Key, Value]:
    endpoint = HostEndpoint(
        N1, name, interface, expected, {"role": "host"}, profiles=tuple(map(ProfileId, profiles))
    )
    return {keys.HostEndpointKey(N1, name): endpoint}


ALL = (rule(ALLOW),)
BASE: State = both(
    {keys.NodeKey(N1): Node(N1, (NODE,))},
    tier(TIER, 1.0),
    host("uplink", "eth0"),
    {keys.ProfileRulesKey(ProfileId("p")): Rules((rule(ALLOW, 80),), (rule(ALLOW, 443),))},
)


class Way(NamedTuple):
    """Past the node, by interfaces."""

    arrives: str | None
    leaves: str | None


IN, OUT = Way("eth0", None), Way(None, "eth0")
THROUGH, BACK = Way("eth0", "eth1"), Way("eth1", "eth0")
LOCAL, FORWARDED, PRE, RAW = HostHook

CASES = [
    # policies, the flow's port, its way, whether it passes
    ("the profile allows", {}, 80, IN, True),
    ("the end of the profiles denies", {}, 81, IN, False),
    ("out by the profile", {}, 443, OUT, True),
    ("out, denied", {}, 80, OUT, False),
    ("an interface without a host endpoint", {}, 81, Way("eth1", None), True),
    ("a failsafe port in", {}, 22, IN, True),
    ("a failsafe port out", {}, 6443, OUT, True),
    ("ssh is none on the way out", {}, 22, OUT, False),
    ("passing through is open", {}, 81, THROUGH, True),
    ("a policy before the profile", policy(LOCAL, rule(DENY, 80)), 80, IN, False),
    ("the tier's end", policy(LOCAL, rule(ALLOW, 81)), 80, IN, False),
    ("a passed tier", policy(LOCAL, rule(PASS)), 80, IN, True),
    ("failsafe before any deny", policy(LOCAL, rule(DENY)), 22, IN, True),
    ("a local policy leaves what passes", policy(LOCAL, rule(DENY)), 80, THROUGH, True),
    ("egress alone says nothing of ingress", policy(LOCAL, egress=ALL), 81, IN, False),
    ("a forward policy is local too", policy(FORWARDED, rule(ALLOW, 81)), 81, IN, True),
    ("forwarded, allowed", policy(FORWARDED, rule(ALLOW, 81)), 81, THROUGH, True),
    ("forwarded, the tier's end", policy(FORWARDED, rule(ALLOW, 81)), 82, THROUGH, False),
    ("no failsafe for what passes", policy(FORWARDED, rule(ALLOW, 81)), 22, THROUGH, False),
    ("forwarded and passed: no profile", policy(FORWARDED, rule(PASS)), 81, THROUGH, True),
    ("forwarded out", policy(FORWARDED, egress=(rule(DENY, 81),)), 81, BACK, False),
    ("forwarded in is not asked there", policy(FORWARDED, rule(DENY, 81)), 81, BACK, True),
    ("denied before DNAT", policy(PRE, rule(DENY, 80)), 80, IN, False),
    ("allowed before DNAT: no more", policy(PRE, rule(ALLOW, 81)), 81, IN, True),
    ("undecided before DNAT: the rest", policy(PRE, rule(ALLOW, 81)), 82, IN, False),
    ("before DNAT, through", policy(PRE, rule(DENY, 80)), 80, THROUGH, False),
    ("a failsafe before DNAT", policy(PRE, rule(DENY)), 22, IN, True),
    ("not on the way out", policy(PRE, rule(DENY)), 443, OUT, True),
    ("untracked, allowed", policy(RAW, rule(ALLOW, 81)), 81, IN, True),
    ("untracked, denied", policy(RAW, rule(DENY, 80)), 80, IN, False),
    ("untracked, undecided", policy(RAW, rule(ALLOW, 81)), 80, IN, True),
    ("untracked out", policy(RAW, egress=(rule(DENY, 443),)), 443, OUT, False),
    ("untracked out is the node's alone", policy(RAW, egress=(rule(DENY),)), 81, BACK, True),
    ("untracked failsafe", policy(RAW, rule(DENY)), 22, IN, True),
    (
        "untracked allow goes before pre-DNAT",
        policy(RAW, rule(ALLOW, 80)) | policy(PRE, rule(DENY)),
        80,
        IN,
        True,
    ),
]


@pytest.mark.parametrize(
    ("policies", "port", "way", "passes"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_flow_passes_the_node_or_not(
    policies: State, port: int, way: Way, *, passes: bool
) -> None:
    snapshot = Snapshot.from_items(both(BASE, policies))
    src = NODE if way.arrives is None else CLIENT
    dst = CLIENT if way.arrives is None else NODE if way.leaves is None else POD
    verdict = judge_host(snapshot, Passage(N1, Flow(src, dst, TCP, 40000, port), *way))
    assert verdict.allowed is passes, verdict


def test_what_answers_a_port_that_stays_open_is_not_judged_untracked() -> None:
    snapshot = Snapshot.from_items(both(BASE, policy(RAW, rule(DENY), rule(ALLOW))))
    answer = Flow(CLIENT, NODE, TCP, 6443, 40000)
    decisions = judge_host(snapshot, Passage(N1, answer, *IN)).decisions
    assert [decision.deciding.kind for decision in decisions] == ["Profile"]


def test_before_dnat_the_port_that_was_meant_counts() -> None:
    state = both(BASE, policy(PRE, rule(DENY, 30080)), policy(FORWARDED, rule(ALLOW, 8080)))
    flow, meant = Flow(CLIENT, POD, TCP, 40000, 8080), Flow(CLIENT, NODE, TCP, 40000, 30080)
    snapshot = Snapshot.from_items(state)
    assert judge_host(snapshot, Passage(N1, flow, *THROUGH)).allowed
    assert not judge_host(snapshot, Passage(N1, flow, *THROUGH, before_dnat=meant)).allowed


def test_a_node_reaches_itself_and_its_own_pods_whatever_every_interface_says() -> None:
    snapshot = Snapshot.from_items(both(BASE, host("every", "*", profiles=())))
    to_pod, to_self = Flow(NODE, POD, TCP, 40000, 81), Flow(NODE, NODE, TCP, 40000, 81)
    assert judge_host(snapshot, Passage(N1, to_pod, leaves="cali1", is_to_pod=True)).allowed
    assert judge_host(snapshot, Passage(N1, to_self, leaves="lo")).allowed
    assert judge_host(snapshot, Passage(N1, to_self, arrives="lo")).allowed
    assert not judge_host(snapshot, Passage(N1, to_pod, leaves="eth1")).allowed


def test_ipv6_finds_its_neighbours() -> None:
    snapshot = Snapshot.from_items(both(BASE, policy(LOCAL, rule(DENY))))
    ends = (Address("fe80::1"), Address("fe80::2"))
    for kind, passes in ((135, True), (134, True), (128, False)):
        flow = Flow(*ends, ICMPV6, icmp=IcmpMatch(kind, 0))
        assert judge_host(snapshot, Passage(N1, flow, arrives="eth0")).allowed is passes


def test_a_host_endpoint_is_a_peer_by_the_addresses_that_it_expects() -> None:
    other = HostEndpoint(NodeName("n2"), "far", "eth0", (CLIENT,), {"role": "far"})
    state = both(
        BASE,
        {keys.HostEndpointKey(NodeName("n2"), "far"): other},
        policy(LOCAL, rule(ALLOW, 81, 'role == "far"')),
    )
    snapshot = Snapshot.from_items(state)
    for src, passes in ((CLIENT, True), (Address("198.51.100.8"), False)):
        flow = Flow(src, NODE, TCP, 40000, 81)
        assert judge_host(snapshot, Passage(N1, flow, arrives="eth0")).allowed is passes


@pytest.mark.parametrize(
    ("interface", "found"),
    [("eth0", "a-name"), ("eth1", "b-address"), ("eth2", "every"), ("lo", None)],
)
def test_an_interface_has_the_first_host_endpoint_by_name_and_else_every_ones(
    interface: str, found: str | None
) -> None:
    endpoints = [
        HostEndpoint(N1, "every", "*"),
        HostEndpoint(N1, "z-name", "eth0"),
        HostEndpoint(N1, "a-name", "eth0"),
        HostEndpoint(N1, "b-address", "", (NODE,)),
        HostEndpoint(NodeName("n2"), "a", "eth1"),
    ]
    endpoint = find_host_endpoint(endpoints, N1, interface, {NODE: "eth1"})
    assert (endpoint and endpoint.name) == found


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({(N1, "none")}, False),
        ({(None, "none")}, False),
        ({(None, "none"), (N1, "tcp:22")}, True),
        ({(None, "nonsense")}, True),
        ({(None, "tcp:10.0.0.0/8:22")}, False),
        ({(None, "tcp:198.51.100.0/24:22")}, True),
    ],
)
def test_the_ports_that_stay_open_are_a_setting(
    settings: set[tuple[NodeName | None, str]], *, passes: bool
) -> None:
    stored: State = {
        keys.SettingKey(node, "failsafe-inbound-ports"): Setting(text) for node, text in settings
    }
    snapshot = Snapshot.from_items(both(BASE, stored))
    flow = Flow(CLIENT, NODE, TCP, 40000, 22)
    assert judge_host(snapshot, Passage(N1, flow, arrives="eth0")).allowed is passes
