"""A rule with a word that is not known here is left to iptables; ``test_inprocess.py`` has the others."""

import pytest

from calico_k8s.felix.iptables.entries import compile_entry

UNKNOWN = [
    "",
    "-j",
    "-i v0",
    "!",
    "-i a234567890123456 -j DROP",
    "-s 10.0.0.1/32 -s 10.0.0.2/32 -j DROP",
    "-s fd00::/64 -j DROP",
    "-s node.example -j DROP",
    "-p tcp --dport 80 -j DROP",
    "-p tcp -m tcp --dport 80 --dport 81 -j DROP",
    "-p tcp -m tcp --dport http -j DROP",
    "-p tcp -m tcp --dport 65536 -j DROP",
    "-p tcp -m tcp --tcp-flags SYN SYN -j DROP",
    "-p carp -j DROP",
    "-p icmp -m icmp --icmp-type echo-request -j DROP",
    "-m set --match-set absent src -j DROP",
    "-m set --match-set known src --return-nomatch -j DROP",
    "-m mark --mark 0x1/0x1 --and-more -j DROP",
    "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
    "-m limit --limit 5/min --limit-burst 5 -j DROP",
    '-m comment --comment "open -j DROP',
    f'-j DROP -m comment --comment "{"x" * 256}"',
    "-j MARK --set-xmark 0x1/0x1",
    "-j REJECT",
    "-j OTHERS",
    "-g DROP",
    "-j DROP --and-more",
    "-j cali-a -g cali-b",
    "! -j DROP",
]


@pytest.mark.parametrize("rule", UNKNOWN)
def test_what_is_not_known_is_left_to_the_program(rule: str) -> None:
    assert compile_entry(rule, 4, {"known": 1}) is None
