"""What the nodes say of a flow, each for its own endpoints, is together what the definition says."""

from typing import Literal

import pytest
from hypothesis import given

from calico_k8s.calc.deltas import Group, GroupId, ResolvedRule, Stage
from calico_k8s.calc.judge import judge_group, judge_local
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import TierName
from calico_k8s.model.resources import Action, Direction, Origin, Setting
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import POD_TO_HOST_ACTION, judge
from tests.calc.summed import fresh
from tests.model_strategies import NODES, samples, states
from tests.states import BASE, CLOSED, DB, NODE, State, both, pod

ALLOW, LOG = Action.ALLOW, Action.LOG
DENY: Literal[Action.DENY] = Action.DENY
PASS: Literal[Action.PASS] = Action.PASS
END = Origin("Profile")


@given(states, samples)
def test_the_nodes_together_allow_what_the_definition_allows(
    state: State, packets: tuple[Flow, ...]
) -> None:
    snapshot = Snapshot.from_items(state)
    graphs = [fresh(node, state)[0] for node in NODES]
    for flow in packets:
        locally = all(judge_local(graph, flow).is_allowed for graph in graphs)
        assert locally == judge(snapshot, flow).allowed


@pytest.mark.parametrize(
    ("src", "dst", "setting", "is_allowed"),
    [
        ("10.0.1.9", "10.0.0.1", "accept", False),
        ("192.168.0.1", "10.0.0.1", "accept", True),  # its own node
        ("10.0.0.1", "10.0.0.1", "accept", True),  # itself
        ("10.0.0.1", "fd00::1", "accept", True),  # its other address, though no packet can do it
        ("10.0.0.1", "192.168.0.1", "accept", True),
        ("10.0.0.1", "192.168.0.1", "drop", False),
        ("10.0.0.1", "198.51.100.7", "drop", True),
        ("10.0.1.9", "10.0.1.8", "drop", True),  # nobody here is asked
    ],
)
def test_a_node_judges_its_own_endpoints(
    src: str, dst: str, setting: str, *, is_allowed: bool
) -> None:
    state = both(BASE, DB, {keys.SettingKey(None, POD_TO_HOST_ACTION): Setting(setting)})
    graph, _ = fresh(NODES[0], state)
    flow = Flow(Address(src), Address(dst), 6, 40000, 80)
    assert judge_local(graph, flow).is_allowed is is_allowed


def test_an_address_that_a_newer_pod_elsewhere_owns_is_not_judged_here() -> None:
    mine = both(NODE, CLOSED, pod("old", "10.0.0.1"))
    theirs = both(mine, pod("new", "10.0.0.1", node="n2", created=1.0))
    flow = Flow(Address("10.0.1.9"), Address("10.0.0.1"), 6, 40000, 80)
    assert not judge_local(fresh(NODES[0], mine)[0], flow).is_allowed
    assert judge_local(fresh(NODES[0], theirs)[0], flow).is_allowed


End = Literal[Action.DENY, Action.PASS]


def group(*stages: tuple[tuple[Action, ...], End]) -> Group:
    """Stages of rules that match everything; each stage with its end."""
    last = len(stages) - 1
    return Group(
        GroupId("g"),
        Direction.INGRESS,
        tuple(
            Stage(
                None if index == last else TierName(f"tier{index}"),
                tuple(ResolvedRule(action, Origin(f"{index}{action}")) for action in actions),
                end,
                Origin(f"end{index}"),
            )
            for index, (actions, end) in enumerate(stages)
        ),
    )


@pytest.mark.parametrize(
    ("judged", "action", "where"),
    [
        (group(((), DENY)), DENY, "end0"),
        (group(((ALLOW, DENY), DENY)), ALLOW, "0allow"),
        (group(((LOG, DENY, ALLOW), DENY)), DENY, "0deny"),
        (group(((), PASS), ((ALLOW,), DENY)), ALLOW, "1allow"),
        (group(((PASS, DENY), DENY), ((ALLOW,), DENY)), ALLOW, "1allow"),
        (group(((LOG,), DENY), ((ALLOW,), DENY)), DENY, "end0"),
    ],
)
def test_stages_are_walked_in_order(judged: Group, action: Action, where: str) -> None:
    flow = Flow(Address("10.0.1.9"), Address("10.0.0.1"), 6, 40000, 80)
    decided = judge_group(judged, flow, lambda *_: False)
    assert (decided.action, decided.origin.kind) == (action, where)
