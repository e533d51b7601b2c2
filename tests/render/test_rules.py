"""One rule at a time: its text in each family, and that it means what the rule says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.deltas import ResolvedRule
from calico_k8s.model.resources import IcmpMatch
from calico_k8s.render.rules import render_nets, render_rule
from calico_k8s.render.tables import KernelMember
from calico_k8s.render.text import RETURN
from tests.render.states import (
    BACKEND,
    BANNED,
    EGRESS,
    ICMP,
    ICMPV6,
    INGRESS,
    SCTP,
    TCP,
    UDP,
    WEB_PORTS,
    allow,
    nets,
    ports,
)
from tests.simulated_rules import parse_rule

FIFTEEN = tuple(range(1, 16))

CASES: tuple[tuple[str, ResolvedRule, tuple[str, ...], tuple[str, ...]], ...] = (
    ("everything", allow(), ("-j RETURN",), ("-j RETURN",)),
    ("one family", allow(ip_version=4), ("-j RETURN",), ()),
    ("a protocol", allow(protocol=TCP), ("-p tcp -j RETURN",), ("-p tcp -j RETURN",)),
    ("a protocol without a name", allow(protocol=47), ("-p 47 -j RETURN",), ("-p 47 -j RETURN",)),
    ("another protocol", allow(not_protocol=UDP), ("! -p udp -j RETURN",), ("! -p udp -j RETURN",)),
    (
        "a protocol and not another",
        allow(protocol=TCP, not_protocol=UDP),
        ("-p tcp -j RETURN",),
        ("-p tcp -j RETURN",),
    ),
    ("a protocol and not it", allow(protocol=TCP, not_protocol=TCP), (), ()),
    ("a net", allow(src_nets=nets("10.0.0.0/8")), ("-s 10.0.0.0/8 -j RETURN",), ()),
    ("outside a net", allow(dst_not_nets=nets("fd00::/8")), (), ("! -d fd00::/8 -j RETURN",)),
    (
        "a net in a net of the other end",
        allow(src_nets=nets("10.0.0.0/8"), dst_not_nets=nets("10.1.0.0/16")),
        ("-s 10.0.0.0/8 ! -d 10.1.0.0/16 -j RETURN",),
        (),
    ),
    (
        "a net without a part of it",
        allow(src_nets=nets("10.0.0.0/8"), src_not_nets=nets("10.1.0.0/16")),
        ("-s 10.0.0.0/8 -m set ! --match-set cali4-n-e99dcc3f956a3526 src -j RETURN",),
        (),
    ),
    ("all of a family", allow(src_nets=nets("0.0.0.0/0")), ("-j RETURN",), ()),
    ("nothing of a family", allow(src_not_nets=nets("10.0.0.0/8", "0.0.0.0/0")), (), ()),
    (
        "a port",
        allow(protocol=TCP, dst_ports=ports(80)),
        ("-p tcp -m tcp --dport 80 -j RETURN",),
        ("-p tcp -m tcp --dport 80 -j RETURN",),
    ),
    (
        "a port at each end",
        allow(ip_version=4, protocol=SCTP, src_ports=ports((1, 9)), dst_ports=ports(80)),
        ("-p sctp -m sctp --sport 1:9 --dport 80 -j RETURN",),
        (),
    ),
    (
        "every port",
        allow(ip_version=4, protocol=UDP, dst_ports=ports((0, 65535), 7)),
        ("-p udp -j RETURN",),
        (),
    ),
    ("no port", allow(protocol=UDP, dst_not_ports=ports((0, 65535))), (), ()),
    (
        "not a port",
        allow(ip_version=4, protocol=UDP, src_not_ports=ports(53, (60, 70))),
        ("-p udp -m multiport ! --sports 53,60:70 -j RETURN",),
        (),
    ),
    (
        "more ports than a match takes",
        allow(ip_version=4, protocol=TCP, dst_ports=ports(*FIFTEEN, (20, 29))),
        (
            "-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 -j RETURN",
            "-p tcp -m multiport --dports 20:29 -j RETURN",
        ),
        (),
    ),
    (
        "ports at both ends, more than a match takes",
        allow(
            ip_version=4,
            protocol=TCP,
            src_ports=ports(*FIFTEEN, 99),
            dst_ports=ports(7),
        ),
        (
            (
                "-p tcp -m multiport --sports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
                " -m multiport --dports 7 -j RETURN"
            ),
            "-p tcp -m multiport --sports 99 -m multiport --dports 7 -j RETURN",
        ),
        (),
    ),
    (
        "an ICMP type",
        allow(protocol=ICMP, icmp=IcmpMatch(8)),
        ("-p icmp -m icmp --icmp-type 8 -j RETURN",),
        (),
    ),
    (
        "an ICMP code",
        allow(protocol=ICMPV6, icmp=IcmpMatch(1, 4)),
        (),
        ("-p ipv6-icmp -m icmp6 --icmpv6-type 1/4 -j RETURN",),
    ),
    (
        "another ICMP type",
        allow(protocol=ICMP, not_icmp=IcmpMatch(8, 0)),
        ("-p icmp -m icmp ! --icmp-type 8/0 -j RETURN",),
        ("-p icmp -j RETURN",),
    ),
    (
        "the ICMP type that iptables takes for any",
        allow(protocol=ICMP, icmp=IcmpMatch(255)),
        (),
        (),
    ),
    (
        "a peer",
        allow(peer_ipset=BACKEND),
        ("-m set --match-set cali4-s-backend src -j RETURN",),
        ("-m set --match-set cali6-s-backend src -j RETURN",),
    ),
    (
        "a peer that is not another, by ports",
        allow(
            ip_version=4,
            protocol=TCP,
            dst_ports=ports(80),
            peer_ipset=BACKEND,
            peer_not_ipsets=(BANNED, WEB_PORTS),
        ),
        (
            (
                "-p tcp -m tcp --dport 80 -m set --match-set cali4-s-backend src"
                " -m set ! --match-set cali4-s-banned src"
                " -m set ! --match-set cali4-s-web-ports src,src -j RETURN"
            ),
        ),
        (),
    ),
)


@pytest.mark.parametrize(
    ("rule", "in_ipv4", "in_ipv6"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_rule_has_this_text(
    rule: ResolvedRule, in_ipv4: tuple[str, ...], in_ipv6: tuple[str, ...]
) -> None:
    assert render_rule(rule, INGRESS, 4, RETURN).texts == in_ipv4
    assert render_rule(rule, INGRESS, 6, RETURN).texts == in_ipv6


def test_the_peer_of_an_egress_rule_is_the_destination() -> None:
    rule = allow(protocol=TCP, peer_ipset=WEB_PORTS, peer_not_ipsets=(BANNED,))
    assert render_rule(rule, EGRESS, 4, RETURN).texts == (
        (
            "-p tcp -m set --match-set cali4-s-web-ports dst,dst"
            " -m set ! --match-set cali4-s-banned dst -j RETURN"
        ),
    )


def test_several_nets_become_a_set_of_the_family() -> None:
    rule = allow(src_nets=nets("10.0.0.0/8", "192.0.2.1/32", "fd00::/8", "fd01::1/128"))
    found = {version: render_rule(rule, INGRESS, version, RETURN).nets for version in (4, 6)}
    assert [made.members for made in found[4]] == [
        (KernelMember("10.0.0.0/8"), KernelMember("192.0.2.1"))
    ]
    assert [made.members for made in found[6]] == [
        (KernelMember("fd00::/8"), KernelMember("fd01::1"))
    ]


def test_equal_nets_are_one_set_in_whatever_order() -> None:
    one, other = nets("10.0.0.0/8", "192.0.2.0/24"), nets("192.0.2.0/24", "10.0.0.0/8")
    assert render_nets(one, 4) == render_nets(other, 4)
    assert render_nets(one, 4).ipset != render_nets(one[:1], 4).ipset


@pytest.mark.parametrize(
    ("rule", "is_unconditional"),
    [
        (allow(), True),
        (allow(ip_version=4), True),
        (allow(protocol=TCP), False),
        (allow(src_nets=nets("0.0.0.0/0")), True),
        (allow(peer_ipset=BACKEND), False),
    ],
)
def test_only_a_rule_without_criteria_is_unconditional(
    rule: ResolvedRule, is_unconditional: bool
) -> None:
    assert render_rule(rule, INGRESS, 4, RETURN).is_unconditional is is_unconditional


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), min_size=1, max_size=60))
def test_however_many_ports_no_match_gets_more_than_it_takes(
    pairs: list[tuple[int, int]],
) -> None:
    wanted = ports(*((min(pair), max(pair)) for pair in pairs))
    for rule in (
        allow(protocol=TCP, dst_ports=wanted, src_ports=ports(1, 2)),
        allow(protocol=TCP, dst_not_ports=wanted),
    ):
        for text in render_rule(rule, INGRESS, 4, RETURN).texts:
            parse_rule(text, 4)  # refuses a multiport of more than 15 slots
