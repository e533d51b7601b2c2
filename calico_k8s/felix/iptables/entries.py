"""A rule's text as the entry that iptables makes of it for a legacy table.  Pure.

In: rules as :mod:`calico_k8s.render.text` words them, and the numbers of the sets they ask.  Out:
the entry that libiptc is handed, in which a jump still has its chain's name; None for a rule with
a word that is not known here, which is for ``iptables-restore``.

==========  ==========================================================================
heads       ``-s`` ``-d`` ``-i`` ``-o`` ``-p``
matches     mark, tcp, udp, limit, and those of :mod:`.extensions`
targets     ``-j`` ``-g`` to a chain of ours, ACCEPT, DROP, RETURN, LOG, NFLOG
==========  ==========================================================================

Source: ``linux/netfilter/x_tables.h``, ``linux/netfilter_ipv4/ip_tables.h``,
``linux/netfilter_ipv6/ip6_tables.h``.
"""

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_network
from typing import Final

from calico_k8s.felix.expressions import port_range
from calico_k8s.felix.iptables.extensions import (
    KEPT,
    PORT_OPTIONS,
    WORD_ERRORS,
    Extension,
    Words,
    asked_sets,
    fitting,
    log_target,
    match_extension,
    protocol_number,
    refuse,
    rule_parts,
    word_options,
)
from calico_k8s.felix.iptables.plan import own_chain
from calico_k8s.model.addresses import Version

LINK_NAME_MAX: Final = 15  # IFNAMSIZ - 1

_HEADER: Final = struct.Struct("=H29sB")  # struct xt_entry_match, struct xt_entry_target
_LINK_BYTES: Final = LINK_NAME_MAX + 1
_IPV4: Final = struct.Struct(
    f"=4s4s4s4s{_LINK_BYTES}s{_LINK_BYTES}s{_LINK_BYTES}s{_LINK_BYTES}sHBB"
)
_IPV6: Final = struct.Struct(
    f"=16s16s16s16s{_LINK_BYTES}s{_LINK_BYTES}s{_LINK_BYTES}s{_LINK_BYTES}sHxBB3x"
)
_TAILS: Final = {4: struct.Struct("=4xHH4x16x"), 6: struct.Struct("=4xHH4x4x16x")}
"""What an entry has behind its head: a word for nothing, where target and end are, counters."""

_FLAG_PROTOCOL_V6: Final = 1  # IP6T_F_PROTO
_FLAG_GOTO: Final = {4: 2, 6: 4}  # IPT_F_GOTO, IP6T_F_GOTO
_INVERTS: Final = {"-i": 1, "-o": 2, "-s": 8, "-d": 0x10, "-p": 0x40}  # IPT_INV_VIA_IN ...

_ANY_PORTS: Final = (0, 65535)
_TCP: Final = struct.Struct("=HHHHBBBB")  # struct xt_tcp
_UDP: Final = struct.Struct("=HHHHB")  # struct xt_udp
_PORT_INVERTS: Final = {"--sport": 1, "--dport": 2}  # XT_TCP_INV_SRCPT, XT_UDP_INV_SRCPT ...
_MARK: Final = struct.Struct("=IIB3x")  # struct xt_mark_mtinfo1
_LIMIT: Final = struct.Struct("=II32x")  # struct xt_rateinfo
_LIMIT_SCALE: Final = 10_000  # XT_LIMIT_SCALE
_NFLOG: Final = struct.Struct("=IHHHH64s")  # struct xt_nflog_info
_VERDICTS: Final = frozenset({"ACCEPT", "DROP", "RETURN"})
_VERDICT: Final = bytes(4)
"""libiptc puts the number in."""


def compile_entry(rule: str, version: Version, indexes: Mapping[str, int]) -> bytes | None:
    """What iptables would hand to libiptc; None where that is not known here.

    Cost: some 20 us; 2 for one that was asked for before.
    """
    asked = tuple((name, indexes[name]) for name in asked_sets(rule) if name in indexes)
    return _known(rule, version, asked)


@lru_cache(maxsize=KEPT)
def _known(rule: str, version: Version, asked: tuple[tuple[str, int], ...]) -> bytes | None:
    try:
        return _compile(rule, version, dict(asked))
    except WORD_ERRORS:
        return None


def _compile(rule: str, version: Version, indexes: Mapping[str, int]) -> bytes:
    heads: dict[str, str] = {}
    flags = inverts = 0
    matches: list[bytes] = []
    target = b""
    for is_negated, words in rule_parts(rule):
        match words[0]:
            case "-i" | "-o" | "-s" | "-d" | "-p" as head if head not in heads and not target:
                _, heads[head] = words
                inverts |= _INVERTS[head] if is_negated else 0
            case "-m" if not is_negated:
                matches.append(_packed(_match(words[1], words[2:], version, indexes)))
            case "-j" | "-g" if not (target or is_negated):
                target = _packed(_target(words))
                flags |= _FLAG_GOTO[version] if words[0] == "-g" else 0
            case _:
                refuse()
    if not target:
        refuse()
    if version == 6 and "-p" in heads:
        flags |= _FLAG_PROTOCOL_V6
    tail, head_bytes = _TAILS[version], _head(heads, version, flags, inverts)
    target_at = len(head_bytes) + tail.size + sum(map(len, matches))
    places = tail.pack(target_at, target_at + len(target))
    return b"".join((head_bytes, places, *matches, target))


def _packed(extension: Extension) -> bytes:
    name, revision, data = extension
    padding = -len(data) % 8
    size = _HEADER.size + len(data) + padding
    return _HEADER.pack(size, name.encode(), revision) + data + bytes(padding)


def _head(heads: Mapping[str, str], version: Version, flags: int, inverts: int) -> bytes:
    nets = [ip_network(heads[end]) if end in heads else None for end in ("-s", "-d")]
    if any(net is not None and net.version != version for net in nets):
        refuse()
    none = bytes(4 if version == 4 else 16)
    addresses = [none if net is None else net.network_address.packed for net in nets]
    masks = [none if net is None else net.netmask.packed for net in nets]
    links = [_link(heads.get(option, "")) for option in ("-i", "-o")]
    names, name_masks = zip(*links, strict=True)
    protocol = protocol_number(heads["-p"]) if "-p" in heads else 0
    kind = _IPV4 if version == 4 else _IPV6
    return kind.pack(*addresses, *masks, *names, *name_masks, protocol, flags, inverts)


def _link(name: str) -> tuple[bytes, bytes]:
    """An interface's name, and how much of it is asked for: its end too, unless that is ``+``."""
    said = name.encode()
    if len(said) > LINK_NAME_MAX:
        refuse()
    asked = len(said) - 1 if said.endswith(b"+") else len(said) + bool(said)
    return said, b"\xff" * asked


def _match(module: str, words: Words, version: Version, indexes: Mapping[str, int]) -> Extension:
    match module:
        case "tcp":
            *ports, inverts = _ports(words)
            return Extension(module, 0, _TCP.pack(*ports, 0, 0, 0, inverts))
        case "udp":
            return Extension(module, 0, _UDP.pack(*_ports(words)))
        case "mark":
            return Extension(module, 1, _mark(words))
        case "limit":
            return Extension(module, 0, _limit(words))
        case _:
            return match_extension(module, words, version, indexes)


def _ports(words: Words) -> Iterator[int]:
    """First and last source port, first and last destination port, and which are inverted."""
    found = dict.fromkeys(PORT_OPTIONS, _ANY_PORTS)
    inverts = 0
    left = iter(words)
    for word in left:
        is_negated = word == "!"
        option = next(left, "") if is_negated else word
        inverts |= _PORT_INVERTS[option] if is_negated else 0
        if found[option] is not _ANY_PORTS:
            refuse()
        found[option] = port_range(next(left, ""))
    for option in PORT_OPTIONS:
        yield from found[option]
    yield inverts


def _mark(words: Words) -> bytes:
    is_negated = words[0] == "!"
    option, said = words[1:] if is_negated else words
    value, _, mask = said.partition("/")
    if option != "--mark":
        refuse()
    return _MARK.pack(int(value, 0), int(mask or "0xffffffff", 0), is_negated)


def _limit(words: Words) -> bytes:
    found = word_options(words, frozenset({"--limit", "--limit-burst"}))
    rate, _, unit = found["--limit"].partition("/")
    if unit != "sec":
        refuse()
    return _LIMIT.pack(_LIMIT_SCALE // int(rate), int(found["--limit-burst"]))


def _target(words: Words) -> Extension:
    option, name, *told = words
    if option == "-j" and name == "LOG":
        return log_target(told)
    if option == "-j" and name == "NFLOG":
        return Extension(name, 0, _nflog(told))
    if told or not (own_chain(name) or (name in _VERDICTS and option == "-j")):
        refuse()
    return Extension(name, 0, _VERDICT)


def _nflog(words: Words) -> bytes:
    found = word_options(words, frozenset({"--nflog-prefix", "--nflog-group"}))
    prefix = fitting(found.get("--nflog-prefix", ""), 63)
    return _NFLOG.pack(0, int(found.get("--nflog-group", "0")), 0, 0, 0, prefix)
