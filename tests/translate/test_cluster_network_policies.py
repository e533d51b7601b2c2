"""What a ClusterNetworkPolicy means beside the other models, and how it fails closed."""

import pytest

from calico_k8s.model.domains import parse_domain
from calico_k8s.model.resources import EntityMatch, Policy
from tests.nine_pods import World

EVERYBODY = "x/b x/c y/a y/b y/c z/a z/b z/c outside"
PODS_OF_X_AND_Z = "x/b x/c z/a z/b z/c outside"
FROM_Y = "[{namespaces: {matchLabels: {ns: y}}}]"
ANY_POD = "[{namespaces: {}}]"


def cluster_policy(rules: str, tier: str = "Admin", priority: int = 10, name: str = "p") -> str:
    return f"""
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: {name}}}
spec:
  tier: {tier}
  priority: {priority}
  subject: {{pods: {{namespaceSelector: {{matchLabels: {{ns: x}}}}, podSelector: {{matchLabels: {{pod: a}}}}}}}}
  {rules}
---"""


ALLOW_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: x}
spec: {podSelector: {}, ingress: [{}]}
---"""
DENY_ALL = ALLOW_ALL.replace(", ingress: [{}]", "")
DENY_Y = f"ingress: [{{action: Deny, from: {FROM_Y}}}]"
ACCEPT_Y = f"ingress: [{{action: Accept, from: {FROM_Y}}}]"
PASS_Y_DENY_ALL = f"ingress: [{{action: Pass, from: {FROM_Y}}}, {{action: Deny, from: {ANY_POD}}}]"


@pytest.mark.parametrize(
    ("others", "rules", "tier", "sources"),
    [
        ("", DENY_Y, "Admin", PODS_OF_X_AND_Z),
        (ALLOW_ALL, DENY_Y, "Admin", PODS_OF_X_AND_Z),
        (DENY_ALL, ACCEPT_Y, "Admin", "y/a y/b y/c"),
        (ALLOW_ALL, PASS_Y_DENY_ALL, "Admin", "y/a y/b y/c outside"),
        (DENY_ALL, PASS_Y_DENY_ALL, "Admin", ""),
        ("", DENY_Y, "Baseline", PODS_OF_X_AND_Z),
        (ALLOW_ALL, DENY_Y, "Baseline", EVERYBODY),
        (DENY_ALL, ACCEPT_Y, "Baseline", ""),
        ("", "ingress: []", "Admin", EVERYBODY),
        ("", f"egress: [{{action: Deny, to: {ANY_POD}}}]", "Admin", EVERYBODY),
    ],
)
def test_who_goes_before_whom(others: str, rules: str, tier: str, sources: str) -> None:
    world = World(others, cluster_policy(rules, tier))
    assert world.sources("x/a") == sources
    assert world.codes == []


def test_pods_without_a_namespace_selector_are_those_of_all_namespaces() -> None:
    """The definition that its project publishes takes it: such a deny was not enforced."""
    deny = "ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {pod: b}}}}]}]"
    subject = "namespaceSelector: {matchLabels: {ns: x}}, "
    for text in (cluster_policy(deny), cluster_policy(deny).replace(subject, "")):
        world = World(text)
        assert world.codes == []
        assert world.sources("x/a") == "x/c y/a y/c z/a z/c outside"
    assert World(text).sources("z/a") == "x/a x/c y/a y/c z/c outside"


def test_the_lower_priority_goes_first() -> None:
    first, second = (
        cluster_policy(DENY_Y, name="z"),
        cluster_policy(ACCEPT_Y, priority=11, name="a"),
    )
    assert not World(first, second).allows("y/a", "x/a")
    assert World(first.replace("10\n", "12\n"), second).allows("y/a", "x/a")


@pytest.mark.parametrize(
    ("given", "is_skipped"),
    [
        ("", False),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {ns: x, projectcalico-policy: open}}}", True),
        ("{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {ns: x}, annotations: {projectcalico-policy: open}}}", True),
        ("{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: all}, spec: {nets: [0.0.0.0/0]}}", False),
    ],
)  # fmt: skip
def test_baseline_is_silent_inbound_where_a_namespace_has_spoken(
    given: str, *, is_skipped: bool
) -> None:
    baseline = cluster_policy(f"{DENY_Y}\n  egress: [{{action: Deny, to: {ANY_POD}}}]", "Baseline")
    world = World(given, baseline)
    assert world.allows("y/a", "x/a") is is_skipped
    assert not world.allows("x/a", "y/a")


def test_baseline_is_silent_inbound_on_an_annotated_pod() -> None:
    annotated = """
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {pod: a}, annotations: {policy: allow}}
spec: {nodeName: node-1}
status: {podIP: 10.0.1.1}
---"""
    sets = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: all}, spec: {nets: [0.0.0.0/0]}}\n---"
    baseline = cluster_policy(DENY_Y, "Baseline")
    assert World(annotated, sets, baseline).allows("y/a", "x/a")
    assert not World(annotated, sets, cluster_policy(DENY_Y)).allows("y/a", "x/a")


@pytest.mark.parametrize(
    ("peers", "targets"),
    [
        ("{namespaces: {matchLabels: {ns: y}}}", "y/a y/b y/c"),
        (
            "{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}",
            "x/b y/b z/b",
        ),
        ("{networks: [10.0.2.0/24, 198.51.100.0/24]}", "y/a y/b y/c outside"),
        ("{networks: [0.0.0.0/0]}", EVERYBODY),
        ("{networks: ['::/0']}", ""),
    ],
)
def test_whom_an_egress_rule_names(peers: str, targets: str) -> None:
    rules = f"""egress:
  - {{action: Accept, to: [{peers}]}}
  - {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}"""
    world = World(cluster_policy(rules))
    assert world.targets("x/a") == targets
    assert world.codes == []


def test_nodes_are_named_by_their_labels_with_every_address() -> None:
    node = """
apiVersion: v1
kind: Node
metadata: {name: node-2, labels: {role: edge}}
status: {addresses: [{type: InternalIP, address: 192.168.7.2}, {type: ExternalIP, address: 203.0.113.2}]}
---"""
    rules = "egress: [{action: Deny, to: [{nodes: {matchLabels: {role: edge}}}]}]"
    world = World(node, cluster_policy(rules))
    assert not world.allows("x/a", "192.168.7.2")
    assert not world.allows("x/a", "203.0.113.2")
    assert world.allows("x/a", "203.0.113.3")
    every = World(node, cluster_policy("egress: [{action: Deny, to: [{nodes: {}}]}]"))
    assert not every.allows("x/a", "203.0.113.2")


@pytest.mark.parametrize(
    ("protocols", "denied"),
    [
        ("[{tcp: {destinationPort: {number: 80}}}]", "tcp/80"),
        ("[{udp: {destinationPort: {range: {start: 80, end: 81}}}}]", "udp/80"),
        ("[{tcp: {}}]", "tcp/80 tcp/81"),
        ("[{destinationNamedPort: http}]", "tcp/80"),
        ("[{tcp: {destinationPort: {number: 81}}}, {sctp: {destinationPort: {number: 80}}}]", "tcp/81 sctp/80"),
    ],
)  # fmt: skip
def test_the_protocols_a_rule_names(protocols: str, denied: str) -> None:
    world = World(
        cluster_policy(f"ingress: [{{action: Deny, from: {ANY_POD}, protocols: {protocols}}}]")
    )
    asked = ("tcp/80", "tcp/81", "udp/80", "sctp/80", "1/0")
    assert " ".join(each for each in asked if not world.allows("y/b", "x/a", each)) == denied
    assert world.codes == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("from: [{someday: {}}]", "someday is no field that is known here"),
        ("from: [{}]", "is not one known kind of peer"),
        ("from: [{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}]", "not one known kind"),
        ("from: []", "names no peer"),
        ("from: [{networks: [10.0.0.0/8]}]", "is neither namespaces nor pods"),
        (f"to: {ANY_POD}", "belongs to rules of the other direction"),
        (f"from: {ANY_POD}, protocols: [{{someday: {{}}}}]", "someday is no field"),
        (f"from: {ANY_POD}, protocols: [{{}}]", "is not one known protocol"),
        (f"from: {ANY_POD}, protocols: [{{tcp: {{destinationPort: {{}}}}}}]", "is not one of number and range"),
        (f"from: {ANY_POD}, protocols: [{{tcp: {{destinationPort: {{number: 0}}}}}}]", "are no ports"),
        (f"from: {ANY_POD}, someday: 1", "someday is no field"),
    ],
)  # fmt: skip
def test_an_accept_that_is_not_understood_accepts_nothing_a_deny_or_pass_denies_all(
    rule: str, said: str
) -> None:
    accepted = World(DENY_ALL, cluster_policy(f"ingress: [{{action: Accept, {rule}}}]"))
    assert accepted.sources("x/a") == ""
    for action in ("Deny", "Pass"):
        denied = World(cluster_policy(f"ingress: [{{action: {action}, {rule}}}]"))
        assert denied.sources("x/a") == ""
        assert denied.sources("x/b") == "x/a x/c y/a y/b y/c z/a z/b z/c outside"
        assert said in denied.messages
        assert denied.codes == ["policy-invalid"]


@pytest.mark.parametrize(
    ("action", "domain", "said"),
    [
        ("Deny", "a.io", "stands in rules with the action Accept only"),
        ("Accept", "www.*.io", "has a wildcard that is not its first label"),
        ("Accept", "*.*.io", "has two wildcards"),
        ("Accept", "", "is no domain name"),
    ],
)
def test_domain_names_that_cannot_be_used_are_told(action: str, domain: str, said: str) -> None:
    rule = f"egress: [{{action: {action}, to: [{{domainNames: ['{domain}']}}]}}]"
    assert said in World(cluster_policy(rule)).messages


def test_domain_names_are_domains_of_the_model() -> None:
    rule = "egress: [{action: Accept, to: [{domainNames: [A.io., '*.a.io']}]}]"
    items = World(cluster_policy(rule)).translation.items
    (policy,) = (value for value in items.values() if isinstance(value, Policy))
    assert policy.egress[0].dst == EntityMatch(
        domains=(parse_domain("a.io"), parse_domain("*.a.io"))
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("tier: Admin", "tier: Other", "neither Admin nor Baseline"),
        ("priority: 10", "priority: 1001", "is not 0 to 1000"),
        ("priority: 10", "priority: high", "should be a whole number"),
        ("subject: {pods", "subject: {namespaces: {}, pods", "is not one of namespaces and pods"),
        ("action: Deny", "action: Drop", "none of Accept, Deny and Pass"),
    ],
)
def test_a_policy_without_a_place_or_with_an_unknown_action_is_not_enforced_and_told(
    before: str, after: str, said: str
) -> None:
    text = cluster_policy(DENY_Y)
    assert before in text
    world = World(text.replace(before, after))
    assert world.sources("x/a") == EVERYBODY
    assert said in world.messages
    assert world.codes == ["policy-invalid"]


def test_a_field_of_a_newer_version_closes_what_the_policy_opens_and_widens_what_it_denies() -> (
    None
):
    world = World(DENY_ALL, cluster_policy(f"{ACCEPT_Y}\n  someday: 1"))
    assert world.sources("x/a") == ""
    assert World(cluster_policy(f"{DENY_Y}\n  someday: 1")).sources("x/a") == ""


def test_explanations_have_the_name_of_the_rule() -> None:
    world = World(cluster_policy(f"ingress: [{{name: no-y, action: Deny, from: {FROM_Y}}}]"))
    decision = world.judge("y/a", "x/a").deciding
    assert decision is not None
    assert (decision.deciding.kind, decision.deciding.title) == ("ClusterNetworkPolicy", "no-y")
