"""Single words of a statement: what is taken, in which form, and what is said of the rest."""

import pytest

from grammar import LabelMatch, PortRange
from grammar.words import (
    WordError,
    parse_cidr,
    parse_icmp_code,
    parse_icmp_type,
    parse_label,
    parse_namespace,
    parse_port,
)

BIG = "9" * 5000


@pytest.mark.parametrize(
    ("word", "port"),
    [
        ("1", PortRange(1, 1)),
        ("65535", PortRange(65535, 65535)),
        ("0080", PortRange(80, 80)),
        ("8000:8080", PortRange(8000, 8080)),
        ("8000-8080", PortRange(8000, 8080)),
        ("80:80", PortRange(80, 80)),
        ("http", "http"),
        ("8080-http", "8080-http"),
        ("1-a", "1-a"),
        ("a-1-2", "a-1-2"),
        ("tcp", "tcp"),
        ("fifteen-letters", "fifteen-letters"),
    ],
)
def test_ports(word: str, port: PortRange | str) -> None:
    assert parse_port(word) == port


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("0", "port 0 is no port"),
        ("0:10", "port 0 is no port"),
        ("70000", "port '70000' is above 65535"),
        ("65536", "above 65535"),
        ("1:65536", "above 65535"),
        (BIG, "above 65535"),
        ("90:80", "ends before it begins"),
        ("80:", "is neither a port number"),
        (":80", "is neither a port number"),
        ("-1", "is neither a port number"),
        ("1-2-3", "is neither a port number"),
        ("80:http", "is neither a port number"),
        ("a--b", "is neither a port number"),
        ("a-", "is neither a port number"),
        ("HTTP", "is neither a port number"),
        ("a_b", "is neither a port number"),
        ("\N{ARABIC-INDIC DIGIT EIGHT}0", "is neither a port number"),
        ("80\n", "is neither a port number"),
        ("sixteen-letters-", "is neither a port number"),
        ("sixteen-letters0", "longer than 15 characters"),
        ("to", "found the keyword 'to'"),
        ("Label", "found the keyword 'Label'"),
    ],
)
def test_what_is_no_port(word: str, message: str) -> None:
    with pytest.raises(WordError, match=message):
        parse_port(word)


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("a=b", LabelMatch("a", "b")),
        ("a=", LabelMatch("a", "")),
        ("A_b.c-1=X_y.z-0", LabelMatch("A_b.c-1", "X_y.z-0")),
        ("app.kubernetes.io/part_of=x", LabelMatch("app.kubernetes.io/part_of", "x")),
        ("label=from", LabelMatch("label", "from")),
        (f"{'a' * 63}={'b' * 63}", LabelMatch("a" * 63, "b" * 63)),
        (f"{'.'.join(['a' * 62] * 4)}/a=", LabelMatch(f"{'.'.join(['a' * 62] * 4)}/a", "")),
    ],
)
def test_labels(word: str, label: LabelMatch) -> None:
    assert parse_label(word) == label


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("a", "expected a label like key=value, found 'a'"),
        ("=b", "is no label key"),
        ("a==b", "one '=', 'a==b' has two"),
        ("a=b=c", "'b=c' is no label value"),
        ("a=b,c=d", "takes one label"),
        ("a=-b", "is no label value"),
        ("a=b.", "is no label value"),
        ("a=b/c", "is no label value"),
        ("-a=b", "is no label key"),
        ("a_=b", "is no label key"),
        ("/a=b", "must be a DNS name"),
        ("a/=b", "is no label key"),
        ("a/b/c=d", "must be a DNS name"),
        ("A.io/b=c", "must be a DNS name"),
        ("a_b/c=d", "must be a DNS name"),
        ("é=b", "is no label key"),
        ("a=b\n", "is no label value"),
        (f"{'a' * 64}=b", "label key .* longer than 63"),
        (f"a={'b' * 64}", "label value .* longer than 63"),
        (f"{'.'.join(['a' * 63] * 4)}/a=b", "must be a DNS name of at most 253"),
    ],
)
def test_what_is_no_label(word: str, message: str) -> None:
    with pytest.raises(WordError, match=message):
        parse_label(word)


@pytest.mark.parametrize(
    ("word", "cidr"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("fd00::1", "fd00::1/128"),
        ("FD00:0::1/08", "fd00::/8"),
        ("::/0", "::/0"),
        ("::ffff/128", "::ffff/128"),
    ],
)
def test_cidrs(word: str, cidr: str) -> None:
    assert parse_cidr(word) == cidr


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("10.0.0.0/33", "the length /33 is above 32"),
        ("fd00::/129", "the length /129 is above 128"),
        ("10.0.0/8", "'10.0.0' is no IP address"),
        ("10.0.0.256", "is no IP address"),
        ("010.0.0.1", "is no IP address"),
        ("fd00:::1", "is no IP address"),
        ("10.0.0.0/", "is no CIDR"),
        ("10.0.0.0/-1", "is no CIDR"),
        ("10.0.0.0/255.0.0.0", "is no CIDR"),
        (f"10.0.0.0/{BIG}", "is no CIDR"),
        ("fe80::1%eth0", "is no CIDR"),
        ("example.com", "is no CIDR"),
        ("10.0.0.0/\N{ARABIC-INDIC DIGIT EIGHT}", "is no CIDR"),
        ("::ffff:10.0.0.1", "is an IPv4 address written as IPv6"),
    ],
)
def test_what_is_no_cidr(word: str, message: str) -> None:
    with pytest.raises(WordError, match=message):
        parse_cidr(word)


@pytest.mark.parametrize("word", ["a", "kube-system", "0", "a" * 63, "tcp", "allow"])
def test_namespaces(word: str) -> None:
    assert parse_namespace(word) == word


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("Prod", "is no name of a namespace"),
        ("a.b", "is no name of a namespace"),
        ("-a", "is no name of a namespace"),
        ("a-", "is no name of a namespace"),
        ("a" * 64, "at most 63"),
        ("a\n", "is no name of a namespace"),
        ("a,b", "takes one name, without a comma"),
        ("to", "found the keyword 'to'"),
    ],
)
def test_what_is_no_namespace(word: str, message: str) -> None:
    with pytest.raises(WordError, match=message):
        parse_namespace(word)


def test_icmp_types_and_codes() -> None:
    assert [parse_icmp_type(word) for word in ("0", "08", "254")] == [0, 8, 254]
    assert [parse_icmp_code(word) for word in ("0", "255")] == [0, 255]
    with pytest.raises(WordError, match="ICMP type '255' is above 254"):
        parse_icmp_type("255")
    with pytest.raises(WordError, match="above 254"):
        parse_icmp_type(BIG)
    with pytest.raises(WordError, match="ICMP code '256' is above 255"):
        parse_icmp_code("256")
    with pytest.raises(WordError, match="a number from 0 to 254, not 'echo'"):
        parse_icmp_type("echo")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("HTTP", "did you mean 'http'?"),
        ("90-80", "write '80:90'"),
    ],
)
def test_hints_say_the_way_out(word: str, hint: str) -> None:
    with pytest.raises(WordError) as caught:
        parse_port(word)
    assert caught.value.hint == hint
