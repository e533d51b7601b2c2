"""The words of a rule: every match and target that this project writes, in one place.

In: values.  Out: text exactly as ``iptables-save`` and ``ip6tables-save`` print it, for both
backends, so that what was written can be compared with what is there.  Nothing here knows why a
rule is written.

Source: iptables-extensions(8), and what iptables 1.8.9 prints.
"""

from collections.abc import Iterable
from typing import NewType

from calico_k8s.model.addresses import Net, Version
from calico_k8s.model.resources import IcmpMatch, PortRange, Protocol
from calico_k8s.render.tables import ChainName, IpsetName, RuleText

Match = NewType("Match", str)
Target = NewType("Target", str)

RETURN, DROP, TO_ACCEPT = Target("-j RETURN"), Target("-j DROP"), Target("-j ACCEPT")

PROTOCOL_WORDS: dict[Protocol, str] = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    50: "esp",
    51: "ah",
    58: "ipv6-icmp",
    132: "sctp",
    136: "udplite",
}
"""The protocols that iptables itself prints by name; of others it prints the number, or what the
machine's ``/etc/protocols`` calls it."""

ESTABLISHED = Match("-m conntrack --ctstate RELATED,ESTABLISHED")
INVALID = Match("-m conntrack --ctstate INVALID")
INVALID_OR_ESTABLISHED = Match("-m conntrack --ctstate INVALID,RELATED,ESTABLISHED")
NEW = Match("-m conntrack --ctstate NEW")
REPLY = Match("-m conntrack --ctstate ESTABLISHED --ctdir REPLY")
FROM_ELSEWHERE_TO_ONE = Match("-m addrtype ! --src-type LOCAL --dst-type UNICAST")
"""Source is no address of this machine, destination no multicast or broadcast."""
FROM_ELSEWHERE = Match("-m addrtype ! --src-type LOCAL")
"""Source is no address of this machine."""

RULE_BURST, FLOW_BURST = 500, 20
WITHIN_RATE = Match(f"-m limit --limit 500/sec --limit-burst {RULE_BURST}")
"""The rule has not met more packets than that, nor had an idle second to make up for them."""
WITHIN_FLOW_RATE = Match(
    f"-m hashlimit --hashlimit-upto 10/sec --hashlimit-burst {FLOW_BURST}"
    " --hashlimit-mode srcip,dstip,dstport --hashlimit-name cali-told"
    " --hashlimit-htable-size 4096 --hashlimit-htable-max 65536 --hashlimit-htable-expire 2000"
)
"""The same for source, destination and port, so that a flood of one flow hides no other.  Only for
packets that are to be dropped: the kernel drops a packet for whose flow it has no room.  A flow is
forgotten once it has its whole burst again."""

MULTIPORT_SLOTS = 15  # XT_MULTI_PORTS; a range takes two
PORT_MAX = 65535

# Classic BPF: true where source and destination address are the same, word by word.  A set of
# (address, address) would do, but hash:net,net is not in every kernel and needs an entry a pod.
SAME_ENDS: dict[Version, Match] = {
    4: Match(
        '-m bpf --bytecode "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0"',
    ),
    6: Match(
        '-m bpf --bytecode "18,32 0 0 8,7 0 0 0,32 0 0 24,29 0 13 0,32 0 0 12,7 0 0 0,32 0 0 28,'
        "29 0 9 0,32 0 0 16,7 0 0 0,32 0 0 32,29 0 5 0,32 0 0 20,7 0 0 0,32 0 0 36,29 0 1 0,"
        '6 0 0 65535,6 0 0 0"'
    ),
}


def rule(*parts: Match | Target) -> RuleText:
    """A rule: its matches in the order in which they are tried, then its target.

    iptables prints addresses, interfaces and protocol first, in that order.
    """
    return RuleText(" ".join(parts))


def jump(chain: ChainName) -> Target:
    """Go through a chain and come back."""
    return Target(f"-j {chain}")


def goto(chain: ChainName) -> Target:
    """Go on in a chain; what returns from it returns from this one too."""
    return Target(f"-g {chain}")


def set_mark(value: int, mask: int) -> Target:
    """Write these bits of the packet mark."""
    return Target(f"-j MARK --set-xmark {value:#x}/{mask:#x}")


def map_mark(ipset: IpsetName, ends: str) -> Target:
    """Give the packet the mark of its entry in the set; without an entry it keeps its own."""
    return Target(f"-j SET --map-set {ipset} {ends} --map-mark")


def untrack() -> Target:
    """Have conntrack pass the packet by; only in the raw table."""
    return Target("-j CT --notrack")


def log(prefix: str) -> Target:
    """Write the packet to the kernel log."""
    return Target(f'-j LOG --log-prefix "{prefix}" --log-level 5')


def nflog(prefix: str, group: int) -> Target:
    """Hand the packet to whoever listens to the group, and go on; the prefix is of letters and dashes."""
    return Target(f"-j NFLOG --nflog-prefix {prefix} --nflog-group {group}")


def queue(number: int) -> Target:
    """Hold the packet until whoever reads the queue lets it go on; where nobody does, go on."""
    return Target(f"-j NFQUEUE --queue-num {number} --queue-bypass")


def mark_is(value: int, mask: int) -> Match:
    """These bits of the packet mark have this value."""
    return Match(f"-m mark --mark {value:#x}/{mask:#x}")


def mark_is_not(value: int, mask: int) -> Match:
    """These bits of the packet mark have another value."""
    return Match(f"-m mark ! --mark {value:#x}/{mask:#x}")


def connmark_has(bit: int) -> Match:
    """The connection's mark has the bit."""
    return Match(f"-m connmark --mark {bit:#x}/{bit:#x}")


def connmark_lacks(bit: int) -> Match:
    """The connection's mark does not have the bit."""
    return Match(f"-m connmark ! --mark {bit:#x}/{bit:#x}")


def from_group(bit: int) -> Match:
    """The packet came in by an interface whose group has the bit."""
    return Match(f"-m devgroup --src-group {bit:#x}/{bit:#x}")


def to_group(bit: int) -> Match:
    """The packet leaves by an interface whose group has the bit."""
    return Match(f"-m devgroup --dst-group {bit:#x}/{bit:#x}")


def from_interface(pattern: str) -> Match:
    """The packet came in by such an interface."""
    return Match(f"-i {pattern}")


def to_interface(pattern: str) -> Match:
    """The packet leaves by such an interface."""
    return Match(f"-o {pattern}")


def in_set(ipset: IpsetName, ends: str) -> Match:
    """The set has the packet's ends: ``src``, ``dst``, or two such words for two-part members."""
    return Match(f"-m set --match-set {ipset} {ends}")


def not_in_set(ipset: IpsetName, ends: str) -> Match:
    """The set does not have the packet's ends."""
    return Match(f"-m set ! --match-set {ipset} {ends}")


def net_is(end: str, net: Net) -> Match:
    """The address of an end, ``src`` or ``dst``, is in the net."""
    return Match(f"-{end[0]} {net}")


def net_is_not(end: str, net: Net) -> Match:
    """The address of an end, ``src`` or ``dst``, is not in the net."""
    return Match(f"! -{end[0]} {net}")


def protocol_is(protocol: Protocol) -> Match:
    """The packet's protocol; needed before ports and ICMP types."""
    return Match(f"-p {protocol_word(protocol)}")


def protocol_is_not(protocol: Protocol) -> Match:
    """Any other protocol."""
    return Match(f"! -p {protocol_word(protocol)}")


def protocol_word(protocol: Protocol) -> str:
    """What iptables calls a protocol."""
    return PROTOCOL_WORDS.get(protocol, str(protocol))


def icmp_is(icmp: IcmpMatch, version: Version) -> Match:
    """The ICMP type, and the code where one is given."""
    return _icmp(icmp, version, "")


def icmp_is_not(icmp: IcmpMatch, version: Version) -> Match:
    """Another ICMP type, or another code where one is given."""
    return _icmp(icmp, version, "! ")


def _icmp(icmp: IcmpMatch, version: Version, negation: str) -> Match:
    module, option = ("icmp", "icmp-type") if version == 4 else ("icmp6", "icmpv6-type")
    code = "" if icmp.code is None else f"/{icmp.code}"
    return Match(f"-m {module} {negation}--{option} {icmp.type}{code}")


def ports_are(protocol: Protocol, sport: PortRange | None, dport: PortRange | None) -> Match:
    """At most one range for each end: the protocol's own match, cheaper than multiport."""
    options = [
        f"--{option} {range_word(ports)}"
        for option, ports in (("sport", sport), ("dport", dport))
        if ports is not None
    ]
    return Match(" ".join((f"-m {protocol_word(protocol)}", *options)))


def ports_in(end: str, ranges: Iterable[PortRange]) -> Match:
    """The port of an end is in one of the ranges, of at most :data:`MULTIPORT_SLOTS` slots."""
    return Match(f"-m multiport --{end[0]}ports {','.join(map(range_word, ranges))}")


def ports_not_in(end: str, ranges: Iterable[PortRange]) -> Match:
    """The port of an end is in none of the ranges."""
    return Match(f"-m multiport ! --{end[0]}ports {','.join(map(range_word, ranges))}")


def range_word(ports: PortRange) -> str:
    """``80`` or ``8000:8080``."""
    return str(ports.low) if ports.low == ports.high else f"{ports.low}:{ports.high}"
