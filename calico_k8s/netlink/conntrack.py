"""Conntrack over netlink: dumps filtered in the kernel, mark bits set in batches, deletes.

In: an address, a mark.  Out: :class:`ConntrackEntry` values, counts of what was changed.  Only
the default zone is read: an entry in another zone belongs to whoever made that zone.  Which
flow deserves what is not known here.

Source: ``linux/netfilter/nfnetlink_conntrack.h``, ``net/netfilter/nf_conntrack_netlink.c``.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from calico_k8s.model.addresses import Address, Version, address_version
from calico_k8s.netlink.socket import NETLINK_NETFILTER, NetlinkSocket, netlink_error
from calico_k8s.netlink.wire import (
    BE16,
    BE32,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    Request,
    attribute,
    attribute_map,
    nested,
    netfilter_request,
)

NFNL_SUBSYS_CTNETLINK = 1
CT_NEW, CT_GET, CT_DELETE = 0, 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_MARK, CTA_ID = 1, 2, 3, 8, 12
CTA_TUPLE_MASTER, CTA_ZONE, CTA_MARK_MASK, CTA_FILTER = 14, 18, 21, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE = 4, 5, 6
CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE = 7, 8, 9
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_FILTER_F_IP_SRC = 1 << 0

IPS_SEEN_REPLY = 1 << 1
IPS_SRC_NAT = 1 << 4
IPS_DST_NAT = 1 << 5
IPS_DYING = 1 << 9

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_PORTS_TUPLE_4 = struct.Struct(">8x4s4x4s8xB7xH6xH2x")
_PORTS_TUPLE_6 = struct.Struct(">8x16s4x16s8xB7xH6xH2x")
"""A tuple of a protocol with ports, in the one order the kernel writes: a quarter of the time."""


_TEXT_FAMILIES: Final[dict[bytes, Version]] = {b"ipv4": 4, b"ipv6": 6}
_IP_KINDS: Final = {4: (1, 2), 6: (3, 4)}  # CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST
_PORT_TEXTS: Final = (
    (b"sport", CTA_PROTO_SRC_PORT, 2),
    (b"dport", CTA_PROTO_DST_PORT, 2),
    (b"srckey", CTA_PROTO_SRC_PORT, 2),
    (b"dstkey", CTA_PROTO_DST_PORT, 2),
)
_TEXT_PARTS: Final = {
    4: (
        *_PORT_TEXTS,
        (b"id", CTA_PROTO_ICMP_ID, 2),
        (b"type", CTA_PROTO_ICMP_TYPE, 1),
        (b"code", CTA_PROTO_ICMP_CODE, 1),
    ),
    6: (
        *_PORT_TEXTS,
        (b"id", CTA_PROTO_ICMPV6_ID, 2),
        (b"type", CTA_PROTO_ICMPV6_TYPE, 1),
        (b"code", CTA_PROTO_ICMPV6_CODE, 1),
    ),
}


class ConntrackTuple(NamedTuple):
    """One direction of a flow; ``reply.src`` is the original destination after DNAT."""

    src: Address
    dst: Address
    protocol: int
    """IANA protocol number."""
    sport: int
    """0 where the protocol has no ports."""
    dport: int
    """For ICMP and ICMPv6: type << 8 | code."""


class ConntrackEntry(NamedTuple):
    """A tracked flow of the default zone."""

    version: Version
    original: ConntrackTuple
    reply: ConntrackTuple
    mark: int
    status: int
    """``IPS_*`` bits."""
    key: bytes
    """The kernel's original tuple: what names the entry in a later request."""
    id: bytes
    """Tells this entry from a later one with the same tuple, in a delete."""
    master: bytes
    """The ``key`` of the flow that announced this one (FTP, SIP); empty for most."""


class ConntrackSocket:
    """The flows of one network namespace.

    Raises:
        NetlinkError: from every method, when the kernel refuses or an answer is lost.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def dump(self, version: Version) -> list[ConntrackEntry]:
        """Every flow of one family.  Cost: some 10 us a flow."""
        return self._dump(version, b"")

    def dump_marked(self, version: Version, mark: int, mask: int) -> list[ConntrackEntry]:
        """The flows whose mark under ``mask`` is ``mark``; the kernel does the choosing."""
        return self._dump(version, _be32(CTA_MARK, mark) + _be32(CTA_MARK_MASK, mask))

    def dump_address(self, address: Address) -> list[ConntrackEntry]:
        """The flows that ``address`` opened, and those opened to it (after DNAT), each once.

        A kernel before 5.8 ignores the filter, so what is not the address's is left out here too.
        """
        version = address_version(address)
        packed = socket.inet_pton(_FAMILIES[version], address)
        source_kind = 1 if version == 4 else 3  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
        inner = nested(CTA_TUPLE_IP, attribute(source_kind, packed))
        entries: dict[bytes, ConntrackEntry] = {}
        for tuple_kind, flags_kind in (
            (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS),
            (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS),
        ):
            flags = attribute(flags_kind, struct.pack("=I", CTA_FILTER_F_IP_SRC))
            for entry in self._dump(version, nested(tuple_kind, inner) + nested(CTA_FILTER, flags)):
                if address in (entry.original.src, entry.reply.src):
                    entries[entry.key] = entry
        return list(entries.values())

    def find(self, tuples: Sequence[tuple[Version, bytes]]) -> list[ConntrackEntry]:
        """The flows with these original tuples that still exist; see :func:`text_tuple`.

        Cost: 15 us each, however large the kernel's table is.
        """
        entries: list[ConntrackEntry] = []
        for version, packed in tuples:
            request = _request(CT_GET, version, attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, packed))
            (code,), answers = self._socket.exchange([request])
            if code not in (0, errno.ENOENT):
                raise netlink_error("conntrack get", code)
            found = (_unpack_entry(memoryview(answer), version) for answer in answers)
            entries += (entry for entry in found if entry is not None)
        return entries

    def set_mark(self, entries: Sequence[ConntrackEntry], mark: int, mask: int) -> int:
        """Give the bits of ``mask`` the value in ``mark``; how many entries still existed.

        Other bits of each mark stay as the kernel has them, not as the dump saw them.
        Cost: some 5 us an entry, one send for 256.
        """
        change = _be32(CTA_MARK, mark) + _be32(CTA_MARK_MASK, mask)
        return self._change(CT_NEW, ((entry, change) for entry in entries), "conntrack mark")

    def delete(self, entries: Sequence[ConntrackEntry]) -> int:
        """Forget the entries; how many still existed."""
        changes = ((entry, attribute(CTA_ID, entry.id)) for entry in entries)
        return self._change(CT_DELETE, changes, "conntrack delete")

    def _change(
        self, command: int, changes: Iterable[tuple[ConntrackEntry, bytes]], what: str
    ) -> int:
        codes = self._socket.batch(
            [
                _request(
                    command, entry.version, attribute(CTA_TUPLE_ORIG | 0x8000, entry.key) + body
                )
                for entry, body in changes
            ]
        )
        for code in codes:
            if code not in (0, errno.ENOENT):
                raise netlink_error(what, code)
        return codes.count(0)

    def _dump(self, version: Version, body: bytes) -> list[ConntrackEntry]:
        messages = self._socket.dump(_request(CT_GET, version, body), "conntrack dump")
        found = (_unpack_entry(message.body, version) for message in messages)
        return [entry for entry in found if entry is not None]


def text_tuple(line: bytes) -> tuple[Version, bytes] | None:
    """The original tuple of a line of ``/proc/net/nf_conntrack``; None for one not understood.

    Source: ``net/netfilter/nf_conntrack_standalone.c``: family, its number, protocol, its number,
    then timeout, state, and ``name=value``, of the original direction first.
    """
    words = line.split()
    version = _TEXT_FAMILIES.get(words[0]) if len(words) > 4 else None
    if version is None or not words[3].isdigit():
        return None
    values: dict[bytes, bytes] = {}
    for name, equals, value in (word.partition(b"=") for word in words[4:]):
        if name in values:
            break  # the reply begins, with src again
        if equals:
            values[name] = value
    if not {b"src", b"dst"} <= values.keys():
        return None
    family, (source_kind, target_kind) = _FAMILIES[version], _IP_KINDS[version]
    addresses = nested(
        CTA_TUPLE_IP,
        attribute(source_kind, socket.inet_pton(family, values[b"src"].decode())),
        attribute(target_kind, socket.inet_pton(family, values[b"dst"].decode())),
    )
    parts = [attribute(CTA_PROTO_NUM, bytes((int(words[3]),)))]
    for name, kind, size in _TEXT_PARTS[version]:
        if name in values:
            parts.append(attribute(kind, int(values[name], 0).to_bytes(size, "big")))
    return version, addresses + nested(CTA_TUPLE_PROTO, *parts)


def _request(command: int, version: Version, body: bytes) -> Request:
    return netfilter_request(NFNL_SUBSYS_CTNETLINK, command, 0, _FAMILIES[version], body)


def _be32(kind: int, number: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, BE32.pack(number))


def _unpack_entry(body: memoryview, version: Version) -> ConntrackEntry | None:
    """None for an entry of another zone."""
    attributes = attribute_map(body[4:])
    if CTA_ZONE in attributes:
        return None
    original = attributes[CTA_TUPLE_ORIG]
    mark = attributes.get(CTA_MARK)
    status = attributes.get(CTA_STATUS)
    return ConntrackEntry(
        version=version,
        original=_unpack_tuple(original, version),
        reply=_unpack_tuple(attributes[CTA_TUPLE_REPLY], version),
        mark=BE32.unpack(mark)[0] if mark else 0,
        status=BE32.unpack(status)[0] if status else 0,
        key=bytes(original),
        id=bytes(attributes.get(CTA_ID, b"")),
        master=bytes(attributes.get(CTA_TUPLE_MASTER, b"")),
    )


def _unpack_tuple(data: memoryview, version: Version) -> ConntrackTuple:
    shape = _PORTS_TUPLE_4 if version == 4 else _PORTS_TUPLE_6
    family = _FAMILIES[version]
    if len(data) == shape.size:
        source, target, protocol, sport, dport = shape.unpack(data)
    else:
        parts = attribute_map(data)
        addresses = list(attribute_map(parts[CTA_TUPLE_IP]).values())
        source, target = addresses[0], addresses[1]
        protocol, sport, dport = _unpack_protocol(attribute_map(parts[CTA_TUPLE_PROTO]))
    return ConntrackTuple(
        Address(socket.inet_ntop(family, source)),
        Address(socket.inet_ntop(family, target)),
        protocol,
        sport,
        dport,
    )


def _unpack_protocol(parts: dict[int, memoryview]) -> tuple[int, int, int]:
    """Protocol, source port, destination port (or ICMP type and code)."""
    protocol = parts[CTA_PROTO_NUM][0]
    for kind, code in (
        (CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE),
        (CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE),
    ):
        if kind in parts:
            return protocol, 0, parts[kind][0] << 8 | parts[code][0]
    if CTA_PROTO_DST_PORT not in parts:
        return protocol, 0, 0
    sport, dport = (
        BE16.unpack(parts[kind])[0] for kind in (CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT)
    )
    return protocol, sport, dport
