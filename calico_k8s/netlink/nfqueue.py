"""NFQUEUE over netlink: packets that the kernel holds until somebody says that they may go on.

In: a queue's number.  Out: packets, and the verdict on each, which is always to accept.  What is in
a packet is not known here.  Where nobody reads, a rule with ``--queue-bypass`` lets packets by, and
a queue that is full does: nothing is ever dropped for want of a reader.

Source: ``linux/netfilter/nfnetlink_queue.h``, ``net/netfilter/nfnetlink_queue.c``.
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from calico_k8s.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from calico_k8s.netlink.wire import BE32, Request, attribute, netfilter_request, split_messages

NFNL_SUBSYS_QUEUE = 3
NFQNL_MSG_PACKET, NFQNL_MSG_VERDICT, NFQNL_MSG_CONFIG = 0, 1, 2
NFQA_PACKET_HDR, NFQA_VERDICT_HDR, NFQA_PAYLOAD = 1, 2, 10
NFQA_CFG_CMD, NFQA_CFG_PARAMS, NFQA_CFG_QUEUE_MAXLEN, NFQA_CFG_MASK, NFQA_CFG_FLAGS = 1, 2, 3, 4, 5
NFQNL_CFG_CMD_BIND = 1
NFQNL_COPY_PACKET = 2
NFQA_CFG_F_FAIL_OPEN, NFQA_CFG_F_GSO = 1, 4
NF_ACCEPT = 1

COPIED_BYTES: Final = 0xFFFF
HELD_MAX: Final = 1024
"""So many packets wait at most; further ones are let by at once."""

_PACKET: Final = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET
_COMMAND = struct.Struct(">BBH")
_PARAMETERS = struct.Struct(">IB")
_VERDICT_HEADER = struct.Struct(">II")
_ATTRIBUTE = struct.Struct("=HH")


class HeldPacket(NamedTuple):
    """A packet that waits."""

    id: int
    """What :meth:`NfqueueSocket.release` calls it by."""
    data: bytes
    """From its IP header on."""


class NfqueueSocket:
    """The packets of one queue of one network namespace; it has one reader at a time.

    :meth:`release` may be called from another thread than :meth:`read`.  A queue that is closed
    drops what it holds, so whoever closes one releases everything first.

    Raises:
        NetlinkError: from the constructor, when the kernel refuses: with ``EBUSY`` another program
            reads the queue.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._socket = NetlinkSocket(NETLINK_NETFILTER)
        try:
            self._configure()
        except BaseException:  # Ctrl-C too: nobody else could close it
            self._socket.close()
            raise

    def _configure(self) -> None:
        self._socket.ignore_overruns()
        flags = NFQA_CFG_F_FAIL_OPEN | NFQA_CFG_F_GSO
        bodies = (
            attribute(NFQA_CFG_CMD, _COMMAND.pack(NFQNL_CFG_CMD_BIND, 0, socket.AF_UNSPEC)),
            attribute(NFQA_CFG_PARAMS, _PARAMETERS.pack(COPIED_BYTES, NFQNL_COPY_PACKET))
            + attribute(NFQA_CFG_QUEUE_MAXLEN, BE32.pack(HELD_MAX))
            + attribute(NFQA_CFG_MASK, BE32.pack(flags))
            + attribute(NFQA_CFG_FLAGS, BE32.pack(flags)),
        )
        for body in bodies:
            self._socket.request(self._message(NFQNL_MSG_CONFIG, body), f"NFQUEUE {self._number}")

    def fileno(self) -> int:
        """The descriptor, readable when packets wait."""
        return self._socket.fileno()

    def close(self) -> None:
        """Release the queue; twice is fine."""
        self._socket.close()

    def read(self, packets_max: int) -> list[HeldPacket]:
        """The packets that wait now, up to so many; never blocks."""
        packets: list[HeldPacket] = []
        while len(packets) < packets_max and (data := self._socket.receive_now()) is not None:
            packets += _packets(data)
        return packets

    def release(self, ids: Iterable[int]) -> None:
        """Let packets go on; one that has gone already is no error."""
        verdicts = [
            self._message(
                NFQNL_MSG_VERDICT,
                attribute(NFQA_VERDICT_HDR, _VERDICT_HEADER.pack(NF_ACCEPT, identity)),
            )
            for identity in ids
        ]
        self._socket.tell(verdicts)

    def _message(self, kind: int, body: bytes) -> Request:
        return netfilter_request(
            NFNL_SUBSYS_QUEUE, kind, 0, socket.AF_UNSPEC, body, resource=self._number
        )


def _packets(data: memoryview) -> Iterator[HeldPacket]:
    for message in split_messages(data):
        if message.type != _PACKET:
            continue  # an error: a packet was released twice
        identity, payload = None, b""
        at, stop = 4, len(message.body)  # past nfgenmsg
        while at + 4 <= stop:
            size, kind = _ATTRIBUTE.unpack_from(message.body, at)
            if size < 4 or at + size > stop:
                break
            if kind == NFQA_PACKET_HDR:
                (identity,) = BE32.unpack_from(message.body, at + 4)
            elif kind == NFQA_PAYLOAD:
                payload = bytes(message.body[at + 4 : at + size])
            at += size + 3 & ~3
        if identity is not None:
            yield HeldPacket(identity, payload)
