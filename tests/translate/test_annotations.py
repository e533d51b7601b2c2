"""Statements to rules: a table of one-line cases, and texts that do not parse."""

import pytest

from calico_k8s.model.addresses import Net
from calico_k8s.model.names import SelectorText, TagName
from calico_k8s.model.resources import ANYTHING, Action, EntityMatch, IcmpMatch, PortRange, Rule
from calico_k8s.translate.annotations import (
    AnnotationText,
    annotation_findings,
    find_annotation,
    translate_annotation,
)
from calico_k8s.translate.findings import Code, ObjectRef, Severity

POD = ObjectRef("Pod", "prod", "a")


def tag(name: str) -> EntityMatch:
    return EntityMatch(tag=TagName(name))


def select(text: str) -> EntityMatch:
    return EntityMatch(selector=SelectorText(text))


def only_rule(text: str) -> Rule:
    (rule,) = translate_annotation(text, "prod").rules.ingress
    return rule


@pytest.mark.parametrize(
    ("text", "src", "dst"),
    [
        ("allow", ANYTHING, ANYTHING),
        ("allow from label access=backend", tag("prod_access_backend"), ANYTHING),
        ("allow from label access=", tag("prod_access_"), ANYTHING),
        ("allow from namespace dev", tag("namespace_dev"), ANYTHING),
        ("allow from namespace dev label a=b", tag("dev_a_b"), ANYTHING),
        (
            "allow from label b=2 label a=1",
            select("projectcalico.org/namespace == 'prod' && a == '1' && b == '2'"),
            ANYTHING,
        ),
        (
            "allow from selector (a == '1' || has(b))",
            select("projectcalico.org/namespace == 'prod' && (a == '1' || has(b))"),
            ANYTHING,
        ),
        (
            "allow from namespace dev selector (!has(b))",
            select("projectcalico.org/namespace == 'dev' && !has(b)"),
            ANYTHING,
        ),
        ("allow from selector (a == '1')", tag("prod_a_1"), ANYTHING),
        ("allow from selector (all())", tag("namespace_prod"), ANYTHING),
        ("allow from namespace dev selector (global())", tag("namespace_dev"), ANYTHING),
        (
            "allow from label projectcalico.org/serviceaccount=x",
            select(
                "projectcalico.org/namespace == 'prod' && projectcalico.org/serviceaccount == 'x'"
            ),
            ANYTHING,
        ),
        (
            "allow from cidr 10.0.0.0/8,fd00::/8",
            EntityMatch(nets=(Net("10.0.0.0/8"), Net("fd00::/8"))),
            ANYTHING,
        ),
        ("allow to label app=web", ANYTHING, tag("prod_app_web")),
        ("allow to cidr 10.0.0.1", ANYTHING, EntityMatch(nets=(Net("10.0.0.1/32"),))),
        (
            "allow tcp from port 1024:65535 to port 80,http",
            EntityMatch(ports=(PortRange(1024, 65535),)),
            EntityMatch(ports=(PortRange(80, 80),), named_ports=("http",)),
        ),
    ],
)
def test_a_statement_becomes_a_rule_of_the_same_criteria(
    text: str, src: EntityMatch, dst: EntityMatch
) -> None:
    rule = only_rule(text)
    assert (rule.action, rule.src, rule.dst) == (Action.ALLOW, src, dst)


@pytest.mark.parametrize(
    ("text", "version", "protocol", "icmp"),
    [
        ("deny", None, None, None),
        ("deny tcp", None, 6, None),
        ("deny udp", None, 17, None),
        ("deny sctp", None, 132, None),
        ("deny icmp", 4, 1, None),
        ("deny icmp type 8", 4, 1, IcmpMatch(8)),
        ("deny icmpv6 type 128 code 0", 6, 58, IcmpMatch(128, 0)),
    ],
)
def test_a_protocol_is_taken_over(
    text: str, version: int | None, protocol: int | None, icmp: IcmpMatch | None
) -> None:
    rule = only_rule(text)
    assert rule.action is Action.DENY
    assert (rule.ip_version, rule.protocol, rule.icmp) == (version, protocol, icmp)


def test_rules_keep_the_order_of_the_statements_and_know_their_place() -> None:
    rules = translate_annotation("deny tcp to port 22; allow\nallow udp", "prod").rules
    assert [(r.action, r.protocol, r.origin.index) for r in rules.ingress] == [
        (Action.DENY, 6, 0),
        (Action.ALLOW, None, 1),
        (Action.ALLOW, 17, 2),
    ]
    assert {(r.origin.kind, r.origin.namespace, r.origin.name) for r in rules.ingress} == {
        ("Pod", "prod", "")
    }


@pytest.mark.parametrize("text", ["", "  \n", "# nothing"])
def test_an_empty_text_is_a_policy_without_rules(text: str) -> None:
    profile = translate_annotation(text, "prod")
    assert profile.rules.ingress == ()
    assert profile.text == ""


@pytest.mark.parametrize("text", ["allow frm", "allow; deny tcp to port 70000", "🙂", "a" * 10**6])
def test_a_text_that_does_not_parse_denies_everything(text: str) -> None:
    profile = translate_annotation(text, "prod")
    assert profile.text is None
    assert [(r.action, r.src, r.dst) for r in profile.rules.ingress] == [
        (Action.DENY, ANYTHING, ANYTHING)
    ]


@pytest.mark.parametrize("text", ["allow", "", "allow frm"])
def test_outbound_stays_open_whatever_the_text(text: str) -> None:
    (rule,) = translate_annotation(text, "prod").rules.egress
    assert (rule.action, rule.src, rule.dst) == (Action.ALLOW, ANYTHING, ANYTHING)


def test_every_broken_statement_is_a_finding_with_its_place() -> None:
    text = "allow tcp frm label a=b\nallow\ndeny tcp to port 70000"
    findings = annotation_findings(AnnotationText("policy", text), POD)
    assert [text[slice(*f.span)] for f in findings if f.span] == ["frm", "70000"]
    assert {(f.code, f.severity, f.object, f.path) for f in findings} == {
        (Code.ANNOTATION_SYNTAX, Severity.ERROR, POD, ("metadata", "annotations", "policy"))
    }
    assert "did you mean 'from'?" in findings[0].message
    assert "^^^" in findings[0].excerpt


def test_the_first_key_that_is_there_holds_even_if_it_is_empty() -> None:
    annotations = {"policy": "allow", "projectcalico.org/policy": ""}
    keys = ("projectcalico.org/policy", "policy")
    assert find_annotation(annotations, keys) == AnnotationText("projectcalico.org/policy", "")
    assert find_annotation({"policy": "allow"}, keys) == AnnotationText("policy", "allow")
    assert find_annotation({}, keys) is None
