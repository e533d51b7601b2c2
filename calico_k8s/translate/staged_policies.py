"""Staged policies: read as the policy that each would be, and marked as staged.

In: objects of Calico's staged kinds.  Out: staged policies, and findings.  Nothing that is wrong in
one touches what is enforced: a finding says what would become of it.

============  ====================================================================================
stagedAction  the staged policy
============  ====================================================================================
Set           would be the enforced policy of its name, in its place if there is one; the default
Delete        would take that away; it has no rules of its own
Learn         as Set, while somebody goes on rewriting it
Ignore        would do nothing
============  ====================================================================================

Source: Calico, api/pkg/apis/projectcalico/v3/stagednetworkpolicy.go.
"""

from typing import Any

import msgspec

from calico_k8s.model.names import PolicyId
from calico_k8s.model.resources import Policy, StagedAction, Value
from calico_k8s.model.staging import target_of
from calico_k8s.translate.calico_policies import read_calico_policy, tier_name
from calico_k8s.translate.calico_rules import PortsOf
from calico_k8s.translate.findings import Code, ObjectRef
from calico_k8s.translate.network_policies import read_network_policy
from calico_k8s.translate.objects import (
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
    object_ref,
)
from calico_k8s.translate.reading import BOTH, Misread, Reader, Reading
from calico_k8s.translate.selecting import conjunction, in_namespace
from calico_k8s.translate.tiers import DEFAULT_TIER

StagedObject = StagedGlobalNetworkPolicy | StagedNetworkPolicy | StagedKubernetesNetworkPolicy

FIELD = "stagedAction"
_ACTIONS = {action.capitalize(): action for action in StagedAction}


def read_staged_policy(value: StagedObject, ports_of: PortsOf) -> Reading:
    """What a staged policy would say; one whose action is not understood would say nothing."""
    reader = Reader(object_ref(value))
    spec = value.spec if isinstance(value.spec, dict) else {}
    try:
        action = staged_action(spec)
    except Misread as error:
        reader.tell(Code.POLICY_INVALID, f"{error}, so nothing is rehearsed", error.path)
        return reader.nothing()
    if action in (StagedAction.DELETE, StagedAction.IGNORE):
        return _without_rules(value, reader, spec, action)
    rest = value.spec
    if isinstance(rest, dict):
        rest = {field: given for field, given in rest.items() if field != FIELD}
    as_enforced = type(value)(value.metadata, rest)
    if isinstance(as_enforced, StagedKubernetesNetworkPolicy):
        reading = read_network_policy(as_enforced)
    else:
        reading = read_calico_policy(as_enforced, ports_of)
    items = {key: _staged(item, action) for key, item in reading.items.items()}
    return msgspec.structs.replace(reading, items=items)


def staged_action(spec: dict[str, Any]) -> StagedAction:
    """What a spec says of its staging; Set where it says nothing.

    Raises:
        Misread: it is none of the four.
    """
    word = spec.get(FIELD) or "Set"
    action = _ACTIONS.get(word) if isinstance(word, str) else None
    if action is None:
        raise Misread(("spec", FIELD), f"'{word}' is none of {', '.join(_ACTIONS)}")
    return action


def _without_rules(
    value: StagedObject, reader: Reader, spec: dict[str, Any], action: StagedAction
) -> Reading:
    """One that only names another policy, or does nothing."""
    deletes = action is StagedAction.DELETE
    others = [field for field, given in spec.items() if given and field not in ("tier", FIELD)]
    if deletes and others:
        message = f"{FIELD} Delete says all, so spec.{others[0]} is not looked at"
        reader.tell(Code.POLICY_INVALID, message, ("spec", others[0]))
    try:
        is_kubernetes = isinstance(value, StagedKubernetesNetworkPolicy)
        tier = DEFAULT_TIER if is_kubernetes else tier_name(spec)
    except Misread as error:
        reader.tell_unusable(error, f"it is taken for {DEFAULT_TIER}")
        tier = DEFAULT_TIER
    ref = reader.ref
    selector = conjunction([in_namespace(ref.namespace)] if ref.namespace else [])
    policy = Policy(PolicyId(*ref), tier, selector, types=BOTH, staged=action)
    reading = reader.policy(policy)
    if not deletes:
        return msgspec.structs.replace(reading, tier=None)
    return msgspec.structs.replace(reading, deletes=ObjectRef(*target_of(policy.id)))


def _staged(item: Value, action: StagedAction) -> Value:
    return msgspec.structs.replace(item, staged=action) if isinstance(item, Policy) else item
