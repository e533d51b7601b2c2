"""What lint says of policies, and that well-known recipes are no mistakes."""

import pytest

from calico_k8s.lint.problems import Problem
from calico_k8s.lint.rules import lint_manifests
from tests.nine_pods import manifests
from tests.translate.test_calico_policies import everywhere, in_x, tier
from tests.translate.test_network_policies import policy
from tests.truth_table import CASES, Case, text

DNS_POD = """
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
---"""
TO_DNS = "{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{protocol: UDP, port: 53}]}"
IN_X = "podSelector: {matchLabels: {pod: a}}"

RECIPES: dict[str, tuple[str, ...]] = {
    "deny all in": (policy("podSelector: {}, policyTypes: [Ingress]"),),
    "deny all out": (policy("podSelector: {}, policyTypes: [Egress]"),),
    "deny all both ways": (policy("podSelector: {}, policyTypes: [Ingress, Egress]"),),
    "deny all out but DNS": (
        policy(f"podSelector: {{}}, policyTypes: [Egress], egress: [{TO_DNS}]"),
        DNS_POD,
    ),
    "deny all out, DNS by another policy, and one that opens": (
        policy("podSelector: {}, policyTypes: [Egress]", "deny"),
        policy(f"podSelector: {{}}, policyTypes: [Egress], egress: [{TO_DNS}]", "dns"),
        policy(f"{IN_X}, policyTypes: [Egress], egress: [{{to: [{{podSelector: {{}}}}]}}]", "to"),
        DNS_POD,
    ),
    "allow all beside deny all": (
        policy("podSelector: {}, policyTypes: [Ingress]", "deny"),
        policy("podSelector: {}, ingress: [{}]", "allow"),
    ),
    "from other namespaces by a label that is not here": (
        policy(
            f"{IN_X}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{purpose: p}}}}}}]}}]"
        ),
    ),
    "out to the internet, not to private nets": (
        policy(
            f"{IN_X}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}}}]}}]"
        ),
    ),
    "out to one address": (
        policy(
            f"{IN_X}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 192.0.2.1/32}}}}], ports: [{{port: 443}}]}}]"
        ),
    ),
    "a policy for pods that other manifests have": (
        policy("podSelector: {matchLabels: {app: web}}", namespace="elsewhere"),
    ),
    "a deny all of a whole cluster, the system's namespaces aside": (
        everywhere(
            "selector: has(projectcalico.org/namespace), types: [Ingress, Egress], "
            "namespaceSelector: \"kubernetes.io/metadata.name not in {'kube-system'}\""
        ),
    ),
    "a tier that passes what it does not deny": (
        tier("security", "order: 10"),
        everywhere(
            "tier: security, selector: all(), ingress: "
            "[{action: Deny, source: {nets: [192.0.2.0/24]}}, {action: Pass}]"
        ),
        in_x("ingress: [{action: Allow}]", "open"),
    ),
    "a log before the end": (in_x("order: 1, ingress: [{action: Log}]"), in_x("order: 2", "q")),
}


def found(*texts: str) -> list[Problem]:
    return list(lint_manifests(manifests(*texts)))


@pytest.mark.parametrize("name", RECIPES)
def test_a_well_known_recipe_is_no_mistake(name: str) -> None:
    assert found(*RECIPES[name]) == []


@pytest.mark.parametrize("case", CASES, ids=[case.words for case in CASES])
def test_the_truth_table_has_the_mistakes_that_it_is_about(case: Case) -> None:
    expected = {
        "an empty egress without types says nothing of egress": {"policy-direction-ignored"},
        "ingress rules of a policy of egress alone say nothing": {"policy-direction-ignored"},
        "to a name that no pod has": {"port-name-unknown"},
        "out to a label of a namespace": set(),
    }
    codes = {problem.code for problem in found(text(case))} - {"object-duplicate"}
    assert codes - {"egress-without-dns"} == expected.get(case.words, set())


@pytest.mark.parametrize(
    ("texts", "code", "said"),
    [
        (
            (policy("podSelector: {}", "deny"), policy(f"{IN_X}, policyTypes: [Ingress, Egress], egress: [{{to: [{{podSelector: {{}}}}], ports: [{{port: 80}}]}}]", "to")),
            "egress-without-dns",
            "x/a may reach others",
        ),
        ((policy(f"{IN_X}, ingress: [{{from: [{{podSelector: {{matchLabels: {{pod: A}}}}}}]}}]"),), "peer-matches-nothing", "no pod of namespace x has labels with pod == 'A'"),
        ((policy("podSelector: {matchLabels: {pod: A}}"),), "policy-selects-nothing", "no pod of namespace x"),
        ((in_x("selector: pod == 'A'"),), "policy-selects-nothing", "no pod of namespace x"),
        ((policy(f"{IN_X}, ingress: [{{ports: [{{port: htp}}]}}]"),), "port-name-unknown", "named 'htp'"),
        ((everywhere("namespaceSelector: ns != 'x'"),), "namespace-selector-negative", "host endpoints too"),
        ((in_x("order: 1, ingress: [{action: Pass}]"), in_x("order: 2", "q")), "policy-shadowed", "CalicoNetworkPolicy/x/p"),
        ((policy("podSelector: {}, policyTypes: [Ingress], ingress: [], egress: [{}]"),), "policy-direction-ignored", "no Egress"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_alone(texts: tuple[str, ...], code: str, said: str) -> None:
    problems = found(*texts)
    assert {problem.code for problem in problems} == {code}
    assert all(said in problem.message and problem.line for problem in problems)
