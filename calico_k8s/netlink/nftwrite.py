"""Messages that change nftables.  Pure.

In: names, expressions of :mod:`.nftexpr`, elements.  Out: requests for
:meth:`~.nftables.NftSocket.commit`: the kernel takes all of a transaction or nothing.  What should
be there is not known here.

Source: ``linux/netfilter/nf_tables.h``, ``net/netfilter/nfnetlink.c``.
"""

import struct
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from calico_k8s.netlink.nftables import (
    FAMILIES,
    NFNL_SUBSYS_NFTABLES,
    HookPlace,
    SetKind,
    TableFamily,
)
from calico_k8s.netlink.nftexpr import NFTA_DATA_VALUE, NFTA_LIST_ELEM
from calico_k8s.netlink.wire import (
    ATTRIBUTE_HEADER,
    BE32,
    BE64,
    NLM_F_CREATE,
    Request,
    attribute,
    nested,
    netfilter_request,
    text_attribute,
)

NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE = 0, 2
NFT_MSG_NEWCHAIN, NFT_MSG_DELCHAIN = 3, 5
NFT_MSG_NEWRULE, NFT_MSG_DELRULE = 6, 8
NFT_MSG_NEWSET, NFT_MSG_DELSET = 9, 11
NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM = 12, 14

NLM_F_APPEND: Final = 0x800
ANONYMOUS, CONSTANT, INTERVAL, MAP, TIMEOUT, EVAL = 1, 2, 4, 8, 0x10, 0x20
FLOW_SET_ID: Final = 0xFFFF
"""Of a transaction's sets, which count from one."""
INTERVAL_END: Final = 1
VERDICT_TYPE: Final = 0xFFFFFF00
ELEMENTS_A_MESSAGE: Final = 500
"""Far below an attribute's 64 KiB, whatever the elements."""
ANONYMOUS_NAME: Final = "__set%d"
"""The kernel puts a number for ``%d``."""

_PRIORITY: Final = struct.Struct(">i")


class SetElement(NamedTuple):
    """An element; ``data`` is what a map gives for the key."""

    key: bytes
    data: bytes = b""
    flags: int = 0


class RuleProtocol(NamedTuple):
    """The protocol that a rule of iptables asks for, or that it must not be."""

    number: int
    is_inverted: bool


class TableMessages:
    """Messages about one table of one family."""

    def __init__(self, family: TableFamily, table: str) -> None:
        self._family = FAMILIES[family]
        self._table = table

    def make_table(self) -> Request:
        """Have the table; no error where it is there."""
        return self._request(NFT_MSG_NEWTABLE, NLM_F_CREATE)

    def delete_table(self) -> Request:
        """Delete the table with all that is in it."""
        return self._request(NFT_MSG_DELTABLE, 0)

    def make_chain(self, name: str, place: HookPlace | None = None) -> Request:
        """Make a chain; with a place, one that the kernel sends packets through."""
        parts = [text_attribute(3, name)]
        if place is not None:
            hook = (
                attribute(1, BE32.pack(place.hook)),
                attribute(2, _PRIORITY.pack(place.priority)),
            )
            policy = attribute(5, BE32.pack(0 if place.is_dropping else 1))
            parts += (nested(4, *hook), policy, text_attribute(7, "filter"))
        return self._request(NFT_MSG_NEWCHAIN, NLM_F_CREATE, *parts)

    def delete_chain(self, name: str) -> Request:
        """Delete a chain that nothing leads to."""
        return self._request(NFT_MSG_DELCHAIN, 0, text_attribute(3, name))

    def add_rule(
        self,
        chain: str,
        expressions: bytes,
        user_data: bytes = b"",
        protocol: RuleProtocol | None = None,
    ) -> Request:
        """Append a rule; extensions of iptables in it are told the protocol that it asks for."""
        parts = [text_attribute(2, chain), nested(4, expressions)]
        if protocol is not None:
            inverted = attribute(2, BE32.pack(2 if protocol.is_inverted else 0))
            parts.append(nested(5, attribute(1, BE32.pack(protocol.number)), inverted))
        if user_data:
            parts.append(attribute(7, user_data))
        return self._request(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, *parts)

    def flush_chain(self, name: str) -> Request:
        """Delete every rule of a chain."""
        return self._request(NFT_MSG_DELRULE, 0, text_attribute(2, name))

    def make_set(self, name: str, kind: SetKind, set_id: int) -> Request:
        """Make an empty set."""
        parts = [
            text_attribute(2, name),
            attribute(3, BE32.pack(kind.flags)),
            attribute(4, BE32.pack(kind.key_type)),
            attribute(5, BE32.pack(kind.key_length)),
        ]
        if kind.flags & MAP:
            parts.append(attribute(6, BE32.pack(VERDICT_TYPE)))
        return self._request(NFT_MSG_NEWSET, NLM_F_CREATE, *parts, attribute(10, BE32.pack(set_id)))

    def make_flow_set(self, name: str, kind: SetKind, size: int, timeout_ms: int) -> Request:
        """Have a set that packets themselves fill; no error where it is there."""
        return self._request(
            NFT_MSG_NEWSET,
            NLM_F_CREATE,
            text_attribute(2, name),
            attribute(3, BE32.pack(kind.flags | TIMEOUT | EVAL)),
            attribute(4, BE32.pack(kind.key_type)),
            attribute(5, BE32.pack(kind.key_length)),
            nested(9, attribute(1, BE32.pack(size))),
            attribute(10, BE32.pack(FLOW_SET_ID)),
            attribute(11, BE64.pack(timeout_ms)),
        )

    def delete_set(self, name: str) -> Request:
        """Delete a set that no rule asks."""
        return self._request(NFT_MSG_DELSET, 0, text_attribute(2, name))

    def add_elements(
        self, set_name: str, elements: Sequence[SetElement], set_id: int = 0
    ) -> list[Request]:
        """Add elements; ``set_id`` names a set without a name of its own."""
        return self._elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set_name, elements, set_id)

    def delete_elements(self, set_name: str, elements: Sequence[SetElement]) -> list[Request]:
        """Delete elements, which must be there."""
        return self._elements(NFT_MSG_DELSETELEM, 0, set_name, elements, 0)

    def _elements(
        self, command: int, flags: int, name: str, elements: Sequence[SetElement], set_id: int
    ) -> list[Request]:
        named = text_attribute(2, name)
        if set_id:
            named += attribute(4, BE32.pack(set_id))
        return [
            self._request(
                command,
                flags,
                named,
                nested(3, *map(_element, elements[start : start + ELEMENTS_A_MESSAGE])),
            )
            for start in range(0, len(elements), ELEMENTS_A_MESSAGE)
        ]

    def _request(self, command: int, flags: int, *parts: bytes) -> Request:
        body = text_attribute(1, self._table) + b"".join(parts)
        return netfilter_request(NFNL_SUBSYS_NFTABLES, command, flags, self._family, body)


def _element(element: SetElement) -> bytes:
    """Cost: 0.4 us; written out, since a large node's start has 50,000."""
    key, data, flags = element
    head, between = _element_heads(len(key), len(data), bool(flags))
    end = attribute(3, BE32.pack(flags)) if flags else b""
    return b"".join((head, key, between, data, end))


@cache
def _element_heads(key_length: int, data_length: int, has_flags: bool) -> tuple[bytes, bytes]:  # noqa: FBT001 - a key
    """What stands before an element's key, and between that and what a map gives for it."""
    key = nested(1, attribute(NFTA_DATA_VALUE, bytes(key_length)))
    data = nested(2, bytes(data_length)) if data_length else b""
    flags = attribute(3, bytes(4)) if has_flags else b""
    whole = nested(NFTA_LIST_ELEM, key, data, flags)
    start = 3 * ATTRIBUTE_HEADER.size
    end = len(whole) - len(flags) - data_length
    return whole[:start], whole[start + key_length : end]
