"""What one match of a statement means for another."""

import pytest

from grammar import PolicyErrors, parse_policy


@pytest.mark.parametrize(
    ("text", "found", "message"),
    [
        ("allow tcp from port 1 port 2", "port", "'port' stands twice in one clause"),
        ("allow tcp to port 1 ports 2", "ports", "'ports' stands twice in one clause"),
        ("allow from cidr ::/0 cidr ::/0", "cidr", "'cidr' stands twice in one clause"),
        ("allow from namespace a namespace b", "namespace", "'namespace' stands twice"),
        ("allow from selector () selector ()", "selector", "'selector' stands twice"),
        ("allow to namespace a", "namespace", "'namespace' stands in 'from' only"),
        ("allow from port 1", "port", "'port' needs a protocol that has ports"),
        ("allow to label a=b ports 1", "ports", "'ports' needs a protocol that has ports"),
        ("allow icmp to port 1", "port", "icmp has no ports"),
        ("allow icmpv6 type 8 to port 1", "port", "icmpv6 has no ports"),
        ("allow icmp from cidr ::/0", "::/0", "icmp is of IPv4, '::/0' is not"),
        ("allow icmp from cidr 10.0.0.1,::1", "::1", "icmp is of IPv4, '::1' is not"),
        ("allow icmpv6 to cidr 0.0.0.0/0", "0.0.0.0/0", "icmpv6 is of IPv6, '0.0.0.0/0' is not"),
    ],
)
def test_a_match_that_cannot_stand_there_is_named(text: str, found: str, message: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        parse_policy(text)
    (error,) = caught.value.errors
    assert message in error.message
    assert text[slice(*error.span)] == found
    # Of two, the second is at fault: the first stood well until it came.
    assert error.span.start == text.rindex(found)


@pytest.mark.parametrize(
    "text",
    [
        "allow tcp from port 1 to port 2",
        "allow from label a=b label a=c",
        "allow from cidr 10.0.0.0/8,::/0 to cidr ::/0",
        "allow icmp from cidr 10.0.0.0/8 to cidr 10.0.0.0/8",
        "allow from selector () to selector ()",
        "allow icmp from label a=b namespace c selector (has(x))",
    ],
)
def test_what_can_stand_side_by_side_is_read(text: str) -> None:
    assert len(parse_policy(text).statements) == 1
