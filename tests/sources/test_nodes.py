"""YAML as kubectl takes it, with places; and text that is not YAML, or too much of it."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.errors import InputError
from calico_k8s.sources.nodes import Fields, Scalar, parse_documents, to_builtin


def values(text: str) -> list[object]:
    return [to_builtin(node) for node in parse_documents(text, "f.yaml")]


def error_of(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        values(text)
    return caught.value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("web", "web"),
        ("1", 1),
        ("-1", -1),
        ("0755", 493),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("08", "08"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1.2.3", "1.2.3"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("22:22", "22:22"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("yes", True),
        ("Off", False),
        ("y", "y"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"yes"', "yes"),
        ("!!str 1", "1"),
        ("-", "-"),
        (".", "."),
        ("+", "+"),
    ],
)
def test_a_word_means_what_kubectl_takes_it_for(word: str, value: object) -> None:
    if word == "-":
        word = "'-'"
    assert values(f"key: {word}") == [{"key": value}]


def test_documents_are_handed_out_in_order_without_the_empty_ones() -> None:
    assert values("---\na: 1\n---\n---\n# nothing\n---\n- b\n") == [{"a": 1}, ["b"]]


def test_keys_are_text() -> None:
    assert values("{1: a, true: b, null: c, 1.5: d}") == [
        {"1": "a", "true": "b", "null": "c", "1.5": "d"}
    ]


def test_aliases_and_merged_keys_are_filled_in() -> None:
    text = "base: &b {x: 1, y: 2}\nlist: [*b, 3]\nmerged:\n  <<: *b\n  y: 3\n"
    assert values(text) == [
        {"base": {"x": 1, "y": 2}, "list": [{"x": 1, "y": 2}, 3], "merged": {"y": 3, "x": 1}}
    ]


def test_nodes_know_their_place_in_characters() -> None:
    text = "é: 😀\nspec:\n  'key': \"value\"\n"
    (root,) = parse_documents(text, "f")
    assert isinstance(root, Fields)
    smile = root.entries["é"].node
    assert isinstance(smile, Scalar)
    assert (smile.line, smile.column, text[smile.start : smile.end]) == (1, 4, "😀")
    spec = root.entries["spec"]
    assert (spec.line, spec.column) == (2, 1)
    assert isinstance(spec.node, Fields)
    value = spec.node.entries["key"].node
    assert isinstance(value, Scalar)
    assert (value.line, value.column, value.style) == (3, 10, '"')
    assert text[value.start : value.end] == '"value"'


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: b: c", "f.yaml:1:5", "mapping values are not allowed"),
        ("a: 1\n\tb: 2", "f.yaml:2:1", "a tab character"),
        ("a: {{ .Values.x }}", "f.yaml:1:5", "a key is text"),
        ("{", "f.yaml:2:1", "did not find expected node content"),
        ("é: \x07", "f.yaml:1:4", "control characters are not allowed"),
        ("a: *b", "f.yaml:1:4", "the alias *b stands for nothing"),
        ("a: &a [*a]", "f.yaml:1:8", "the alias *a stands for nothing"),
        ("a: 1\na: 2", "f.yaml:2:1", "the key 'a' is there twice"),
        ("? [a]\n: b", "f.yaml:1:3", "a key is text"),
        ("<<: 3", "f.yaml:1:5", "'<<' takes a mapping"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_place(text: str, place: str, message: str) -> None:
    error = error_of(text)
    assert str(error).startswith(place)
    assert message in str(error)


@pytest.mark.parametrize("text", ["[" * 500_000, "- " * 300_000, "{a: " * 200_000])
def test_deep_text_is_refused_not_a_crash(text: str) -> None:
    assert "nested more than 200 levels" in str(error_of(text))


def test_aliases_of_aliases_are_refused_when_they_grow_too_large() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "aliases stand for too much" in str(error_of("\n".join(lines)))


# PyYAML writes the line ends of other alphabets as they are, and reads them back as blanks.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=10,
)


@given(JSON_LIKE.filter(lambda value: value is not None), st.sampled_from(("'", '"', "|", ">")))
def test_what_yaml_writes_is_read_back(value: object, style: str) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, default_style=style)
    assert values(text) == [value]


@given(st.text(alphabet="ab:-#&*!|>'\"{}[],% \n\t?<0.", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    places = []
    try:
        values(text)
    except InputError as error:
        places = [error.line, error.column]
    assert None not in places
