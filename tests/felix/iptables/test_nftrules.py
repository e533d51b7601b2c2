"""A rule with a word that is not known here is left to iptables-nft; ``test_nftdirect.py`` has the others."""

import pytest

from calico_k8s.felix.iptables.extensions import asked_sets
from calico_k8s.felix.iptables.nftrules import compile_compat

UNKNOWN = [
    "",
    "-j",
    "-s 10.0.0.1/32",
    "-i eth0 -j DROP",
    "-s 10.0.0.1/32 -s 10.0.0.2/32 -j DROP",
    "-s fd00::/64 -j DROP",
    "-s node.example -j DROP",
    "-p tcp --dport 80 -j DROP",
    "-p tcp -m tcp ! --dport 80 -j DROP",
    "-p tcp -m tcp --dport http -j DROP",
    "-p tcp -m tcp --dport 65536 -j DROP",
    "-p tcp -m tcp --tcp-flags SYN SYN -j DROP",
    "-p carp -j DROP",
    "-p tcp -m multiport --ports 80 -j DROP",
    f"-p tcp -m multiport --dports {','.join(map(str, range(16)))} -j DROP",
    "-p icmp -m icmp --icmp-type echo-request -j DROP",
    "-p icmp -m icmp --icmp-type 256 -j DROP",
    "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j DROP",
    "-m mark --mark 0x1 -j DROP",
    "-m mark --mark 0x1/0xffffffff -j DROP",
    "-m set --match-set absent src -j DROP",
    "-m set --match-set known src,src,src -j DROP",
    "-m set --match-set known src --return-nomatch -j DROP",
    "-m conntrack --ctstate NEW -j DROP",
    f'-j DROP -m comment --comment "{"x" * 256}"',
    "-m hashlimit --hashlimit-upto 10/min --hashlimit-name x -j DROP",
    f'-j LOG --log-prefix "{"x" * 30}"',
    "-j MARK --set-xmark 0x1/0xff",
    "-j REJECT",
    "-j DROP --and-more",
    "-j cali-a -g cali-b",
    "! -j DROP",
]


@pytest.mark.parametrize("rule", UNKNOWN)
def test_what_is_not_known_is_left_to_the_program(rule: str) -> None:
    assert compile_compat(rule, 4, {"known": 1}) is None


def test_the_sets_that_a_rule_asks_are_found_before_it_is_compiled() -> None:
    rule = "-p udp -m set --match-set a src -m set ! --match-set b dst,dst -j RETURN"
    assert list(asked_sets(rule)) == ["a", "b"]
    assert compile_compat(rule, 4, {"a": 1, "b": 2}) is not None
