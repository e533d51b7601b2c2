"""ClusterNetworkPolicies: what its definition takes, what it refuses, and the fields that are known.

The good ones are those of ``tests/samples``.  A field's path is its names from the spec on, with
``[]`` for what a list holds; below a label selector, which is Kubernetes' own, nothing is told apart.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from calico_k8s.translate.cluster_network_policies import ClusterRule, Subject
from calico_k8s.translate.selecting import LabelSelector
from tests.cluster.objects import Document
from tests.sample_policies import samples

CLUSTER_POLICIES: tuple[Document, ...] = tuple(
    {
        policy["metadata"]["name"]: policy
        for sample in samples("cluster")
        for policy in sample.policies
        if policy["kind"] == "ClusterNetworkPolicy"
    }.values()
)

ALL: Document = {"namespaces": {}}
DENY: Document = {"action": "Deny", "to": [ALL]}

BAD_CLUSTER_POLICIES: list[tuple[str, Document]] = [
    ("spec.priority", {"priority": 1001}),
    ("spec.priority", {"priority": -1}),
    ("spec.tier", {"tier": "admin"}),
    ("spec.subject", {"subject": {}}),
    ("spec.subject", {"subject": {**ALL, "pods": {"namespaceSelector": {}, "podSelector": {}}}}),
    ("spec.subject.pods", {"subject": {"pods": {"namespaceSelector": {}}}}),
    ("spec.egress[0].action", {"egress": [{**DENY, "action": "Allow"}]}),
    ("spec.egress[0].to", {"egress": [{"action": "Deny", "to": []}]}),
    ("spec.egress[0].to[0]", {"egress": [{**DENY, "to": [{**ALL, "networks": ["10.0.0.0/8"]}]}]}),
    (
        "spec.egress[0].to[0].networks",
        {"egress": [{**DENY, "to": [{"networks": ["10.0.0.0/33"]}]}]},
    ),
    ("protocols[0]", {"egress": [{**DENY, "protocols": [{}]}]}),
    (
        "Start port must be less than End port",
        {
            "egress": [
                {
                    **DENY,
                    "protocols": [
                        {"tcp": {"destinationPort": {"range": {"start": 90, "end": 80}}}}
                    ],
                }
            ]
        },
    ),
    (
        "destinationPort.number",
        {"egress": [{**DENY, "protocols": [{"udp": {"destinationPort": {"number": 65536}}}]}]},
    ),
    (
        "networks/nodes/domainNames",
        {
            "egress": [
                {
                    "action": "Deny",
                    "to": [{"networks": ["10.0.0.0/8"]}],
                    "protocols": [{"destinationNamedPort": "web"}],
                }
            ]
        },
    ),
]
"""What is wrong, as the API server says it, and the fields of the spec that make it so."""


def field_paths(schema: Document, path: str = "") -> Iterator[str]:
    """Every field that a schema knows."""
    if schema.get("type") == "array":
        yield from field_paths(schema["items"], f"{path}[]")
    elif {"matchLabels", "matchExpressions"} == schema.get("properties", {}).keys():
        yield path
    elif "properties" in schema:
        for name, field in schema["properties"].items():
            yield from field_paths(field, f"{path}.{name}")
    else:
        yield path


ELSEWHERE = (
    ".ingress[].to",
    ".egress[].from",
    *(f".ingress[].from[].{peer}" for peer in ("networks", "nodes", "domainNames")),
)
"""What a rule of the other direction has: its shape is ours for both, and it is refused."""


def known_cluster_policy_fields() -> set[str]:
    """Every field that the translation knows, each where it has a meaning."""
    directions = (
        each for way in ("ingress", "egress") for each in _paths(ClusterRule, f".{way}[]")
    )
    known = {".tier", ".priority", *_paths(Subject, ".subject"), *directions}
    return {path for path in known if not path.startswith(ELSEWHERE)}


def _paths(type_: Any, path: str) -> Iterator[str]:  # Any: whatever a field is declared as
    info = msgspec.inspect.type_info(type_)
    yield from _inner(info, path)


def _inner(info: Any, path: str) -> Iterator[str]:  # Any: as above
    if isinstance(info, msgspec.inspect.UnionType):
        (only,) = [each for each in info.types if not isinstance(each, msgspec.inspect.NoneType)]
        yield from _inner(only, path)
    elif isinstance(info, msgspec.inspect.VarTupleType):
        yield from _inner(info.item_type, f"{path}[]")
    elif isinstance(info, msgspec.inspect.StructType) and info.cls is not LabelSelector:
        for field in info.fields:
            yield from _inner(field.type, f"{path}.{field.encode_name}")
    else:
        yield path
