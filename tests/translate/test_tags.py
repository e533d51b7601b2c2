"""Tags: the names of the contract, and one tag for one label."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calico_k8s.translate.tags import label_tag, namespace_tag


@pytest.mark.parametrize(
    ("label", "tag"),
    [
        (("prod", "access", "backend"), "prod_access_backend"),
        (("prod", "a_b", "c_d"), "prod_a__b_c__d"),
        (("prod", "access", ""), "prod_access_"),
        (("my-ns", "app.v1", "web-1"), "my-ns_app.v1_web-1"),
    ],
)
def test_a_plain_label_keeps_its_words(label: tuple[str, str, str], tag: str) -> None:
    assert label_tag(*label) == tag


def test_a_key_with_a_slash_and_an_underscore_gets_a_hash() -> None:
    tag = label_tag("prod", "example.org/a_b", "web")
    assert re.fullmatch(r"prod_example\.org_a__b-[0-9a-f]{10}_web", tag)


def test_a_part_that_looks_hashed_gets_a_hash_of_its_own() -> None:
    hashed = label_tag("prod", "example.org/a", "web").split("_")[-2]
    assert label_tag("prod", hashed, "web") != label_tag("prod", "example.org/a", "web")


def test_a_namespace_has_its_tag() -> None:
    assert namespace_tag("prod") == "namespace_prod"


# Characters that the encoding treats in different ways, so that collisions are near.
NEAR = st.text(alphabet="ab_-./é", max_size=5)
HASHED = st.sampled_from(("a_b-0123456789", "-0123456789", "0123456789"))
PARTS = st.tuples(NEAR | HASHED, NEAR | HASHED, NEAR | HASHED)


@given(PARTS, PARTS)
@example(("a_", "b", ""), ("a", "_b", ""))
@example(("a", "b_", "c"), ("a", "b", "_c"))
@example(("a", "b/c", ""), ("a", "b_c", ""))
def test_no_two_labels_share_a_tag(left: tuple[str, str, str], right: tuple[str, str, str]) -> None:
    assert (label_tag(*left) == label_tag(*right)) is (left == right)


@given(PARTS, NEAR | HASHED)
@example(("namespace", "prod", ""), "prod")
@example(("namespace", "prod", ""), "prod_")
def test_no_label_shares_a_tag_with_a_namespace(
    label: tuple[str, str, str], namespace: str
) -> None:
    assert label_tag(*label) != namespace_tag(namespace)


@given(PARTS)
def test_a_tag_is_made_of_safe_characters(label: tuple[str, str, str]) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", label_tag(*label))
