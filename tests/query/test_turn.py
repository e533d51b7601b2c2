"""What would turn a verdict: each change that is told turns it, in words that name what to change."""

import pytest
from hypothesis import given

from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import judge
from calico_k8s.policy.ways import Judged
from calico_k8s.query.turn import turn
from tests.lab.clusters import Object, clusters
from tests.laws.test_simulated_policies import flows, translated
from tests.nine_pods import World
from tests.translate.test_calico_policies import everywhere, in_x, tier
from tests.translate.test_network_policies import policy


def changes(world: World, src: str, dst: str, service: str = "tcp/80") -> tuple[str, ...]:
    flow, verdict = world.ask(src, dst, service)
    found = turn(world.snapshot, Judged(flow, verdict))
    return found.changes if found is not None else ()


FROM_B = "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}]}]"
FROM_Y = "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]"


@pytest.mark.parametrize(
    ("texts", "src", "service", "expected"),
    [
        ((policy(FROM_B),), "x/c", "tcp/80", "labels of x/c with pod == 'b', for NetworkPolicy x/p, rule 1"),
        ((policy(FROM_B),), "x/b", "tcp/81", "tcp 81 beside what NetworkPolicy x/p, rule 1 allows"),
        ((policy(FROM_B),), "x/c", "tcp/81", "a rule more in NetworkPolicy x/p: from x/c, tcp 81"),
        ((policy(FROM_B),), "y/a", "tcp/80", "y/a among its peers, for NetworkPolicy x/p, rule 1"),
        ((policy(FROM_Y),), "z/a", "tcp/80", "labels of the namespace of z/a with ns == 'y', for NetworkPolicy x/p, rule 1"),
        ((policy(FROM_Y),), "outside", "udp/53", "198.51.100.7 among its peers, for NetworkPolicy x/p, rule 1"),
        ((policy("podSelector: {}"),), "y/a", "icmp/8", "a rule more in NetworkPolicy x/p: from y/a, icmp"),
        ((in_x("ingress: [{action: Deny, source: {selector: pod == 'b'}}, {action: Allow}]"),), "x/b", "tcp/80", "CalicoNetworkPolicy x/p, rule 1 left out"),
        ((), "x/b", "tcp/80", "Namespace x, rule 1 left out"),
        ((policy(FROM_B),), "x/b", "tcp/80", "NetworkPolicy x/p, rule 1 left out"),
    ],
)  # fmt: skip
def test_the_smallest_change_is_told(
    texts: tuple[str, ...], src: str, service: str, expected: str
) -> None:
    assert changes(World(*texts), src, "x/a", service) == (expected,)


def test_where_several_things_deny_each_is_told() -> None:
    guard = everywhere(
        "tier: security, selector: pod == 'a', ingress: [{action: Deny, source: {selector: pod == 'b'}}, {action: Pass}]",
        "guard",
    )
    closed = policy("podSelector: {}, policyTypes: [Ingress, Egress]")
    assert changes(World(tier("security", "order: 1"), guard, closed), "x/b", "x/a") == (
        "a rule more in NetworkPolicy x/p: to x/a, tcp 80",
        "GlobalNetworkPolicy guard, rule 1 left out",
        "a rule more in NetworkPolicy x/p: from x/b, tcp 80",
    )


def test_what_no_policy_decided_no_policy_turns() -> None:
    assert changes(World(), "x/a", "x/a") == ()


@given(clusters())
def test_a_verdict_of_any_cluster_is_turned_by_few_changes_or_by_none(
    objects: list[Object],
) -> None:
    snapshot = Snapshot.from_items(translated(objects))
    for flow in list(flows(snapshot))[::31]:
        found = turn(snapshot, Judged(flow, judge(snapshot, flow)))
        if found is not None:
            assert 0 < len(found.changes) <= 3
