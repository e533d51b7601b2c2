"""Each word of a rule, in iptables' spelling, is what nft says it is; an unknown one is refused."""

import re
from contextlib import closing

import pytest

from calico_k8s.errors import KernelError
from calico_k8s.felix.expressions import compile_rule
from calico_k8s.felix.nftables.driver import Nftables
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import ChainName, IpsetName, IpsetType, KernelIpset, RuleText, Table
from calico_k8s.render.text import FROM_ELSEWHERE_TO_ONE, SAME_ENDS
from tests.namespaces import Namespace, run

SETS: dict[str, IpsetType] = {
    "nets": "hash:net",
    "ports": "hash:ip,port",
    "dst": "hash:ip",
    "src": "hash:net,iface",
}
CASES: dict[str, str] = {
    "-s 10.0.0.0/8 -j DROP": "ip saddr 10.0.0.0/8 drop",
    "! -d 10.0.0.0/9 -j RETURN": "ip daddr != 10.0.0.0/9 return",
    "-s 10.1.2.3/32 -j DROP": "ip saddr 10.1.2.3 drop",
    "-i cali+ -o eth0 -j DROP": 'iifname "cali*" oifname "eth0" drop',
    "-p tcp -m tcp --dport 80 -j RETURN": "tcp dport 80 return",
    "-p sctp -m sctp --sport 80:90 --dport 7 -j DROP": "sctp sport 80-90 sctp dport 7 drop",
    "! -p udp -j DROP": "meta l4proto != udp drop",
    "-p 99 -j DROP": "meta l4proto 99 drop",
    "-p tcp -m multiport --dports 80,90:92,91:95 -j DROP": "tcp dport { 80, 90-95 } drop",
    "-p udp -m multiport ! --sports 53,67 -j DROP": "udp sport != { 53, 67 } drop",
    "-p icmp -m icmp --icmp-type 8 -j DROP": "icmp type echo-request drop",
    # What the kernel compares is both bytes together.
    "-p icmp -m icmp ! --icmp-type 3/1 -j DROP": (
        "icmp type != destination-unreachable icmp code != host-unreachable drop"
    ),
    "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN": "ct state established,related return",
    "-m conntrack --ctstate ESTABLISHED --ctdir REPLY -j RETURN": (
        "ct state established ct direction reply return"
    ),
    "-m connmark ! --mark 0x1/0x1 -j DROP": "ct mark & 0x00000001 != 0x00000001 drop",
    "-m mark --mark 0x0/0xff -j DROP": "meta mark & 0x000000ff == 0x00000000 drop",
    "-m devgroup --src-group 0x4/0x4 -j DROP": "iifgroup & 4 == 4 drop",
    f"{FROM_ELSEWHERE_TO_ONE} -j DROP": "fib saddr type != local fib daddr type unicast drop",
    # Both addresses, loaded by one expression.
    f"{SAME_ENDS[4]} -j RETURN": "@nh,96,64 @cali4-same return",
    "-m set --match-set nets src -j DROP": "ip saddr @nets drop",
    "-m set ! --match-set nets dst -j DROP": "ip daddr != @nets drop",
    "-m set --match-set ports dst,dst -j DROP": ("ip daddr . meta l4proto . th dport @ports drop"),
    "-m set --match-set src dst,src -j DROP": "ip daddr . iifname @src drop",
    "-j MARK --set-xmark 0x10/0xf0": "meta mark set meta mark & 0xffffff1f | 0x00000010",
    '-j LOG --log-prefix "x y: " --log-level 5': 'log prefix "x y: " level notice',
    "-m limit --limit 5/sec --limit-burst 9 -j NFLOG --nflog-prefix x --nflog-group 7": (
        'limit rate 5/second burst 9 packets log prefix "x" group 7'
    ),
    "-m set --match-set cali4-dst src -j DROP": "ip saddr . ip saddr @cali4-same drop",
    "-j CT --notrack": "notrack",
    "-g cali-x": "goto cali-x",
    "-j NFQUEUE --queue-num 7 --queue-bypass": "queue num 7 bypass",
    "-j cali-x": "jump cali-x",
}


@pytest.mark.kernel
def test_each_word_is_what_nft_says_it_is(namespace: Namespace) -> None:
    kernel = Nftables((4,))
    chain = ChainName("cali-words")
    rules = tuple(map(RuleText, CASES))
    with closing(kernel):
        with kernel.transaction():
            for name, kind in SETS.items():
                kernel.sets.create(KernelIpset(IpsetName(name), kind, 4), 0, 0)
            dst = KernelIpset(IpsetName("cali4-dst"), "hash:ip", 4, has_marks=True)
            kernel.sets.create(dst, 0, 0)
            (writer,) = kernel.writers(("mangle",)).values()
            writer.set_desired(Table("mangle", 4, {chain: rules, ChainName("cali-x"): ()}))
            writer.write()
        assert not writer.has_drifted()
    listed = run("nft", "list", "chain", "ip", "calico_k8s", chain)
    found = [re.sub(r' comment ".*"$', "", line.strip()) for line in listed.splitlines()[2:-2]]
    # A kernel with nftables' own queues has nft say it otherwise than the target of iptables.
    found = [line.replace("queue flags bypass to 7", "queue num 7 bypass") for line in found]
    assert found == list(CASES.values())


@pytest.mark.parametrize(
    "rule",
    [
        "-m owner --uid-owner 0 -j DROP",
        "-j REJECT",
        "-m conntrack --ctstate SNAT -j DROP",
        "-m set --match-set ports src -j DROP",
        "-m limit --limit 5/min --limit-burst 9 -j DROP",
        "-j MARK",
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_a_word_that_is_not_known_is_refused_with_its_rule(rule: str, version: Version) -> None:
    with pytest.raises(KernelError, match=re.escape(rule)):
        compile_rule(rule, version, lambda name: SETS[name])
