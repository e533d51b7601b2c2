"""The expressions of an nftables rule as netlink attributes.  Pure.

In: numbers, addresses, names.  Out: bytes, one expression each; a rule is their concatenation in
the order in which the kernel runs them.  Values are loaded into registers of four bytes, the first
of which is :data:`KEY`; a comparison that fails ends the rule.  Why a rule is written is not
known here.

Source: ``linux/netfilter/nf_tables.h``.
"""

import struct
from enum import IntEnum
from typing import Final

from calico_k8s.netlink.wire import (
    ATTRIBUTE_HEADER,
    BE16,
    BE32,
    BE64,
    U32,
    attribute,
    nested,
    text_attribute,
)

KEY: Final = 8
"""NFT_REG32_00: where a value, or the first part of a key, is loaded."""
VERDICT: Final = 0
IFNAMSIZ: Final = 16

NFTA_LIST_ELEM = 1
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2

NF_DROP, NF_ACCEPT = 0, 1
NFT_JUMP, NFT_GOTO, NFT_RETURN = 0xFFFFFFFD, 0xFFFFFFFC, 0xFFFFFFFB  # -3, -4, -5


class Meta(IntEnum):
    """What a packet carries beside itself: ``enum nft_meta_keys``."""

    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    L4PROTO = 16
    IIFGROUP = 21
    OIFGROUP = 22


class Ct(IntEnum):
    """What is known of a packet's connection: ``enum nft_ct_keys``."""

    STATE = 0
    DIRECTION = 1
    MARK = 3


class Base(IntEnum):
    """From where a payload's offset counts: ``enum nft_payload_bases``."""

    NETWORK = 1
    TRANSPORT = 2


class Cmp(IntEnum):
    """Comparisons, byte by byte: ``enum nft_cmp_ops``."""

    EQ = 0
    NEQ = 1
    LTE = 3
    GTE = 5


class Fib(IntEnum):
    """Whose address a routing question is about: ``enum nft_fib_flags``."""

    SADDR = 1
    DADDR = 2


RTN_UNICAST, RTN_LOCAL = 1, 2
_QUEUE_INFO = struct.Struct("=HHH2x")


def host32(number: int) -> bytes:
    """A number as the kernel keeps marks, groups and states."""
    return U32.pack(number)


def load_meta(key: Meta, register: int = KEY) -> bytes:
    """Load one of a packet's properties."""
    return _expression("meta", _number(1, register), _number(2, key))


def store_mark(register: int = KEY) -> bytes:
    """Make the register's value the packet's mark."""
    return _expression("meta", _number(2, Meta.MARK), _number(3, register))


def load_ct(key: Ct) -> bytes:
    """Load one of a connection's properties."""
    return _expression("ct", _number(1, KEY), _number(2, key))


def load_payload(base: Base, offset: int, length: int, register: int = KEY) -> bytes:
    """Load bytes of a header; a fragment without it ends the rule."""
    return _expression(
        "payload",
        _number(1, register),
        _number(2, base),
        _number(3, offset),
        _number(4, length),
    )


def load_address_type(end: Fib) -> bytes:
    """Load what the routing tables call an address: :data:`RTN_LOCAL` ..."""
    return _expression("fib", _number(1, KEY), _number(2, 3), _number(3, end))


def mask(bits: bytes, flip: bytes | None = None) -> bytes:
    """Keep these bits of the loaded value, then turn those of ``flip`` over."""
    return _expression(
        "bitwise",
        _number(1, KEY),
        _number(2, KEY),
        _number(3, len(bits)),
        nested(4, attribute(NFTA_DATA_VALUE, bits)),
        nested(5, attribute(NFTA_DATA_VALUE, flip or bytes(len(bits)))),
    )


def compare(operation: Cmp, value: bytes) -> bytes:
    """Go on where the loaded value is so to ``value``."""
    return _expression(
        "cmp", _number(1, KEY), _number(2, operation), nested(3, attribute(1, value))
    )


def look_up(set_name: str, *, is_negated: bool = False, set_id: int = 0) -> bytes:
    """Go on where the set has the loaded key; ``set_id`` names one made by the same transaction."""
    parts = [text_attribute(1, set_name), _number(2, KEY)]
    if set_id:
        parts.append(_number(4, set_id))
    if is_negated:
        parts.append(_number(5, 1))  # NFT_LOOKUP_F_INV
    return _expression("lookup", *parts)


def look_up_verdict(map_name: str) -> bytes:
    """Do what the map says of the loaded key; go on to the next rule where it has none."""
    return _expression("lookup", text_attribute(1, map_name), _number(2, KEY), _number(3, VERDICT))


def verdict(code: int, chain: str | None = None) -> bytes:
    """End the rule by a verdict; jumps and gotos have a chain."""
    return _expression("immediate", _number(1, VERDICT), nested(2, verdict_data(code, chain)))


def verdict_data(code: int, chain: str | None = None) -> bytes:
    """A verdict as data, of an expression or of a map's element."""
    named = text_attribute(NFTA_VERDICT_CHAIN, chain) if chain is not None else b""
    return nested(NFTA_DATA_VERDICT, _number(NFTA_VERDICT_CODE, code), named)


def log_kernel(prefix: str, level: int) -> bytes:
    """Write the packet to the kernel log, and go on."""
    return _expression("log", text_attribute(2, prefix), _number(5, level))


def log_group(group: int, prefix: str, size: int | None, threshold: int | None) -> bytes:
    """Hand the packet to who listens to a netlink group, and go on."""
    parts = [attribute(1, BE16.pack(group)), text_attribute(2, prefix)]
    if size is not None:
        parts.append(_number(3, size))
    if threshold is not None:
        parts.append(attribute(4, BE16.pack(threshold)))
    return _expression("log", *parts)


def queue(number: int) -> bytes:
    """Hold the packet in a queue; where nobody reads it, go on."""
    bypass = 1  # NFT_QUEUE_FLAG_BYPASS
    return _expression(
        "queue", *(attribute(k, BE16.pack(v)) for k, v in ((1, number), (2, 1), (3, bypass)))
    )


def queue_target(number: int) -> bytes:
    """The same by the target of iptables, for kernels without nftables' own."""
    info = _QUEUE_INFO.pack(number, 1, 1)  # struct xt_NFQ_info_v3, NFQ_FLAG_BYPASS
    return extension_target("NFQUEUE", 3, info)


def untrack() -> bytes:
    """Have conntrack pass the packet by."""
    return _expression("notrack")


def limit(rate: int, burst: int) -> bytes:
    """Go on while packets come no more often than so many a second, after a burst."""
    return _expression(
        "limit",
        attribute(1, BE64.pack(rate)),
        attribute(2, BE64.pack(1)),  # second
        _number(3, burst),
        _number(4, 0),  # NFT_LIMIT_PKTS
    )


def counter() -> bytes:
    """Count packets and bytes, and go on."""
    return _expression("counter")


def in_range(low: bytes, high: bytes) -> bytes:
    """Go on where the loaded value is in a range, both ends included."""
    ends = (nested(3, attribute(NFTA_DATA_VALUE, low)), nested(4, attribute(NFTA_DATA_VALUE, high)))
    return _expression("range", _number(1, KEY), _number(2, Cmp.EQ), *ends)


def extension_match(name: str, revision: int, info: bytes) -> bytes:
    """Go on where a match of iptables holds; ``info`` is the match's own structure."""
    return _expression("match", *_extension(name, revision, info))


def extension_target(name: str, revision: int, info: bytes) -> bytes:
    """Do what a target of iptables does; ``info`` is the target's own structure."""
    return _expression("target", *_extension(name, revision, info))


def each_in_set(set_name: str, expression: bytes) -> bytes:
    """Have an expression of its own for each key, kept in a set; go on where that does.

    A set that has no room for another key ends the rule.
    """
    inner = expression[ATTRIBUTE_HEADER.size :]
    return _expression(
        "dynset",
        text_attribute(1, set_name),
        _number(3, 1),  # NFT_DYNSET_OP_UPDATE
        _number(4, KEY),
        nested(7, inner),
    )


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(
        NFTA_LIST_ELEM, text_attribute(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, *parts)
    )


def _extension(name: str, revision: int, info: bytes) -> tuple[bytes, ...]:
    return text_attribute(1, name), _number(2, revision), attribute(3, info)


def _number(kind: int, number: int) -> bytes:
    return attribute(kind, BE32.pack(number))
