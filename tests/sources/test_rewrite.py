"""Policy texts put in the place of others: only they change, byte for byte, or nothing does."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import grammar
from calico_k8s.errors import InputError
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.rewrite import policy_texts, replace_texts
from calico_k8s.translate.namespaces import ANNOTATION_KEYS

HEAD = "kind: Pod\napiVersion: v1\nmetadata:\n  name: a  # a name\n  annotations:\n"
TAIL = "  labels: {x:  y}\n\n# the end\n"


def pod(annotations: str) -> str:
    return f"{HEAD}{annotations}{TAIL}"


def rewritten(text: str, value: str | None = None) -> str:
    """The text with every policy in canonical form, or with this value."""
    reading = read_text(text, "f.yaml")
    assert not reading.errors
    found = list(policy_texts(reading.manifests, ANNOTATION_KEYS))
    assert found
    values = (grammar.format_policy(each.text) if value is None else value for each in found)
    return replace_texts(text, list(zip(found, values, strict=True)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    policy: ALLOW  tcp # why\n", "    policy: allow tcp # why\n"),
        ("    policy: 'ALLOW  tcp'   # why\n", "    policy: 'allow tcp'   # why\n"),
        ('    policy: "ALLOW  tcp"\n', '    policy: "allow tcp"\n'),
        ('    "policy" : "ALLOW \\u0074cp"\n', '    "policy" : "allow tcp"\n'),
        ("    policy: &p !!str 'ALLOW'\n", "    policy: &p !!str 'allow'\n"),
        ("    policy: ALLOW tcp\n      to port 80\n", "    policy: allow tcp to port 80\n"),
        ("    policy: ports\n    ? projectcalico.org/policy\n    : DENY\n",) * 2,
        (
            "    policy: 'allow from selector (a == ''b'')'\n",
            "    policy: 'allow from selector (a == ''b'')'\n",
        ),
    ],
    ids=repr,
)
def test_a_text_on_one_line_keeps_its_quotes_and_what_is_around_it(before: str, after: str) -> None:
    if "?" in before:
        after = after.replace("DENY", "deny")
    assert rewritten(pod(before)) == pod(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("|\n      ALLOW\n\n\n      deny\n", "|\n      allow\n\n      deny"),
        (
            "|-  # kept\n        ALLOW # x\n        DENY\n",
            "|-  # kept\n        allow  # x\n        deny",
        ),
        ("|2-\n      ALLOW\n", "|-\n      allow"),
        (">\n      ALLOW tcp\n      to port 80\n", ">\n      allow tcp to port 80"),
        (">-\n      ALLOW\n\n      DENY\n\n\n", ">-\n      allow\n\n      deny\n\n"),
    ],
    ids=repr,
)
def test_a_block_keeps_its_depth_and_the_lines_after_it(before: str, after: str) -> None:
    text = pod(f"    policy: {before}")
    found = read_text(text, "f").manifests[0].value["metadata"]["annotations"]["policy"]
    end = "\n" if found.endswith("\n") else ""
    assert rewritten(text, grammar.format_policy(found) + end) == pod(f"    policy: {after}\n")


def test_line_ends_stay_what_they_are() -> None:
    text = pod("    policy: |\n      ALLOW\n      DENY\n").replace("\n", "\r\n")
    expected = text.replace("ALLOW", "allow").replace("DENY", "deny")
    assert rewritten(text, "allow\ndeny\n") == expected


def test_a_text_between_braces_is_quoted_where_it_would_end_there() -> None:
    text = "kind: Pod\napiVersion: v1\nmetadata: {name: a, annotations: {policy: ALLOW}}\n"
    assert "{policy: allow}" in rewritten(text)
    assert '{policy: "allow tcp to port 1,2"}' in rewritten(text, "allow tcp to port 1,2")


def test_json_stays_json() -> None:
    text = '{"kind": "Pod", "apiVersion": "v1", "metadata": {"annotations": {"policy":"ALLOW"}}}'
    assert rewritten(text) == text.replace("ALLOW", "allow")


def test_templates_and_lists_are_found_and_other_kinds_left_alone() -> None:
    text = """\
kind: List
items:
- {kind: Pod, apiVersion: v1, metadata: {annotations: {policy: ALLOW}}}
- kind: CronJob
  apiVersion: batch/v1
  spec: {jobTemplate: {spec: {template: {metadata: {annotations: {policy: ALLOW}}}}}}
- {kind: ConfigMap, apiVersion: v1, metadata: {annotations: {policy: ALLOW}}}
- {kind: Pod, apiVersion: other/v1, metadata: {annotations: {policy: ALLOW}}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {annotations: {policy: ALLOW}}
spec: {template: {metadata: {annotations: {policy: ALLOW}}}}
"""
    changed = rewritten(text)
    assert [line.count("allow") for line in changed.splitlines()] == [0, 0, 1, 0, 0, 1] + [
        0
    ] * 6 + [1]


def test_an_alias_that_stands_for_policies_alone_is_changed_once() -> None:
    shared = pod("    policy: &p ALLOW\n    projectcalico.org/policy: *p\n")
    with pytest.raises(InputError, match=r"f\.yaml:6:\d+: this text cannot be changed"):
        rewritten(shared)
    pods = (
        "kind: List\nitems:\n"
        "- {kind: Pod, apiVersion: v1, metadata: {annotations: {policy: &p ALLOW}}}\n"
        "- {kind: Pod, apiVersion: v1, metadata: {annotations: {policy: *p}}}\n"
    )
    assert rewritten(pods) == pods.replace("ALLOW", "allow")


def test_json_that_writes_one_character_as_two_is_refused_not_broken() -> None:
    text = (
        '{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "\\ud83d\\ude00",'
        ' "annotations": {"policy": "ALLOW"}}}'
    )
    with pytest.raises(InputError, match="by hand"):
        rewritten(text)


TEXTS = st.text(st.sampled_from("al \t'\":#,{}[]&*!|>%@`\\\n\u2028é😀-"), max_size=12)


@given(
    value=TEXTS, style=st.sampled_from(["ALLOW", "'ALLOW'", '"ALLOW"', "|-\n      A", ">\n      A"])
)
def test_any_text_is_put_in_its_place_or_refused(value: str, style: str) -> None:
    text = pod(f"    policy: {style}\n")
    try:
        changed = rewritten(text, value)
    except InputError:
        return
    found = read_text(changed, "f").manifests[0].value["metadata"]
    assert found["annotations"] == {"policy": value}
    assert changed.startswith(HEAD)
    assert changed.endswith(TAIL)


@given(value=st.text(st.sampled_from("al '\":#,{}&*!|>\\é😀-"), max_size=12))
def test_text_on_one_line_can_always_be_written_in_quotes(value: str) -> None:
    text = pod("    policy: 'ALLOW'\n")
    changed = rewritten(text, value)
    assert re.sub(r"policy: .*", "", changed) == re.sub(r"policy: .*", "", text)
