"""What a policy object's status says: accepted, all it names is there, programmed.

In: an object as it was last translated, what was found wrong with it, and how many nodes have it.
Out: its conditions, and the document that a server-side apply sends.  Nothing is sent here.

==============  ======================================  ==========================================
condition       True                                    False, and its reason
==============  ======================================  ==========================================
Accepted        all of it is understood, and its tier   the finding's code: what it speaks of is
                is there                                closed, or, without its tier, not enforced
ResolvedRefs    all that it names is there              the finding's code: what names it matches
                                                        nothing until it comes
Programmed      all nodes have this generation          NodesBehind, NotEnforced, NotStored;
                                                        Unknown: NoNodes
==============  ======================================  ==========================================
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from calico_k8s.controller.reach import Count
from calico_k8s.controller.wire import PATHS, object_path
from calico_k8s.translate.findings import Code, Finding, ObjectRef, Severity, reason_of
from calico_k8s.translate.objects import KINDS
from calico_k8s.translate.policy_book import Standing
from calico_k8s.translate.references import UNKNOWN

ACCEPTED, RESOLVED, PROGRAMMED = "Accepted", "ResolvedRefs", "Programmed"
OURS = frozenset({ACCEPTED, RESOLVED, PROGRAMMED})

NOT_ENFORCED = frozenset({Code.TIER_UNKNOWN})
"""With one of these nothing of an object is in force."""
REFERENCES = frozenset({Code.TIER_UNKNOWN, Code.POLICY_SERVICE_UNKNOWN, *UNKNOWN})
"""Something that is named is not there."""

MESSAGE_MAX = 1024
"""Characters; of 32,768 that ``metav1.Condition`` takes."""

WITH_STATUS = frozenset(
    {
        "ClusterNetworkPolicy",
        *("Tier", "GlobalNetworkPolicy", "CalicoNetworkPolicy"),
        *("GlobalNetworkSet", "NetworkSet", "Profile", "HostEndpoint"),
    }
)
"""The kinds whose objects have conditions.  ``networking.k8s.io/v1`` took the status of its
NetworkPolicy away again (Kubernetes 1.28)."""


class Condition(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """``metav1.Condition``; the time comes last."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: str = ""


def conditions_of(standing: Standing, count: Count | None) -> tuple[Condition, ...]:
    """An object's conditions, without their times; ``count`` None: nothing of it is stored."""

    def condition(type_: str, status: str, reason: str, message: str) -> Condition:
        return Condition(type_, status, reason, message, standing.generation)

    return (
        _of_findings(condition, ACCEPTED, "all of it is understood", refusing(standing.findings)),
        _of_findings(condition, RESOLVED, "all that it names is there", missing(standing.findings)),
        _programmed(condition, standing, count),
    )


def is_accepted(findings: Iterable[Finding]) -> bool:
    """Whether all that an object says is in force."""
    return not refusing(findings)


def is_enforced(findings: Iterable[Finding]) -> bool:
    """Whether anything that an object says is in force."""
    return all(finding.code not in NOT_ENFORCED for finding in findings)


def told_together(findings: Iterable[Finding]) -> str:
    """What findings say, each once."""
    together = "; ".join(dict.fromkeys(finding.message for finding in findings))
    return together if len(together) <= MESSAGE_MAX else f"{together[: MESSAGE_MAX - 3]}..."


def refusing(findings: Iterable[Finding]) -> list[Finding]:
    """What keeps a part of what an object says, or all of it, from being in force."""
    return [
        finding
        for finding in findings
        if finding.severity is Severity.ERROR or finding.code in NOT_ENFORCED
    ]


def missing(findings: Iterable[Finding]) -> list[Finding]:
    """What an object names that is not there."""
    return [finding for finding in findings if finding.code in REFERENCES]


def timed(
    wanted: Iterable[Condition], shown: Iterable[Condition], now: str
) -> tuple[Condition, ...]:
    """The conditions with the time of their last transition: now, where the status is another."""
    before = {condition.type: condition for condition in shown}
    return tuple(_timed(condition, before.get(condition.type), now) for condition in wanted)


def is_same(wanted: Iterable[Condition], shown: Iterable[Condition]) -> bool:
    """Whether two tell the same, times aside."""
    first, second = ({msgspec.structs.astuple(each)[:-1] for each in of} for of in (wanted, shown))
    return first == second


def said_programmed(shown: Iterable[Condition], generation: int | None) -> bool:
    """Whether a status said that all nodes have a generation."""
    return any(
        each.type == PROGRAMMED and each.status == "True" and each.observed_generation == generation
        for each in shown
    )


def status_path(ref: ObjectRef) -> str:
    """Where an object's status is written."""
    return f"{object_path(ref)}/status"


def status_document(ref: ObjectRef, conditions: Iterable[Condition]) -> Mapping[str, object]:
    """What is applied: conditions of ours; those of others stay.

    A UID in it would be looked at by nobody.
    """
    return {
        "apiVersion": PATHS[ref.kind].removeprefix("/apis/").rpartition("/")[0],
        "kind": KINDS[ref.kind].written or ref.kind,
        "metadata": {
            "name": ref.name,
            **({"namespace": ref.namespace} if ref.namespace else {}),
        },
        "status": {"conditions": msgspec.to_builtins(tuple(conditions))},
    }


class _Make(Protocol):
    def __call__(self, type_: str, status: str, reason: str, message: str) -> Condition: ...


def _of_findings(make: _Make, type_: str, well: str, findings: list[Finding]) -> Condition:
    if not findings:
        return make(type_, "True", type_, well)
    return make(type_, "False", reason_of(findings[0]), told_together(findings))


def _programmed(make: _Make, standing: Standing, count: Count | None) -> Condition:
    if not is_enforced(standing.findings):
        return make(PROGRAMMED, "False", "NotEnforced", told_together(refusing(standing.findings)))
    if count is None:
        return make(PROGRAMMED, "False", "NotStored", "it is not in the datastore")
    if not count.total:
        return make(PROGRAMMED, "Unknown", "NoNodes", "no node has pods, or an agent that tells")
    if count.is_all:
        return make(PROGRAMMED, "True", PROGRAMMED, str(count))
    return make(PROGRAMMED, "False", "NodesBehind", str(count))


def _timed(condition: Condition, before: Condition | None, now: str) -> Condition:
    is_kept = before is not None and before.status == condition.status
    time = before.last_transition_time if before is not None and is_kept else ""
    return msgspec.structs.replace(condition, last_transition_time=time or now)
