"""A rule's text as the expressions that iptables-nft makes of it.  Pure.

In: rules as :mod:`calico_k8s.render.text` words them, and the numbers of the sets they ask.  Out:
what iptables-nft 1.8.9 would write, byte for byte as the kernel then gives it back, so that
programs of iptables list it as theirs; None for a rule with a word that is not known here, which
is for ``iptables-nft-restore``.

Some words iptables-nft writes in nftables' own expressions, as the native backend does.  The others
are extensions of iptables: a name, a revision, and the structure of the kernel's header.

=======================  ==================================================================
nftables' own            ``-s`` ``-d`` ``-p``, ``-m`` mark, tcp, udp, limit, ``-j NFLOG``, verdicts
extensions               ``-m`` bpf, comment, hashlimit, icmp, icmp6, multiport, sctp, set, ``-j LOG``
=======================  ==================================================================
"""

import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, NoReturn

from calico_k8s.errors import KernelError
from calico_k8s.felix.expressions import ADDRESS_BYTES, PROTOCOLS, compile_rule, port_range
from calico_k8s.model.addresses import Net, Version, net_range
from calico_k8s.netlink import nftexpr as nft
from calico_k8s.netlink.nftexpr import Base, Cmp
from calico_k8s.netlink.nftwrite import RuleProtocol
from calico_k8s.netlink.wire import BE16
from calico_k8s.render.tables import IpsetType

Words = Sequence[str]

KEPT: Final = 2048
"""Rules that are kept as they were compiled: some 600 bytes each."""

_WORD: Final = re.compile(r'"[^"]*"|\S+')
_BEGINNINGS: Final = frozenset({"-s", "-d", "-p", "-m", "-j", "-g"})
_ASKED_SET: Final = re.compile(r"--match-set (\S+)")

_PORT_OPTIONS: Final = ("--sport", "--dport")

_COMMENT: Final = struct.Struct("=256s")  # struct xt_comment_info
_SET: Final = struct.Struct("=HBB4x16x16x4x4x")  # struct xt_set_info_match_v4
_SET_IS_NOT, _SET_FIRST_SRC, _SET_SECOND_SRC = 1, 2, 4
_PORTS_MAX: Final = 15
_MULTIPORT: Final = struct.Struct(f"=BB{_PORTS_MAX}H{_PORTS_MAX}BB")  # struct xt_multiport_v1
_ICMP: Final = struct.Struct("=BBBB4x")  # struct ipt_icmp
_SCTP: Final = struct.Struct("=HHHH256xI12sIII4x")  # struct xt_sctp_info
_SCTP_ANY_FLAGS: Final = b"\xff\0\0" * 4
_SCTP_SRC, _SCTP_DST = 1, 2
_LOG: Final = struct.Struct("=BB30s")  # struct xt_log_info
_BPF: Final = struct.Struct("=HHi512s8x")  # struct xt_bpf_info_v1
_BPF_WORD: Final = struct.Struct("=HBBI")
_BPF_WORDS_MAX: Final = 64
_HASHLIMIT: Final = struct.Struct("=255sxQQIIIIIIBB6x8x")  # struct xt_hashlimit_mtinfo3
_HASHLIMIT_SCALE: Final = 1_000_000  # XT_HASHLIMIT_SCALE_v2
_HASHLIMIT_MODES: Final = {"dstip": 1, "dstport": 2, "srcip": 4, "srcport": 8}
_HASHLIMIT_GC_MS: Final = 1000


class CompatRule(NamedTuple):
    """A rule as the kernel takes it."""

    expressions: bytes
    protocol: RuleProtocol | None


class _Unknown(Exception):
    """A word that is not known here; caught in this module, always."""


def asked_sets(rule: str) -> Iterator[str]:
    """The names of the sets that a rule asks."""
    return iter(_ASKED_SET.findall(rule))


def compile_compat(rule: str, version: Version, indexes: Mapping[str, int]) -> CompatRule | None:
    """What iptables-nft would write; None where that is not known here.

    Cost: some 30 us; 2 for one that was asked for before, as most of a mark tree were.
    """
    asked = tuple((name, indexes[name]) for name in asked_sets(rule) if name in indexes)
    return _known(rule, version, asked)


@lru_cache(maxsize=KEPT)
def _known(rule: str, version: Version, asked: tuple[tuple[str, int], ...]) -> CompatRule | None:
    try:
        return _compile(rule, version, dict(asked))
    except (_Unknown, KernelError, LookupError, ValueError, struct.error):
        return None


def _compile(rule: str, version: Version, indexes: Mapping[str, int]) -> CompatRule:
    """iptables-nft asks the protocol first, and counts before it does what the rule says.

    A chain's hash stands behind the target, in the text alone.
    """
    heads: dict[str, bytes] = {}
    matches: list[bytes] = []
    protocol: RuleProtocol | None = None
    target = b""
    for is_negated, words in _parts(rule):
        match words[0]:
            case "-p" | "-s" | "-d" as head if head not in heads and not (matches or target):
                heads[head] = _head(is_negated, words, version)
                if head == "-p":
                    protocol = RuleProtocol(_protocol_number(words[1]), is_negated)
            case "-m" if not is_negated:
                matches.append(_match(words[1], words[2:], version, indexes))
            case "-j" | "-g" if not (target or is_negated):
                target = _target(words, version)
            case _:
                _refuse()
    if not target:
        _refuse()
    ordered = [heads[head] for head in ("-p", "-s", "-d") if head in heads]
    return CompatRule(b"".join((*ordered, *matches, nft.counter(), target)), protocol)


def _parts(rule: str) -> Iterator[tuple[bool, list[str]]]:
    """The matches and the target, each with its words, and whether ``!`` stands before."""
    words: list[str] = []
    is_negated = False
    for word in _WORD.findall(rule):
        if word in _BEGINNINGS:
            is_next_negated = words[-1:] == ["!"]
            if is_next_negated:
                words.pop()
            if words:
                yield is_negated, words
            words, is_negated = [], is_next_negated
        words.append(word)
    if len(words) < 2:
        _refuse()
    yield is_negated, words


def _refuse() -> NoReturn:
    raise _Unknown


def _head(is_negated: bool, words: Words, version: Version) -> bytes:  # noqa: FBT001 - its sign
    option, said = words
    if option != "-p" and net_range(Net(said)).version != version:
        _refuse()
    return _native(f"{'! ' if is_negated else ''}{option} {said}", version)


@lru_cache(maxsize=KEPT)
def _native(text: str, version: Version) -> bytes:
    """The expressions that the native backend, too, has for these words."""
    parts = compile_rule(text, version, _no_type)
    return b"".join(part for part in parts if isinstance(part, bytes))


def _no_type(_name: str) -> IpsetType:
    _refuse()


def _protocol_number(word: str) -> int:
    return int(word) if word.isdecimal() else PROTOCOLS[word]


def _match(module: str, words: Words, version: Version, indexes: Mapping[str, int]) -> bytes:
    match module:
        case "mark":
            return _mark(words, version)
        case "limit":
            return _native(" ".join(("-m", module, *words)), version)
        case "tcp" | "udp":
            return b"".join(_ports(words))
        case "set":
            return _set(words, indexes)
        case _:
            revision, make = _EXTENSIONS[module]
            return nft.extension_match(module, revision, make(words, version))


def _target(words: Words, version: Version) -> bytes:
    if words[1] == "LOG":
        return nft.extension_target("LOG", 0, _log(words[2:]))
    is_plain = len(words) == 2 and (not words[1].isupper() or words[1] in _VERDICTS)
    if not is_plain and words[1] != "NFLOG":
        _refuse()
    return _native(" ".join(words), version)


_VERDICTS: Final = frozenset({"ACCEPT", "DROP", "RETURN"})


def _mark(words: Words, version: Version) -> bytes:
    value = words[-1]
    if value.partition("/")[2] in ("", "0xffffffff"):  # iptables then leaves the mask out
        _refuse()
    return _native(" ".join(("-m", "mark", *words)), version)


def _options(words: Words, known: Collection[str]) -> dict[str, str]:
    """Options that each have one value."""
    found = dict(zip(words[::2], words[1::2], strict=True))
    if not found.keys() <= set(known) or len(found) * 2 != len(words):
        _refuse()
    return found


def _ports(words: Words) -> Iterator[bytes]:
    options = _options(words, _PORT_OPTIONS)
    ranges = [port_range(options[name]) if name in options else None for name in _PORT_OPTIONS]
    ports = [each[0] for each in ranges if each is not None and each[0] == each[1]]
    if len(ports) == 2 and all(ports):
        yield nft.load_payload(Base.TRANSPORT, 0, 4)
        yield nft.compare(Cmp.EQ, b"".join(map(BE16.pack, ports)))
        return
    for place, each in enumerate(ranges):
        if each is not None:
            yield nft.load_payload(Base.TRANSPORT, 2 * place, 2)
            yield _in_range(*map(BE16.pack, each))


def _in_range(low: bytes, high: bytes) -> bytes:
    if low == high:
        return nft.compare(Cmp.EQ, low)
    return nft.in_range(low, high) if any(low) else nft.compare(Cmp.LTE, high)


def _set(words: Words, indexes: Mapping[str, int]) -> bytes:
    is_negated = words[0] == "!"
    option, name, ends = words[1:] if is_negated else words
    if option != "--match-set" or name not in indexes:
        _refuse()
    asked = ends.split(",")
    if len(asked) > 2 or not {"src", "dst"}.issuperset(asked):
        _refuse()
    flags = _SET_IS_NOT if is_negated else 0
    for end, bit in zip(asked, (_SET_FIRST_SRC, _SET_SECOND_SRC), strict=False):
        flags |= bit if end == "src" else 0
    return nft.extension_match("set", 4, _SET.pack(indexes[name], len(asked), flags))


def _comment(words: Words, _version: Version) -> bytes:
    said = _options(words, frozenset({"--comment"}))["--comment"]
    return _COMMENT.pack(_fitting(said, 255))


def _fitting(word: str, length: int) -> bytes:
    """A word without its quotes; the kernel wants a zero behind it."""
    said = word.strip('"').encode()
    if len(said) > length:
        _refuse()
    return said


def _multiport(words: Words, _version: Version) -> bytes:
    is_negated = words[0] == "!"
    option, listed = words[1:] if is_negated else words
    ports: list[int] = []
    opens: list[int] = []
    for low, high in map(port_range, listed.split(",")):
        ports += (low,) if low == high else (low, high)
        opens += (0,) if low == high else (1, 0)
    rest = [0] * (_PORTS_MAX - len(ports))
    kind = {"--sports": 0, "--dports": 1}.get(option)
    if kind is None or len(ports) > _PORTS_MAX:
        _refuse()
    return _MULTIPORT.pack(kind, len(ports), *ports, *rest, *opens, *rest, is_negated)


def _icmp(words: Words, version: Version) -> bytes:
    is_negated = words[0] == "!"
    option, said = words[1:] if is_negated else words
    if option != {4: "--icmp-type", 6: "--icmpv6-type"}[version]:
        _refuse()
    kind, _, code = said.partition("/")
    first, last = (int(code), int(code)) if code else (0, 255)
    return _ICMP.pack(int(kind), first, last, is_negated)


def _sctp(words: Words, _version: Version) -> bytes:
    options = _options(words, _PORT_OPTIONS)
    src, dst = (port_range(options.get(name, "0")) for name in _PORT_OPTIONS)
    flags = _SCTP_SRC * ("--sport" in options) | _SCTP_DST * ("--dport" in options)
    return _SCTP.pack(*dst, *src, 0, _SCTP_ANY_FLAGS, 0, flags, 0)


def _log(words: Words) -> bytes:
    found = _options(words, frozenset({"--log-prefix", "--log-level"}))
    prefix = _fitting(found.get("--log-prefix", ""), 29)
    return _LOG.pack(int(found.get("--log-level", "4")), 0, prefix)


def _bpf(words: Words, _version: Version) -> bytes:
    code = _options(words, frozenset({"--bytecode"}))["--bytecode"].strip('"')
    count, *listed = code.split(",")
    program = b"".join(_BPF_WORD.pack(*map(int, each.split())) for each in listed)
    if int(count) != len(listed) or len(listed) > _BPF_WORDS_MAX:
        _refuse()
    return _BPF.pack(0, len(listed), 0, program)


def _hashlimit(words: Words, version: Version) -> bytes:
    names = {
        f"--hashlimit-{name}"
        for name in ("upto", "burst", "mode", "name", "htable-size", "htable-max", "htable-expire")
    }
    found = _options(words, frozenset(names))
    if found.keys() != names:
        _refuse()
    rate, _, unit = found["--hashlimit-upto"].partition("/")
    if unit != "sec":
        _refuse()
    modes = sum(_HASHLIMIT_MODES[word] for word in found["--hashlimit-mode"].split(","))
    bits = 8 * ADDRESS_BYTES[version]
    sizes = (found[f"--hashlimit-htable-{name}"] for name in ("size", "max"))
    return _HASHLIMIT.pack(
        _fitting(found["--hashlimit-name"], 254),
        _HASHLIMIT_SCALE // int(rate),
        int(found["--hashlimit-burst"]),
        modes,
        *map(int, sizes),
        _HASHLIMIT_GC_MS,
        int(found["--hashlimit-htable-expire"]),
        0,
        bits,
        bits,
    )


_EXTENSIONS: Final[Mapping[str, tuple[int, Callable[[Words, Version], bytes]]]] = {
    "bpf": (1, _bpf),
    "comment": (0, _comment),
    "hashlimit": (3, _hashlimit),
    "icmp": (0, _icmp),
    "icmp6": (0, _icmp),
    "multiport": (1, _multiport),
    "sctp": (0, _sctp),
}
