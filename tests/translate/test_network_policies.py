"""Each row of what a NetworkPolicy means, on nine pods; and what is not understood allows nothing."""

import pytest

from calico_k8s.model.resources import PortRange
from calico_k8s.translate.network_policies import merge_ranges
from tests.nine_pods import World

EVERYBODY = "x/b x/c y/a y/b y/c z/a z/b z/c outside"
ELSEWHERE = "y/a y/b y/c z/a z/b z/c outside"
ALL_BUT_B = f"x/a x/c {ELSEWHERE}"
NOBODY = ""


def policy(spec: str, name: str = "p", namespace: str = "x") -> str:
    return f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}
---"""


def rules(ingress: str) -> str:
    return policy(f"podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{ingress}]")


def test_a_pod_that_no_policy_selects_is_open() -> None:
    assert World().sources("x/a") == EVERYBODY


@pytest.mark.parametrize(
    ("spec", "sources", "targets"),
    [
        ("podSelector: {}", NOBODY, ELSEWHERE),
        ("", NOBODY, ELSEWHERE),
        ("policyTypes: []", NOBODY, ELSEWHERE),
        ("podSelector: {matchLabels: {pod: b}}", EVERYBODY, f"x/c {ELSEWHERE}"),
        ("podSelector: {}, policyTypes: [Egress]", ELSEWHERE, NOBODY),
        ("podSelector: {}, policyTypes: [Ingress, Egress]", NOBODY, NOBODY),
        ("podSelector: {}, egress: []", NOBODY, ELSEWHERE),
        ("podSelector: {}, egress: [{}]", NOBODY, ELSEWHERE),
        ("podSelector: {}, egress: [{ports: [{port: 79}]}]", NOBODY, NOBODY),
        ("podSelector: {}, ingress: []", NOBODY, ELSEWHERE),
        ("podSelector: {}, ingress: null", NOBODY, ELSEWHERE),
        ("podSelector: {}, ingress: [{}]", EVERYBODY, EVERYBODY),
        ("podSelector: {}, policyTypes: [Egress], ingress: [{}]", ELSEWHERE, NOBODY),
        ("podSelector: {}, ingress: [{from: [], ports: []}]", EVERYBODY, EVERYBODY),
    ],
)
def test_the_directions_a_policy_speaks_for(spec: str, sources: str, targets: str) -> None:
    world = World(policy(spec))
    assert (world.sources("x/a"), world.targets("x/a")) == (sources, targets)
    assert world.codes == []


@pytest.mark.parametrize(
    ("peers", "sources"),
    [
        ("{podSelector: {}}", "x/b x/c"),
        ("{podSelector: {matchLabels: {pod: b}}}", "x/b"),
        ("{podSelector: {matchLabels: {pod: nobody}}}", NOBODY),
        ("{namespaceSelector: {}}", "x/b x/c y/a y/b y/c z/a z/b z/c"),
        ("{namespaceSelector: {matchLabels: {ns: y}}}", "y/a y/b y/c"),
        (
            "{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}",
            "y/b",
        ),
        (
            "{namespaceSelector: {matchLabels: {ns: y}}}, {podSelector: {matchLabels: {pod: b}}}",
            "x/b y/a y/b y/c",
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [y, z]}]}}",
            "y/a y/b y/c z/a z/b z/c",
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [y]}]}}",
            "x/b x/c z/a z/b z/c",
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [t]}]}}",
            "x/b x/c y/a y/b y/c z/a z/b z/c",
        ),
        ("{podSelector: {matchExpressions: [{key: pod, operator: Exists}]}}", "x/b x/c"),
        ("{podSelector: {matchExpressions: [{key: pod, operator: DoesNotExist}]}}", NOBODY),
        ("{podSelector: {matchExpressions: [{key: none, operator: DoesNotExist}]}}", "x/b x/c"),
        (
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}",
            "z/a z/b z/c",
        ),
        ("{ipBlock: {cidr: 10.0.2.0/24}}", "y/a y/b y/c"),
        ("{ipBlock: {cidr: 10.0.2.9/24}}", "y/a y/b y/c"),
        ("{ipBlock: {cidr: 010.0.002.0/24}}", "y/a y/b y/c"),
        ("{ipBlock: {cidr: 10.0.2.0/24, except: [10.0.2.1/32]}}", "y/b y/c"),
        (
            "{ipBlock: {cidr: 10.0.2.0/24, except: [10.0.2.1/32]}}, {ipBlock: {cidr: 10.0.2.1/32}}",
            "y/a y/b y/c",
        ),
        ("{ipBlock: {cidr: 0.0.0.0/0}}", EVERYBODY),
        ("{ipBlock: {cidr: '::/0'}}", NOBODY),
    ],
)
def test_whom_a_rule_names(peers: str, sources: str) -> None:
    world = World(rules(f"{{from: [{peers}]}}"))
    assert world.sources("x/a") == sources
    assert world.codes == []


def test_an_address_block_is_of_one_family() -> None:
    world = World(rules("{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}"))
    assert world.sources("x/a", family=6) == NOBODY
    world = World(rules("{from: [{ipBlock: {cidr: 'fd00::2:0/112'}}]}"))
    assert (world.sources("x/a"), world.sources("x/a", family=6)) == (NOBODY, "y/a y/b y/c")


@pytest.mark.parametrize(
    ("ports", "allowed"),
    [
        ("", "tcp/80 tcp/81 udp/80 sctp/81 132/0 47/0"),
        ("{}", "tcp/80 tcp/81"),
        ("{port: 80}", "tcp/80"),
        ("{protocol: UDP}", "udp/80"),
        ("{protocol: SCTP, port: 81}", "sctp/81"),
        ("{port: 80, endPort: 81}", "tcp/80 tcp/81"),
        ("{port: 81, endPort: 90}", "tcp/81"),
        ("{port: 80}, {port: 80, protocol: UDP}", "tcp/80 udp/80"),
        ("{port: http}", "tcp/80"),
        ("{port: http, protocol: UDP}", NOBODY),
        ("{port: nobody}", NOBODY),
        ("{port: http}, {port: 81}", "tcp/80 tcp/81"),
    ],
)
def test_the_ports_a_rule_names(ports: str, allowed: str) -> None:
    world = World(rules(f"{{ports: [{ports}]}}"))
    asked = ("tcp/80", "tcp/81", "udp/80", "sctp/81", "132/0", "47/0")
    assert " ".join(each for each in asked if world.allows("y/b", "x/a", each)) == allowed


def test_a_named_port_is_each_destination_pod_s_own() -> None:
    every = World(policy("podSelector: {}, ingress: [{ports: [{port: http}]}]"))
    assert every.allows("y/a", "x/a", "tcp/80")
    assert not every.allows("y/a", "x/c", "tcp/80")
    assert every.allows("y/a", "x/c", "tcp/81")
    outward = World(
        policy("podSelector: {}, egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]")
    )
    assert outward.allows("x/a", "y/b", "tcp/80")
    assert outward.allows("x/a", "y/c", "tcp/81")
    assert not outward.allows("x/a", "y/c", "tcp/80")
    assert not outward.allows("x/a", "outside", "tcp/80")


def test_policies_add_up_and_the_order_of_names_does_not_matter() -> None:
    one = "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]"
    other = "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]"
    for first, second in (("p", "q"), ("q", "p")):
        world = World(policy(one, first), policy(other, second), policy("podSelector: {}", "none"))
        assert world.sources("x/a") == "x/b y/a y/b y/c"


def test_a_policy_acts_in_its_own_namespace_only() -> None:
    assert World(policy("podSelector: {}", namespace="y")).sources("x/a") == EVERYBODY


def test_a_pod_reaches_itself_and_is_reached_from_its_own_node_whatever_is_denied() -> None:
    world = World(policy("podSelector: {}, policyTypes: [Ingress, Egress]"))
    assert world.allows("x/a", "x/a")
    nodes = world.snapshot.nodes.values()
    own = next(node for node in nodes if node.name == "node-1").addresses[0]
    other = next(node for node in nodes if node.name == "node-2").addresses[0]
    assert (world.allows(own, "x/a"), world.allows(other, "x/a")) == (True, False)


def test_a_policy_replaces_the_annotation_and_the_flag_in_the_directions_it_speaks_for() -> None:
    closed = "{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {projectcalico-policy: closed}}}\n---"
    assert World(closed).sources("x/a") == "x/b x/c"
    assert World(closed, rules("{from: [{ipBlock: {cidr: 10.0.2.1/32}}]}")).sources("x/a") == "y/a"
    assert (
        World(closed, policy("podSelector: {}, policyTypes: [Egress], egress: [{}]")).sources("x/a")
        == "x/b x/c"
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{from: [{}]}", "spec.ingress[0].from[0] names no peer"),
        ("{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}", "beside a selector"),
        ("{from: [{ipBlock: {cidr: 10.0.0/8}}]}", "spec.ingress[0].from[0].ipBlock[0] is no CIDR"),
        ("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}", "is not inside"),
        ("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}", "is not inside"),
        ("{from: [{podSelector: {}}, {someday: {}}]}", "someday is no field that is known here"),
        ("{ports: [{port: 0}]}", "are no ports"),
        ("{ports: [{port: 65536}]}", "are no ports"),
        ("{ports: [{port: 80, endPort: 79}]}", "are no ports"),
        ("{ports: [{endPort: 79}]}", "needs a port"),
        ("{ports: [{port: http, endPort: 79}]}", "needs a port that is a number"),
        ("{ports: [{port: '80'}]}", "take it out of the quotes"),
        ("{ports: [{protocol: ICMP}]}", "TCP, UDP or SCTP"),
        ("{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}", "needs some"),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]}",
            "needs none",
        ),
        ("{from: [{podSelector: {matchLabels: {'a b': c}}}]}", "is no key of a label"),
        ("{from: [{podSelector: {matchLabels: {a: 'b c'}}}]}", "is no value of a label"),
        ("7", "should be a mapping"),
    ],
)
def test_a_rule_that_is_not_understood_allows_nothing_and_leaves_the_others(
    rule: str, said: str
) -> None:
    world = World(rules(f"{rule}, {{from: [{{podSelector: {{matchLabels: {{pod: b}}}}}}]}}"))
    assert world.sources("x/a") == "x/b"
    assert world.codes == ["policy-invalid"]
    assert said in world.messages
    assert world.messages.endswith("so it matches nothing")


@pytest.mark.parametrize(
    ("spec", "sources_of_others"),
    [
        ("podSelector: {matchLabels: 7}, ingress: [{}]", NOBODY),
        ("podSelector: {matchLabels: {pod: 'a b'}}, ingress: [{}]", NOBODY),
        ("podSelector: [], ingress: [{}]", NOBODY),
        ("podSelector: {matchLabels: {pod: a}}, ingress: [{}], someday: 1", ALL_BUT_B),
        ("podSelector: {matchLabels: {pod: a}}, ingress: 7", ALL_BUT_B),
        ("podSelector: {matchLabels: {pod: a}}, policyTypes: [Both]", f"x/c {ELSEWHERE}"),
    ],
)
def test_a_policy_that_is_not_understood_isolates_and_allows_nothing(
    spec: str, sources_of_others: str
) -> None:
    world = World(policy(spec))
    assert world.sources("x/a") == NOBODY
    assert world.sources("x/b") == sources_of_others
    assert world.codes == ["policy-invalid"]


def test_rules_that_are_no_list_deny_nothing_that_another_policy_allows() -> None:
    broken = policy("podSelector: {}, ingress: 7", "a")
    world = World(broken, policy("podSelector: {}, ingress: [{}]", "b"))
    assert (world.sources("x/a"), world.codes) == (EVERYBODY, ["policy-invalid"])


def test_a_policy_without_a_spec_isolates_its_namespace() -> None:
    bare = (
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: x}}"
    )
    world = World(bare)
    assert (world.sources("x/a"), world.targets("x/a")) == (NOBODY, NOBODY)
    assert world.codes == ["policy-invalid"]


def test_ranges_of_ports_are_merged() -> None:
    given = map(PortRange, (80, 443, 81, 90, 85), (80, 443, 81, 95, 92))
    assert merge_ranges(given) == (PortRange(80, 81), PortRange(85, 95), PortRange(443, 443))
