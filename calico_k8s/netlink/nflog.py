"""NFLOG over netlink: which packets the kernel told of, counted by what they have in common.

In: a group.  Out: :class:`Sighting` values with how often each was seen.  What a prefix means is
not known here.  A packet costs 3 us of processor time, so that whoever reads bounds how many.

Source: ``linux/netfilter/nfnetlink_log.h``, ``net/netfilter/nfnetlink_log.c``.
"""

import socket
import struct
from collections import Counter
from typing import Final, NamedTuple

from calico_k8s.model.addresses import Address, Version
from calico_k8s.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from calico_k8s.netlink.wire import (
    ATTRIBUTE_HEADER,
    BE32,
    MESSAGE_HEADER,
    attribute,
    netfilter_request,
)

NFNL_SUBSYS_ULOG = 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = 0, 1
NFULA_PAYLOAD, NFULA_PREFIX = 9, 10
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_TIMEOUT, NFULA_CFG_QTHRESH = 1, 2, 4, 5
NFULNL_CFG_CMD_BIND = 1
NFULNL_COPY_PACKET = 2

COPIED_BYTES: Final = 80
"""Of each packet: an IPv6 header, one or two extensions, ports."""
TOGETHER: Final = 64
"""So many packets come in one message: at one a message each would cost twice the time ..."""
FLUSH_CENTISECONDS: Final = 10
"""... and none waits longer than this for the others."""

_PACKET: Final = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET
_CONFIG_MODE = struct.Struct(">IBB")
_IPV4_FRAGMENT = 0x1FFF
_ICMPS: Final = frozenset({1, 58})
_PORTED: Final = frozenset({6, 17, 33, 132, 136})
_IPV6_EXTENSIONS: Final = frozenset({0, 43, 60, 135})
"""Hop-by-hop, routing, destination options, mobility: a length in units of eight bytes."""
_IPV6_FRAGMENT: Final = 44


class Sighting(NamedTuple):
    """What is kept of a packet that was told of."""

    prefix: str
    version: Version
    src: Address
    dst: Address
    protocol: int
    """IANA protocol number."""
    port: int
    """The destination's; for ICMP and ICMPv6 type << 8 | code; 0 where there is none."""


_Seen = tuple[bytes, bytes, int, int]
"""Prefix, both addresses, protocol, port: what is cheap to count by."""


class NflogSocket:
    """The packets told to one group of one network namespace; it has one reader at a time.

    What nobody reads in time is lost, and holds nobody up.

    Raises:
        NetlinkError: from the constructor, when the kernel refuses: with ``EBUSY`` another program
            reads the group.
    """

    def __init__(self, group: int) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)
        try:
            self._configure(group)
        except BaseException:  # Ctrl-C too: nobody else could close it
            self._socket.close()
            raise

    def _configure(self, group: int) -> None:
        self._socket.ignore_overruns()
        bodies = (
            attribute(NFULA_CFG_CMD, bytes([NFULNL_CFG_CMD_BIND])),
            attribute(NFULA_CFG_MODE, _CONFIG_MODE.pack(COPIED_BYTES, NFULNL_COPY_PACKET, 0))
            + attribute(NFULA_CFG_QTHRESH, BE32.pack(TOGETHER))
            + attribute(NFULA_CFG_TIMEOUT, BE32.pack(FLUSH_CENTISECONDS)),
        )
        for body in bodies:
            request = netfilter_request(
                NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG, 0, socket.AF_UNSPEC, body, resource=group
            )
            self._socket.request(request, f"NFLOG group {group}")

    def fileno(self) -> int:
        """The descriptor, readable when packets wait."""
        return self._socket.fileno()

    def close(self) -> None:
        """Release the group; twice is fine."""
        self._socket.close()

    def read(self, packets_max: int) -> Counter[Sighting]:
        """The packets that wait now, up to about so many; never blocks."""
        seen: dict[_Seen, int] = {}
        count = 0
        while count < packets_max and (data := self._socket.receive_now()) is not None:
            count += _count(data, seen)
        return Counter({_sighting(each): times for each, times in seen.items()})


def _count(data: memoryview, seen: dict[_Seen, int]) -> int:
    """Count the packets of one received message; how many there were.

    Written out, attribute for attribute: it is the one place that every told packet passes.
    """
    count = 0
    at, end = 0, len(data)
    header, field = MESSAGE_HEADER.unpack_from, ATTRIBUTE_HEADER.unpack_from
    while at + 20 <= end:
        length, kind, _, _, _ = header(data, at)
        if length < 20 or at + length > end:
            break
        if kind == _PACKET:
            position, stop = at + 20, at + length  # past nlmsghdr and nfgenmsg
            prefix, payload = b"", b""
            while position + 4 <= stop:
                size, name = field(data, position)
                if size < 4 or position + size > stop:
                    break
                if name == NFULA_PREFIX:
                    prefix = bytes(data[position + 4 : position + size])
                elif name == NFULA_PAYLOAD:
                    payload = bytes(data[position + 4 : position + size])
                position += size + 3 & ~3
            key = _key(prefix, payload)
            if key is not None:
                seen[key] = seen.get(key, 0) + 1
            count += 1
        at += length + 3 & ~3
    return count


def _key(prefix: bytes, packet: bytes) -> _Seen | None:
    """None for what is no whole IP header."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        protocol = packet[9]
        is_first = not (packet[6] << 8 | packet[7]) & _IPV4_FRAGMENT
        at = (packet[0] & 15) * 4 if is_first else len(packet)
        return prefix, packet[12:20], protocol, _port(packet, at, protocol)
    if len(packet) < 40:
        return None
    protocol, at = _past_extensions(packet)
    return prefix, packet[8:40], protocol, _port(packet, at, protocol)


def _past_extensions(packet: bytes) -> tuple[int, int]:
    """The protocol of an IPv6 packet, and where its header begins."""
    protocol, at = packet[6], 40
    while len(packet) >= at + 8:
        if protocol in _IPV6_EXTENSIONS:
            protocol, at = packet[at], at + 8 * (packet[at + 1] + 1)
        elif protocol == _IPV6_FRAGMENT:
            is_first = not (packet[at + 2] << 8 | packet[at + 3]) >> 3
            protocol, at = packet[at], at + 8 if is_first else len(packet)
        else:
            break
    return protocol, at


def _port(packet: bytes, at: int, protocol: int) -> int:
    if protocol in _PORTED and len(packet) >= at + 4:
        return packet[at + 2] << 8 | packet[at + 3]
    if protocol in _ICMPS and len(packet) >= at + 2:
        return packet[at] << 8 | packet[at + 1]
    return 0


def _sighting(seen: _Seen) -> Sighting:
    prefix, addresses, protocol, port = seen
    version: Version = 4 if len(addresses) == 8 else 6
    family, half = (socket.AF_INET if version == 4 else socket.AF_INET6), len(addresses) // 2
    return Sighting(
        prefix.partition(b"\0")[0].decode("utf-8", "replace"),
        version,
        Address(socket.inet_ntop(family, addresses[:half])),
        Address(socket.inet_ntop(family, addresses[half:])),
        protocol,
        port,
    )
