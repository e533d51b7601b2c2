"""What each change costs the kernel: examples, each with all that its deltas may hold."""

from calico_k8s.calc.deltas import Deltas, Group, PortMember
from calico_k8s.calc.graph import Graph
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NetsetName, NodeName, ProfileId
from calico_k8s.model.resources import (
    Action,
    EntityMatch,
    NamedPort,
    Origin,
    PortRange,
    Rules,
    Setting,
)
from tests.calc.summed import Summed, asked_by, fresh
from tests.states import (
    BASE,
    DB,
    SERVICE,
    TCP,
    TO_HTTP,
    TO_X,
    State,
    both,
    client,
    edits_between,
    netset,
    pod,
    policy,
    port,
    profile,
    rule,
    selector,
    tag,
    tier,
    web,
)

N1 = NodeName("n1")
SECOND = pod(
    "db2", "10.0.0.9", profiles=["annotation.prod.1", "service.prod.web", "pod-labels.prod.9"]
)


def change(old: State, new: State) -> tuple[Deltas, Summed]:
    """What one flush says when the first state becomes the second, and what holds then."""
    graph, summed = fresh(N1, old)
    for key, value in edits_between(old, new):
        graph.update(key, value)
    deltas = graph.flush()
    summed.add(deltas)
    return deltas, summed


def touched(deltas: Deltas) -> set[str]:
    """The fields that are not empty."""
    return {name for name in deltas.__struct_fields__ if getattr(deltas, name)}


def ingress(summed: Summed, name: str) -> Group:
    """The ingress group of a local pod."""
    (endpoint,) = (e for i, e in summed.endpoints.items() if i.name == name)
    return summed.groups[endpoint.ingress]


def test_a_pod_that_joins_a_group_is_one_endpoint_and_nothing_else() -> None:
    deltas, summed = change(both(BASE, DB), both(BASE, DB, SECOND))
    assert touched(deltas) == {"endpoints_updated"}
    assert ingress(summed, "db2") == ingress(summed, "db")


def test_a_pod_that_leaves_a_group_with_others_is_one_endpoint() -> None:
    deltas, _ = change(both(BASE, DB, SECOND), both(BASE, DB))
    assert touched(deltas) == {"endpoints_removed"}


def test_the_last_pod_of_a_group_takes_it_and_its_sets_along() -> None:
    deltas, summed = change(both(BASE, DB), BASE)
    assert touched(deltas) == {"endpoints_removed", "groups_removed", "ipsets_removed"}
    assert summed == Summed()


def test_a_client_that_is_relabelled_is_one_member() -> None:
    deltas, _ = change(both(BASE, DB), both(BASE, DB, client()))
    assert touched(deltas) == {"members_added"}
    assert list(deltas.members_added.values()) == [{"10.0.1.1/32"}]
    deltas, _ = change(both(BASE, DB, client()), both(BASE, DB, client(profiles=[])))
    assert touched(deltas) == {"members_removed"}


def test_a_pod_that_no_local_rule_asks_for_is_nothing() -> None:
    other = pod("other", "10.0.1.5", node="n2", labels={"access": "backend"})
    assert touched(change(both(BASE, DB), both(BASE, DB, other))[0]) == set()


def test_a_rule_that_changes_keeps_its_group_and_its_sets() -> None:
    other_port = profile(
        "annotation.prod.1",
        rule(Action.ALLOW, tag("prod_access_backend"), port(4002), protocol=TCP),
        origin=Origin("Pod"),
    )
    deltas, summed = change(both(BASE, DB), both(BASE, DB, other_port))
    assert touched(deltas) == {"groups_updated"}
    assert list(deltas.groups_updated) == [ingress(summed, "db").id]


def test_another_policy_is_another_group() -> None:
    before = both(BASE, DB, tier("default"))
    after = both(before, policy("p", "all()", rule(Action.DENY)))
    deltas, _ = change(before, after)
    # Its profiles come after the policy still, so the set that they ask stays.
    assert touched(deltas) == {"endpoints_updated", "groups_updated", "groups_removed"}


def test_rules_of_the_profile_come_after_those_of_each_tier() -> None:
    _, summed = change({}, both(BASE, DB, TO_X, SERVICE))
    group = ingress(summed, "db")
    assert [(s.tier, len(s.rules), s.end) for s in group.stages] == [
        ("default", 1, Action.DENY),
        (None, 2, Action.DENY),
    ]
    assert [s.end_origin for s in group.stages] == [Origin("Tier", name="default"), Origin("Pod")]


def test_a_profile_that_only_gives_tags_does_not_part_pods() -> None:
    tagged = profile("pod-labels.prod.9", tags=["prod_app_db"])
    _, summed = change({}, both(BASE, DB, SECOND, tagged))
    assert ingress(summed, "db") == ingress(summed, "db2")


def test_a_profile_that_owns_the_end_parts_pods_even_without_rules() -> None:
    first: State = {keys.ProfileRulesKey(ProfileId("a")): Rules(origin=Origin("Pod", name="a"))}
    second: State = {keys.ProfileRulesKey(ProfileId("b")): Rules(origin=Origin("Pod", name="b"))}
    pods = both(pod("a", "10.0.0.1", profiles=["a"]), pod("b", "10.0.0.2", profiles=["b"]))
    _, summed = change({}, both(first, second, pods))
    ends = {ingress(summed, name).stages[-1].end_origin.name for name in ("a", "b")}
    assert ends == {"a", "b"}


def test_pods_with_one_name_for_different_ports_are_in_different_groups() -> None:
    state = both(
        TO_HTTP, web("a", "10.0.0.1", 80), web("b", "10.0.0.2", 8080), web("c", "10.0.0.3")
    )
    _, summed = change({}, state)
    ports = {
        name: [one.dst_ports for one in ingress(summed, name).stages[-1].rules] for name in "abc"
    }
    assert ports == {"a": [(PortRange(80, 80),)], "b": [(PortRange(8080, 8080),)], "c": []}
    assert list(asked_by(summed.groups.values())) == []


def test_a_peers_named_port_is_each_pods_own_number() -> None:
    to_http = both(
        tier("default"),
        policy("p", "all()", rule(Action.ALLOW, EntityMatch(named_ports=("http",)), protocol=TCP)),
    )
    peers = both(
        pod("a", "10.0.1.1", node="n2", ports=[NamedPort("http", TCP, 80)]),
        pod("b", "10.0.1.2", node="n2", ports=[NamedPort("http", TCP, 8080)]),
        pod("c", "10.0.1.3", node="n2", ports=[NamedPort("http", 17, 80)]),
    )
    _, summed = change({}, both(BASE, DB, to_http, peers))
    rules = ingress(summed, "db").stages[0].rules
    assert rules[0].peer_ipset is not None
    assert summed.members[rules[0].peer_ipset.id] == {
        PortMember(Address("10.0.1.1"), TCP, 80),
        PortMember(Address("10.0.1.2"), TCP, 8080),
    }


def members_for(peer: EntityMatch, *more: State) -> set[object]:
    """The members of the one set that a rule about this peer asks."""
    to_peer = both(tier("default"), policy("p", "all()", rule(Action.ALLOW, peer)))
    _, summed = change({}, both(BASE, pod("db", "10.0.0.1", profiles=[]), to_peer, *more))
    (members,) = summed.members.values()
    return set(members)


HAS_X = 'a == "x"'
CLIENT_X = client(labels={"a": "x"}, profiles=["pod-labels.prod.1"])


def test_a_network_set_and_a_pod_may_hold_one_address() -> None:
    office = netset("office", "10.0.1.1/32", "10.2.0.0/16", labels={"a": "x"})
    assert members_for(selector(HAS_X), CLIENT_X, office) == {"10.0.1.1/32", "10.2.0.0/16"}
    deltas, _ = change(both(BASE, DB, TO_X, CLIENT_X, office), both(BASE, DB, TO_X, CLIENT_X))
    assert list(deltas.members_removed.values()) == [{"10.2.0.0/16"}]


def test_where_criteria_meet_only_what_meets_all_is_a_member() -> None:
    office = netset("office", "10.0.1.0/24", "10.3.0.0/16", labels={"a": "x"})
    wide = netset("wide", "10.0.0.0/15", "10.3.7.0/24")
    outside = pod("outside", "10.9.0.1", node="n2", labels={"a": "x"})
    tagged = EntityMatch(tag=tag("prod_access_backend").tag, selector=selector(HAS_X).selector)
    named = EntityMatch(selector=selector(HAS_X).selector, netset=NetsetName("wide"))
    unlabelled = client(profiles=["pod-labels.prod.1"])
    assert members_for(tagged, unlabelled, office, BASE) == {"10.0.1.1/32"}
    assert members_for(tagged, unlabelled, BASE) == set()
    assert members_for(named, CLIENT_X, outside, office, wide) == {
        "10.0.1.1/32",
        "10.0.1.0/24",
        "10.3.7.0/24",
    }


def test_what_is_negated_is_gathered_in_one_set() -> None:
    negated = EntityMatch(
        not_tag=tag("prod_access_backend").tag,
        not_selector=selector(HAS_X).selector,
        not_netset=NetsetName("wide"),
    )
    wide = netset("wide", "10.0.0.0/15")
    other = pod("other", "10.9.0.1", node="n2", labels={"a": "x"})
    assert members_for(negated, client(), wide, other) == {
        "10.0.1.1/32",
        Net("10.9.0.1/32"),
        "10.0.0.0/15",
    }


def test_a_setting_and_the_nodes_record_are_told_once() -> None:
    graph = Graph(N1)
    other, shared = (keys.SettingKey(node, "x") for node in (NodeName("n2"), None))
    own = keys.SettingKey(N1, "x")
    seen = []
    for key, text in ((other, "1"), (shared, "1"), (own, "1"), (own, "2"), (shared, "3")):
        graph.update(key, Setting(text))
        seen.append(graph.flush().settings_changed)
    assert seen == [False, True, False, True, False]
    assert graph.settings == {"x": "2"}
