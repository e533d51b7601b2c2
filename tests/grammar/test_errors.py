"""What people read when something is wrong: errors.txt, and what does not fit into a file."""

import copy
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import (
    GrammarError,
    PolicyErrors,
    Span,
    format_policy,
    parse_policy,
    parse_selector,
)
from grammar.errors import nearest, quoted

GOLDEN = Path(__file__).with_name("errors.txt")
POLICY_MARK, SELECTOR_MARK = "policy>", "selector>"


def answer(mark: str, text: str) -> str:
    """What is said of a text of one of the two languages."""
    try:
        if mark == POLICY_MARK:
            parse_policy(text)
        else:
            parse_selector(text)
    except (PolicyErrors, GrammarError) as error:
        return str(error)
    return "(this is read without an error)"


def golden_cases() -> list[tuple[str, str, str]]:
    """The mark, text and expected answer of every block of errors.txt."""
    cases = []
    for block in GOLDEN.read_text().split("\n\n"):
        if block.startswith("#"):
            continue
        lines = block.strip("\n").split("\n")
        mark = lines[0].partition(" ")[0]
        texts = [line.removeprefix(mark)[1:] for line in lines if line.startswith(mark)]
        cases.append((mark, "\n".join(texts), "\n".join(lines[len(texts) :])))
    return cases


def test_the_errors_of_errors_txt_are_said_as_written_there(*, update_golden: bool) -> None:
    cases = golden_cases()
    if update_golden:
        blocks = [GOLDEN.read_text().partition("\n\n")[0]]
        for mark, text, _ in cases:
            shown = [f"{mark} {line}".rstrip() for line in text.split("\n")]
            blocks.append("\n".join([*shown, answer(mark, text)]))
        GOLDEN.write_text("\n\n".join(blocks) + "\n")
    for mark, text, expected in golden_cases():
        assert answer(mark, text) == expected, text
    assert len(cases) > 50


def test_an_error_has_the_parts_that_tools_need() -> None:
    with pytest.raises(PolicyErrors) as caught:
        parse_policy("allow\nallow tcp from lable a=b")
    (error,) = caught.value.errors
    assert (error.line, error.column) == (2, 16)
    assert error.span == Span(21, 26)
    assert error.expected == ("'label'", "'port'", "'namespace'", "'cidr'", "'selector'")
    assert error.message == (
        "expected 'label', 'port', 'namespace', 'cidr' or 'selector', found 'lable'"
    )
    assert error.hint == "did you mean 'label'?"


@pytest.mark.parametrize(
    ("text", "shown", "carets"),
    [
        ("allow \0", "allow ␀", "      ^"),
        ("allow \x1b[31m", "allow ␛[31m", "      ^^^^^"),
        ("allow \N{RIGHT-TO-LEFT OVERRIDE}x", "allow �x", "      ^^"),
        ("allow\ttcp\tx", "allow tcp x", "          ^"),
        ("allow \U0001f600\U0001f600 x", "allow \U0001f600\U0001f600 x", "      ^^^^"),
        ("allow from \U0001f600 x", "allow from \U0001f600 x", "           ^^"),
        ("allow from label \N{COMBINING ACUTE ACCENT}e=x", None, "                 ^^^"),
    ],
)
def test_the_caret_stands_under_the_mistake_whatever_the_characters(
    text: str, shown: str | None, carets: str
) -> None:
    rows = answer(POLICY_MARK, text).split("\n")
    assert shown is None or rows[1] == f"  {shown}"
    assert rows[2] == f"  {carets}"


def test_of_a_long_line_only_the_neighbourhood_of_the_mistake_is_shown() -> None:
    text = f"allow from selector ({' || '.join(['has(a)'] * 1000)}) x {'y' * 1000}"
    place, shown, carets, *_ = answer(POLICY_MARK, text).split("\n")
    assert place.startswith("line 1, column 10020: ")
    assert len(shown) < 110
    assert shown.startswith("  …")
    assert shown.endswith("…")
    assert shown[carets.index("^")] == "x"


def test_a_long_word_is_not_repeated_whole() -> None:
    error = answer(POLICY_MARK, f"allow {'x' * 100_000}")
    assert len(error) < 400
    assert "found 'xxxx" in error


def test_a_line_of_carets_ends_with_the_line() -> None:
    assert answer(SELECTOR_MARK, "has(a)\nhas(b)").split("\n")[1:3] == ["  has(a)", "        ^"]


@given(st.text(), st.integers(0, 40), st.integers(0, 5))
def test_any_error_can_be_shown_moved_copied_and_pickled(
    text: str, start: int, length: int
) -> None:
    span = Span(min(start, len(text)), min(start + length, len(text)))
    error = GrammarError(text, span, ("'a'", "'b'"), "hint")
    assert str(error).endswith("\nhint")
    assert str(copy.copy(error)) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    moved = error.within(f"\n{text}", 1)
    assert (moved.line, moved.column, moved.message) == (
        error.line + 1,
        error.column,
        error.message,
    )


def test_errors_of_a_policy_can_be_pickled() -> None:
    errors = PolicyErrors((GrammarError("x", Span(0, 1), ("'allow'",)),), more=True)
    again = pickle.loads(pickle.dumps(errors))
    assert (str(again), again.more) == (str(errors), True)


@pytest.mark.parametrize(
    ("word", "keyword"),
    [
        ("lable", "label"),
        ("LABLE", "label"),
        ("frm", "from"),
        ("prot", "port"),
        ("zone", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_the_nearest_keyword_is_the_one_that_was_probably_meant(
    word: str, keyword: str | None
) -> None:
    assert nearest(word, ["label", "port", "from", "to", "cidr"]) == keyword


def test_quotes_fit_around_what_they_quote() -> None:
    assert [quoted(text) for text in ("a", "it's", "\t", "a\nb")] == [
        "'a'",
        '"it\'s"',
        "the character U+0009",
        "'a␊b'",
    ]


def test_formatting_tells_the_same_errors_as_reading() -> None:
    with pytest.raises(PolicyErrors) as caught:
        format_policy("alow")
    assert str(caught.value) == answer(POLICY_MARK, "alow")
