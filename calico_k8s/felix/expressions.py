"""A rule's text as nftables' expressions.  Pure.

In: rules as :mod:`calico_k8s.render.text` words them, and the types of the sets they ask.  Out:
the expressions that do the same.  Every word that a renderer uses has its arm here; another is
refused, never passed over.  The native backend writes all of them, iptables' nft backend those that
iptables-nft itself makes of a word.

A comparison that does not hold ends a rule, so the expressions of a rule's matches, one after the
other, are their conjunction, as in iptables.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from calico_k8s.errors import KernelError
from calico_k8s.model.addresses import Version
from calico_k8s.netlink import nftexpr as nft
from calico_k8s.netlink.nftexpr import KEY, Base, Cmp, Ct, Fib, Meta
from calico_k8s.netlink.nftwrite import INTERVAL_END, SetElement
from calico_k8s.render import text
from calico_k8s.render.names import dst_ipset
from calico_k8s.render.tables import IPSET_PREFIXES, IpsetName, IpsetType

TypeOf = Callable[[IpsetName], IpsetType]
NameOf = Callable[[str], str]
"""What a chain is called here."""

_TOKEN: Final = re.compile(r'"[^"]*"|\S+')
_PORT_END: Final = 1 << 16

SRC_OFFSET: Final[dict[Version, int]] = {4: 12, 6: 8}
ADDRESS_BYTES: Final[dict[Version, int]] = {4: 4, 6: 16}

_STATES: Final = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
_DIRECTIONS: Final = {"ORIGINAL": 0, "REPLY": 1}
_ADDRESS_TYPES: Final = {"UNICAST": nft.RTN_UNICAST, "LOCAL": nft.RTN_LOCAL}
PROTOCOLS: Final = {word: number for number, word in text.PROTOCOL_WORDS.items()}
_VERDICTS: Final = {"RETURN": nft.NFT_RETURN, "DROP": nft.NF_DROP, "ACCEPT": nft.NF_ACCEPT}


class PortSet(NamedTuple):
    """Ports that a rule asks the loaded one for: a set that lives and dies with it."""

    elements: tuple[SetElement, ...]
    has_ranges: bool
    is_negated: bool


class FlowLimit(NamedTuple):
    """How often a rule goes on for each flow, whose key its expressions have loaded."""

    rate: int
    burst: int
    size: int
    timeout_ms: int


class Queue(NamedTuple):
    """A queue that holds packets; how that is said depends on the kernel."""

    number: int


Part = bytes | PortSet | FlowLimit | Queue
Expressions = tuple[Part, ...]


def same_set(version: Version) -> IpsetName:
    """The set of (address, same address) of local endpoints: who reaches itself.

    nftables compares nothing with what it loaded, so equal ends are a set of pairs.
    """
    return IpsetName(f"{IPSET_PREFIXES[version]}same")


def compile_rule(
    rule: str, version: Version, type_of: TypeOf, name_of: NameOf = str
) -> Expressions:
    """The expressions of a rule.  Cost: some 15 us.

    Raises:
        KernelError: it has a word that is not known here.
    """
    words = _Words(rule, version, type_of, name_of)
    parts: list[Part] = []
    while not words.is_at_end:
        parts += words.take()
    return tuple(parts)


class _Words:
    """A rule's words, taken one match or target at a time."""

    def __init__(self, rule: str, version: Version, type_of: TypeOf, name_of: NameOf) -> None:
        self._rule = rule
        self._tokens = _TOKEN.findall(rule)
        self._place = 0
        self._version: Version = version
        self._type_of = type_of
        self._name_of = name_of
        self._module = ""

    @property
    def is_at_end(self) -> bool:
        return self._place >= len(self._tokens)

    def take(self) -> Iterable[Part]:
        sense = Cmp.EQ
        word = self._next()
        if word == "-m":
            self._module = self._next()
            return ()
        if word == "!":
            sense, word = Cmp.NEQ, self._next()
        arm = _ARMS.get(word)
        if arm is None:
            raise self._unknown(word)
        return arm(self, sense)

    def _next(self) -> str:
        if self.is_at_end:
            raise self._unknown("its end")
        self._place += 1
        token: str = self._tokens[self._place - 1]
        return token.strip('"')

    def _option(self, name: str) -> str | None:
        """The value of an option that may follow."""
        if self._tokens[self._place : self._place + 1] != [name]:
            return None
        self._place += 1
        return self._next()

    def _unknown(self, word: str) -> KernelError:
        return KernelError(f"nftables is not told '{word}' of the rule '{self._rule}'")

    def _number(self, table: dict[str, int], word: str) -> int:
        if word not in table:
            raise self._unknown(word)
        return table[word]

    def net(self, sense: Cmp, offset: int) -> Iterator[Part]:
        net = ipaddress.ip_network(self._next())
        length, value = net.prefixlen, net.network_address.packed
        whole, rest = divmod(length, 8)
        if rest:
            yield nft.load_payload(Base.NETWORK, offset, len(value))
            yield nft.mask(net.netmask.packed)
        elif whole:
            yield nft.load_payload(Base.NETWORK, offset, whole)
            value = value[:whole]
        if length:
            yield nft.compare(sense, value)

    def source(self, sense: Cmp) -> Iterator[Part]:
        return self.net(sense, SRC_OFFSET[self._version])

    def destination(self, sense: Cmp) -> Iterator[Part]:
        return self.net(sense, self._offset("dst"))

    def protocol(self, sense: Cmp) -> Iterator[Part]:
        word = self._next()
        number = int(word) if word.isdecimal() else self._number(PROTOCOLS, word)
        yield nft.load_meta(Meta.L4PROTO)
        yield nft.compare(sense, bytes((number,)))

    def came_in(self, sense: Cmp) -> Iterator[Part]:
        return self._interface(Meta.IIFNAME, sense)

    def goes_out(self, sense: Cmp) -> Iterator[Part]:
        return self._interface(Meta.OIFNAME, sense)

    def _interface(self, key: Meta, sense: Cmp) -> Iterator[Part]:
        pattern = self._next()
        beginning = pattern.removesuffix("+").encode()
        value = beginning if pattern.endswith("+") else interface_key(pattern)
        if value:
            yield nft.load_meta(key)
            yield nft.compare(sense, value)

    def mark(self, sense: Cmp) -> Iterator[Part]:
        value, bits = _value_and_mask(self._next())
        is_connections = self._module == "connmark"
        yield nft.load_ct(Ct.MARK) if is_connections else nft.load_meta(Meta.MARK)
        yield nft.mask(nft.host32(bits))
        yield nft.compare(sense, nft.host32(value))

    def states(self, sense: Cmp) -> Iterator[Part]:
        bits = sum(self._number(_STATES, word) for word in self._next().split(","))
        yield nft.load_ct(Ct.STATE)
        yield nft.mask(nft.host32(bits))
        yield nft.compare(_opposite(sense), bytes(4))

    def ct_direction(self, sense: Cmp) -> Iterator[Part]:
        yield nft.load_ct(Ct.DIRECTION)
        number = self._number(_DIRECTIONS, self._next())
        yield nft.compare(sense, bytes((number,)))

    def source_type(self, sense: Cmp) -> Iterator[Part]:
        return self._address_type(Fib.SADDR, sense)

    def destination_type(self, sense: Cmp) -> Iterator[Part]:
        return self._address_type(Fib.DADDR, sense)

    def _address_type(self, end: Fib, sense: Cmp) -> Iterator[Part]:
        number = self._number(_ADDRESS_TYPES, self._next())
        yield nft.load_address_type(end)
        yield nft.compare(sense, nft.host32(number))

    def source_group(self, sense: Cmp) -> Iterator[Part]:
        return self._group(Meta.IIFGROUP, sense)

    def destination_group(self, sense: Cmp) -> Iterator[Part]:
        return self._group(Meta.OIFGROUP, sense)

    def _group(self, key: Meta, sense: Cmp) -> Iterator[Part]:
        value, bits = _value_and_mask(self._next())
        yield nft.load_meta(key)
        yield nft.mask(nft.host32(bits))
        yield nft.compare(sense, nft.host32(value))

    def bytecode(self, sense: Cmp) -> Iterator[Part]:
        code = self._next()
        if f'"{code}"' not in text.SAME_ENDS[self._version]:
            raise self._unknown(code)
        # Source and destination stand side by side in both families' headers.
        length = 2 * ADDRESS_BYTES[self._version]
        yield nft.load_payload(Base.NETWORK, SRC_OFFSET[self._version], length)
        yield nft.look_up(same_set(self._version), is_negated=sense is Cmp.NEQ)

    def in_set(self, sense: Cmp) -> Iterator[Part]:
        name, ends = IpsetName(self._next()), self._next()
        if name == dst_ipset(self._version):
            # Kernels before 6.8 ask a map for its verdict alone: the pairs have the same addresses.
            length = ADDRESS_BYTES[self._version]
            yield nft.load_payload(Base.NETWORK, self._offset(ends), length)
            yield nft.load_payload(Base.NETWORK, self._offset(ends), length, KEY + length // 4)
            yield nft.look_up(same_set(self._version), is_negated=sense is Cmp.NEQ)
            return
        yield from self._load_key(name, ends)
        yield nft.look_up(name, is_negated=sense is Cmp.NEQ)

    def _load_key(self, name: IpsetName, ends: str) -> Iterator[bytes]:
        first, _, second = ends.partition(",")
        length = ADDRESS_BYTES[self._version]
        yield nft.load_payload(Base.NETWORK, self._offset(first), length)
        after = KEY + length // 4
        match self._type_of(name):
            case "hash:ip" | "hash:net" if not second:
                pass
            case "hash:ip,port" if second in _PORT_OFFSETS:
                yield nft.load_meta(Meta.L4PROTO, after)
                yield nft.load_payload(Base.TRANSPORT, _PORT_OFFSETS[second], 2, after + 1)
            case "hash:net,iface" if second == "src":
                yield nft.load_meta(Meta.IIFNAME, after)
            case kind:
                raise self._unknown(f"{kind} {ends}")

    def _offset(self, end: str) -> int:
        places = {"src": 0, "dst": ADDRESS_BYTES[self._version]}
        return SRC_OFFSET[self._version] + self._number(places, end)

    def icmp_type(self, sense: Cmp) -> Iterator[Part]:
        numbers = bytes(map(int, self._next().split("/")))
        yield nft.load_payload(Base.TRANSPORT, 0, len(numbers))
        yield nft.compare(sense, numbers)

    def source_port(self, sense: Cmp) -> Iterator[Part]:
        return self._port(0, sense)

    def destination_port(self, sense: Cmp) -> Iterator[Part]:
        return self._port(2, sense)

    def _port(self, offset: int, sense: Cmp) -> Iterator[Part]:
        low, high = port_range(self._next())
        if sense is not Cmp.EQ:
            raise self._unknown("!")
        yield nft.load_payload(Base.TRANSPORT, offset, 2)
        if low == high:
            yield nft.compare(Cmp.EQ, _port_key(low))
        else:
            yield nft.compare(Cmp.GTE, _port_key(low))
            yield nft.compare(Cmp.LTE, _port_key(high))

    def source_ports(self, sense: Cmp) -> Iterator[Part]:
        return self._ports(0, sense)

    def destination_ports(self, sense: Cmp) -> Iterator[Part]:
        return self._ports(2, sense)

    def _ports(self, offset: int, sense: Cmp) -> Iterator[Part]:
        ranges = _merged(map(port_range, self._next().split(",")))
        yield nft.load_payload(Base.TRANSPORT, offset, 2)
        has_ranges = any(low != high for low, high in ranges)
        elements = [
            each for low, high in ranges for each in _port_elements(low, high, has_end=has_ranges)
        ]
        yield PortSet(tuple(elements), has_ranges, sense is Cmp.NEQ)

    def limit(self, _sense: Cmp) -> Iterator[Part]:
        yield nft.limit(self._rate(self._next()), int(self._needed("--limit-burst")))

    def _rate(self, word: str) -> int:
        if not word.endswith("/sec"):
            raise self._unknown(word)
        return int(word.removesuffix("/sec"))

    def flow_limit(self, _sense: Cmp) -> Iterator[Part]:
        """By source, destination and destination port; of ICMP its checksum stands there."""
        rate, burst = self._rate(self._next()), int(self._needed("--hashlimit-burst"))
        if self._needed("--hashlimit-mode") != "srcip,dstip,dstport":
            raise self._unknown("--hashlimit-mode")
        for ignored in ("--hashlimit-name", "--hashlimit-htable-size"):
            self._needed(ignored)
        size = int(self._needed("--hashlimit-htable-max"))
        timeout_ms = int(self._needed("--hashlimit-htable-expire"))
        length = 2 * ADDRESS_BYTES[self._version]
        yield nft.load_payload(Base.NETWORK, SRC_OFFSET[self._version], length)
        yield nft.load_payload(Base.TRANSPORT, 2, 2, KEY + length // 4)
        yield FlowLimit(rate, burst, size, timeout_ms)

    def go_to(self, _sense: Cmp) -> Iterator[Part]:
        yield nft.verdict(nft.NFT_GOTO, self._name_of(self._next()))

    def jump(self, _sense: Cmp) -> Iterator[Part]:
        target = self._next()
        match target:
            case "RETURN" | "DROP" | "ACCEPT":
                yield nft.verdict(_VERDICTS[target])
            case "MARK":
                yield from self._set_mark()
            case "SET":
                yield from self._map_mark()
            case "CT" if self._next() == "--notrack":
                yield nft.untrack()
            case "LOG":
                yield self._log()
            case "NFLOG":
                yield self._nflog()
            case "NFQUEUE":
                yield Queue(int(self._needed("--queue-num")))
                if self._next() != "--queue-bypass":
                    raise self._unknown("no --queue-bypass")
            case _ if target.isupper():
                raise self._unknown(target)
            case _:
                yield nft.verdict(nft.NFT_JUMP, self._name_of(target))

    def _set_mark(self) -> Iterator[Part]:
        value, bits = _value_and_mask(self._needed("--set-xmark"))
        yield nft.load_meta(Meta.MARK)
        yield nft.mask(nft.host32(~bits & 0xFFFFFFFF), nft.host32(value))
        yield nft.store_mark()

    def _map_mark(self) -> Iterator[Part]:
        """The map's verdict jumps to a chain that sets the mark, and comes back."""
        name = IpsetName(self._needed("--map-set"))
        yield from self._load_key(name, self._next())
        if self._next() != "--map-mark":
            raise self._unknown("--map-set")
        yield nft.look_up_verdict(name)

    def _log(self) -> Part:
        prefix = self._option("--log-prefix") or ""
        return nft.log_kernel(prefix, int(self._option("--log-level") or 4))

    def _nflog(self) -> Part:
        found: dict[str, str] = {}
        while not self.is_at_end:
            name = self._next()
            found[name] = self._next()
        size, threshold = found.pop("--nflog-size", None), found.pop("--nflog-threshold", None)
        group, prefix = found.pop("--nflog-group", "0"), found.pop("--nflog-prefix", "")
        for name in found:
            raise self._unknown(name)
        return nft.log_group(
            int(group), prefix, int(size) if size else None, int(threshold) if threshold else None
        )

    def _needed(self, name: str) -> str:
        value = self._option(name)
        if value is None:
            raise self._unknown(f"no {name}")
        return value


_PORT_OFFSETS: Final = {"src": 0, "dst": 2}
_ARMS: Final[dict[str, Callable[[_Words, Cmp], Iterable[Part]]]] = {
    "-s": _Words.source,
    "-d": _Words.destination,
    "-p": _Words.protocol,
    "-i": _Words.came_in,
    "-o": _Words.goes_out,
    "--mark": _Words.mark,
    "--ctstate": _Words.states,
    "--ctdir": _Words.ct_direction,
    "--src-type": _Words.source_type,
    "--dst-type": _Words.destination_type,
    "--src-group": _Words.source_group,
    "--dst-group": _Words.destination_group,
    "--bytecode": _Words.bytecode,
    "--match-set": _Words.in_set,
    "--icmp-type": _Words.icmp_type,
    "--icmpv6-type": _Words.icmp_type,
    "--sport": _Words.source_port,
    "--dport": _Words.destination_port,
    "--sports": _Words.source_ports,
    "--dports": _Words.destination_ports,
    "--limit": _Words.limit,
    "--hashlimit-upto": _Words.flow_limit,
    "-j": _Words.jump,
    "-g": _Words.go_to,
}


def interface_key(name: str) -> bytes:
    """An interface's name as the kernel compares it."""
    return name.encode().ljust(nft.IFNAMSIZ, b"\0")


def _opposite(sense: Cmp) -> Cmp:
    return Cmp.EQ if sense is Cmp.NEQ else Cmp.NEQ


def _value_and_mask(words: str) -> tuple[int, int]:
    value, _, bits = words.partition("/")
    return int(value, 16), int(bits, 16) if bits else 0xFFFFFFFF


def port_range(word: str) -> tuple[int, int]:
    """The first and the last port of ``80`` or ``8000:8080``."""
    low, _, high = word.partition(":")
    return int(low), int(high or low)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ports in order, no range touching another."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def _port_elements(low: int, high: int, *, has_end: bool) -> Iterator[SetElement]:
    yield SetElement(_port_key(low))
    if has_end and high + 1 < _PORT_END:
        yield SetElement(_port_key(high + 1), flags=INTERVAL_END)


def _port_key(port: int) -> bytes:
    return port.to_bytes(2, "big")
