"""The canonical form that keeps lines and comments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar import Policy, PolicyErrors, format_policy, parse_policy, print_policy
from tests.grammar import strategies


@pytest.mark.parametrize(
    ("written", "formatted"),
    [
        ("", ""),
        ("\n\n", ""),
        ("ALLOW  tcp;deny", "allow tcp; deny"),
        ("ALLOW tcp;deny\n", "allow tcp; deny"),
        ("\n\nallow; deny #why\n", "allow; deny  #why"),
        ("# only this", "# only this"),
        ("allow tcp; deny\nallow udp", "allow tcp\ndeny\nallow udp"),
        ("allow tcp; deny # why \nallow udp", "allow tcp\ndeny  # why\nallow udp"),
        ("# first\nallow tcp;deny", "# first\nallow tcp\ndeny"),
        ("  # a\n\n\n;\n\tallow\r\n# b\r\n", "# a\n\nallow\n# b"),
        ("allow\ndeny  # a; b # c", "allow\ndeny  # a; b # c"),
        ("allow from selector (a==';#') # x", "allow from selector (a == ';#')  # x"),
    ],
)
def test_a_text_is_formatted(written: str, formatted: str) -> None:
    assert format_policy(written) == formatted


def _texts() -> st.SearchStrategy[str]:
    comment = st.text(st.sampled_from("ab#;('\" \t\r")).map("#{}".format)
    line = st.tuples(
        st.sampled_from(["", " ", "\t"]),
        strategies.policies.map(print_policy),
        st.sampled_from(["", " ", ";"]),
        st.one_of(st.just(""), comment),
    ).map("".join)
    return st.lists(line, max_size=3).flatmap(
        lambda lines: st.sampled_from(["\n", "\r\n", "\n\n", "\n;\n\n"]).map(
            lambda end: end.join(lines)
        )
    )


@given(_texts())
def test_formatting_changes_no_meaning_loses_no_comment_and_is_done_once(text: str) -> None:
    formatted = format_policy(text)
    assert parse_policy(formatted) == parse_policy(text)
    assert format_policy(formatted) == formatted
    assert formatted == formatted.strip()


@given(strategies.policies)
def test_a_printed_policy_is_formatted_already(policy: Policy) -> None:
    text = print_policy(policy)
    assert format_policy(text) == text


def test_comments_stay_on_the_line_of_their_statement() -> None:
    text = "allow tcp # web\ndeny udp;allow icmp # both\n# end"
    assert format_policy(text).splitlines() == [
        "allow tcp  # web",
        "deny udp",
        "allow icmp  # both",
        "# end",
    ]


def test_a_broken_text_is_not_formatted() -> None:
    with pytest.raises(PolicyErrors):
        format_policy("allow\nalow")
