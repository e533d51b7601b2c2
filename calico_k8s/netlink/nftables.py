"""What the kernel's nftables hold: generation, chains, rules, sets; and transactions of others.

In: a family and a table's name, or the requests of a transaction.  Out: chains, rules as raw
attributes, elements; an event for each transaction.  What a transaction's requests say is
:mod:`.nftwrite`'s business.

Source: ``linux/netfilter/nf_tables.h``.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple

from calico_k8s.errors import NetlinkError
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from calico_k8s.netlink.wire import (
    BE32,
    BE64,
    Request,
    attribute_map,
    attribute_text,
    netfilter_request,
    split_attributes,
    text_attribute,
)

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE = 1, 4, 7
NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFT_MSG_NEWGEN, NFT_MSG_GETGEN = 10, 13, 15, 16
NFNLGRP_NFTABLES = 7
NFTA_GEN_ID = 1
NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 1, 3, 4, 5
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 1, 2, 4, 7
NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN = 1, 2, 3, 4, 5
NFTA_ELEMENTS_TABLE, NFTA_ELEMENTS_SET, NFTA_ELEMENTS = 1, 2, 3
NFTA_ELEMENT_KEY, NFTA_ELEMENT_DATA, NFTA_ELEMENT_FLAGS = 1, 2, 3
NFTA_DATA_VALUE = 1
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_COUNTER_PACKETS = 2
NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT = 2, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFT_JUMP = 0xFFFFFFFD  # -3
TableFamily = Version | Literal["inet", "bridge"]
FAMILIES: Final[dict[TableFamily, int]] = {4: 2, 6: 10, "inet": 1, "bridge": 7}  # NFPROTO_IPV4 ...
_FAMILY_NAMES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}

_COUNTER: Final = b"counter\0"
_SO_ATTACH_FILTER: Final = 26
_SIGNED: Final = struct.Struct(">i")
_BPF_WORD: Final = struct.Struct("=HBBI")  # struct sock_filter
_EVENT_TYPE: Final = socket.ntohs(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN)
_Word = tuple[int, int, int, int]
_PASSED, _DROPPED = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)


class NftRule(NamedTuple):
    """A rule: where it is, and all its attributes (its expressions, counters, user data)."""

    chain: str
    attributes: memoryview


class SetKind(NamedTuple):
    """What a set's elements are."""

    key_type: int
    """nft's own number for it, which the kernel only keeps."""
    key_length: int
    flags: int = 0


class ListedElement(NamedTuple):
    """An element that the kernel holds; ``chain`` is where a map's verdict leads."""

    key: bytes
    flags: int
    chain: str | None


class HookPlace(NamedTuple):
    """Where the kernel sends packets into a chain, and what becomes of them at its end."""

    hook: int
    """A number of ``enum nf_inet_hooks``."""
    priority: int
    is_dropping: bool = False
    """Whether its policy drops what no rule of it has decided."""


class BaseChain(NamedTuple):
    """A chain that the kernel sends packets through, of any program."""

    family: int
    table: str
    name: str
    place: HookPlace


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


def is_unconditional_drop(rule: NftRule) -> bool:
    """Whether a rule drops or refuses a packet whatever it is."""
    body = attribute_map(rule.attributes).get(NFTA_RULE_EXPRESSIONS)
    if body is None:
        return False
    deeds = [
        expression
        for _, part in split_attributes(body)
        if attribute_text((expression := attribute_map(part))[NFTA_EXPR_NAME])
        not in ("counter", "log")
    ]
    if len(deeds) != 1:
        return False
    name = attribute_text(deeds[0][NFTA_EXPR_NAME])
    if name != "immediate":
        return name == "reject"
    data = attribute_map(attribute_map(deeds[0][NFTA_EXPR_DATA])[NFTA_IMMEDIATE_DATA])
    verdict = attribute_map(data[NFTA_DATA_VERDICT]) if NFTA_DATA_VERDICT in data else {}
    return NFTA_VERDICT_CODE in verdict and not _number(verdict, NFTA_VERDICT_CODE)  # NF_DROP


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

    @property
    def port(self) -> int:
        """What events of its transactions are marked with."""
        return self._socket.port

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
        return list(self.places(version, table))

    def places(self, version: TableFamily, table: str) -> dict[str, HookPlace | None]:
        """A table's chains, and where packets come into them; none when there is no such table."""
        body = text_attribute(NFTA_CHAIN_TABLE, table)
        found: dict[str, HookPlace | None] = {}
        for message in self._socket.dump(_request(NFT_MSG_GETCHAIN, version, body), "nft chains"):
            attributes = attribute_map(message.body[4:])
            if attribute_text(attributes[NFTA_CHAIN_TABLE]) == table:
                found[attribute_text(attributes[NFTA_CHAIN_NAME])] = _place(attributes)
        return found

    def base_chains(self) -> list[BaseChain]:
        """Every chain of every table and family that the kernel sends packets through."""
        request = netfilter_request(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN, 0, 0, b"")
        found: list[BaseChain] = []
        for message in self._socket.dump(request, "nft chains"):
            attributes = attribute_map(message.body[4:])
            place = _place(attributes)
            if place is not None:
                table = attribute_text(attributes[NFTA_CHAIN_TABLE])
                name = attribute_text(attributes[NFTA_CHAIN_NAME])
                found.append(BaseChain(message.body[0], table, name, place))
        return found

    def sets(self, version: TableFamily, table: str) -> dict[str, SetKind]:
        """A table's named sets and maps."""
        body = text_attribute(NFTA_SET_TABLE, table)
        found: dict[str, SetKind] = {}
        try:
            messages = self._socket.dump(_request(NFT_MSG_GETSET, version, body), "nft sets")
        except NetlinkError as error:
            if error.errno == errno.ENOENT:  # no such table
                return {}
            raise
        for message in messages:
            attributes = attribute_map(message.body[4:])
            numbers = (NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN, NFTA_SET_FLAGS)
            kind = SetKind(*(_number(attributes, number) for number in numbers))
            if not kind.flags & 1:  # NFT_SET_ANONYMOUS: part of its rule
                found[attribute_text(attributes[NFTA_SET_NAME])] = kind
        return found

    def elements(self, version: TableFamily, table: str, name: str) -> list[ListedElement]:
        """What one set holds, in no order.  Cost: 4 us an element."""
        body = text_attribute(NFTA_ELEMENTS_TABLE, table) + text_attribute(NFTA_ELEMENTS_SET, name)
        found: list[ListedElement] = []
        for message in self._socket.dump(
            _request(NFT_MSG_GETSETELEM, version, body), f"nft elements of {name}"
        ):
            listed = attribute_map(message.body[4:]).get(NFTA_ELEMENTS)
            if listed is not None:
                found += [_listed(data) for _, data in split_attributes(listed)]
        return found

    def commit(self, requests: Sequence[Request]) -> None:
        """Carry out a transaction: all of it or nothing.

        Raises:
            NetlinkError: a request was refused, and nothing was done.
        """
        self._socket.transact(NFNL_SUBSYS_NFTABLES, requests, "nftables transaction")

    def rules(self, version: TableFamily, table: str, chain: str | None = None) -> list[NftRule]:
        """A table's rules, in order within each chain; or those of one chain."""
        body = text_attribute(NFTA_RULE_TABLE, table)
        if chain is not None:
            body += text_attribute(NFTA_RULE_CHAIN, chain)
        found: list[NftRule] = []
        for message in self._socket.dump(_request(NFT_MSG_GETRULE, version, body), "nft rules"):
            attributes = message.body[4:]
            # Table and chain come first: the rest, hundreds of bytes, is not walked here.
            names = islice(split_attributes(attributes), 2)
            (_, owner), (_, found_in) = names
            if attribute_text(owner) == table:
                found.append(NftRule(attribute_text(found_in), attributes))
        return found


class NftEvents:
    """Tells that some program has ended a transaction; its ``fileno`` may be polled.

    Raises:
        NetlinkError: from every method.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,))
        self.ignore(())

    def ignore(self, writers: Iterable[NftSocket]) -> None:
        """Tell of no transaction that goes over one of these: whoever has them knows."""
        words = (*_only_generations([writer.port for writer in writers]),)
        self._program = ctypes.create_string_buffer(b"".join(map(_packed, words)))
        described = struct.pack("HP", len(words), ctypes.addressof(self._program))
        self._socket.set_option(_SO_ATTACH_FILTER, described)

    def fileno(self) -> int:
        """Readable when :meth:`has_news` has something."""
        return self._socket.fileno()

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def has_news(self) -> bool:
        """Whether there was a transaction since the last call."""
        try:
            return bool(list(self._socket.events()))
        except NetlinkError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return True


def _only_generations(ignored: Sequence[int]) -> Iterator[_Word]:
    """Classic BPF: of a transaction's events, thousands maybe, the one that ends it.

    The header's numbers are read as if they were of the network's order.
    """
    yield (0x28, 0, 0, 4)  # nlmsg_type
    yield (0x15, 1, 0, _EVENT_TYPE)
    yield _DROPPED
    yield (0x20, 0, 0, 12)  # nlmsg_pid, the port of whose transaction it was
    for port in ignored:
        yield (0x15, 0, 1, socket.ntohl(port))
        yield _DROPPED
    yield _PASSED


def _packed(word: _Word) -> bytes:
    return _BPF_WORD.pack(*word)


def _place(attributes: dict[int, memoryview]) -> HookPlace | None:
    if NFTA_CHAIN_HOOK not in attributes:
        return None
    hook = attribute_map(attributes[NFTA_CHAIN_HOOK])
    (priority,) = _SIGNED.unpack(hook[NFTA_HOOK_PRIORITY])
    is_dropping = NFTA_CHAIN_POLICY in attributes and not _number(attributes, NFTA_CHAIN_POLICY)
    return HookPlace(_number(hook, NFTA_HOOK_HOOKNUM), priority, is_dropping)


def rule_identity(rule: NftRule) -> tuple[int, bytes]:
    """What a rule does, as a hash for this process, and its user data.

    Its handle tells nothing: a rule that is replaced leaves it to its successor; and what it has
    counted is nothing that it does.
    """
    attributes = attribute_map(rule.attributes)
    expressions = bytes(attributes.get(NFTA_RULE_EXPRESSIONS, b""))
    if _COUNTER in expressions:
        parts = (part for _, part in split_attributes(memoryview(expressions)))
        expressions = b"".join(_COUNTER if _is_counter(part) else bytes(part) for part in parts)
    return hash(expressions), bytes(attributes.get(NFTA_RULE_USERDATA, b""))


def counted_packets(rule: NftRule) -> int:
    """How many packets came to a rule's counter; 0 where it has none."""
    body = attribute_map(rule.attributes).get(NFTA_RULE_EXPRESSIONS)
    for _, part in split_attributes(body) if body is not None else ():
        if _is_counter(part):
            counted = attribute_map(attribute_map(part)[NFTA_EXPR_DATA])
            return int(BE64.unpack(counted[NFTA_COUNTER_PACKETS])[0])
    return 0


def _is_counter(expression: memoryview) -> bool:
    return attribute_text(attribute_map(expression)[NFTA_EXPR_NAME]) == "counter"


def _listed(data: memoryview) -> ListedElement:
    attributes = attribute_map(data)
    key = attribute_map(attributes[NFTA_ELEMENT_KEY])[NFTA_DATA_VALUE]
    chain = None
    if NFTA_ELEMENT_DATA in attributes:
        verdict = attribute_map(attributes[NFTA_ELEMENT_DATA]).get(NFTA_DATA_VERDICT)
        named = attribute_map(verdict).get(NFTA_VERDICT_CHAIN) if verdict is not None else None
        chain = attribute_text(named) if named is not None else None
    return ListedElement(bytes(key), _number(attributes, NFTA_ELEMENT_FLAGS), chain)


def _number(attributes: dict[int, memoryview], kind: int) -> int:
    data = attributes.get(kind)
    return int(BE32.unpack(data)[0]) if data is not None else 0


def _request(command: int, version: TableFamily, body: bytes) -> Request:
    return netfilter_request(NFNL_SUBSYS_NFTABLES, command, 0, FAMILIES[version], body)
