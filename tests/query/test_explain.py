"""The walk of the definition as people and programs read it."""

from typing import Literal

from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import PROTOCOL_NUMBERS, Action, EntityMatch, Origin, Rule
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.explain import explain_lines, headline, report
from calico_k8s.query.reach import Answer, Service, ask, find_party
from tests.states import both, pod, policy, profile, selector, tier

TCP = PROTOCOL_NUMBERS["tcp"]
PASS: Literal[Action.PASS] = Action.PASS


def rule(action: Action, index: int, src: EntityMatch | None = None) -> Rule:
    origin = Origin("NetworkPolicy", "prod", "p", index)
    return Rule(action, origin, src=src or EntityMatch())


NEVER = rule(Action.DENY, 0, selector("app == 'nobody'"))
STATE = both(
    pod("a", "10.0.0.1", profiles=("namespace.prod", "pod-labels.prod.1")),
    pod("b", "10.0.0.2", profiles=("namespace.prod",)),
    profile(
        "namespace.prod",
        Rule(Action.ALLOW, Origin("Namespace", name="prod", index=0)),
        origin=Origin("Namespace", name="prod"),
    ),
    profile("pod-labels.prod.1", tags=["prod_app_a"]),
    tier("none", 1.0),
    tier("first", 2.0, PASS),
    tier("default", 3.0),
    policy("p", "all()", NEVER, rule(Action.PASS, 1), tier="first"),
    policy("q", "all()", NEVER, tier="default"),
)


def answer(src: str = "prod/b", dst: str = "prod/a") -> Answer:
    snapshot = Snapshot.from_items(STATE)
    return ask(snapshot, find_party(snapshot, src), find_party(snapshot, dst), Service(TCP, 80))


def test_tiers_stand_before_their_policies_and_those_before_their_rules() -> None:
    lines = list(explain_lines(answer("192.0.2.1"), "192.0.2.1", "prod/a"))
    assert lines == [
        "denied: 192.0.2.1 → prod/a, tcp 80: end of tier default",
        "  ingress of prod/a: deny",
        "    tier none … skipped",
        "    tier first … pass",
        "      policy NetworkPolicy/prod/p … pass",
        "        NetworkPolicy prod/p, rule 1: deny from selector (app == 'nobody') … no match",
        "        NetworkPolicy prod/p, rule 2: pass … pass",
        "    tier default … deny",
        "      policy NetworkPolicy/prod/q … no match",
        "        NetworkPolicy prod/p, rule 1: deny from selector (app == 'nobody') … no match",
        "    end of tier default: deny  ← decides",
    ]


def test_the_report_has_the_same_steps_in_the_same_order() -> None:
    found = report(answer("192.0.2.1"))
    assert found.egress is None
    assert found.ingress is not None
    assert [(step.kind, step.outcome) for step in found.ingress.steps] == [
        ("tier", "skipped"),
        ("tier", "pass"),
        ("policy", "pass"),
        ("rule", "no match"),
        ("rule", "pass"),
        ("tier", "deny"),
        ("policy", "no match"),
        ("rule", "no match"),
    ]
    assert found.flow.src == Address("192.0.2.1")


def test_a_question_of_many_flows_says_how_many_are_denied() -> None:
    lines = list(explain_lines(answer("0.0.0.0/0", "prod/a"), "0.0.0.0/0", "prod/a"))
    assert "kinds of flow that this stands for are denied" in lines[1]
    found = report(answer("0.0.0.0/0", "prod/a"))
    assert 0 < found.denied_flows < found.flows


def test_a_verdict_that_no_policy_was_asked_for_says_why() -> None:
    assert headline(answer("prod/a", "prod/a"), "prod/a", "prod/a").endswith(
        "a pod always reaches itself"
    )
    outside = headline(answer("192.0.2.1", "192.0.2.2"), "x", "y")
    assert outside == "allowed: x → y, tcp 80: neither end is a pod: nothing of ours judges it"
