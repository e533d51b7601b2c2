"""Laws of what was learnt of names: sets hold what it says now, and nothing is decided by more.

1. After any history of items and names, the deltas sum to what a fresh graph gives for the last.
2. Groups and members say what the definition says with the same names.
3. A flow that is live is spared where its destination has lapsed, and nothing else is.
"""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.deltas import DNS_SERVERS, PortMember
from calico_k8s.calc.graph import Graph
from calico_k8s.calc.judge import judge_local
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.domains import DomainName, parse_domain, servers_netset
from calico_k8s.model.keys import Key
from calico_k8s.model.names import EndpointId, NamespaceName, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    EntityMatch,
    NetworkSet,
    Origin,
    Policy,
    Rule,
    Tier,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from tests.calc.summed import Summed, fresh
from tests.calc.test_graph import LOCAL, apply, assert_decided_alike, what_is_kept
from tests.model_strategies import ADDRESSES, DOMAIN_NAMES, TCP, UDP, edits, samples, states

Learnt = Mapping[DomainName, frozenset[Address]]

addresses = st.frozensets(st.sampled_from(ADDRESSES), max_size=3)
learnings = st.tuples(st.sampled_from(DOMAIN_NAMES), addresses, addresses)
tables = st.dictionaries(st.sampled_from(DOMAIN_NAMES), addresses)


def learnt(state: Mapping[Key, Value], names: Learnt) -> tuple[Graph, Summed]:
    """A graph that knows these names, and no others, of this state."""
    graph, summed = fresh(LOCAL, state)
    for name, held in names.items():
        graph.learn(name, held)
    summed.add(graph.flush())
    return graph, summed


@given(states, st.lists(st.one_of(st.none(), edits, learnings, learnings), max_size=30))
def test_after_any_history_sets_hold_what_names_have_now(
    start: Mapping[Key, Value],
    history: list[
        tuple[Key, Value | None] | tuple[DomainName, frozenset[Address], frozenset[Address]] | None
    ],
) -> None:
    items, names = dict(start), dict[DomainName, frozenset[Address]]()
    graph, summed = fresh(LOCAL, items)
    for step in history:
        if step is None:
            summed.add(graph.flush())
        elif len(step) == 2:
            apply(graph, items, *step)
        else:
            graph.learn(*step)
            names[step[0]] = step[1]
    summed.add(graph.flush())
    assert summed == learnt(items, names)[1]
    for name in names:
        graph.learn(name, frozenset())
    for key in items:
        graph.update(key, None)
    graph.flush()
    assert list(what_is_kept(graph)) == []


@given(states, tables, samples)
def test_with_any_names_groups_decide_as_the_definition_does(
    state: Mapping[Key, Value], names: Learnt, packets: tuple[Flow, ...]
) -> None:
    snapshot = Snapshot.from_items(state, {LOCAL: names})
    _, summed = learnt(state, names)
    for flow in packets:
        assert_decided_alike(snapshot, LOCAL, summed, flow)


POD = EndpointId(LOCAL, NamespaceName("na"), "p")
API, OUTSIDE = DomainName("api.example.com"), Address("198.51.100.7")


def limited(*domains: str) -> dict[Key, Value]:
    """A pod that may reach these domains, and nothing else."""
    to = EntityMatch(domains=tuple(map(parse_domain, domains)))
    policy = Policy(
        PolicyId("NetworkPolicy", "na", "limited"),
        TierName("default"),
        SelectorText("all()"),
        (Direction.EGRESS,),
        egress=(Rule(Action.ALLOW, Origin("NetworkPolicy", "na", "limited", 0), dst=to),),
    )
    return {
        keys.EndpointKey(POD): WorkloadEndpoint(POD, (Address("10.0.0.1"),)),
        keys.TierKey(policy.tier): Tier(policy.tier),
        keys.PolicyKey(policy.tier, policy.id): policy,
    }


def test_a_live_flow_to_an_address_that_has_lapsed_is_spared_and_no_new_one_is() -> None:
    graph, _ = fresh(LOCAL, limited("*.example.com"))
    flow = Flow(Address("10.0.0.1"), OUTSIDE, TCP, 40000, 443)
    graph.learn(API, frozenset({OUTSIDE}))
    graph.flush()
    assert judge_local(graph, flow).is_allowed
    graph.learn(API, frozenset(), frozenset({OUTSIDE}))
    graph.flush()
    assert not judge_local(graph, flow).is_allowed
    assert judge_local(graph, flow, is_live=True).is_allowed
    for key, value in limited("other.test").items():
        graph.update(key, value)
    graph.flush()
    assert not judge_local(graph, flow, is_live=True).is_allowed


def test_servers_are_followed_while_any_domain_is_asked() -> None:
    state = limited("api.example.com")
    nets = (Net("10.96.0.10/32"), Net("10.0.0.9/32"), Net("10.1.0.0/16"))
    name = servers_netset(UDP, 53)
    state[keys.NetsetKey(name)] = NetworkSet(name, None, nets)
    graph, summed = fresh(LOCAL, state)
    assert summed.members[DNS_SERVERS.id] == {
        PortMember(Address("10.96.0.10"), UDP, 53),
        PortMember(Address("10.0.0.9"), UDP, 53),
    }
    for key in tuple(state):
        if isinstance(key, keys.PolicyKey):
            graph.update(key, None)
    summed.add(graph.flush())
    assert summed.ipsets == {}
    assert graph.domains == set()
