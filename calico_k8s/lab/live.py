"""A connection that stays: TCP or UDP, with numbers sent over it in either direction.

In: a probe and what to say first.  Out: the numbers that arrive at the client, on the loop's
thread.  What a cut does to it is for the kernel; nothing is repaired here.

A number is a line, ``#17``; so is the name that the pod answers the greeting with.
"""

import errno
import socket
import time
from collections.abc import Callable

from calico_k8s.lab.exchange import RESET_ON_CLOSE
from calico_k8s.lab.listener import DATAGRAM_MAX, give_room
from calico_k8s.lab.loop import READABLE, WRITABLE, Loop, Timer
from calico_k8s.lab.question import TCP, Probe
from calico_k8s.lab.sources import Sources

_GREETING_S = 0.1
"""How often a UDP client says its greeting, until something comes back."""


class LiveConnection:
    """Opens at once; ``on_line`` gets every line that arrives, the first one the pod's name.

    ``greeting`` is a line, and :mod:`calico_k8s.lab.listener` says what the pod does with it.
    """

    def __init__(
        self,
        sources: Sources,
        loop: Loop,
        probe: Probe,
        greeting: bytes,
        on_line: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._greeting = greeting
        self._on_line = on_line
        self._is_tcp = probe.protocol == TCP
        self._is_greeted = False
        self._is_closed = False
        self._partial = b""
        self._timer: Timer | None = None
        self._socket = sources.open(probe)
        give_room(self._socket)
        code = self._socket.connect_ex((probe.address, probe.port))
        if code not in (0, errno.EINPROGRESS):
            self.close()
        elif self._is_tcp:
            loop.watch(self._socket, WRITABLE, self._connected)
        else:
            loop.watch(self._socket, READABLE, self._receive)
            self._greet()

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, by either side."""
        return self._is_closed

    def say(self, line: bytes) -> None:
        """Sends a line to the pod, unless there is no room for it or the connection is gone."""
        if self._is_closed:
            return
        try:
            self._socket.send(line)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Ends the connection, TCP with a reset; twice is fine."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_closed:
            self._is_closed = True
            self._loop.unwatch(self._socket)
            if self._is_tcp:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._socket.close()

    def _connected(self, _events: int) -> None:
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()
            return
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.rewatch(self._socket, READABLE, self._receive)
        self.say(self._greeting)

    def _greet(self) -> None:
        if not self._is_greeted:
            self.say(self._greeting)
            self._timer = self._loop.at(time.monotonic() + _GREETING_S, self._greet)

    def _receive(self, _events: int) -> None:
        try:
            data = self._socket.recv(DATAGRAM_MAX)
        except OSError as error:
            self._fail(error)
            return
        if not data and self._is_tcp:
            self.close()
            return
        self._is_greeted = True
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._on_line(line)

    def _fail(self, error: OSError) -> None:
        """What TCP cannot go on after; UDP can: it was a rule's refusal, or a moment's."""
        if self._is_tcp and not isinstance(error, BlockingIOError):
            self.close()
