"""Laws of the graph: the present state alone decides, differences are exact and no more.

1. After any history the deltas sum to what a fresh graph gives for the final items.
2. Groups and members, asked about any flow, say what the definition says.
3. A delta adds nothing that is there and removes nothing that is not (:class:`Summed` checks it).
4. A flush after a flush is empty.
"""

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.deltas import Deltas, IpsetKind
from calico_k8s.calc.graph import Graph
from calico_k8s.calc.judge import judge_group
from calico_k8s.model.keys import Key
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Action, Direction, Value
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import decide
from tests.calc.summed import Summed, asked_by, fresh
from tests.model_strategies import NODES, edits, flows, states
from tests.states import HISTORIES, State, replays

LOCAL = NODES[0]
many_flows = st.lists(flows(), min_size=8, max_size=8)


def apply(graph: Graph, items: dict[Key, Value], key: Key, value: Value | None) -> None:
    graph.update(key, value)
    if value is None:
        items.pop(key, None)
    else:
        items[key] = value


@given(states, st.lists(st.none() | edits, max_size=30))
def test_after_any_history_the_deltas_sum_to_what_a_fresh_graph_gives(
    start: Mapping[Key, Value], history: list[tuple[Key, Value | None] | None]
) -> None:
    items = dict(start)
    graph, summed = fresh(LOCAL, items)
    for step in history:
        if step is None:
            summed.add(graph.flush())
        else:
            apply(graph, items, *step)
    summed.add(graph.flush())
    again, expected = fresh(LOCAL, items)
    assert summed == expected
    assert (graph.settings, graph.record) == (again.settings, again.record)


@given(states, st.randoms(use_true_random=False))
def test_the_order_of_updates_never_matters(state: State, random: Random) -> None:
    shuffled = list(state.items())
    random.shuffle(shuffled)
    assert fresh(LOCAL, state)[1] == fresh(LOCAL, dict(shuffled))[1]


@given(states, many_flows)
def test_groups_and_members_decide_any_flow_as_the_definition_does(
    state: State, packets: list[Flow]
) -> None:
    snapshot = Snapshot.from_items(state)
    for node in NODES:
        _, summed = fresh(node, state)
        for flow in packets:
            assert_decided_alike(snapshot, node, summed, flow)


def assert_decided_alike(snapshot: Snapshot, node: NodeName, summed: Summed, flow: Flow) -> None:
    for direction, address in ((Direction.INGRESS, flow.dst), (Direction.EGRESS, flow.src)):
        owner = snapshot.owner_by_address.get(address)
        holders = [e.id for e in summed.endpoints.values() if address in e.addresses]
        if owner is None or owner.id.node != node:
            assert holders == []
            continue
        assert holders == [owner.id]
        decision = decide(snapshot, owner, direction, flow)
        local = summed.endpoints[owner.id]
        group = local.ingress if direction is Direction.INGRESS else local.egress
        decided = judge_group(summed.groups[group], flow, summed.holds)
        assert (decided.action, decided.origin) == (decision.action, decision.deciding)


@given(states, edits)
def test_a_second_flush_is_empty(state: State, edit: tuple[Key, Value | None]) -> None:
    graph, _ = fresh(LOCAL, state)
    assert graph.flush().is_empty()
    graph.update(*edit)
    graph.flush()
    assert graph.flush().is_empty()


@given(states, edits)
def test_an_update_and_its_undoing_before_the_flush_are_nothing(
    state: State, edit: tuple[Key, Value | None]
) -> None:
    graph, _ = fresh(LOCAL, state)
    key, value = edit
    graph.update(key, value)
    graph.update(key, state.get(key))
    assert graph.flush() == Deltas()


@given(states)
def test_a_set_is_asked_in_one_way_and_holds_what_its_kind_says(state: State) -> None:
    graph, summed = fresh(LOCAL, state)
    assert graph.ipset_ids() == summed.ipsets.keys()
    for identity, ipset in summed.ipsets.items():
        assert graph.members(identity) == summed.members[identity]
        expected = str if ipset.kind is IpsetKind.NET else tuple
        assert all(isinstance(member, expected) for member in summed.members[identity])
    for group in summed.groups.values():
        assert {ipset.direction for ipset in asked_by([group])} <= {group.direction}


@given(states)
def test_every_group_ends_with_its_profiles_and_a_denial(state: State) -> None:
    _, summed = fresh(LOCAL, state)
    for group in summed.groups.values():
        assert [s.tier for s in group.stages].index(None) == len(group.stages) - 1
        assert group.stages[-1].end is Action.DENY
        assert all(rule.action is not Action.PASS for rule in group.stages[-1].rules)


@pytest.mark.parametrize("name", HISTORIES)
def test_every_replay_of_a_history_ends_where_a_fresh_start_does(name: str) -> None:
    for replay in replays(HISTORIES[name]):
        graph, summed, items = Graph(LOCAL), Summed(), dict[Key, Value]()
        for step in replay:
            for key, value in step:
                apply(graph, items, key, value)
            summed.add(graph.flush())
            assert summed == fresh(LOCAL, items)[1]
