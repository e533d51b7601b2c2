"""Conditions: what each says of what was found, and what the API server is sent."""

import pytest

from calico_k8s.controller.conditions import (
    MESSAGE_MAX,
    WITH_STATUS,
    Condition,
    conditions_of,
    is_same,
    status_document,
    status_path,
    timed,
)
from calico_k8s.controller.reach import Count
from calico_k8s.controller.wire import PATHS
from calico_k8s.model.names import NodeName
from calico_k8s.model.staging import STAGED_KINDS
from calico_k8s.translate.findings import Code, ObjectRef, make_finding
from calico_k8s.translate.policy_book import Standing

GUARD = ObjectRef("GlobalNetworkPolicy", "", "guard")
OWN = ObjectRef("CalicoNetworkPolicy", "shop", "own")
HERE, BEHIND = Count(2, 2), Count(1, 2, (NodeName("b"),))


def told(count: Count | None, *codes: Code) -> list[str]:
    """Each condition in a few words."""
    findings = tuple(make_finding(code, f"about {code}", GUARD) for code in codes)
    standing = Standing("uid", 3, frozenset(), findings)
    return [
        f"{each.type} {each.status} {each.reason}: {each.message}"
        for each in conditions_of(standing, count)
    ]


ACCEPTED = "Accepted True Accepted: all of it is understood"
RESOLVED = "ResolvedRefs True ResolvedRefs: all that it names is there"
PROGRAMMED = "Programmed True Programmed: on 2 of 2 nodes"


@pytest.mark.parametrize(
    ("count", "codes", "wanted"),
    [
        (HERE, (), [ACCEPTED, RESOLVED, PROGRAMMED]),
        (
            BEHIND,
            (),
            [ACCEPTED, RESOLVED, "Programmed False NodesBehind: on 1 of 2 nodes, not on b"],
        ),
        (
            Count(0, 0),
            (),
            [
                ACCEPTED,
                RESOLVED,
                "Programmed Unknown NoNodes: no node has pods, or an agent that tells",
            ],
        ),
        (None, (), [ACCEPTED, RESOLVED, "Programmed False NotStored: it is not in the datastore"]),
        (
            HERE,
            (Code.POLICY_INVALID,),
            ["Accepted False PolicyInvalid: about policy-invalid", RESOLVED, PROGRAMMED],
        ),
        (
            HERE,
            (Code.POLICY_SERVICE_UNKNOWN,),
            [
                ACCEPTED,
                "ResolvedRefs False PolicyServiceUnknown: about policy-service-unknown",
                PROGRAMMED,
            ],
        ),
        (
            HERE,
            (Code.TIER_UNKNOWN,),
            [
                "Accepted False TierUnknown: about tier-unknown",
                "ResolvedRefs False TierUnknown: about tier-unknown",
                "Programmed False NotEnforced: about tier-unknown",
            ],
        ),
    ],
)
def test_conditions_say_what_was_found(
    count: Count | None, codes: tuple[Code, ...], wanted: list[str]
) -> None:
    assert told(count, *codes) == wanted


def test_several_findings_are_one_message_that_the_api_server_takes() -> None:
    found = [make_finding(Code.POLICY_INVALID, f"{number} is bad", GUARD) for number in range(999)]
    standing = Standing("uid", 1, frozenset(), (found[0], *found))
    message = conditions_of(standing, HERE)[0].message
    assert message.startswith("0 is bad; 1 is bad; ")
    assert len(message) == MESSAGE_MAX


def test_a_condition_keeps_its_time_until_its_status_is_another() -> None:
    before = [Condition("Accepted", "True", "A", "", 1, "then"), Condition("Programmed", "False")]
    now = [Condition("Accepted", "True", "B", "", 2), Condition("Programmed", "True")]
    times = [each.last_transition_time for each in timed(now, before, "now")]
    assert times == ["then", "now"]
    assert timed(now, (), "now")[0].last_transition_time == "now"


def test_two_tell_the_same_whatever_their_order_and_times() -> None:
    one, two = (
        Condition("Accepted", "True", "A", "m", 1),
        Condition("Programmed", "True", "P", "", 1),
    )
    assert is_same((one, two), timed((two, one), (), "now"))
    assert not is_same((one,), (one, two))
    assert not is_same((one,), (Condition("Accepted", "True", "A", "m", 2),))


@pytest.mark.parametrize(
    ("ref", "path", "version", "kind"),
    [
        (
            GUARD,
            "/apis/projectcalico.org/v3/globalnetworkpolicies/guard/status",
            "projectcalico.org/v3",
            "GlobalNetworkPolicy",
        ),
        (
            OWN,
            "/apis/projectcalico.org/v3/namespaces/shop/networkpolicies/own/status",
            "projectcalico.org/v3",
            "NetworkPolicy",
        ),
    ],
)
def test_a_status_is_applied_to_the_very_object(
    ref: ObjectRef, path: str, version: str, kind: str
) -> None:
    assert status_path(ref) == path
    document = status_document(ref, [Condition("Accepted", "True", "A", "m", 1, "now")])
    assert (document["apiVersion"], document["kind"]) == (version, kind)
    metadata = document["metadata"]
    assert isinstance(metadata, dict)
    assert (metadata["name"], metadata.get("namespace", "")) == (ref.name, ref.namespace)


def test_every_kind_of_calicos_that_is_followed_has_a_status() -> None:
    followed = {kind for kind in PATHS if "calico" in PATHS[kind]} - STAGED_KINDS.keys()
    assert followed | {"ClusterNetworkPolicy"} == WITH_STATUS
