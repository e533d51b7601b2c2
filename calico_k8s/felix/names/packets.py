"""Packets of DNS servers to the messages in them.

In: packets from their IP header on, in the order in which they pass.  Out: the DNS messages that a
packet brings: of UDP its payload; of TCP those that it completes, of a stream that is put together
here.  A segment whose message is not whole yet brings none: its receiver can make nothing of it.

What of a stream is kept is bounded; of one that is lost, nothing is learnt.

Source: RFC 7766 section 8 for the length before each message.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

UDP, TCP = 17, 6
STREAMS_MAX: Final = 256
STREAM_BYTES_MAX: Final = 2 * 65_537
"""Of one stream, a message that is as long as can be, and one more."""

_IPV4_FRAGMENT: Final = 0x3FFF
_EXTENSIONS: Final = frozenset({0, 43, 60, 135})
_TCP_HEADER = struct.Struct(">HHIIBB")
_LENGTH = struct.Struct(">H")
_FIN, _SYN, _RST = 1, 2, 4
_SEQUENCES: Final = 1 << 32

_Flow = tuple[bytes, bytes]
"""Both addresses, both ports."""


class _Transport(NamedTuple):
    protocol: int
    addresses: bytes
    data: bytes
    """From the transport header on."""


class Reassembly:
    """Messages of one node's DNS servers, packet by packet; for one thread."""

    def __init__(self) -> None:
        self._streams: OrderedDict[_Flow, _Stream] = OrderedDict()

    def __len__(self) -> int:
        """How many streams are kept."""
        return len(self._streams)

    def messages(self, packet: bytes) -> tuple[bytes, ...]:
        """The messages that a packet completes."""
        try:
            transport = _transport(packet)
            if transport is None:
                return ()
            if transport.protocol == UDP:
                return (transport.data[8:],)
            return tuple(self._segment(transport))
        except (struct.error, IndexError):
            return ()

    def _segment(self, transport: _Transport) -> Iterator[bytes]:
        data = transport.data
        _, _, sequence, _, offset, flags = _TCP_HEADER.unpack_from(data)
        flow = (transport.addresses, data[:4])
        if flags & _SYN:
            self._streams[flow] = _Stream((sequence + 1) % _SEQUENCES)
            self._streams.move_to_end(flow)
            if len(self._streams) > STREAMS_MAX:
                self._streams.popitem(last=False)
            return
        payload = data[(offset >> 4) * 4 :]
        if payload:
            # One that began before we looked: a segment mostly begins with a message.
            stream = self._streams.setdefault(flow, _Stream(sequence))
            self._streams.move_to_end(flow)
            yield from stream.take(sequence, payload)
        if flags & (_FIN | _RST):
            self._streams.pop(flow, None)
        if len(self._streams) > STREAMS_MAX:
            self._streams.popitem(last=False)


class _Stream:
    """One direction of one connection."""

    def __init__(self, sequence: int) -> None:
        self._next = sequence
        self._data = bytearray()
        self._later: dict[int, bytes] = {}
        """Segments that came before others that were sent before them."""

    def take(self, sequence: int, payload: bytes) -> Iterator[bytes]:
        """The messages that a segment completes; what has come before is not taken again."""
        if len(self._data) + sum(map(len, self._later.values())) > STREAM_BYTES_MAX:
            self._data.clear()
            self._later.clear()
            self._next = sequence
        self._later[sequence] = payload
        while (found := self._following()) is not None:
            self._data += found
            self._next = (self._next + len(found)) % _SEQUENCES
        while len(self._data) >= 2:
            (length,) = _LENGTH.unpack_from(self._data)
            if len(self._data) < 2 + length:
                return
            message = bytes(self._data[2 : 2 + length])
            del self._data[: 2 + length]
            yield message

    def _following(self) -> bytes | None:
        """What comes next of the segments that are here."""
        for sequence in list(self._later):
            known = (self._next - sequence) % _SEQUENCES
            if known >= _SEQUENCES // 2:
                continue  # later than what is next
            payload = self._later.pop(sequence)
            if known < len(payload):
                return payload[known:]
        return None


def _transport(packet: bytes) -> _Transport | None:
    """None for what is neither UDP nor TCP, or a fragment: conntrack has put them together."""
    if packet[0] >> 4 == 4:
        if (packet[6] << 8 | packet[7]) & _IPV4_FRAGMENT:
            return None
        protocol, at, addresses = packet[9], (packet[0] & 15) * 4, packet[12:20]
    else:
        protocol, at, addresses = packet[6], 40, packet[8:40]
        while protocol in _EXTENSIONS:
            protocol, at = packet[at], at + 8 * (packet[at + 1] + 1)
    return _Transport(protocol, addresses, packet[at:]) if protocol in (UDP, TCP) else None
