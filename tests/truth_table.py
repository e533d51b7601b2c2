"""The truth table of NetworkPolicy: cases in words, each with its policies, on the nine pods.

In: nothing.  Out: :data:`CASES`, and what Kubernetes' own words say of each (:mod:`.kube_oracle`).
Source of the cases: those of the conformance tests of Kubernetes and of its policy working group.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import yaml

from calico_k8s.model.addresses import Version, address_version, parse_address
from calico_k8s.query.matrix import Cell, Word
from tests import kube_oracle
from tests.nine_pods import NAMESPACES, NINE, PODS, PORTS, PROTOCOLS, oracle_pods

Object = dict[str, Any]  # Any: what JSON can say


class Case(NamedTuple):
    """A line of the truth table; ``specs`` are of policies in namespace ``x``."""

    words: str
    specs: tuple[str, ...]
    namespace: str = "x"
    relabelled: Mapping[str, Mapping[str, str]] = {}
    """Pods ``x/a`` or namespaces ``y`` with other labels than the nine have."""
    families: tuple[Version, ...] = (4,)
    """Those of the pods' addresses."""

    def policies(self) -> list[Object]:
        """The policies as manifests."""
        return [
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": f"p{number}", "namespace": self.namespace},
                "spec": yaml.safe_load(f"{{{spec}}}"),
            }
            for number, spec in enumerate(self.specs, start=1)
        ]


A, B = "{matchLabels: {pod: a}}", "{matchLabels: {pod: b}}"
IN_Y = "{matchLabels: {ns: y}}"
ONLY_A = f"podSelector: {A}"
BOTH = "policyTypes: [Ingress, Egress]"
DNS = "egress: [{ports: [{protocol: UDP, port: 81}]}]"

CASES: tuple[Case, ...] = (
    Case("without a policy everything is allowed", (), families=(4, 6)),
    Case("deny all into a namespace", ("podSelector: {}",)),
    Case("deny all out of a namespace", ("podSelector: {}, policyTypes: [Egress]",)),
    Case("deny all both ways", (f"podSelector: {{}}, {BOTH}",)),
    Case("allow all into a namespace", ("podSelector: {}, ingress: [{}]",)),
    Case("deny all, and allow all beside it", ("podSelector: {}", "podSelector: {}, ingress: [{}]")),
    Case("deny all to a label", (ONLY_A,)),
    Case("an empty egress without types says nothing of egress", (f"{ONLY_A}, egress: []",)),
    Case("ingress rules of a policy of egress alone say nothing", (f"{ONLY_A}, policyTypes: [Egress], ingress: [{{}}]",)),
    Case("a policy in another namespace", ("podSelector: {}",), namespace="y"),
    Case("from a label of the same namespace", (f"{ONLY_A}, ingress: [{{from: [{{podSelector: {B}}}]}}]",)),
    Case("from a whole namespace by its label", (f"{ONLY_A}, ingress: [{{from: [{{namespaceSelector: {IN_Y}}}]}}]",)),
    Case("from a label and a namespace: one entry, both must hold", (f"{ONLY_A}, ingress: [{{from: [{{namespaceSelector: {IN_Y}, podSelector: {B}}}]}}]",)),
    Case("from a label or a namespace: two entries, either may hold", (f"{ONLY_A}, ingress: [{{from: [{{namespaceSelector: {IN_Y}}}, {{podSelector: {B}}}]}}]",)),
    Case("from every pod of the same namespace", (f"{ONLY_A}, ingress: [{{from: [{{podSelector: {{}}}}]}}]",)),
    Case("from every namespace", (f"{ONLY_A}, ingress: [{{from: [{{namespaceSelector: {{}}}}]}}]",)),
    Case("from namespaces without a label, by expression", (f"{ONLY_A}, ingress: [{{from: [{{namespaceSelector: {{matchExpressions: [{{key: ns, operator: NotIn, values: [x]}}]}}}}]}}]",)),
    Case("from pods that lack a key, by expression", (f"{ONLY_A}, ingress: [{{from: [{{podSelector: {{matchExpressions: [{{key: role, operator: DoesNotExist}}]}}}}]}}]",), relabelled={"x/b": {"pod": "b", "role": "x"}}),
    Case("policies add up", (f"{ONLY_A}, ingress: [{{from: [{{podSelector: {B}}}]}}]", f"{ONLY_A}, ingress: [{{from: [{{namespaceSelector: {IN_Y}}}]}}]")),
    Case("to one port", (f"{ONLY_A}, ingress: [{{ports: [{{port: 80}}]}}]",)),
    Case("to a port by its name, which differs from pod to pod", ("podSelector: {}, ingress: [{ports: [{port: http}]}]",)),
    Case("to a name that no pod has", (f"{ONLY_A}, ingress: [{{ports: [{{port: nobody}}]}}]",)),
    Case("to a range of ports", (f"{ONLY_A}, ingress: [{{ports: [{{port: 70, endPort: 80}}]}}]",)),
    Case("by UDP alone", (f"{ONLY_A}, ingress: [{{ports: [{{protocol: UDP}}]}}]",)),
    Case("by SCTP to one port", (f"{ONLY_A}, ingress: [{{ports: [{{protocol: SCTP, port: 80}}]}}]",)),
    Case("a port without a protocol is TCP", (f"{ONLY_A}, ingress: [{{ports: [{{}}]}}]",)),
    Case("from somebody to one port, from another to the other", (f"{ONLY_A}, ingress: [{{from: [{{podSelector: {B}}}], ports: [{{port: 80}}]}}, {{from: [{{namespaceSelector: {IN_Y}}}], ports: [{{port: 81}}]}}]",)),
    Case("out to a label of a namespace", (f"{ONLY_A}, policyTypes: [Egress], egress: [{{to: [{{namespaceSelector: {IN_Y}, podSelector: {B}}}]}}]",)),
    Case("out by one port only, as for DNS", (f"{ONLY_A}, policyTypes: [Egress], {DNS}",)),
    Case("out to the name of a port, each pod's own", (f"{ONLY_A}, policyTypes: [Egress], egress: [{{ports: [{{port: http}}]}}]",)),
    Case("from a block of addresses with an exception", (f"{ONLY_A}, ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/16, except: [10.0.2.0/24]}}}}]}}]",), families=(4, 6)),
    Case("out to the address of one pod", (f"{ONLY_A}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 10.0.2.1/32}}}}]}}]",)),
    Case("everything of IPv4 is nothing of IPv6", (f"{ONLY_A}, ingress: [{{from: [{{ipBlock: {{cidr: 0.0.0.0/0}}}}]}}]",), families=(4, 6)),
    Case("a pod that gets the label is let in, and the namespace that loses it is not", (f"{ONLY_A}, ingress: [{{from: [{{podSelector: {B}}}, {{namespaceSelector: {IN_Y}}}]}}]",), relabelled={"x/c": {"pod": "b"}, "y": {}}),
    Case("both ways at once: in from y, out to z by TCP 80", (f"podSelector: {{}}, {BOTH}, ingress: [{{from: [{{namespaceSelector: {IN_Y}}}]}}], egress: [{{to: [{{namespaceSelector: {{matchLabels: {{ns: z}}}}}}], ports: [{{port: 80}}]}}]",)),
)  # fmt: skip


def objects(case: Case) -> tuple[Object, ...]:
    """The nine pods as the case has them, and its policies."""
    relabelled = []
    for value in NINE:
        meta = value["metadata"]
        name = "/".join(filter(None, (meta.get("namespace"), meta["name"])))
        labels = case.relabelled.get(name, meta["labels"])
        made = {**value, "metadata": {**meta, "labels": dict(labels)}}
        if value["kind"] == "Pod":
            listed = value["status"]["podIPs"]
            own = [e for e in listed if address_version(parse_address(e["ip"])) in case.families]
            made["status"] = {"podIPs": own}
        relabelled.append(made)
    return (*relabelled, *case.policies())


def text(case: Case) -> str:
    """The same as YAML that replaces the nine pods."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects(case)})


def expected(case: Case) -> Iterator[Cell]:
    """What Kubernetes says of every pair, port, protocol and family."""
    pods, policies = oracle_pods(objects(case)), case.policies()
    for (src, a), (dst, b) in product(pods.items(), pods.items()):
        for src_ip, dst_ip in product(a.addresses, b.addresses):
            version = address_version(parse_address(src_ip))
            if version != address_version(parse_address(dst_ip)):
                continue
            for protocol, port in product(PROTOCOLS, PORTS):
                asked = kube_oracle.Connection(a, src_ip, b, dst_ip, protocol.upper(), port)
                is_allowed = kube_oracle.is_allowed(policies, asked)
                verdict: Word = "allow" if is_allowed else "deny"
                yield Cell(src, dst, port, protocol, version, verdict)


def lines(cases: tuple[Case, ...] = CASES) -> Iterator[str]:
    """The whole table for people: each case with its policies, and who reaches whom by what."""
    yield "Sources down, destinations across, in the order xa xb xc ya yb yc za zb zc."
    yield "✓ reaches it on every port by every protocol (and family), ✗ on none, a letter: as below."
    for number, case in enumerate(cases, start=1):
        yield ""
        yield f"{number}. {case.words}"
        for spec in case.specs:
            yield f"   in {case.namespace}: {spec}"
        for name, labels in case.relabelled.items():
            words = ", ".join(f"{key}={value}" for key, value in labels.items()) or "nothing"
            yield f"   {name} labelled {words}"
        yield from _matrix(case)


def _matrix(case: Case) -> Iterator[str]:
    names = [f"{namespace}/{pod}" for namespace, pod in product(NAMESPACES, PODS)]
    allowed: dict[tuple[str, str], list[str]] = {}
    for cell in expected(case):
        words = allowed.setdefault((cell.src, cell.dst), [])
        if cell.verdict == "allow":
            words.append(f"{cell.protocol} {cell.port} IPv{cell.family}")
    whole = len(PROTOCOLS) * len(PORTS) * len(case.families)
    letters: dict[str, str] = {}
    for src in names:
        row = ""
        for dst in names:
            found = allowed[src, dst]
            some = ", ".join(_services(found, case.families))
            sign = "✓" if len(found) == whole else "✗"
            if found and len(found) < whole:
                sign = letters.setdefault(some, chr(ord("a") + len(letters)))
            row += f" {sign}"
        yield f"     {src.replace('/', '')} {row}"
    for some, letter in letters.items():
        yield f"     {letter}: {some}"


def _services(words: list[str], families: tuple[Version, ...]) -> list[str]:
    """Without the family where a service is reached by every one."""
    services = dict.fromkeys(word.rpartition(" ")[0] for word in words)
    return [
        service if {f"{service} IPv{family}" for family in families} <= {*words} else word
        for service in services
        for word in [next(w for w in words if w.startswith(f"{service} "))]
    ]
