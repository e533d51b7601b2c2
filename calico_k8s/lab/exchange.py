"""One question to a pod and its answer, in every protocol.

In: a :class:`~calico_k8s.lab.question.Probe`, and how patiently to ask.  Out: an
:class:`~calico_k8s.lab.question.Answer`, once, on the loop's thread.

========  =======================================  ============================================
TCP       a connection, then ``id``                the pod's name
UDP       a datagram                               the pod's name, and the datagram
SCTP      INIT, by a raw socket                    INIT ACK with the pod's name, or ABORT
ICMP      an echo of the address's family          the echo
========  =======================================  ============================================

TCP asks again with a new connection: the kernel would send its second SYN after a whole second.
"""

import errno
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from calico_k8s.lab.listener import DATAGRAM_MAX, without_ip_header
from calico_k8s.lab.loop import READABLE, WRITABLE, Loop, Timer
from calico_k8s.lab.packets import ChunkType, SctpPacket, decode_sctp, encode_sctp
from calico_k8s.lab.question import SCTP, TCP, UDP, Answer, Outcome, Patience, Probe
from calico_k8s.lab.sources import Sources

RESET_ON_CLOSE = struct.pack("=ii", 1, 0)  # struct linger; leaves no TIME_WAIT behind
_ASK = b"id\n"
_ECHO = struct.Struct(">BBHHH")
_ECHO_REQUEST, _ECHO_REQUEST_6 = 8, 128
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPROTO, errno.EACCES})

Done = Callable[[Answer], None]


class Exchange(Protocol):
    """A question under way; for the loop's thread."""

    def cancel(self) -> None:
        """Ends it without an answer."""
        ...


def ask(sources: Sources, loop: Loop, probe: Probe, patience: Patience, done: Done) -> Exchange:
    """Asks at once; ``done`` is called later, never from within.

    Raises:
        InputError: there is no such place, or the protocol cannot be probed.
        KernelError: the source port asked for is taken.
    """
    if probe.protocol == TCP:
        return _TcpExchange(sources, loop, probe, _Clock(loop, patience, done))
    source = sources.open(probe)
    if probe.protocol == SCTP:
        question = _sctp_question(sources, source, probe)
    else:
        question = _QUESTION if probe.protocol == UDP else _echo_question(source)
    return _DatagramExchange(source, loop, probe, question, _Clock(loop, patience, done))


class _Clock:
    """When a question is asked again and given up, and its end, which comes once."""

    def __init__(self, loop: Loop, patience: Patience, done: Done) -> None:
        self._loop = loop
        self._patience = patience
        self._done: Done | None = done
        self._timers: list[Timer] = []

    def start(self, send: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Asks, and sees to the later times."""
        now = time.monotonic()
        for after_s in self._patience.sends_s[1:]:
            self._timers.append(self._loop.at(now + after_s, send))
        self.wait(give_up)
        send()

    def wait(self, give_up: Callable[[], None]) -> None:
        """Gives up after a whole time of settling from now."""
        deadline = time.monotonic() + self._patience.settle_s
        self._timers.append(self._loop.at(deadline, give_up))

    def finish(self, answer: Answer) -> bool:
        """Hands the answer on; false if there was an end before."""
        done = self._done
        if done is not None:
            self.cancel()
            self._loop.at(time.monotonic(), partial(done, answer))
        return done is not None

    def cancel(self) -> None:
        """Forgets everything that was to come."""
        self._done = None
        for timer in self._timers:
            timer.cancel()


class _TcpExchange:
    def __init__(self, sources: Sources, loop: Loop, probe: Probe, clock: _Clock) -> None:
        self._sources = sources
        self._loop = loop
        self._probe = probe
        self._clock = clock
        self._attempts: list[socket.socket] = []
        self._is_connected = False
        clock.start(self._send, self._give_up)

    def cancel(self) -> None:
        self._clock.cancel()
        self._close()

    def _send(self) -> None:
        if self._probe.src_port:  # one port can have one connection to a destination
            if any(map(_is_open, self._attempts)):
                return  # and it has it: that is told soon
            self._close()
        attempt = self._sources.open(self._probe)
        # Also before it is known to be open: a port in TIME_WAIT could not be asked from again.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._attempts.append(attempt)
        sent_s = time.monotonic()
        code = attempt.connect_ex((self._probe.address, self._probe.port))
        if code in (0, errno.EINPROGRESS):
            self._loop.watch(attempt, WRITABLE, partial(self._connected, attempt, sent_s))
        else:
            self._fail(code)

    def _connected(self, attempt: socket.socket, sent_s: float, _events: int) -> None:
        code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(code)
            return
        self._is_connected = True
        try:
            attempt.send(_ASK)
        except OSError as error:
            self._fail(error.errno or 0)
            return
        self._loop.rewatch(attempt, READABLE, partial(self._named, attempt, sent_s))

    def _named(self, attempt: socket.socket, sent_s: float, _events: int) -> None:
        try:
            name = attempt.recv(DATAGRAM_MAX)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.errno or 0)
            return
        if name:
            rtt_s = time.monotonic() - sent_s
            self._finish(Answer(Outcome.ANSWERED, rtt_s, name.decode(errors="replace").rstrip()))
        else:
            self._finish(Answer(Outcome.REFUSED))

    def _give_up(self) -> None:
        if self._is_connected:
            self._is_connected = False
            self._clock.wait(self._give_up)  # it is open: the name may be late
        else:
            self._finish(Answer(Outcome.SILENT))

    def _fail(self, code: int) -> None:
        self._finish(Answer(_outcome(code)))

    def _finish(self, answer: Answer) -> None:
        if self._clock.finish(answer):
            self._close()

    def _close(self) -> None:
        for attempt in self._attempts:
            self._loop.unwatch(attempt)
            attempt.close()
        self._attempts.clear()


class _Question(NamedTuple):
    """What a datagram says, and who answered by one that came; None: it is no answer."""

    request: bytes
    read: Callable[[bytes], str | None]


class _DatagramExchange:
    def __init__(
        self, source: socket.socket, loop: Loop, probe: Probe, question: _Question, clock: _Clock
    ) -> None:
        self._source = source
        self._loop = loop
        self._question = question
        self._clock = clock
        self._sent_s = 0.0
        # A raw socket's port is in its packets.
        port = probe.port if source.type != socket.SOCK_RAW else 0
        code = source.connect_ex((probe.address, port))
        if code:
            self._finish(Answer(_outcome(code)))
            return
        _report_unreachable(source)
        loop.watch(source, READABLE, self._receive)
        clock.start(self._send, self._give_up)

    def cancel(self) -> None:
        self._clock.cancel()
        self._close()

    def _send(self) -> None:
        self._sent_s = time.monotonic()
        try:
            self._source.send(self._question.request)
        except OSError as error:
            self._fail(error.errno or 0)

    def _receive(self, _events: int) -> None:
        while True:
            try:
                data = self._source.recv(DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error.errno or 0)
                return
            name = self._question.read(data)
            if name is not None:
                rtt_s = time.monotonic() - self._sent_s
                self._finish(Answer(Outcome.ANSWERED, rtt_s, name))
                return

    def _fail(self, code: int) -> None:
        outcome = _outcome(code)
        # EPERM and the like: a rule dropped it on its way out. That is silence, so ask on.
        if outcome is not Outcome.SILENT:
            self._finish(Answer(outcome))

    def _give_up(self) -> None:
        self._finish(Answer(Outcome.SILENT))

    def _finish(self, answer: Answer) -> None:
        if self._clock.finish(answer):
            self._close()

    def _close(self) -> None:
        self._loop.unwatch(self._source)
        self._source.close()


def _is_open(attempt: socket.socket) -> bool:
    """Whether a connection is there, whoever has noticed."""
    try:
        attempt.getpeername()
    except OSError:
        return False
    return True


def _report_unreachable(source: socket.socket) -> None:
    """Has the kernel tell of every ICMP error: of those it holds for passing it says nothing."""
    if source.family == socket.AF_INET6:
        source.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        source.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def _outcome(code: int) -> Outcome:
    """What an errno of a send, a connection or a pending ICMP error means."""
    if code in _REFUSED:
        return Outcome.REFUSED
    return Outcome.UNREACHABLE if code in _UNREACHABLE else Outcome.SILENT


def _read_datagram(data: bytes) -> str | None:
    name, line_end, _echo = data.partition(b"\n")
    return name.decode(errors="replace") if line_end else None


_QUESTION = _Question(_ASK, _read_datagram)


def _echo_question(source: socket.socket) -> _Question:
    """An echo; the kernel writes its identifier and checksum, and hands on this socket's only."""
    kind = _ECHO_REQUEST_6 if source.family == socket.AF_INET6 else _ECHO_REQUEST
    return _Question(_ECHO.pack(kind, 0, 0, 0, 1) + _ASK, _read_echo)


def _read_echo(data: bytes) -> str | None:
    return "" if data[_ECHO.size :] == _ASK else None


def _sctp_question(sources: Sources, source: socket.socket, probe: Probe) -> _Question:
    init = SctpPacket(
        src_port=probe.src_port or sources.new_port(),
        dst_port=probe.port,
        tag=0,
        chunk=ChunkType.INIT,
        own_tag=sources.new_tag(),
    )
    return _Question(encode_sctp(init), partial(_read_sctp, source, init))


def _read_sctp(source: socket.socket, init: SctpPacket, data: bytes) -> str | None:
    packet = decode_sctp(without_ip_header(source, data))
    if packet is None or packet.chunk is ChunkType.INIT or packet.tag != init.own_tag:
        return None
    if (packet.src_port, packet.dst_port) != (init.dst_port, init.src_port):
        return None
    return packet.cookie.decode(errors="replace")
