"""Coverage of statements: a table, and the definition's word that it is never wrong."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import grammar
from calico_k8s.lint.covers import covers
from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import IcmpMatch
from calico_k8s.policy.match import Flow, rule_matches
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.translate import objects
from calico_k8s.translate.annotations import translate_statement
from calico_k8s.translate.cluster import translate_all


def statement(text: str) -> grammar.Statement:
    (only,) = grammar.parse_policy(text).statements
    return only


@pytest.mark.parametrize(
    ("first", "second", "is_covered"),
    [
        ("allow", "deny tcp to port 80", True),
        ("allow tcp", "allow tcp to port 80", True),
        ("allow tcp", "allow udp", False),
        ("allow tcp", "allow", False),
        ("allow icmp", "allow icmp type 8", True),
        ("allow icmp type 8", "allow icmp type 8 code 0", True),
        ("allow icmp type 8 code 0", "allow icmp type 8", False),
        ("allow tcp to port 1:100,http", "allow tcp to port 20:30,80,http", True),
        ("allow tcp to port 1:100", "allow tcp to port 80,http", False),
        ("allow from cidr 10.0.0.0/8,11.0.0.0/8", "allow from cidr 10.1.0.0/16,11.0.0.1", True),
        ("allow from cidr 10.0.0.0/8", "allow from cidr 10.0.0.0/8,11.0.0.0/8", False),
        ("allow from cidr 0.0.0.0/0", "allow from cidr fd00::/8", False),
        ("allow from cidr 0.0.0.0/0", "allow from label a=b", False),
        ("allow from label a=b", "allow from label a=b label c=d", True),
        ("allow from label a=b label c=d", "allow from label a=b", False),
        ("allow from label a=b", "allow from namespace own label a=b", True),
        ("allow from label a=b", "allow from namespace other label a=b", False),
        ("allow from namespace own", "allow from label a=b", True),
        ("allow from namespace own", "allow from namespace own", True),
        ("allow from namespace own", "allow from cidr 10.0.0.0/8", False),
        ("allow from selector (has(a))", "allow from selector (has(a)) label c=d", True),
        ("allow from selector (has(a))", "allow from selector (has(b))", False),
        ("allow tcp from port 53", "allow tcp to port 53", False),
        ("allow from label a=b to label x=y", "allow from label a=b", False),
    ],
)
def test_a_statement_covers_what_it_leaves_nothing_of(
    first: str, second: str, is_covered: bool
) -> None:
    assert covers(statement(first), statement(second), "own") is is_covered


MATCHES = (
    "label a=1",
    "label b=1",
    "namespace own",
    "namespace other",
    "cidr 10.0.0.0/30",
    "cidr 10.0.0.0/29,fd00::/8",
    "selector (has(a))",
    "port 80",
    "port 80:90",
    "port web",
)


@st.composite
def statements(draw: st.DrawFn) -> grammar.Statement:
    words: list[str] = []
    for side in ("from", "to"):
        kinds = st.lists(st.sampled_from(MATCHES), max_size=2, unique_by=lambda m: m.split()[0])
        matches = [m for m in draw(kinds) if not (side == "to" and m.startswith("namespace"))]
        words += [side, *matches] if matches else []
    protocols = ("tcp", "udp") if "port" in " ".join(words) else ("tcp", "udp", "")
    return statement(" ".join(["allow", draw(st.sampled_from(protocols)), *words]))


def cluster() -> Snapshot:
    def pod(number: int, namespace: str, labels: dict[str, str]) -> objects.Pod:
        port = objects.ContainerPort(80 if number % 2 else 85, "web")
        return objects.Pod(
            objects.Metadata(name=f"p{number}", namespace=namespace, labels=labels),
            objects.PodSpec(node_name="n", containers=(objects.Container((port,)),)),
            objects.PodStatus("Running", f"10.0.0.{number}"),
        )

    labels: tuple[dict[str, str], ...] = (
        {},
        {"a": "1"},
        {"b": "1"},
        {"a": "1", "b": "1"},
        {"a": "2"},
    )
    pods = [
        pod(number, namespace, chosen)
        for number, (namespace, chosen) in enumerate(
            ((n, chosen) for n in ("own", "other") for chosen in labels), start=1
        )
    ]
    return Snapshot.from_items(translate_all(pods).items)


CLUSTER = cluster()
FLOWS = [
    Flow(Address(f"10.0.0.{src}"), Address(f"10.0.0.{dst}"), protocol, src_port, dst_port)
    for src in range(1, 13)
    for dst in range(1, 6)
    for protocol in (6, 17)
    for src_port, dst_port in ((80, 80), (85, 80), (80, 85), (1, 1))
]


@given(st.lists(statements(), min_size=10, max_size=20))
def test_no_flow_matches_a_covered_statement_without_matching_what_covers_it(
    drawn: list[grammar.Statement],
) -> None:
    for first, second in itertools.permutations(drawn, 2):
        if not covers(first, second, "own"):
            continue
        outer = translate_statement(first, "own", 0)
        inner = translate_statement(second, "own", 1)
        for flow in FLOWS:
            if rule_matches(CLUSTER, inner, flow):
                assert rule_matches(CLUSTER, outer, flow), flow


def test_icmp_codes_are_taken_by_their_type() -> None:
    outer = translate_statement(statement("allow icmp type 8"), "own", 0)
    flow = Flow(Address("10.0.0.1"), Address("10.0.0.2"), 1, icmp=IcmpMatch(8, 3))
    assert rule_matches(CLUSTER, outer, flow)
