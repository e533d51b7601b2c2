"""What a pod answers, on every port that the lab listens on.

In: connections and packets in a pod's namespace.  Out: answers that name the pod, so that whoever
asked knows who it was.  Nothing is remembered of a client.

========  ==========================  =====================================================
TCP       the first line              the pod's name, then every byte comes back
TCP       ``GET`` or ``HEAD``         a page of HTTP with the pod's name, then the end
TCP, UDP  ``tick TOKEN``              the pod's name; then the pod speaks and the client listens
UDP       anything else               the pod's name, a line end, and what was sent
SCTP      INIT                        INIT ACK whose cookie is the pod's name
========  ==========================  =====================================================

ICMP echo is answered by the kernel.  SCTP is answered by a raw socket, as few kernels have it.
"""

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from calico_k8s.errors import KernelError
from calico_k8s.lab.loop import READABLE, Loop
from calico_k8s.lab.netns import Namespace, Traveller
from calico_k8s.lab.packets import ChunkType, SctpPacket, decode_sctp, encode_sctp
from calico_k8s.lab.plan import ListenPort, Place
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.resources import PROTOCOL_NUMBERS

TCP, UDP, SCTP = (PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp"))
TICK = b"tick "
DATAGRAM_MAX = 65536
_BACKLOG = 1024
_KEEPALIVE_S = 60
_RECEIVE_BUFFER_BYTES, _SEND_BUFFER_BYTES = 1 << 20, 1 << 24
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; past the machine's wmem_max

Speak = Callable[[bytes], bool]
"""Sends to a client that listens; false once it is gone."""

OnTick = Callable[[str, Speak], None]
"""Somebody with that token listens from now on."""


class Listener:
    """Everything that one pod or node listens on; for the loop's thread.

    Raises:
        KernelError: a port is taken.
    """

    def __init__(
        self, loop: Loop, traveller: Traveller, name: Place, namespace: Namespace, on_tick: OnTick
    ) -> None:
        self._loop = loop
        self._traveller = traveller
        self._name = name.encode()
        self._namespace = namespace
        self._on_tick = on_tick
        self._sockets: set[socket.socket] = set()

    def open(self, addresses: Iterable[Address], ports: Sequence[ListenPort]) -> None:
        """Listens on every port of every address."""
        self._traveller.enter(self._namespace)
        sctp = frozenset(port.port for port in ports if port.protocol == SCTP)
        for address in addresses:
            for protocol, port in ports:
                if protocol == TCP:
                    listening = self._bind(socket.SOCK_STREAM, 0, address, port)
                    listening.listen(_BACKLOG)
                    self._watch(listening, partial(self._accept, listening))
                elif protocol == UDP:
                    answering = self._bind(socket.SOCK_DGRAM, 0, address, port)
                    self._watch(answering, partial(self._answer_datagrams, answering))
            if sctp:
                raw = self._bind(socket.SOCK_RAW, SCTP, address, 0)
                self._watch(raw, partial(self._answer_inits, raw, sctp))

    def close(self) -> None:
        """Closes every socket, connections too."""
        for each in tuple(self._sockets):
            self._drop(each)

    def _bind(self, kind: int, protocol: int, address: Address, port: int) -> socket.socket:
        family = socket.AF_INET6 if address_version(address) == 6 else socket.AF_INET
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            give_room(made)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        try:
            made.bind((address, port))
        except OSError as error:
            made.close()
            place = f"port {port} of {address} in {self._namespace.name}"
            raise KernelError(f"cannot listen on {place}: {error.strerror}") from error
        return made

    def _watch(self, watched: socket.socket, handler: Callable[[int], None]) -> None:
        self._sockets.add(watched)
        self._loop.watch(watched, READABLE, handler)

    def _drop(self, dropped: socket.socket) -> None:
        if dropped in self._sockets:
            self._sockets.remove(dropped)
            self._loop.unwatch(dropped)
            dropped.close()

    def _accept(self, listening: socket.socket, _events: int) -> None:
        while True:
            try:
                connection, _peer = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.EPROTO):
                    continue  # it was gone before it was taken
                raise
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _expire_when_silent(connection)
            self._watch(connection, partial(self._read_first, connection))

    def _read_first(self, connection: socket.socket, _events: int) -> None:
        data = self._receive(connection)
        if data is None:
            return
        self._loop.rewatch(connection, READABLE, partial(self._echo, connection))
        line, _, rest = data.partition(b"\n")
        if line.startswith((b"GET ", b"HEAD ")):
            self._send(connection, self._page(is_head=line.startswith(b"HEAD ")))
            self._drop(connection)
            return
        self._send(connection, self._name + b"\n" + rest)
        if line.startswith(TICK):
            self._on_tick(
                line.removeprefix(TICK).decode(errors="replace"), partial(self._send, connection)
            )

    def _echo(self, connection: socket.socket, _events: int) -> None:
        data = self._receive(connection)
        if data is not None:
            self._send(connection, data)

    def _receive(self, connection: socket.socket) -> bytes | None:
        """What has come; None: nothing yet, or the connection has ended and is dropped."""
        try:
            data = connection.recv(DATAGRAM_MAX)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return None
        return data

    def _send(self, connection: socket.socket, data: bytes) -> bool:
        if connection not in self._sockets:
            return False
        try:
            connection.send(data)
        except BlockingIOError:
            return True  # a client that is cut off, or does not read: nothing is owed to it
        except OSError:
            self._drop(connection)
            return False
        return True

    def _page(self, *, is_head: bool) -> bytes:
        body = self._name + b"\n"
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        )
        return head if is_head else head + body

    def _answer_datagrams(self, answering: socket.socket, _events: int) -> None:
        while True:
            try:
                data, peer = answering.recvfrom(DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier answer
            self._send_to(answering, peer, self._name + b"\n" + data)
            if data.startswith(TICK):
                token = data.removeprefix(TICK).strip().decode(errors="replace")
                self._on_tick(token, partial(self._send_to, answering, peer))

    def _send_to(self, answering: socket.socket, peer: tuple[str, int], data: bytes) -> bool:
        if answering not in self._sockets:
            return False
        with suppress(OSError):  # no route back, no room, or a rule of the node: silence
            answering.sendto(data, peer)
        return True

    def _answer_inits(self, raw: socket.socket, ports: frozenset[int], _events: int) -> None:
        while True:
            try:
                data, peer = raw.recvfrom(DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue
            packet = decode_sctp(without_ip_header(raw, data))
            if packet is None or packet.chunk is not ChunkType.INIT or packet.dst_port not in ports:
                continue
            answer = SctpPacket(
                src_port=packet.dst_port,
                dst_port=packet.src_port,
                tag=packet.own_tag,
                chunk=ChunkType.INIT_ACK,
                own_tag=packet.own_tag ^ 0xFFFFFFFF or 1,
                cookie=self._name,
            )
            with suppress(OSError):
                raw.sendto(encode_sctp(answer), (peer[0], 0))


def _expire_when_silent(connection: socket.socket) -> None:
    """Has the kernel end a connection whose client went away behind a closed wall."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)


def give_room(sending: socket.socket) -> None:
    """Lets a connection keep what it cannot send while it is cut: each line takes 2 KiB there."""
    sending.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)


def without_ip_header(raw: socket.socket, data: bytes) -> bytes:
    """The payload of what a raw socket received: of IPv4 it has the header too; raw(7)."""
    return data[(data[0] & 15) * 4 :] if raw.family == socket.AF_INET else data
