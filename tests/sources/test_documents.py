"""Objects with their places: lists, notes, and every character of a text found again."""

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from calico_k8s.sources.documents import Manifest, Reading, read_text


def read(text: str) -> Reading:
    return read_text(text, "f.yaml")


def only(text: str) -> Manifest:
    reading = read(text)
    assert not reading.errors, reading.errors
    (manifest,) = reading.manifests
    return manifest


POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: a
  labels:
    app: web
spec:
  containers:
  - name: c
    ports:
    - containerPort: 80
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), "f.yaml:1:1"),
        (("metadata",), "f.yaml:3:1"),
        (("metadata", "name"), "f.yaml:4:9"),
        (("metadata", "labels"), "f.yaml:5:3"),
        (("metadata", "labels", "app"), "f.yaml:6:10"),
        (("metadata", "annotations", "policy"), "f.yaml:3:1"),
        (("spec", "containers", 0, "ports", 0, "containerPort"), "f.yaml:11:22"),
        (("spec", "containers", 0), "f.yaml:9:5"),
        (("spec", "containers", 7), "f.yaml:8:3"),
    ],
)
def test_a_field_has_its_place_and_a_missing_one_that_of_what_is_around_it(
    path: tuple[str | int, ...], place: str
) -> None:
    assert str(only(POD).place(path)) == place


def test_lists_give_their_items_each_with_its_own_place() -> None:
    text = """\
kind: List
items:
- {kind: Pod, apiVersion: v1, metadata: {name: a}}
- kind: ServiceList
  apiVersion: v1
  items:
  - metadata: {name: s}
"""
    reading = read(text)
    assert [(m.kind, m.api_version, str(m.place())) for m in reading.manifests] == [
        ("Pod", "v1", "f.yaml:3:3"),
        ("Service", "v1", "f.yaml:7:5"),
    ]


def test_what_is_no_object_is_noted() -> None:
    reading = read("just text\n---\na: 1\n---\n- x\n")
    assert reading.manifests == ()
    assert reading.notes == (
        "f.yaml:1:1: no Kubernetes object, skipped",
        "f.yaml:3:1: no 'kind', skipped",
        "f.yaml:5:1: no Kubernetes object, skipped",
    )


def test_what_stands_before_a_mistake_is_read() -> None:
    reading = read(f"{POD}---\na: b: c\n")
    assert [manifest.kind for manifest in reading.manifests] == ["Pod"]
    assert [str(error) for error in reading.errors] == [
        "f.yaml:13:5: not YAML: mapping values are not allowed in this context"
    ]


def test_json_is_read_with_places_even_with_escaped_surrogates() -> None:
    text = '{\n\t"kind": "Pod",\n\t"metadata": {"name": "a", "x": "\\ud83d\\ude00\\/"}\n}'
    manifest = only(text)
    assert manifest.value["metadata"]["x"] == "😀/"
    assert str(manifest.place(("metadata", "name"))) == "f.yaml:3:23"


# A policy text in every way YAML can write it: the place of one word in it.


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("policy: allow tcp frm x", "f.yaml:2:19"),
        ("policy: 'allow tcp frm x'", "f.yaml:2:20"),
        ("policy: 'it''s  frm x'", "f.yaml:2:17"),
        ('policy: "allow\\ttcp \\u0041 frm x"', "f.yaml:2:28"),
        ('policy: "allow \\\n    frm x"', "f.yaml:3:5"),
        ('policy: "allow\n\n   frm x"', "f.yaml:4:4"),
        ("policy: allow\n     tcp\n   frm x", "f.yaml:4:4"),
        ("policy: |\n    allow tcp\n    deny frm x", "f.yaml:4:10"),
        ("policy: |-\n    allow tcp\n\n      deny frm x\n\n", "f.yaml:5:12"),
        ("policy: |2  # note\n    allow frm x", "f.yaml:3:11"),
        ("policy: >\n    allow\n    tcp\n\n    frm x", "f.yaml:6:5"),
        ("policy: >-\n    allow\n      tcp\n    frm x", "f.yaml:5:5"),
        ("policy: 😀 frm x", "f.yaml:2:11"),
        ("policy: |\r\n    allow tcp\r\n    deny frm x\r\n", "f.yaml:4:10"),
    ],
)
def test_a_word_of_a_text_is_found_in_every_style(text: str, place: str) -> None:
    manifest = only(f"kind: Pod\n{text}")
    value = manifest.value["policy"]
    assert str(manifest.text_place(("policy",), value.index("frm"))) == place


TEXTS = st.text(alphabet="ab;#:'\"\\\n\t 😀é-", max_size=40)


@given(TEXTS, st.sampled_from(("'", '"', "|", ">", "")), st.integers(20, 80))
def test_every_character_that_is_no_blank_is_found_again(
    value: str, style: str, width: int
) -> None:
    body = yaml.safe_dump(
        {"kind": "Pod", "a": {"policy": value}},
        default_style=style or None,
        allow_unicode=True,
        width=width,
    )
    manifest = only(body)
    assume(manifest.value["a"]["policy"] == value)
    lines = body.split("\n")
    for offset, character in enumerate(value):
        if character.isspace():
            continue
        place = manifest.text_place(("a", "policy"), offset)
        found = lines[place.line - 1][place.column - 1]
        assert found in (character, "\\"), (body, offset)


@given(TEXTS, st.sampled_from(("'", '"', "|", ">")))
def test_the_places_of_a_text_never_go_back_and_its_end_is_one(value: str, style: str) -> None:
    body = yaml.safe_dump({"kind": "Pod", "policy": value}, default_style=style)
    manifest = only(body)
    places = [manifest.text_place(("policy",), offset) for offset in range(len(value) + 1)]
    assert places == sorted(places)
    assert places[-1].line <= body.count("\n") + 1


@pytest.mark.parametrize("value", ["&a hello", "!!str hello", "&a 'hello'", '!!str &a "hello"'])
def test_a_character_is_found_behind_an_anchor_or_tag(value: str) -> None:
    text = f"kind: X\na: {value}\n"
    (manifest,) = read_text(text, "f").manifests
    assert manifest.text_place(("a",), 2).column == text.splitlines()[1].index("llo") + 1
