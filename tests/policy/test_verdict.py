"""What a policy means, as packets: each line is one packet and what becomes of it.

The tables restate docs/design/policy-semantics.md section 4 and Calico's order of evaluation.
"""

import pytest

from calico_k8s.model import keys
from calico_k8s.model.keys import Key
from calico_k8s.model.names import PolicyId, ProfileId, SelectorText, TagName, TierName
from calico_k8s.model.resources import (
    Direction,
    EntityMatch,
    Origin,
    Policy,
    Rule,
    Rules,
    Setting,
    StagedAction,
    Value,
)
from calico_k8s.policy.verdict import POD_TO_HOST_ACTION, Verdict, judge
from tests.policy.packets import ALLOW, DENY, EGRESS, INGRESS, LOG, PASS, cluster, packet, rule
from tests.states import State, both, profile, tier


def tagged(name: str) -> EntityMatch:
    return EntityMatch(tag=TagName(name))


def said(verdict: Verdict) -> str:
    """``allow: NAME`` or ``deny: NAME`` of what decided; the reason where no policy was asked."""
    word = "allow" if verdict.allowed else "deny"
    if verdict.reason != "policy" or verdict.deciding is None:
        return f"{word}: {verdict.reason}"
    origin = verdict.deciding.deciding
    return f"{word}: {origin.name or origin.kind}"


# Who is asked at all: policy-semantics.md section 4, points 2 and 4.

SHUT = profile("shut", rule(DENY, "shut"), origin=Origin("Pod"))
NO_EGRESS: State = {
    keys.ProfileRulesKey(ProfileId("no-egress")): Rules(
        ingress=(rule(ALLOW, "in"),), egress=(rule(DENY, "out"),)
    )
}


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("web > db tcp 80", "deny: shut"),
        ("far > db tcp 80", "deny: shut"),
        ("outside > db tcp 80", "deny: shut"),
        ("n2 > db tcp 80", "deny: shut"),  # another node is no neighbour
        ("n1 > db tcp 80", "allow: own-node"),  # probes of the kubelet
        ("db > db tcp 80", "allow: self"),
        ("web > web tcp 80", "allow: self"),
        ("db > outside tcp 443", "allow: Pod"),  # outbound is open
        ("db > web tcp 80", "allow: open"),
        ("db > n1 tcp 10250", "allow: host-action"),
        ("db > n2 tcp 10250", "allow: Pod"),
        ("outside > n1 tcp 22", "allow: no-endpoint"),
        ("n1 > n2 tcp 22", "allow: no-endpoint"),
    ],
)
def test_a_shut_pod_still_meets_itself_and_its_node_and_may_go_out(
    flow: str, expected: str
) -> None:
    assert said(judge(cluster(db=("shut",), more=SHUT), packet(flow))) == expected


@pytest.mark.parametrize(
    ("setting", "flow", "expected"),
    [
        ("accept", "web > n1 tcp 22", "allow: host-action"),
        ("return", "web > n1 tcp 22", "allow: host-action"),
        ("drop", "web > n1 tcp 22", "deny: host-action"),
        ("drop", "web > n2 tcp 22", "allow: prod"),
        ("drop", "far > n1 tcp 22", "allow: prod"),
        ("drop", "n1 > web tcp 22", "allow: own-node"),
        ("accept", "db > n1 tcp 22", "deny: out"),  # egress policy comes first
    ],
)
def test_a_pod_reaches_its_node_by_its_egress_policy_then_by_the_setting(
    setting: str, flow: str, expected: str
) -> None:
    more = both(NO_EGRESS, {keys.SettingKey(None, POD_TO_HOST_ACTION): Setting(setting)})
    assert said(judge(cluster(db=("no-egress",), more=more), packet(flow))) == expected


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("db > web tcp 80", "deny: out"),
        ("db > outside tcp 80", "deny: out"),
        ("db > db tcp 80", "allow: self"),
        ("web > db tcp 80", "allow: in"),
    ],
)
def test_both_ends_must_allow(flow: str, expected: str) -> None:
    assert said(judge(cluster(db=("no-egress",), more=NO_EGRESS), packet(flow))) == expected


# Profiles in their order: annotation or namespace first, then services, then the implied end.

ANNOTATION = profile(
    "annotation",
    rule(ALLOW, "statement", src=tagged("app_web"), port=4001),
    rule(DENY, "written-deny", port=81),
    origin=Origin("Pod", name="the-end"),
)
SERVICE = profile("service", rule(ALLOW, "service", port=80), rule(ALLOW, "service", port=81))


@pytest.mark.parametrize(
    ("profiles", "flow", "expected"),
    [
        (("annotation", "service"), "web > db tcp 4001", "allow: statement"),
        (("annotation", "service"), "far > db tcp 4001", "deny: the-end"),
        (("annotation", "service"), "outside > db tcp 4001", "deny: the-end"),
        (("annotation", "service"), "web > db udp 4001", "deny: the-end"),
        (("annotation", "service"), "outside > db tcp 80", "allow: service"),
        (("annotation", "service"), "outside > db tcp 81", "deny: written-deny"),
        (("service", "annotation"), "outside > db tcp 81", "allow: service"),
        (("annotation",), "outside > db tcp 80", "deny: the-end"),
        (("service",), "outside > db tcp 82", "deny: Profile"),  # nobody owns this end
        (("nowhere",), "outside > db tcp 80", "deny: Profile"),  # a profile not there: no rules
        ((), "outside > db tcp 80", "deny: Profile"),
        (("open", "annotation"), "outside > db tcp 81", "allow: open"),
    ],
)
def test_profiles_are_tried_in_order_and_their_end_denies(
    profiles: tuple[str, ...], flow: str, expected: str
) -> None:
    more = both(ANNOTATION, SERVICE)
    assert said(judge(cluster(db=profiles, more=more), packet(flow))) == expected


def test_a_pass_among_profiles_has_nowhere_to_go_and_denies() -> None:
    more = profile("p", rule(PASS, "pass"), rule(ALLOW, "allow"))
    assert said(judge(cluster(db=("p",), more=more), packet("web > db tcp 80"))) == "deny: pass"


def test_a_log_rule_decides_nothing() -> None:
    more = profile("p", rule(LOG, "log"), rule(ALLOW, "allow"))
    assert said(judge(cluster(db=("p",), more=more), packet("web > db tcp 80"))) == "allow: allow"


# Tiers: policy-semantics.md section 4 point 3; Calico, felix/calc/policy_sorter.go.


def policy(
    name: str,
    *rules: Rule,
    tier: str = "default",
    order: float | None = 1.0,
    types: tuple[Direction, ...] = (INGRESS,),
    selected: str = 'app == "db"',
    staged: StagedAction | None = None,
) -> State:
    """A policy whose rules are its ingress rules, and its egress rules where it has that type."""
    identity = PolicyId("NetworkPolicy", "prod", name)
    key: Key = keys.PolicyKey(TierName(tier), identity)
    value: Value = Policy(
        id=identity,
        tier=TierName(tier),
        selector=SelectorText(selected),
        types=types,
        order=order,
        ingress=rules,
        egress=rules if EGRESS in types else (),
        staged=staged,
    )
    return {key: value}


DEFAULT = tier("default", 2.0)
FIRST, FIRST_PASSES = tier("first", 1.0), tier("first", 1.0, PASS)
ALLOWS, DENIES, PASSES, LOGS = (rule(action, str(action)) for action in (ALLOW, DENY, PASS, LOG))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        pytest.param(both(DEFAULT), "allow: profile", id="no policy: the profiles"),
        pytest.param(both(DEFAULT, policy("a", DENIES)), "deny: deny", id="a rule denies"),
        pytest.param(both(DEFAULT, policy("a", ALLOWS)), "allow: allow", id="a rule allows"),
        pytest.param(both(DEFAULT, policy("a")), "deny: default", id="selected, no rule: the end"),
        pytest.param(
            both(tier("default", 2.0, PASS), policy("a")), "allow: profile", id="the end passes"
        ),
        pytest.param(
            both(DEFAULT, policy("a", LOGS)), "deny: default", id="only logs: the end of the tier"
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, selected='app == "web"')),
            "allow: profile",
            id="a policy for others skips the tier whole",
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, types=(EGRESS,))),
            "allow: profile",
            id="a policy for the other direction skips the tier",
        ),
        pytest.param(
            both(policy("a", DENIES)), "allow: profile", id="no tier object: not enforced"
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, staged=StagedAction.SET)),
            "allow: profile",
            id="staged: no verdict",
        ),
        pytest.param(
            both(DEFAULT, policy("a", ALLOWS, order=2.0), policy("b", DENIES, order=1.0)),
            "deny: deny",
            id="by order",
        ),
        pytest.param(
            both(DEFAULT, policy("a", ALLOWS), policy("b", DENIES)),
            "allow: allow",
            id="then by name",
        ),
        pytest.param(
            both(DEFAULT, policy("a", DENIES, order=None), policy("b", ALLOWS, order=9e9)),
            "allow: allow",
            id="without order last",
        ),
        pytest.param(
            both(DEFAULT, policy("a", rule(DENY, port=81)), policy("b", ALLOWS)),
            "allow: allow",
            id="no match: the next policy",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", DENIES, tier="first"), policy("b", ALLOWS)),
            "deny: deny",
            id="the earlier tier decides",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", PASSES, DENIES, tier="first"), policy("b", ALLOWS)),
            "allow: allow",
            id="pass leaves the tier at once",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", tier="first"), policy("b", ALLOWS)),
            "deny: first",
            id="the end of the earlier tier denies",
        ),
        pytest.param(
            both(FIRST_PASSES, DEFAULT, policy("a", tier="first"), policy("b", ALLOWS)),
            "allow: allow",
            id="the end of the earlier tier passes",
        ),
        pytest.param(
            both(FIRST, DEFAULT, policy("a", PASSES, tier="first")),
            "allow: profile",
            id="pass, and no other tier: the profiles",
        ),
        pytest.param(
            both(DEFAULT, policy("a", PASSES)), "allow: profile", id="pass in the last tier"
        ),
        pytest.param(
            both(
                tier("a"),
                tier("z", 1.0),
                policy("p", DENIES, tier="a"),
                policy("q", ALLOWS, tier="z"),
            ),
            "allow: allow",
            id="a tier without order is last",
        ),
        pytest.param(
            both(
                tier("a"), tier("z"), policy("p", DENIES, tier="a"), policy("q", ALLOWS, tier="z")
            ),
            "deny: deny",
            id="tiers of one order by name",
        ),
    ],
)
def test_tiers_then_profiles_decide(more: State, expected: str) -> None:
    last = profile("last", rule(ALLOW, "profile"))
    snapshot = cluster(db=("last",), more=both(last, more))
    assert said(judge(snapshot, packet("web > db tcp 80"))) == expected


def test_every_step_that_was_looked_at_is_told() -> None:
    more = both(FIRST, DEFAULT, policy("a", LOGS, PASSES), profile("last", rule(ALLOW, "profile")))
    verdict = judge(cluster(db=("last",), more=more), packet("outside > db tcp 80"))
    assert verdict.ingress is not None
    assert [(step.kind, step.name, step.outcome) for step in verdict.ingress.steps] == [
        ("tier", "first", "skipped"),
        ("rule", "", "log"),
        ("rule", "", "pass"),
        ("policy", "NetworkPolicy/prod/a", "pass"),
        ("tier", "default", "pass"),
        ("rule", "", "allow"),
        ("profile", "last", "allow"),
    ]
