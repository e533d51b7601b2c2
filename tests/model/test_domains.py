"""Domains: what is one, what it means, and that a wildcard is whole labels, one or more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.errors import InputError
from calico_k8s.model.domains import (
    WILDCARD,
    DomainIndex,
    DomainName,
    domain_matches,
    parse_domain,
    parse_servers_netset,
    servers_netset,
)
from calico_k8s.model.names import NetsetName

labels = st.sampled_from(("a", "b", "com", "x1", "w-w"))
names = st.lists(labels, min_size=1, max_size=5).map(lambda parts: DomainName(".".join(parts)))
patterns = st.tuples(st.lists(labels, min_size=1, max_size=4), st.none() | st.integers(0, 3)).map(
    lambda drawn: parse_domain(
        ".".join(
            drawn[0]
            if drawn[1] is None
            else [*drawn[0][: drawn[1]][:-1], WILDCARD, *(drawn[0][drawn[1] :] or ["com"])]
        )
    )
)


def slowly_means(pattern: str, name: str) -> bool:
    """Label by label: the wildcard takes one label or more."""
    wanted, have = pattern.split("."), name.split(".")
    if WILDCARD not in wanted:
        return wanted == have
    place = wanted.index(WILDCARD)
    before, after = wanted[:place], wanted[place + 1 :]
    return (
        len(have) > len(before) + len(after)
        and have[:place] == before
        and have[len(have) - len(after) :] == after
    )


@given(patterns, names)
def test_a_wildcard_stands_for_whole_labels_one_or_more(pattern: str, name: DomainName) -> None:
    assert domain_matches(parse_domain(pattern), name) == slowly_means(pattern, name)


@given(st.lists(patterns), st.lists(patterns), names)
def test_an_index_finds_the_patterns_that_mean_a_name(
    kept: list[str], gone: list[str], name: DomainName
) -> None:
    index = DomainIndex(map(parse_domain, (*kept, *gone)))
    for pattern in set(gone) - set(kept):
        index.remove(parse_domain(pattern))
    assert set(index.meaning(name)) == {p for p in kept if slowly_means(p, name)}


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM.", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("www.*.com", "www.*.com"),
        ("up.*.a.com", "up.*.a.com"),
        ("_dmarc.a.com", "_dmarc.a.com"),
        ("intranet", "intranet"),
    ],
)
def test_a_domain_has_one_canonical_text(written: str, canonical: str) -> None:
    assert parse_domain(written) == canonical
    assert parse_domain(canonical) == canonical


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("*.*.com", "has two wildcards"),
        ("w*.a.com", "has a wildcard for part of a label, 'w*'"),
        ("a.*", "ends in a wildcard"),
        ("*", "ends in a wildcard"),
        ("", "'' should be 1 to 63 letters, digits, - and _"),
        ("a..com", "'' should be 1 to 63"),
        ("-a.com", "'-a' should be"),
        ("a b.com", "'a b' should be"),
        ("bücher.example", "is not ASCII: give the name as DNS has it, xn--..."),
        ("10.0.0.1", "is an address, or part of one: give it as a net"),
        (".".join(["abcdefgh"] * 30), "has 269 characters"),
    ],
)
def test_what_is_no_domain_is_told_in_one_sentence(written: str, problem: str) -> None:
    with pytest.raises(InputError, match=r".") as caught:
        parse_domain(written)
    assert problem in str(caught.value)


@given(st.text())
def test_any_text_is_a_domain_or_is_refused(text: str) -> None:
    try:
        pattern = parse_domain(text)
    except InputError:
        return
    assert parse_domain(pattern) == pattern


def test_sets_of_servers_are_told_by_name() -> None:
    assert parse_servers_netset(servers_netset(17, 53)) == (17, 53)
    for other in ("dns", "dns/x", "service/a/b/17:53", "dns/17:"):
        assert parse_servers_netset(NetsetName(other)) is None
