"""Laws of the graph: the present state alone decides, differences are exact and no more.

1. After any history the deltas sum to what a fresh graph gives for the final items.
2. Groups and members, asked about any flow, say what the definition says.
3. A delta adds nothing that is there and removes nothing that is not (:class:`Summed` checks it).
4. A flush after a flush is empty.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.deltas import DNS_SERVERS, Deltas
from calico_k8s.calc.graph import Graph
from calico_k8s.calc.judge import judge_group, judge_hook_group
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.keys import Key
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Action, Direction, HostHook, Value
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import decide, decide_at
from tests.calc.summed import Summed, asked_by, fresh
from tests.model_strategies import NODES, edits, samples, states
from tests.states import HISTORIES, TCP, State, replays

LOCAL = NODES[0]


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


@given(states, samples)
def test_groups_and_members_decide_any_flow_as_the_definition_does(
    state: State, packets: tuple[Flow, ...]
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
    for name, endpoint in snapshot.host_endpoints.items():
        if name.node != node:
            assert name not in summed.hosts
            continue
        groups = {(asked.hook, asked.direction): asked.group for asked in summed.hosts[name].groups}
        for hook, direction in product(HostHook, Direction):
            said = decide_at(snapshot, endpoint.as_peer(), direction, flow, hook)
            identity = groups.get((hook, direction))
            held = identity and judge_hook_group(summed.groups[identity], flow, summed.holds)
            wanted = said and (said.action, said.deciding)
            assert (held and (held.action, held.origin)) == wanted, (hook, direction)


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
def test_the_graph_holds_what_it_said_and_groups_end_with_a_denial(state: State) -> None:
    graph, summed = fresh(LOCAL, state)
    assert graph.ipset_ids() == summed.ipsets.keys() - {DNS_SERVERS.id}
    for identity in graph.ipset_ids():
        assert graph.members(identity) == summed.members[identity]
    for group in summed.groups.values():
        assert {ipset.direction for ipset in asked_by([group])} <= {group.direction}
        assert [s.tier for s in group.stages].index(None) == len(group.stages) - 1
        decides = group.hook in (None, HostHook.LOCAL)
        assert group.stages[-1].end is (Action.DENY if decides else Action.PASS)
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


@pytest.mark.parametrize("name", HISTORIES)
def test_every_state_of_a_history_is_decided_as_the_definition_does(name: str) -> None:
    for state in HISTORIES[name]:
        snapshot, (_, summed) = Snapshot.from_items(state), fresh(LOCAL, state)
        addresses = [*snapshot.owner_by_address, Address("192.168.0.1"), Address("10.0.1.77")]
        for src, dst in product(addresses, repeat=2):
            for src_port, dst_port in ((40000, 80), (80, 4001), (81, 8080)):
                flow = Flow(src, dst, TCP, src_port, dst_port)
                if address_version(src) == address_version(dst):
                    assert_decided_alike(snapshot, LOCAL, summed, flow)


@given(states, st.lists(edits, max_size=5))
def test_nothing_is_kept_of_what_has_gone(
    state: State, history: list[tuple[Key, Value | None]]
) -> None:
    graph, _ = fresh(LOCAL, state)
    items = dict(state)
    for edit in history:
        apply(graph, items, *edit)
    for key in items:
        graph.update(key, None)
    graph.flush()
    assert list(what_is_kept(graph)) == []


def what_is_kept(part: object) -> Iterator[str]:
    """The containers of a graph, and of its parts, that hold anything."""
    for name, value in vars(part).items():
        if isinstance(value, dict | set):
            if value:
                yield f"{type(part).__name__}.{name}: {value}"
        elif type(value).__module__.startswith("calico_k8s.calc"):
            yield from what_is_kept(value)
