"""Netlink messages as bytes: headers, attributes, padding.  Pure.

In: numbers and bytes.  Out: bytes for the kernel, or attributes of what it sent.  No socket here.

Source: ``linux/netlink.h``, ``linux/netfilter/nfnetlink.h``.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4

NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3FFF

MESSAGE_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence, port id."""
ATTRIBUTE_HEADER = struct.Struct("=HH")
"""Length with this header and without padding, type."""
NFNETLINK_HEADER = struct.Struct("=BB")
"""Family, version; a resource id of 16 bits follows, big-endian: the number of an NFLOG group."""

U32 = struct.Struct("=I")
BE16 = struct.Struct(">H")
BE32 = struct.Struct(">I")
BE64 = struct.Struct(">Q")

_ERRNO = struct.Struct("=i")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Request(NamedTuple):
    """One message without its sequence number, which the socket gives it."""

    type: int
    flags: int
    body: bytes


class Message(NamedTuple):
    """One received message; ``body`` is a view into the receive buffer of its dump."""

    type: int
    flags: int
    sequence: int
    body: memoryview


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(payload)
    return ATTRIBUTE_HEADER.pack(length, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def text_attribute(kind: int, text: str) -> bytes:
    """A zero-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def netfilter_request(
    subsystem: int, command: int, flags: int, family: int, body: bytes, *, resource: int = 0
) -> Request:
    """A request to one of the netfilter subsystems (``NFNL_SUBSYS_*``)."""
    header = NFNETLINK_HEADER.pack(family, 0) + BE16.pack(resource)
    return Request(subsystem << 8 | command, flags, header + body)


def split_attributes(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Each attribute's type, flags taken off, and payload; a truncated last one is left out."""
    position, end = 0, len(body)
    while position + 4 <= end:
        length, kind = ATTRIBUTE_HEADER.unpack_from(body, position)
        if length < 4 or position + length > end:
            return
        yield kind & NLA_TYPE_MASK, body[position + 4 : position + length]
        position += (length + 3) & ~3


def attribute_map(body: memoryview) -> dict[int, memoryview]:
    """Attributes by type; the last of equal types counts."""
    return dict(split_attributes(body))


def attribute_text(payload: memoryview) -> str:
    """The string in a zero-terminated payload."""
    return str(payload, "utf-8", "replace").partition("\0")[0]


def split_messages(data: memoryview) -> Iterator[Message]:
    """The messages of one received buffer."""
    position, end = 0, len(data)
    while position + 16 <= end:
        length, kind, flags, sequence, _port = MESSAGE_HEADER.unpack_from(data, position)
        if length < 16 or position + length > end:
            return
        yield Message(kind, flags, sequence, data[position + 16 : position + length])
        position += (length + 3) & ~3


def error_number(message: Message) -> int:
    """The errno of an ``NLMSG_ERROR`` or ``NLMSG_DONE``, positive; 0 is the acknowledgement."""
    if len(message.body) < 4:
        return 0
    (code,) = _ERRNO.unpack_from(message.body)
    return -int(code)
