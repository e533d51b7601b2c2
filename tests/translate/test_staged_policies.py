"""Staged policies: what they become, what is refused, and that nothing they say is enforced."""

import pytest

from calico_k8s.model.resources import StagedAction
from calico_k8s.model.staging import STAGED_KINDS
from calico_k8s.policy.staging import enacted, staged_policies
from calico_k8s.policy.verdict import judge
from tests.nine_pods import World
from tests.translate.test_calico_policies import calico, everywhere, in_x


def staged_in_x(spec: str, kind: str = "StagedNetworkPolicy") -> str:
    return calico(kind, spec, namespace="x")


@pytest.mark.parametrize(
    ("spec", "action"),
    [
        ("", StagedAction.SET),
        ("stagedAction: Set", StagedAction.SET),
        ("stagedAction: Learn", StagedAction.LEARN),
        ("stagedAction: Delete", StagedAction.DELETE),
        ("stagedAction: Ignore", StagedAction.IGNORE),
    ],
)
@pytest.mark.parametrize("kind", STAGED_KINDS)
def test_a_staged_policy_changes_nothing_until_it_is_enforced(
    kind: str, spec: str, action: StagedAction
) -> None:
    text = calico(kind, spec, namespace="" if "Global" in kind else "x")
    world = World(text)
    (policy,) = staged_policies(world.snapshot)
    assert (policy.id.kind, policy.staged) == (kind, action)
    assert world.sources("x/a") == World().sources("x/a")
    then = enacted(world.snapshot, [policy])
    flow, _ = world.ask("y/a", "x/a")
    closes = action in (StagedAction.SET, StagedAction.LEARN)
    assert judge(then, flow).allowed is not closes


def test_a_policy_that_replaces_one_is_asked_in_its_place() -> None:
    world = World(in_x("ingress: [{action: Allow}]"), staged_in_x("ingress: [{action: Deny}]"))
    (policy,) = staged_policies(world.snapshot)
    flow, before = world.ask("y/a", "x/a")
    after = judge(enacted(world.snapshot, [policy]), flow)
    assert (before.allowed, after.allowed) == (True, False)
    assert after.deciding is not None
    assert after.deciding.deciding.kind == "StagedNetworkPolicy"


def test_a_policy_that_is_deleted_speaks_no_more() -> None:
    world = World(in_x("ingress: []"), staged_in_x("stagedAction: Delete"))
    flow, before = world.ask("y/a", "x/a")
    assert not before.allowed
    assert judge(enacted(world.snapshot, staged_policies(world.snapshot)), flow).allowed
    assert world.codes == []


@pytest.mark.parametrize(
    ("texts", "code", "message"),
    [
        (
            (staged_in_x("stagedAction: Drop"),),
            "policy-invalid",
            "spec.stagedAction 'Drop' is none of Set, Delete, Learn, Ignore, so nothing is rehearsed",
        ),
        (
            (staged_in_x("stagedAction: [Set]"),),
            "policy-invalid",
            "spec.stagedAction '['Set']' is none of Set, Delete, Learn, Ignore, so nothing is rehearsed",
        ),
        (
            (in_x(""), staged_in_x("stagedAction: Delete, order: 1, selector: all()")),
            "policy-invalid",
            "stagedAction Delete says all, so spec.order is not looked at",
        ),
        (
            (everywhere(""), staged_in_x("stagedAction: Delete")),
            "staged-target-unknown",
            "there is no CalicoNetworkPolicy/x/p to delete, so it would change nothing",
        ),
        (
            (staged_in_x("tier: none"),),
            "tier-unknown",
            "there is no tier 'none', so the policy is not enforced until there is",
        ),
        (
            (staged_in_x("selector: a =="),),
            "policy-invalid",
            "so once it is enforced, everything is denied in the namespace x",
        ),
        (
            (staged_in_x("ingress: [{action: Allow, source: {domains: [a]}}]"),),
            "policy-invalid",
            "so once it is enforced, it matches nothing",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_and_touches_nothing(
    texts: tuple[str, ...], code: str, message: str
) -> None:
    world = World(*texts)
    assert world.codes == [code]
    assert message in world.messages
    assert world.sources("y/a") == World(*texts[:-1]).sources("y/a")


def test_a_deletion_is_told_of_its_target_when_that_comes_and_goes() -> None:
    deletion = staged_in_x("stagedAction: Delete")
    assert World(deletion).codes == ["staged-target-unknown"]
    assert World(deletion, in_x("")).codes == []
