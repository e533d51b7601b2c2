"""What a rendered rule says of a packet, without a kernel.

In: a rule's text, as :mod:`calico_k8s.render` makes it.  Out: its matches, asked of a packet and of
sets, and what it does then.  The parser is strict: a match, option or target that it does not know
is an error.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, Protocol

from calico_k8s.model.addresses import (
    Address,
    Net,
    Version,
    address_version,
    net_contains,
    net_range,
)
from calico_k8s.model.resources import PROTOCOL_NAMES, IcmpMatch
from calico_k8s.render.tables import ChainName, IpsetName, KernelIpset, KernelMember, RuleText
from calico_k8s.render.text import PROTOCOL_WORDS, SAME_ENDS


@dataclass(frozen=True)
class Packet:
    """A packet, and what conntrack and routing say of it."""

    src: Address
    dst: Address
    protocol: int = 6
    sport: int = 0
    dport: int = 0
    icmp: IcmpMatch | None = None
    in_interface: str = ""
    out_interface: str = ""
    state: Literal["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"] = "NEW"
    is_reply: bool = False
    mark: int = 0
    connmark: int = 0
    meant: tuple[Address, int] | None = None
    """The address and port that the sender meant, where DNAT made others of them."""

    @property
    def version(self) -> Version:
        """Its family."""
        return address_version(self.src)


@dataclass
class SimulatedIpset:
    """A set's type and members, asked as the kernel asks it."""

    ipset: KernelIpset
    members: dict[str, KernelMember] = field(default_factory=dict)

    def find(self, packet: Packet, ends: Sequence[str]) -> KernelMember | None:
        """The member that the packet's ends meet."""
        if self.ipset.version != packet.version:
            return None
        address = packet.src if ends[0] == "src" else packet.dst
        match self.ipset.type:
            case "hash:ip":
                return self.members.get(address)
            case "hash:net":
                return self._longest(address, "")
            case "hash:net,iface":
                inward = ends[1] == "src"
                return self._longest(
                    address, packet.in_interface if inward else packet.out_interface
                )
            case "hash:ip,port":
                port = packet.sport if ends[1] == "src" else packet.dport
                name = PROTOCOL_NAMES.get(packet.protocol, "")
                return self.members.get(f"{address},{name}:{port}")
            case "hash:net,net":
                raise AssertionError("no rule of ours asks such a set")

    def _longest(self, address: Address, interface: str) -> KernelMember | None:
        found: list[tuple[int, KernelMember]] = []
        for text, member in self.members.items():
            net, _, name = text.partition(",")
            if name == interface and net_contains(_net(net), address):
                bounds = net_range(_net(net))
                found.append((bounds.last - bounds.first, member))
        if not found:
            return None
        member = min(found, key=lambda pair: pair[0])[1]
        return None if member.nomatch else member


@lru_cache(maxsize=4096)
def _net(text: str) -> Net:
    if "/" in text:
        return Net(text)
    return Net(f"{text}/{128 if ':' in text else 32}")


class Asked(Protocol):
    """What rules ask of, beside the packet."""

    @property
    def ipsets(self) -> Mapping[IpsetName, SimulatedIpset]:
        """The sets."""

    @property
    def link_groups(self) -> Mapping[str, int]:
        """The interfaces' groups."""

    @property
    def own_addresses(self) -> frozenset[Address]:
        """The machine's addresses."""


Test = Callable[[Asked, Packet], bool]
Change = Callable[[Asked, Packet], Packet]


def _unchanged(_asked: Asked, packet: Packet) -> Packet:
    return packet


@dataclass(frozen=True)
class ParsedRule:
    """A rule: what must hold, and then one of four things."""

    matches: tuple[Test, ...]
    verdict: Literal["ACCEPT", "DROP", "RETURN"] | None = None
    chain: ChainName | None = None
    is_goto: bool = False
    change: Change = _unchanged


@lru_cache(maxsize=65536)
def parse_rule(text: RuleText, version: Version) -> ParsedRule:
    """The meaning of a rule's text.

    Raises:
        ValueError: a word that no rule of ours should have.
    """
    words = _Words(shlex.split(text))
    tests: list[Test] = []
    module = ""
    for word in words:
        negated = word == "!"
        option = next(words) if negated else word
        if option in ("-j", "-g") and not negated:
            rule = _parse_target(tuple(tests), option, words)
            if rest := list(words):
                raise ValueError(f"after the target: {rest}")
            return rule
        if option == "-m" and not negated:
            module = next(words)
        else:
            tests.append(_negate(_parse_match(module, option, words, version), negated=negated))
    raise ValueError(f"no target: {text}")


class _Words(Iterator[str]):
    def __init__(self, words: Sequence[str]) -> None:
        self._words = iter(words)

    def __next__(self) -> str:
        return next(self._words)


def _negate(test: Test, *, negated: bool) -> Test:
    if not negated:
        return test
    return lambda asked, packet: not test(asked, packet)


def _parse_target(tests: tuple[Test, ...], option: str, words: _Words) -> ParsedRule:
    target = next(words)
    if target in ("ACCEPT", "DROP", "RETURN") and option == "-j":
        verdict: Literal["ACCEPT", "DROP", "RETURN"] = target  # type: ignore[assignment]  # checked
        return ParsedRule(tests, verdict=verdict)
    if target == "MARK":
        _expect(words, "--set-xmark")
        value, mask = _pair(next(words))
        return ParsedRule(
            tests, change=lambda _, packet: replace(packet, mark=packet.mark & ~mask ^ value)
        )
    if target == "SET":
        return ParsedRule(tests, change=_parse_map(words))
    if target == "CT":
        _expect(words, "--notrack")
        return ParsedRule(tests, change=lambda _, packet: replace(packet, state="UNTRACKED"))
    if target in _TELLING:
        _skip(words, _TELLING[target])
        return ParsedRule(tests)
    if target.startswith("cali-"):
        return ParsedRule(tests, chain=ChainName(target), is_goto=option == "-g")
    raise ValueError(f"unknown target {target}")


# Targets after which a packet goes on.
_TELLING = {"LOG": "--log-prefix --log-level", "NFLOG": "--nflog-prefix --nflog-group"}


def _parse_map(words: _Words) -> Change:
    _expect(words, "--map-set")
    name, ends = IpsetName(next(words)), next(words).split(",")
    _expect(words, "--map-mark")

    def change(asked: Asked, packet: Packet) -> Packet:
        found = asked.ipsets[name].find(packet, ends)
        if found is None:
            return packet
        return replace(packet, mark=packet.mark & ~found.mark_mask ^ found.mark)

    return change


def _parse_match(module: str, option: str, words: _Words, version: Version) -> Test:
    for table, key in ((_BASIC, option), (_MODULES, f"{module} {option}")):
        if key in table:
            return table[key](words)
    icmp = ("icmp --icmp-type", 1) if version == 4 else ("icmp6 --icmpv6-type", 58)
    if f"{module} {option}" == icmp[0]:
        return _icmp(next(words), icmp[1])
    if option in ("--sport", "--dport") and module in ("tcp", "udp", "sctp"):
        return _ports(option[2], next(words))
    if f"{module} {option}" == "bpf --bytecode":
        if f'-m bpf --bytecode "{next(words)}"' != SAME_ENDS[version]:
            raise ValueError("unknown bytecode")
        return lambda _, packet: packet.src == packet.dst
    raise ValueError(f"unknown match: -m {module} {option}")


def _address(end: str) -> Callable[[_Words], Test]:
    def parse(words: _Words) -> Test:
        net = _net(next(words))
        return lambda _, packet: net_contains(net, packet.src if end == "src" else packet.dst)

    return parse


def _interface(end: str) -> Callable[[_Words], Test]:
    def parse(words: _Words) -> Test:
        pattern = next(words)
        prefix = pattern.removesuffix("+")

        def test(_asked: Asked, packet: Packet) -> bool:
            name = packet.in_interface if end == "in" else packet.out_interface
            return name.startswith(prefix) if pattern.endswith("+") else name == pattern

        return test

    return parse


def _protocol(words: _Words) -> Test:
    word = next(words)
    numbers = {name: number for number, name in PROTOCOL_WORDS.items()}
    number = numbers[word] if word in numbers else int(word)
    return lambda _, packet: packet.protocol == number


def _mark(words: _Words) -> Test:
    value, mask = _pair(next(words))
    return lambda _, packet: packet.mark & mask == value


def _connmark(words: _Words) -> Test:
    value, mask = _pair(next(words))
    return lambda _, packet: packet.connmark & mask == value


def _ctstate(words: _Words) -> Test:
    states = next(words).split(",")
    return lambda _, packet: packet.state in states


def _ctdir(words: _Words) -> Test:
    wants_reply = {"REPLY": True, "ORIGINAL": False}[next(words)]
    return lambda _, packet: packet.is_reply is wants_reply


def _match_set(words: _Words) -> Test:
    name, ends = IpsetName(next(words)), next(words).split(",")
    return lambda asked, packet: asked.ipsets[name].find(packet, ends) is not None


def _link_group(end: str) -> Callable[[_Words], Test]:
    def parse(words: _Words) -> Test:
        value, mask = _pair(next(words))

        def test(asked: Asked, packet: Packet) -> bool:
            name = packet.in_interface if end == "in" else packet.out_interface
            return asked.link_groups.get(name, 0) & mask == value

        return test

    return parse


def _source_type(words: _Words) -> Test:
    _expect(words, "LOCAL")
    return lambda asked, packet: packet.src in asked.own_addresses


def _destination_type(words: _Words) -> Test:
    _expect(words, "UNICAST")
    multicast = {4: Net("224.0.0.0/4"), 6: Net("ff00::/8")}
    return lambda _, packet: not net_contains(multicast[packet.version], packet.dst)


def _icmp(word: str, protocol: int) -> Test:
    kind, _, code = word.partition("/")
    codes = {int(code)} if code else set(range(256))

    def test(_asked: Asked, packet: Packet) -> bool:
        icmp = packet.icmp
        if packet.protocol != protocol or icmp is None:
            return False
        return icmp.type == int(kind) and (icmp.code or 0) in codes

    return test


def _ports(end: str, word: str) -> Test:
    ranges = [part.split(":") for part in word.split(",")]
    bounds = [(int(low), int((high or [low])[0])) for low, *high in ranges]

    def test(_asked: Asked, packet: Packet) -> bool:
        port = packet.sport if end == "s" else packet.dport
        return any(low <= port <= high for low, high in bounds)

    return test


def _multiport(end: str) -> Callable[[_Words], Test]:
    def parse(words: _Words) -> Test:
        word = next(words)
        slots = sum(2 if ":" in part else 1 for part in word.split(","))
        if slots > 15:
            raise ValueError(f"multiport takes 15 ports, a range is two: {word}")
        return _ports(end, word)

    return parse


def _rate(options: str) -> Callable[[_Words], Test]:
    def parse(words: _Words) -> Test:
        next(words)
        _skip(words, options)
        return lambda _asked, _packet: True

    return parse


def _skip(words: _Words, options: str) -> None:
    for option in options.split():
        _expect(words, option)
        next(words)


def _pair(word: str) -> tuple[int, int]:
    value, _, mask = word.partition("/")
    return int(value, 16), int(mask, 16)


def _expect(words: _Words, wanted: str) -> None:
    found = next(words)
    if found != wanted:
        raise ValueError(f"{found} where {wanted} is expected")


_BASIC: Mapping[str, Callable[[_Words], Test]] = {
    "-s": _address("src"),
    "-d": _address("dst"),
    "-i": _interface("in"),
    "-o": _interface("out"),
    "-p": _protocol,
}

_MODULES: Mapping[str, Callable[[_Words], Test]] = {
    "mark --mark": _mark,
    "connmark --mark": _connmark,
    "conntrack --ctstate": _ctstate,
    "conntrack --ctdir": _ctdir,
    "set --match-set": _match_set,
    "devgroup --src-group": _link_group("in"),
    "devgroup --dst-group": _link_group("out"),
    "addrtype --src-type": _source_type,
    "addrtype --dst-type": _destination_type,
    "limit --limit": _rate("--limit-burst"),
    "hashlimit --hashlimit-upto": _rate(
        "--hashlimit-burst --hashlimit-mode --hashlimit-name --hashlimit-htable-size"
        " --hashlimit-htable-max --hashlimit-htable-expire"
    ),
    "multiport --sports": _multiport("s"),
    "multiport --dports": _multiport("d"),
}
