"""What would be if staged policies were enforced: the definition of what they would decide.

In: a snapshot.  Out: the snapshot as it would be; asked by :mod:`.verdict` as any other.  Between
the two, and nowhere else, lies what a staged policy opens and closes.
"""

import dataclasses
from collections.abc import Iterable

import msgspec

from calico_k8s.model.keys import PolicyKey
from calico_k8s.model.resources import Policy, StagedAction
from calico_k8s.model.staging import target_of
from calico_k8s.policy.snapshot import Snapshot, policy_sort_key


def staged_policies(snapshot: Snapshot) -> tuple[Policy, ...]:
    """Every staged policy, by tier and in its order."""
    staged = (policy for policy in snapshot.policies.values() if policy.staged is not None)
    return tuple(sorted(staged, key=lambda policy: (policy.tier, policy_sort_key(policy))))


def rehearsed(policies: Iterable[Policy]) -> list[Policy]:
    """The policies that would be in force if all those that are staged were enforced.

    Those that would come are still marked as staged.
    """
    policies = list(policies)
    acting = [each for each in policies if each.staged not in (None, StagedAction.IGNORE)]
    gone = {target_of(policy.id) for policy in acting}
    stay = [each for each in policies if each.staged is None and each.id not in gone]
    return stay + [policy for policy in acting if policy.staged is not StagedAction.DELETE]


def enacted(snapshot: Snapshot, staged: Iterable[Policy]) -> Snapshot:
    """The snapshot with these staged policies enforced, and no other.

    The rules of one that would come keep the staged policy as their origin.
    """
    enforced = [policy for policy in snapshot.policies.values() if policy.staged is None]
    then = [_enforced(policy) for policy in rehearsed([*enforced, *staged])]
    return dataclasses.replace(
        snapshot, policies={PolicyKey(policy.tier, policy.id): policy for policy in then}
    )


def _enforced(policy: Policy) -> Policy:
    return msgspec.structs.replace(policy, id=target_of(policy.id), staged=None)
