"""A rule's words taken apart, and what iptables' extensions are told by them.  Pure.

In: rules as :mod:`calico_k8s.render.text` words them, and the numbers of the sets they ask.  Out:
names, revisions and the structures of the kernel's headers, byte for byte as iptables has them.
They are the same in a legacy table and, where iptables-nft knows no expression of nftables for
them, in one of iptables-nft.  Whoever meets a word that is not known leaves the rule to iptables.
"""

import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, NoReturn

from calico_k8s.felix.expressions import ADDRESS_BYTES, PROTOCOLS, port_range
from calico_k8s.model.addresses import Version

Words = Sequence[str]

_WORD: Final = re.compile(r'"[^"]*"|\S+')
_QUOTED: Final = re.compile(r'"[^"]*"')
_BEGINNINGS: Final = frozenset({"-i", "-o", "-s", "-d", "-p", "-m", "-j", "-g"})
_ASKED_SET: Final = re.compile(r"--match-set (\S+)")

KEPT: Final = 2048
"""Rules that are kept as whoever compiles them made them: some 600 bytes each."""

PORT_OPTIONS: Final = ("--sport", "--dport")

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


class Extension(NamedTuple):
    """A match or a target, and what it is told."""

    name: str
    revision: int
    data: bytes


class UnknownWord(Exception):
    """A word that is not known here; whoever compiles a rule catches it."""


WORD_ERRORS: Final = (UnknownWord, LookupError, ValueError, struct.error)
"""What a word that is not known, or has no sense, raises."""


def refuse() -> NoReturn:
    """A word is not known."""
    raise UnknownWord


def asked_sets(rule: str) -> Iterator[str]:
    """The names of the sets that a rule asks."""
    return iter(_ASKED_SET.findall(rule))


def rule_parts(rule: str) -> Iterator[tuple[bool, list[str]]]:
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
        refuse()
    yield is_negated, words


def word_options(words: Words, known: Collection[str]) -> dict[str, str]:
    """Options that each have one value."""
    found = dict(zip(words[::2], words[1::2], strict=True))
    if not found.keys() <= set(known) or len(found) * 2 != len(words):
        refuse()
    return found


def protocol_number(word: str) -> int:
    """The number of ``tcp`` or ``6``."""
    return int(word) if word.isdecimal() else PROTOCOLS[word]


def match_extension(
    module: str, words: Words, version: Version, indexes: Mapping[str, int]
) -> Extension:
    """What a match is told that iptables-nft, too, has as an extension."""
    if module == "set":
        return Extension(module, 4, _set(words, indexes))
    revision, make = _EXTENSIONS[module]
    return Extension(module, revision, make(words, version))


def log_target(words: Words) -> Extension:
    """What ``LOG`` is told, which stands before these words."""
    found = word_options(words, frozenset({"--log-prefix", "--log-level"}))
    prefix = fitting(found.get("--log-prefix", ""), 29)
    return Extension("LOG", 0, _LOG.pack(int(found.get("--log-level", "4")), 0, prefix))


def _set(words: Words, indexes: Mapping[str, int]) -> bytes:
    is_negated = words[0] == "!"
    option, name, ends = words[1:] if is_negated else words
    if option != "--match-set" or name not in indexes:
        refuse()
    asked = ends.split(",")
    if len(asked) > 2 or not {"src", "dst"}.issuperset(asked):
        refuse()
    flags = _SET_IS_NOT if is_negated else 0
    for end, bit in zip(asked, (_SET_FIRST_SRC, _SET_SECOND_SRC), strict=False):
        flags |= bit if end == "src" else 0
    return _SET.pack(indexes[name], len(asked), flags)


def _comment(words: Words, _version: Version) -> bytes:
    said = word_options(words, frozenset({"--comment"}))["--comment"]
    return _COMMENT.pack(fitting(said, 255))


def fitting(word: str, length: int) -> bytes:
    """A word without its quotes; the kernel wants a zero behind it."""
    said = word[1:-1] if _QUOTED.fullmatch(word) else word
    if '"' in said or len(said.encode()) > length:
        refuse()
    return said.encode()


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
        refuse()
    return _MULTIPORT.pack(kind, len(ports), *ports, *rest, *opens, *rest, is_negated)


def _icmp(words: Words, version: Version) -> bytes:
    is_negated = words[0] == "!"
    option, said = words[1:] if is_negated else words
    if option != {4: "--icmp-type", 6: "--icmpv6-type"}[version]:
        refuse()
    kind, _, code = said.partition("/")
    first, last = (int(code), int(code)) if code else (0, 255)
    return _ICMP.pack(int(kind), first, last, is_negated)


def _sctp(words: Words, _version: Version) -> bytes:
    options = word_options(words, PORT_OPTIONS)
    src, dst = (port_range(options.get(name, "0")) for name in PORT_OPTIONS)
    flags = _SCTP_SRC * ("--sport" in options) | _SCTP_DST * ("--dport" in options)
    return _SCTP.pack(*dst, *src, 0, _SCTP_ANY_FLAGS, 0, flags, 0)


def _bpf(words: Words, _version: Version) -> bytes:
    code = word_options(words, frozenset({"--bytecode"}))["--bytecode"].strip('"')
    count, *listed = code.split(",")
    program = b"".join(_BPF_WORD.pack(*map(int, each.split())) for each in listed)
    if int(count) != len(listed) or len(listed) > _BPF_WORDS_MAX:
        refuse()
    return _BPF.pack(0, len(listed), 0, program)


def _hashlimit(words: Words, version: Version) -> bytes:
    names = {
        f"--hashlimit-{name}"
        for name in ("upto", "burst", "mode", "name", "htable-size", "htable-max", "htable-expire")
    }
    found = word_options(words, frozenset(names))
    if found.keys() != names:
        refuse()
    rate, _, unit = found["--hashlimit-upto"].partition("/")
    if unit != "sec":
        refuse()
    modes = sum(_HASHLIMIT_MODES[word] for word in found["--hashlimit-mode"].split(","))
    bits = 8 * ADDRESS_BYTES[version]
    sizes = (found[f"--hashlimit-htable-{name}"] for name in ("size", "max"))
    return _HASHLIMIT.pack(
        fitting(found["--hashlimit-name"], 254),
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
