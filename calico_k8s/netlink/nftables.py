"""What the kernel's nftables hold, as far as a watcher of our tables needs: generation, rules.

In: a family and a table's name.  Out: chains, rules as raw attributes; an event for each
transaction.  Nothing is written here: that is ``iptables-nft-restore`` and ``nft``.

Source: ``linux/netfilter/nf_tables.h``.
"""

import ctypes
import errno
import socket
import struct
from itertools import islice
from typing import Final, Literal, NamedTuple

from calico_k8s.errors import NetlinkError
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from calico_k8s.netlink.wire import (
    BE32,
    Request,
    attribute_map,
    attribute_text,
    netfilter_request,
    split_attributes,
    text_attribute,
)

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE = 1, 4, 7
NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 15, 16
NFNLGRP_NFTABLES = 7
NFTA_GEN_ID = 1
NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME = 1, 3
NFTA_RULE_TABLE, NFTA_RULE_EXPRESSIONS = 1, 4
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT = 2, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFT_JUMP = 0xFFFFFFFD  # -3
TableFamily = Version | Literal["bridge"]
_FAMILIES: Final[dict[TableFamily, int]] = {4: 2, 6: 10, "bridge": 7}  # NFPROTO_IPV4 ...
_FAMILY_NAMES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

_SO_ATTACH_FILTER: Final = 26
_BPF_WORD: Final = struct.Struct("=HBBI")  # struct sock_filter
_EVENT_TYPE: Final = socket.ntohs(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN)
_ONLY_GENERATIONS: Final = (
    (0x28, 0, 0, 4),  # nlmsg_type, read as a number of the network's order
    (0x15, 0, 1, _EVENT_TYPE),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)
"""Classic BPF: of a transaction's events, thousands maybe, the one that ends it."""


class NftRule(NamedTuple):
    """A rule: where it is, and all its attributes (its expressions, counters, user data)."""

    chain: str
    attributes: memoryview


def bare_jump(rule: NftRule) -> str | None:
    """The chain that a rule jumps to whatever the packet; None for every other rule."""
    body = attribute_map(rule.attributes).get(NFTA_RULE_EXPRESSIONS)
    if body is None:
        return None
    expressions = [attribute_map(part) for _, part in split_attributes(body)]
    names = [attribute_text(expression[NFTA_EXPR_NAME]) for expression in expressions]
    if [name for name in names if name != "counter"] != ["immediate"]:
        return None
    data = attribute_map(expressions[names.index("immediate")][NFTA_EXPR_DATA])
    verdict = attribute_map(data[NFTA_IMMEDIATE_DATA]).get(NFTA_DATA_VERDICT)
    if verdict is None:
        return None
    words = attribute_map(verdict)
    is_jump = BE32.unpack(words[NFTA_VERDICT_CODE])[0] == NFT_JUMP
    return attribute_text(words[NFTA_VERDICT_CHAIN]) if is_jump else None


class NftSocket:
    """The nftables of one network namespace.

    Raises:
        NetlinkError: from every method.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def generation(self) -> int:
        """A number that grows by one with each transaction of any program.  Cost: 10 us."""
        request = netfilter_request(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, 0, 0, b"")
        for answer in self._socket.request(request, "nftables generation"):
            data = attribute_map(memoryview(answer)[4:]).get(NFTA_GEN_ID)
            if data is not None:
                return int(BE32.unpack(data)[0])
        return 0

    def tables(self) -> list[tuple[str, str]]:
        """The family, as ``nft`` writes it, and the name of every table, sorted."""
        request = netfilter_request(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, 0, 0, b"")
        found: list[tuple[str, str]] = []
        for message in self._socket.dump(request, "nft tables"):
            name = attribute_text(attribute_map(message.body[4:])[NFTA_TABLE_NAME])
            family = message.body[0]
            found.append((_FAMILY_NAMES.get(family, str(family)), name))
        return sorted(found)

    def chains(self, version: TableFamily, table: str) -> list[str]:
        """The names of a table's chains; none when there is no such table."""
        body = text_attribute(NFTA_CHAIN_TABLE, table)
        found: list[str] = []
        for message in self._socket.dump(_request(NFT_MSG_GETCHAIN, version, body), "nft chains"):
            attributes = attribute_map(message.body[4:])
            if attribute_text(attributes[NFTA_CHAIN_TABLE]) == table:
                found.append(attribute_text(attributes[NFTA_CHAIN_NAME]))
        return found

    def rules(self, version: TableFamily, table: str) -> list[NftRule]:
        """A table's rules, in order within each chain."""
        body = text_attribute(NFTA_RULE_TABLE, table)
        found: list[NftRule] = []
        for message in self._socket.dump(_request(NFT_MSG_GETRULE, version, body), "nft rules"):
            attributes = message.body[4:]
            # Table and chain come first: the rest, hundreds of bytes, is not walked here.
            names = islice(split_attributes(attributes), 2)
            (_, owner), (_, chain) = names
            if attribute_text(owner) == table:
                found.append(NftRule(attribute_text(chain), attributes))
        return found


class NftEvents:
    """Tells that some program has ended a transaction; its ``fileno`` may be polled.

    Raises:
        NetlinkError: from every method.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,))
        program = b"".join(_BPF_WORD.pack(*word) for word in _ONLY_GENERATIONS)
        self._program = ctypes.create_string_buffer(program)
        described = struct.pack("HP", len(_ONLY_GENERATIONS), ctypes.addressof(self._program))
        self._socket.set_option(_SO_ATTACH_FILTER, described)

    def fileno(self) -> int:
        """Readable when :meth:`has_news` has something."""
        return self._socket.fileno()

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def has_news(self) -> bool:
        """Whether there was a transaction since the last call, of ours or another's."""
        try:
            return bool(list(self._socket.events()))
        except NetlinkError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return True


def _request(command: int, version: TableFamily, body: bytes) -> Request:
    return netfilter_request(NFNL_SUBSYS_NFTABLES, command, 0, _FAMILIES[version], body)
