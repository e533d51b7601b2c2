"""Staged policies: which policy each of them stands for.

In: nothing.  Out: the kinds that are staged, and the name of what a staged policy would set or
delete.  What it would decide is :mod:`calico_k8s.policy.staging`'s to say.
"""

from collections.abc import Mapping

from calico_k8s.model.names import PolicyId

STAGED_KINDS: Mapping[str, str] = {
    "StagedGlobalNetworkPolicy": "GlobalNetworkPolicy",
    "StagedNetworkPolicy": "CalicoNetworkPolicy",
    "StagedKubernetesNetworkPolicy": "NetworkPolicy",
}
"""Each staged kind, and the kind that it becomes when it is enforced."""


def enforced_kind(kind: str) -> str:
    """What a kind becomes when it is enforced: one that is not staged is so already."""
    return STAGED_KINDS.get(kind, kind)


def target_of(policy: PolicyId) -> PolicyId:
    """The policy that a staged one would set or delete: the enforced one of its name."""
    return policy._replace(kind=enforced_kind(policy.kind))
