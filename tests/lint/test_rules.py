"""Whole inputs to problems: places, one problem for one mistake, and silence where all is well."""

from pathlib import Path

import msgspec
import pytest

from calico_k8s.lint.problems import Problem
from calico_k8s.lint.rules import lint_cluster, lint_manifests
from calico_k8s.lint.view import View
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import expand
from calico_k8s.sources.manifests import read_manifests
from calico_k8s.translate.namespaces import TranslateSettings

APPS = Path(__file__).parent.parent / "apps"


def lint(text: str, settings: TranslateSettings | None = None) -> tuple[Problem, ...]:
    reading = read_text(text, "f.yaml")
    return lint_manifests(reading.manifests, reading.errors, settings)


def told(text: str) -> list[str]:
    return [f"{p.line}:{p.column} {p.code}" for p in lint(text)]


@pytest.mark.parametrize("app", sorted(path.name for path in APPS.iterdir()))
def test_an_application_without_a_mistake_is_met_with_silence(app: str) -> None:
    found = read_manifests([str(APPS / app)])
    assert lint_manifests(found.manifests, found.errors) == ()


def deployment(policy: str, replicas: int = 3, more: str = "") -> str:
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  template:
    metadata:
      labels: {{app: web}}
      annotations:
        policy: {policy}
    spec:
      containers:
      - ports: [{{name: http, containerPort: 8080}}]
{more}"""


def test_a_mistake_in_a_template_is_told_once_at_the_wrong_word() -> None:
    (problem,) = lint(deployment("allow tcp frm label app=web"))
    assert (problem.line, problem.column) == (10, 27)
    assert problem.object == "Deployment/default/web"
    assert "did you mean 'from'?" in problem.message


def test_every_broken_statement_of_a_text_is_told() -> None:
    policy = "|\n          alow tcp\n          allow tcp to port 70000"
    assert told(deployment(policy)) == ["11:11 annotation-syntax", "12:29 annotation-syntax"]


def test_a_template_without_a_pod_now_is_checked_too() -> None:
    assert told(deployment("allow tcp frm", replicas=0)) == ["10:27 annotation-syntax"]


@pytest.mark.parametrize(
    ("policy", "codes"),
    [
        ("allow tcp from label app=web to port http", []),
        ("allow tcp from label app=wbe", ["peer-matches-nothing"]),
        ("allow from selector (app == 'web' || has(b))", []),
        ("allow from selector (!has(b)) label app=web", []),
        ("allow from selector (has(b))", ["peer-matches-nothing"]),
        ("allow from namespace default", []),
        ("allow from namespace defalt", ["namespace-unknown"]),
        ("allow from namespace defalt label a=b", ["namespace-unknown"]),
        ("allow udp to port http", ["port-name-unknown"]),
        ("allow tcp to port 80,https", ["port-name-unknown"]),
        ("allow tcp to label app=web", []),
        ("allow tcp to label app=db", ["target-mismatch"]),
        ("allow tcp to selector (app != 'web')", ["target-mismatch"]),
        ("allow tcp to selector (projectcalico.org/namespace == 'default')", []),
        ("deny tcp; allow tcp to port 80", ["statement-shadowed"]),
        ("allow tcp to port 80; deny tcp", []),
        ("''", []),
    ],
)
def test_statements_that_can_do_nothing_are_told(policy: str, codes: list[str]) -> None:
    quoted = policy if policy == "''" else f'"{policy}"'
    assert [problem.code for problem in lint(deployment(quoted))] == codes


def test_the_nearest_label_is_given() -> None:
    (problem,) = lint(deployment("allow tcp from label app=wbe"))
    assert problem.message.endswith("did you mean 'app=web'?")


def test_a_peer_on_its_node_s_network_is_told_to_count_as_a_node() -> None:
    host = (
        "---\nkind: Pod\napiVersion: v1\nmetadata: {name: h, labels: {a: b}}\n"
        "spec: {hostNetwork: true}\n"
    )
    (problem,) = lint(deployment("allow tcp from label a=b", more=host))
    assert problem.message.endswith("count as nodes")


SERVICE = """\
---
apiVersion: v1
kind: Service
metadata: {{name: web, labels: {{projectcalico-policy: open}}}}
spec:
  type: {type}
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: {target}}}]
  externalTrafficPolicy: {traffic}
"""


@pytest.mark.parametrize(
    ("type_", "traffic", "policy", "codes"),
    [
        ("LoadBalancer", "Cluster", "allow tcp from cidr 203.0.113.0/24", ["cidr-hidden"]),
        ("NodePort", "Cluster", "allow tcp from cidr 203.0.113.0/24", ["cidr-hidden"]),
        ("LoadBalancer", "Local", "allow tcp from cidr 203.0.113.0/24", []),
        ("ClusterIP", "Cluster", "allow tcp from cidr 203.0.113.0/24", []),
        ("LoadBalancer", "Cluster", "allow tcp from cidr 0.0.0.0/0", []),
        ("LoadBalancer", "Cluster", "allow tcp to port 8080", []),
    ],
)
def test_a_source_that_cannot_be_seen_is_told(
    type_: str, traffic: str, policy: str, codes: list[str]
) -> None:
    service = SERVICE.format(type=type_, traffic=traffic, target=8080)
    assert [problem.code for problem in lint(deployment(policy, more=service))] == codes


BLOCKS = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p}}
spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: 80}}]}}, {{from: [{{ipBlock: {{cidr: {cidr}}}}}]}}]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: g}}
spec: {{order: 1, types: [Ingress], ingress: [{{action: Deny, source: {{nets: [{cidr}]}}}}]}}
---
apiVersion: v1
kind: Node
metadata: {{name: n1}}
status: {{addresses: [{{type: InternalIP, address: 192.168.0.1}}]}}
"""


@pytest.mark.parametrize(
    ("traffic", "cidr", "told_of"),
    [
        ("Cluster", "203.0.113.0/24", ["GlobalNetworkPolicy/g", "NetworkPolicy/default/p"]),
        ("Local", "203.0.113.0/24", []),
        ("Cluster", "0.0.0.0/0", []),
        ("Cluster", "192.168.0.0/16", []),
    ],
)
def test_so_is_one_that_a_policy_looks_for(traffic: str, cidr: str, told_of: list[str]) -> None:
    """Once for each rule, though it is of three pods; nets that hold a node mean that."""
    service = SERVICE.format(type="LoadBalancer", traffic=traffic, target=8080)
    found = lint(deployment("allow tcp", more=service + BLOCKS.format(cidr=cidr)))
    hidden = [problem for problem in found if problem.code == "cidr-hidden"]
    assert sorted(problem.object for problem in hidden) == told_of
    assert all("LoadBalancer of service 'web'" in problem.message for problem in hidden)


NODES = """\
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
"""

WEBHOOK = """\
---
apiVersion: v1
kind: Service
metadata: {name: hook}
spec: {selector: {app: web}, ports: [{port: 443, targetPort: 8443}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: hook}
webhooks: [{clientConfig: {service: {name: hook, namespace: default}}}]
"""


@pytest.mark.parametrize(
    ("policy", "nodes", "codes"),
    [
        ("allow tcp from label app=web", "", ["webhook-unreachable"]),
        ("allow tcp to port 8443", "", []),
        ("allow tcp to port 443", "", ["webhook-unreachable"]),
        ("allow tcp from cidr 10.1.0.0/16 to port 8443", "", []),
        ("allow tcp from cidr 10.1.0.0/16 to port 8443", NODES, ["webhook-unreachable"]),
        ("allow tcp from cidr 192.168.0.0/24 to port 8443", NODES, []),
    ],
)
def test_a_webhook_that_nodes_cannot_call_is_told_with_its_repair(
    policy: str, nodes: str, codes: list[str]
) -> None:
    problems = lint(deployment(policy, more=WEBHOOK + nodes))
    assert [problem.code for problem in problems] == codes
    if codes:
        cidr = "192.168.0.1/32,192.168.0.2/32" if nodes else "NODES"
        assert f"add 'allow tcp from cidr {cidr} to port 8443'" in problems[0].message


def test_the_repair_that_is_told_repairs() -> None:
    statement = "allow tcp from cidr 192.168.0.1/32,192.168.0.2/32 to port 8443"
    policy = f"allow tcp from label app=web; {statement}"
    assert lint(deployment(policy, more=WEBHOOK + NODES)) == ()


INGRESS = """\
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: controller, namespace: ingress}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - http: {paths: [{backend: {service: {name: web, port: {name: http}}}}]}
"""


@pytest.mark.parametrize(
    ("policy", "codes"),
    [
        ("allow tcp from label app=web", ["ingress-unreachable"]),
        ("allow tcp from namespace ingress to port http", []),
        ("allow tcp from cidr 10.9.0.0/16 to port 8080", []),
        ("allow tcp to port http", []),
    ],
)
def test_an_ingress_that_nobody_outside_can_serve_is_told(policy: str, codes: list[str]) -> None:
    assert [p.code for p in lint(deployment(policy, more=INGRESS))] == codes


def test_the_default_of_the_controller_counts() -> None:
    settings = TranslateSettings(default_namespace_policy="closed")
    text = WEBHOOK + "---\nkind: Pod\napiVersion: v1\nmetadata: {name: w, labels: {app: web}}\n"
    assert lint(text) == ()
    (problem,) = lint(text, settings)
    assert "annotate them with 'allow from namespace default; allow tcp" in problem.message


@pytest.mark.parametrize(
    "policy",
    ["🙂", "allow " + "x" * 1_000_000, f"allow from selector ({'(' * 200}a{')' * 200})"],
    ids=("emoji", "a megabyte", "deep"),
)
def test_a_policy_that_is_no_text_of_ours_closes_its_pod_and_is_told(policy: str) -> None:
    (problem,) = lint(deployment(f"'{policy}'"))
    assert (problem.code, problem.line) == ("annotation-syntax", 10)


def test_forty_parentheses_and_a_key_with_slash_and_underscore_are_fine() -> None:
    deep = f"allow from selector ({'(' * 40}has(app){')' * 40})"
    assert lint(deployment(deep)) == ()
    odd = "---\nkind: Pod\napiVersion: v1\nmetadata: {name: o, labels: {example.org/a_b: c}}\n"
    assert lint(deployment("allow tcp from label example.org/a_b=c", more=odd)) == ()


def test_a_broken_file_is_a_problem_beside_those_of_the_rest() -> None:
    assert told(deployment("alow") + "---\na: b: c\n") == [
        "10:17 annotation-syntax",
        "15:5 manifest-unreadable",
    ]


def test_a_cluster_that_no_file_holds_is_checked_without_places() -> None:
    cluster = expand(read_text(deployment("alow", replicas=1), "f").manifests)
    live = msgspec.structs.replace(cluster, written={}, findings=())
    problems = lint_cluster(View(live, TranslateSettings()))
    assert [(p.file, p.line, p.object) for p in problems] == [("", 0, "Pod/default/web-0")]
