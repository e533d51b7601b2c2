"""Whatever shape an object has: it is said what is wrong with it, and nothing else is raised."""

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.admission.review import Request, answer
from calico_k8s.errors import InputError
from calico_k8s.lint.rules import lint_manifests
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import compute_matrix, parse_service
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import expand
from calico_k8s.translate.cluster import translate_all
from calico_k8s.translate.namespaces import TranslateSettings

Json = Any  # what JSON can say

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
OBJECTS: list[Json] = [
    document
    for file in sorted(EXAMPLES.rglob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
    if isinstance(document, dict)
]
ODD: list[Json] = [
    *(
        None,
        True,
        0,
        -1,
        65536,
        2**63 - 1,
        1.5,
        "",
        "x",
        "*",
        "é\0",
        "a" * 300,
        "10.0.0.0/8",
        "::/0",
    ),
    *("global()", "!", "80:90", "http", "Deny", "Pass", "*.a.com", "2026-13-01T00:00:00Z"),
    *([], {}, [None], [[]], {"a": None}, {"": ""}),
]


def places(value: Json) -> Iterator[tuple[Json, str | int]]:
    """Every field and item: what it is in, and under which key."""
    fields = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in fields:
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def misshapen(draw: st.DrawFn) -> Json:
    """An example's object, some of whose fields are something else."""
    value = msgspec.json.decode(msgspec.json.encode(draw(st.sampled_from(OBJECTS))))
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(value))
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        holder[key] = deepcopy(draw(st.sampled_from(ODD)))
    return value


def looked_at(documents: list[Json]) -> None:
    """As lint, matrix and the webhook do."""
    text = "\n---\n".join(msgspec.json.encode(each).decode() for each in documents)
    read = read_text(text, "f.yaml")
    lint_manifests(read.manifests, read.errors, notes=True)
    objects = expand(read.manifests)
    snapshot = Snapshot.from_items(translate_all(objects.objects()).items)
    compute_matrix(snapshot, (parse_service("80"), parse_service("icmp")))


@given(documents=st.lists(misshapen(), min_size=1, max_size=3))
def test_any_shape_is_told_of_and_nothing_else_is_raised(documents: list[Json]) -> None:
    with suppress(InputError):
        looked_at(documents)
    for document in documents:
        answer(Request("uid", object=document), TranslateSettings())


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {"policyTypes": 7, "egress": []}},
        {"kind": "Pod", "metadata": "p", "spec": {}},
        {"kind": "Pod", "metadata": {"name": "p", "ownerReferences": [7]}, "spec": {"containers": 7}},
    ],
)  # fmt: skip
def test_shapes_that_once_were_too_much(document: Json) -> None:
    version = "networking.k8s.io/v1" if document["kind"] == "NetworkPolicy" else "v1"
    looked_at([{"apiVersion": version, **document}])
    answer(Request("uid", object={"apiVersion": version, **document}), TranslateSettings())
