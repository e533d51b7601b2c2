"""Where statements and comments stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar.lines import split_lines

Parts = list[tuple[list[str], str | None]]


def parts(text: str) -> Parts:
    """The texts of the statements and the comment of every line."""
    return [
        ([text[slice(*span)] for span in line.statements], line.comment)
        for line in split_lines(text)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [([], None)]),
        ("a", [(["a"], None)]),
        ("a;b", [(["a", "b"], None)]),
        (" a ;\tb\t; ; ", [(["a", "b"], None)]),
        ("a\nb", [(["a"], None), (["b"], None)]),
        ("a\r\nb\r\n", [(["a"], None), (["b"], None), ([], None)]),
        ("a # b; c", [(["a"], "# b; c")]),
        ("a # b # c \t\r\nd", [(["a"], "# b # c"), (["d"], None)]),
        ("#", [([], "#")]),
        ("a 'b;c'", [(["a 'b", "c'"], None)]),
        ("a ('b;c'); d", [(["a ('b;c')", "d"], None)]),
        ("a (\"#;'\" '\"'); d", [(["a (\"#;'\" '\"')", "d"], None)]),
        ("a ('b; c", [(["a ('b", "c"], None)]),
        ("a ('b\n;'); c", [(["a ('b"], None), (["')", "c"], None)]),
        ("a (b); 'c;d'", [(["a (b)", "'c", "d'"], None)]),
        ("# (';\n;a", [([], "# (';"), (["a"], None)]),
    ],
)
def test_a_text_falls_into_statements_and_comments(text: str, expected: Parts) -> None:
    assert parts(text) == expected


@given(st.text(st.sampled_from("ab ;#('\")\t\r\n")))
def test_statements_are_in_order_and_hold_no_line_end_or_outer_blank(text: str) -> None:
    end = 0
    for number, line in enumerate(split_lines(text), start=1):
        assert line.number == number
        for span in line.statements:
            assert end <= span.start < span.end <= len(text)
            statement = text[slice(*span)]
            assert "\n" not in statement
            assert statement == statement.strip(" \t\r")
            end = span.end
    assert text.count("\n") + 1 == len(list(split_lines(text)))


@pytest.mark.parametrize("text", ["('" * 100_000, "a;" * 100_000, "(\"'" * 70_000, "'" * 200_000])
def test_no_text_takes_more_than_linear_time(text: str) -> None:
    # Quadratic time would be minutes here, and end in the time limit of every test.
    assert parts(text)
