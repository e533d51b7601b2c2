"""Staged policies decide nothing; enacted, they decide what they would if they were enforced."""

from collections.abc import Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.keys import Key, PolicyKey
from calico_k8s.model.resources import Policy, StagedAction, Value
from calico_k8s.model.staging import target_of
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.staging import enacted, staged_policies
from calico_k8s.policy.verdict import judge
from tests.model_strategies import flows, states

ACTING = [action for action in StagedAction if action is not StagedAction.IGNORE]


@given(states, st.lists(flows, min_size=1, max_size=8))
def test_staged_policies_change_no_verdict_whatever_they_are(
    items: Mapping[Key, Value], asked: list[Flow]
) -> None:
    enforced = {
        key: value
        for key, value in items.items()
        if not (isinstance(value, Policy) and value.staged is not None)
    }
    with_staged, without = Snapshot.from_items(items), Snapshot.from_items(enforced)
    for flow in asked:
        assert judge(with_staged, flow) == judge(without, flow)


@given(states, st.lists(flows, min_size=1, max_size=8))
def test_enacted_policies_decide_as_the_same_policies_written_by_hand(
    items: Mapping[Key, Value], asked: list[Flow]
) -> None:
    snapshot = Snapshot.from_items(items)
    staged = staged_policies(snapshot)
    by_hand: dict[Key, Value] = {
        key: value for key, value in items.items() if not isinstance(value, Policy)
    }
    targets = [target_of(policy.id) for policy in staged if policy.staged in ACTING]
    for policy in snapshot.policies.values():
        if policy.staged is None and policy.id not in targets:
            by_hand[PolicyKey(policy.tier, policy.id)] = policy
    for policy in staged:
        if policy.staged in (StagedAction.SET, StagedAction.LEARN):
            target = target_of(policy.id)
            by_hand[PolicyKey(policy.tier, target)] = msgspec.structs.replace(
                policy, id=target, staged=None
            )
    then = enacted(snapshot, staged)
    assert not staged_policies(then)
    for flow in asked:
        assert judge(then, flow) == judge(Snapshot.from_items(by_hand), flow)


@given(states)
def test_one_is_enacted_without_the_others(items: Mapping[Key, Value]) -> None:
    snapshot = Snapshot.from_items(items)
    for policy in staged_policies(snapshot):
        then = enacted(snapshot, [policy]).policies.values()
        enforced = {each.id for each in snapshot.policies.values() if each.staged is None}
        gained = {each.id for each in then} - enforced
        assert gained <= {target_of(policy.id)}
        assert all(each.staged is None for each in then)
        if policy.staged is StagedAction.DELETE:
            assert target_of(policy.id) not in {each.id for each in then}
