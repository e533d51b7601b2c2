"""A connection to one member of etcd: a socket, TLS, time limits, and an end from any thread.

In come a method, a request's bytes and a time limit; out go an answer's bytes, or the status that
stands for it.  What goes over it is :mod:`.http2`'s matter, which member to ask next nobody's here.

grpc's Python package takes 0.3 ms for a call and as much for each answer of a stream, most of it
handing over between four threads, where a change has a millisecond or two to reach the kernel.
Here the thread that asks is the one that reads.
"""

import contextlib
import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Final, NoReturn

from calico_k8s.datastore.etcd.http2 import (
    Metadata,
    PeerFailed,
    Session,
    Status,
    encode_headers,
)
from calico_k8s.datastore.location import TlsFiles

PING_AFTER_S = 6.0
"""Silence after which a member is pinged.  Source: etcd --grpc-keepalive-min-time is 5 s."""
PING_TIMEOUT_S = 3.0

_CHUNK_BYTES = 1 << 16

_SOCKET_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A machine that goes without a word is noticed while nothing is asked, too.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(PING_AFTER_S)),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, int(PING_TIMEOUT_S)),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1),
)


class ConnectionFailed(Exception):
    """No answer came; ``is_unsent``: and the request was certainly not taken up."""

    def __init__(self, message: str, *, is_unsent: bool) -> None:
        self.is_unsent = is_unsent
        super().__init__(message)


class Refused(Exception):
    """The server's answer is a status other than OK."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(f"{status.code}: {status.details}")


class Connection:
    """One connection; for one thread at a time, but ``close`` is for any.

    Raises: ConnectionFailed and Refused, every method; after the first it is of no more use.
    """

    def __init__(self, endpoint: str, tls: TlsFiles | None) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._lock = threading.Lock()
        self._is_in_use = False
        self._socket: socket.socket | None = None
        self._session = Session()
        self._is_sent = False
        """Whether the server may know of the call."""
        self._is_over = False
        """Whether no call can be begun any more."""

    def open(self, timeout_s: float) -> None:
        """Connects; the certificates are read now."""
        deadline_s = time.monotonic() + timeout_s
        with self._in_use():
            self._connect(timeout_s)
            # Until it has greeted, the server may still refuse our certificate.
            while not self._session.is_greeted:
                self._step(deadline_s)

    @property
    def is_open(self) -> bool:
        """Whether it is connected, as far as is known."""
        return self._socket is not None and not self._is_over and not self._session.is_leaving

    def is_usable(self) -> bool:
        """Whether another call may be made: looks at what has come meanwhile, and never waits.

        It is on each call's way, and TLS takes longer to read nothing than the kernel to say that
        there is nothing.
        """
        self._is_sent = False
        try:
            with self._in_use():
                while self._has_more() and self._fill(0):
                    pass
        except ConnectionFailed:
            return False
        return self.is_open

    def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> bytes:
        """One answer to one request."""
        headers = encode_headers(method, self.endpoint, timeout_s, metadata)
        deadline_s = time.monotonic() + timeout_s
        session = self._session
        with self._in_use():
            session.begin(headers, request, ends=True)
            self._is_sent = True
            while session.status is None:
                self._step(deadline_s)
            self._raise_refusal(session.status)
            answer = self._message()
            if answer is None or self._message() is not None:
                self._fail("the call had no answer, or two")
        return answer

    def begin(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> None:
        """Begins a call with a stream of answers, and leaves it open for more requests.

        etcd's grpc-proxy takes the end of the requests for the end of the watch.
        """
        headers = encode_headers(method, self.endpoint, None, metadata)
        with self._in_use():
            self._session.begin(headers, request, ends=False)
            self._is_sent = True
            self._flush(time.monotonic() + timeout_s)

    def receive(self, timeout_s: float | None = None) -> bytes:
        """The stream's next answer; without a limit waits as long as the server answers pings."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._in_use():
            while (message := self._message()) is None:
                if self._session.status is not None:
                    self._raise_refusal(self._session.status)
                    self._fail("the stream ended")
                self._step(deadline_s)
        return message

    def close(self) -> None:
        """Ends it, from any thread: who waits gets an error."""
        with self._lock:
            self._is_over = True
            if self._is_in_use:
                self._shut_down()
            else:
                self._give_back()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """What is sent and read happens in here: the descriptor is not given back meanwhile."""
        with self._lock:
            self._is_in_use = not self._is_over
            if not self._is_in_use:
                raise ConnectionFailed(f"{self.endpoint}: it was closed", is_unsent=True)
        try:
            yield
        finally:
            with self._lock:
                self._is_in_use = False
                if self._is_over:
                    self._give_back()

    def _shut_down(self) -> None:
        # Closing a socket wakes nobody who reads from it; shutting it down does.  By the plain
        # socket's method: TLS's forgets the session, which the other thread reads by.
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _give_back(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, timeout_s: float) -> None:
        host, _, port = self.endpoint.rpartition(":")
        host = host.strip("[]")
        failure: Exception = OSError("its name has no address")
        try:
            context = None if self._tls is None else _context(self._tls)
            found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in found:
                # Wrapped before it is connected: Python 3.11's wrapping of one that its peer has
                # reset already raises, and leaves a descriptor that nobody holds.
                bare = socket.socket(family, kind, protocol)
                new = context.wrap_socket(bare, server_hostname=host) if context else bare
                self._socket = new
                for option in _SOCKET_OPTIONS:
                    new.setsockopt(*option)
                new.settimeout(timeout_s)
                try:
                    new.connect(address)
                except OSError as error:
                    failure = error
                    self._give_back()
                else:
                    return
        except (OSError, ValueError) as error:
            failure = error
        self._fail(_reason(failure))

    def _step(self, deadline_s: float | None) -> None:
        """Sends what is to be sent, and takes in what comes next.

        Without a deadline, a server that is silent is pinged.
        """
        self._flush(deadline_s)
        if deadline_s is not None:
            is_late = not self._fill(deadline_s - time.monotonic())
        elif is_late := not self._fill(PING_AFTER_S):
            self._session.ping()
            self._flush(None)
            is_late = not self._fill(PING_TIMEOUT_S)
        if is_late:
            self._fail("it is silent")

    def _has_more(self) -> bool:
        """Whether anything has come that is not yet read, an end included."""
        if self._socket is None:
            self._fail("it is not connected")
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _fill(self, timeout_s: float) -> bool:
        """Takes in what comes within a time; False where nothing does."""
        if self._socket is None:
            self._fail("it is not connected")
        try:
            self._socket.settimeout(max(0.0, timeout_s))
            data = self._socket.recv(_CHUNK_BYTES)
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return False
        except (OSError, ValueError) as error:
            self._fail(_reason(error))
        if not data:
            self._fail("it closed the connection")
        try:
            self._session.take(data)
        except PeerFailed as failure:
            self._fail(str(failure), is_unsent=failure.is_unsent)
        return True

    def _flush(self, deadline_s: float | None) -> None:
        data = self._session.to_send()
        if not data:
            return
        if self._socket is None:
            self._fail("it is not connected")
        timeout_s = PING_TIMEOUT_S if deadline_s is None else deadline_s - time.monotonic()
        try:
            self._socket.settimeout(max(0.001, timeout_s))
            self._socket.sendall(data)
        except (OSError, ValueError) as error:
            self._fail(_reason(error))

    def _message(self) -> bytes | None:
        try:
            return self._session.message()
        except PeerFailed as failure:
            self._fail(str(failure), is_unsent=failure.is_unsent)

    def _raise_refusal(self, status: Status) -> None:
        if status.code:
            raise Refused(status)

    def _fail(self, reason: str, *, is_unsent: bool = False) -> NoReturn:
        self._is_over = True
        is_unsent = is_unsent or not self._is_sent
        raise ConnectionFailed(f"{self.endpoint}: {reason}", is_unsent=is_unsent) from None


def _context(tls: TlsFiles) -> ssl.SSLContext:
    """Raises: OSError for a file that cannot be read, or holds no certificate or key."""
    for path in (tls.ca, tls.cert, tls.key):
        path.open("rb").close()  # ssl's own errors do not name the file
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["h2"])
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return "nobody listens there"
    return str(error)
