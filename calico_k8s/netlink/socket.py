"""One netlink socket: batches of requests with an answer for each, dumps, events.

In: :class:`~calico_k8s.netlink.wire.Request` values.  Out: errno per request, messages of a
dump.  It belongs to the network namespace of the thread that opened it and is not for two
threads at once.  What a message means is for the modules beside this one.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from calico_k8s.errors import NetlinkError
from calico_k8s.netlink.wire import (
    MESSAGE_HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_OVERRUN,
    Message,
    Request,
    error_number,
    netfilter_request,
    split_messages,
)

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_NO_ENOBUFS = 5
_NETLINK_CAP_ACK = 10
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_BEGIN ...

BATCH_MESSAGES = 256
"""Requests a send; their acknowledgements (some 1 KiB each in the kernel's count) must fit the
receive buffer, since the kernel answers all of them before ``send`` returns."""
BATCH_BYTES = 256 * 1024
BUFFER_BYTES = 4 * 1024 * 1024
RECEIVE_BYTES = 1024 * 1024
"""More than the kernel fills in one go, so nothing is truncated."""
ANSWER_TIMEOUT_S = 10
"""The kernel answers inside ``send``: what is late by seconds will not come."""
DUMP_ATTEMPTS = 10


class NetlinkSocket:
    """A socket of one protocol (``NETLINK_ROUTE`` or ``NETLINK_NETFILTER``).

    ``groups`` are the multicast groups whose events it receives; a socket with groups is for
    :meth:`events` only.  ``fileno`` may be polled.

    Raises:
        NetlinkError: from every method, when the kernel refuses or an answer is lost.
    """

    def __init__(self, protocol: int, groups: Sequence[int] = ()) -> None:
        self._sequence = 0
        self._send_bytes = BUFFER_BYTES
        self._buffer = bytearray(RECEIVE_BYTES)
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        except OSError as error:
            raise netlink_error("netlink socket", error.errno or 0) from error
        try:
            self._prepare(groups)
        except OSError as error:
            self._socket.close()
            raise netlink_error("netlink socket", error.errno or 0) from error

    def _prepare(self, groups: Sequence[int]) -> None:
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        timeout = struct.pack("@ll", ANSWER_TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._socket.bind((0, 0))
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """The descriptor, readable when an event waits."""
        return self._socket.fileno()

    def set_option(self, option: int, value: bytes) -> None:
        """Set a socket option.

        Raises:
            NetlinkError: the kernel refused.
        """
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as error:
            raise netlink_error("netlink socket", error.errno or 0) from error

    def close(self) -> None:
        """Release the descriptor; twice is fine."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(self, message: Request, what: str) -> list[bytes]:
        """One request; the bodies of the messages that answer it.

        Raises:
            NetlinkError: refused; ``what`` names the deed in the message.
        """
        (code,), answers = self.exchange([message])
        if code:
            raise netlink_error(what, code)
        return answers

    def batch(self, messages: Sequence[Request]) -> list[int]:
        """Many requests in few sends; the errno of each in order, 0 for done.

        One that fails stops none of the others.  Cost: some 2 us a message over its work.

        Raises:
            NetlinkError: an answer was lost, so what was done is unknown: read it back.
        """
        codes: list[int] = []
        chunk: list[Request] = []
        size = 0
        for message in messages:
            if chunk and (len(chunk) == BATCH_MESSAGES or size + len(message.body) > BATCH_BYTES):
                codes += self.exchange(chunk)[0]
                chunk, size = [], 0
            chunk.append(message)
            size += len(message.body) + MESSAGE_HEADER.size
        if chunk:
            codes += self.exchange(chunk)[0]
        return codes

    def exchange(self, messages: Sequence[Request]) -> tuple[list[int], list[bytes]]:
        """One send of at most ``BATCH_MESSAGES``: each one's errno in order, and all answers.

        Raises:
            NetlinkError: an answer was lost.
        """
        # The kernel answers in order, and a refusal unasked: who has the last one's answer has all.
        *others, last = messages
        asking = [*others, last._replace(flags=last.flags | NLM_F_ACK)]
        first = self._send(asking, NLM_F_REQUEST)
        answers: list[bytes] = []
        codes = [0] * len(messages)
        is_answered = False
        while not is_answered:
            for message in split_messages(self._receive()):
                index = (message.sequence - first) & 0xFFFFFFFF
                if index >= len(messages):
                    continue  # a late answer to an exchange that failed half way
                if message.type == NLMSG_ERROR:
                    codes[index] = error_number(message)
                    is_answered |= index == len(messages) - 1
                elif message.type != NLMSG_DONE:
                    answers.append(bytes(message.body))
        return codes, answers

    def transact(self, subsystem: int, messages: Sequence[Request], what: str) -> None:
        """All requests as one transaction of a netfilter subsystem, in one send.

        Raises:
            NetlinkError: one was refused, with the first such errno, and nothing was done; or an
                answer was lost.
        """
        if not messages:
            return
        begin = netfilter_request(0, _BATCH_BEGIN, 0, 0, b"", resource=subsystem)
        end = begin._replace(type=_BATCH_END)
        last = messages[-1]
        batch = [begin, *messages[:-1], last._replace(flags=last.flags | NLM_F_ACK), end]
        size = sum(len(message.body) for message in batch) + 20 * len(batch)
        if size > self._send_bytes:
            self._send_bytes = 2 * size
            self.set_option(_SO_SNDBUFFORCE, struct.pack("@i", self._send_bytes))
        first = self._send(batch, NLM_F_REQUEST)
        failed = refused = 0
        is_answered = False
        while not is_answered:
            for message in split_messages(self._receive()):
                index = (message.sequence - first) & 0xFFFFFFFF
                if message.type != NLMSG_ERROR or index > len(messages):
                    continue
                if not failed and (failed := error_number(message)):
                    refused = index
                # The whole was refused, or the last request is answered, and with it all before.
                is_answered |= index in (0, len(messages))
        if failed:
            raise netlink_error(f"{what}, request {refused} of {len(messages)}", failed)

    def dump(self, message: Request, what: str) -> list[Message]:
        """Everything of one kind, consistent: a dump that a change interrupted is taken again.

        Raises:
            NetlinkError: refused, or interrupted ten times running.
        """
        for _ in range(DUMP_ATTEMPTS):
            answers: list[Message] = []
            if self._dump_once(message, what, answers):
                return answers
        raise netlink_error(what, errno.EINTR)

    @property
    def port(self) -> int:
        """What the kernel tells this socket by in events that its requests caused."""
        port: int = self._socket.getsockname()[0]
        return port

    def events(self) -> Iterator[Message]:
        """The events that wait now; never blocks.

        Raises:
            NetlinkError: with ``ENOBUFS`` when some were lost: read everything again.
        """
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                raise netlink_error("netlink events", error.errno or 0) from error
            yield from split_messages(memoryview(data))

    def tell(self, messages: Sequence[Request]) -> None:
        """Send requests in one go and wait for no answer; only a refusal has one, to be read later.

        Raises:
            NetlinkError: the socket is broken.
        """
        if messages:
            self._send(messages, NLM_F_REQUEST)

    def ignore_overruns(self) -> None:
        """Have events that find no room lost without a word.

        Raises:
            NetlinkError: the kernel refused.
        """
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        except OSError as error:
            raise netlink_error("netlink socket", error.errno or 0) from error

    def receive_now(self) -> memoryview | None:
        """What one send of the kernel left here; None where nothing waits.

        It holds until something else is received.

        Raises:
            NetlinkError: the socket is broken.
        """
        try:
            length = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise netlink_error("netlink events", error.errno or 0) from error
        return memoryview(self._buffer)[:length]

    def _send(self, messages: Sequence[Request], extra_flags: int) -> int:
        """Number the messages and send them; the first sequence number."""
        first = self._sequence + 1
        self._sequence += len(messages)
        parts: list[bytes] = []
        for sequence, (kind, flags, body) in enumerate(messages, first):
            length = MESSAGE_HEADER.size + len(body)
            header = MESSAGE_HEADER.pack(
                length, kind, flags | extra_flags, sequence & 0xFFFFFFFF, 0
            )
            parts += (header, body, bytes(-length & 3))
        try:
            self._socket.send(b"".join(parts))
        except OSError as error:
            raise netlink_error("netlink send", error.errno or 0) from error
        return first

    def _receive(self) -> memoryview:
        try:
            length = self._socket.recv_into(self._buffer)
        except OSError as error:
            raise netlink_error("netlink answer", error.errno or 0) from error
        return memoryview(self._buffer)[:length]

    def _dump_once(self, message: Request, what: str, answers: list[Message]) -> bool:
        """Whether the dump was consistent; its messages are appended to ``answers``."""
        first = self._send([message], NLM_F_REQUEST | NLM_F_DUMP) & 0xFFFFFFFF
        is_consistent = True
        while True:
            data = memoryview(bytes(self._receive()))
            for part in split_messages(data):
                if part.sequence != first:
                    continue
                if part.flags & NLM_F_DUMP_INTR:
                    is_consistent = False
                if part.type == NLMSG_OVERRUN:
                    raise netlink_error(what, errno.ENOBUFS)
                if part.type in (NLMSG_DONE, NLMSG_ERROR):
                    if code := error_number(part):
                        raise netlink_error(what, code)
                    return is_consistent
                answers.append(part)


def netlink_error(what: str, code: int) -> NetlinkError:
    """The error for a kernel errno; ``what`` is the deed, with its object's name."""
    return NetlinkError(f"{what}: {os.strerror(code)} (errno {code})", code)
