"""Packets that the kernel does not make for us, as bytes: SCTP's INIT and its answer.  Pure.

In: ports and tags.  Out: SCTP packets with a right checksum, and what a received one says.  That
is enough to learn whether an association could be opened; none ever is.

Source: RFC 9260 sections 3.1, 3.3.2, 3.3.3 and appendix A; CRC32c by Castagnoli's polynomial.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple


class ChunkType(IntEnum):
    """The first chunk of a packet."""

    INIT = 1
    INIT_ACK = 2
    ABORT = 6


class SctpPacket(NamedTuple):
    """A packet with one chunk."""

    src_port: int
    dst_port: int
    tag: int
    """The verification tag: the one that the receiver chose; 0 in an INIT."""
    chunk: ChunkType
    own_tag: int = 0
    """The tag that the sender chose; 0 in an ABORT."""
    cookie: bytes = b""
    """Only in an INIT ACK: here it names who answers."""


_HEADER = struct.Struct(">HHI")
_CHECKSUM = struct.Struct("<I")
_CHUNK = struct.Struct(">BBH")
_INIT = struct.Struct(">IIHHI")
_PARAMETER = struct.Struct(">HH")
_HEADER_BYTES = 12
_WINDOW_BYTES, _STREAMS = 65536, 1
_STATE_COOKIE = 7
_POLYNOMIAL = 0x82F63B78


def _crc_table() -> tuple[int, ...]:
    table: list[int] = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """The checksum of SCTP.  Cost: some 0.1 us a byte."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def encode_sctp(packet: SctpPacket) -> bytes:
    """The packet as bytes, checksum included."""
    body = b""
    if packet.chunk is not ChunkType.ABORT:
        body = _INIT.pack(packet.own_tag, _WINDOW_BYTES, _STREAMS, _STREAMS, packet.own_tag)
    if packet.cookie:
        body += _PARAMETER.pack(_STATE_COOKIE, _PARAMETER.size + len(packet.cookie)) + packet.cookie
    chunk = _CHUNK.pack(packet.chunk, 0, _CHUNK.size + len(body)) + body + bytes(-len(body) & 3)
    head = _HEADER.pack(packet.src_port, packet.dst_port, packet.tag)
    checksum = crc32c(head + bytes(_CHECKSUM.size) + chunk)
    return head + _CHECKSUM.pack(checksum) + chunk


def decode_sctp(data: bytes) -> SctpPacket | None:
    """What a packet says; None if it is damaged, or its first chunk is of another type."""
    if len(data) < _HEADER_BYTES + _CHUNK.size:
        return None
    src_port, dst_port, tag = _HEADER.unpack_from(data)
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if crc32c(data[: _HEADER.size] + bytes(_CHECKSUM.size) + data[_HEADER_BYTES:]) != checksum:
        return None
    kind, _flags, length = _CHUNK.unpack_from(data, _HEADER_BYTES)
    if kind == ChunkType.ABORT:
        return SctpPacket(src_port, dst_port, tag, ChunkType.ABORT)
    body = data[_HEADER_BYTES + _CHUNK.size : _HEADER_BYTES + length]
    if kind not in (ChunkType.INIT, ChunkType.INIT_ACK) or len(body) < _INIT.size:
        return None
    own_tag = _INIT.unpack_from(body)[0]
    return SctpPacket(
        src_port, dst_port, tag, ChunkType(kind), own_tag, _cookie(body[_INIT.size :])
    )


def _cookie(parameters: bytes) -> bytes:
    """The state cookie among an INIT ACK's parameters; empty where there is none."""
    while len(parameters) >= _PARAMETER.size:
        kind, length = _PARAMETER.unpack_from(parameters)
        if kind == _STATE_COOKIE:
            return parameters[_PARAMETER.size : length]
        parameters = parameters[max((length + 3) & ~3, _PARAMETER.size) :]
    return b""
