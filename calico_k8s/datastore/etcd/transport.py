"""etcd's members: connections to them, time limits, and what their errors mean.

In come endpoints, certificates and requests as bytes; out go answers as bytes, from the first
member that gives one.  What the bytes say is never known here.  Whatever is on a change's way to
the kernel goes over connections of our own (:mod:`.connection`); leases and compaction by etcd3's
client.  This is the only module that imports etcd3 and grpc.

A member may be dead (refuses), stopped or cut off without a word (pings go unanswered), cut off
from the others (says that it has no leader), or restarting.  Every call has a time limit and says
that it wants a member with a leader; when it fails, the next member is asked.  A write is asked
again only when it is certain that the first member did not get it: two of the same could
otherwise be done with another write in between.
"""

import enum
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar

from calico_k8s.datastore.etcd.connection import Connection, ConnectionFailed, Refused
from calico_k8s.datastore.etcd.http2 import Metadata, Status
from calico_k8s.datastore.etcd.wire import WireError, bytes_field, fields
from calico_k8s.datastore.location import TlsFiles
from calico_k8s.errors import (
    InputError,
    StoreCompacted,
    StoreError,
    StoreForbidden,
    StoreForeign,
    StoreLeaseLost,
    StoreUnavailable,
    StoreUncertain,
)

T = TypeVar("T")

CALL_TIMEOUT_S = 3.0
"""For a call that a live member answers in a millisecond."""
PATIENCE_S = 2.0
"""How long the members are asked in turn: an election of etcd's default lasts 1 to 2 seconds."""
PAUSE_S = 0.1
"""Between two rounds of the members."""

_LEADER_WANTED: Metadata = (("hasleader", "true"),)

RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
COMPACT = "/etcdserverpb.KV/Compact"
WATCH = "/etcdserverpb.Watch/Watch"
LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"

_UNSENT = (
    "etcdserver: no leader",
    "etcdserver: too many requests",
)
"""Beginnings of errors after which a request is known not to have been taken up."""

_GONE = ("etcdserver: mvcc: required revision",)
"""``... has been compacted`` and ``... is a future revision``."""

_FORBIDDEN = "etcdserver: permission denied"
_TOKEN_ENDED = "etcdserver: invalid auth token"
"""Not used for five minutes, of a password that was changed, or of a member that was restarted."""
_RIGHTS_MOVED = "etcdserver: revision of auth store is old"
"""Any user's or role's change refuses what was on its way meanwhile, before it is done."""
_RIGHTS_TRIES = 10


class _Code(enum.IntEnum):
    """Source: grpc, doc/statuscodes.md."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    UNAUTHENTICATED = 16


class MemberFailed(Exception):
    """One member did not answer; another one may.  Stays within the etcd package."""

    def __init__(self, message: str, *, is_unsent: bool) -> None:
        self.is_unsent = is_unsent
        super().__init__(message)


class Login(NamedTuple):
    """A user of etcd who is known by a password: through a proxy no certificate's name gets on."""

    user: str
    password: str


LoginReader = Callable[[], Login | None]
"""The login as it is now; None where etcd asks nobody who they are."""


def check_tls(tls: TlsFiles) -> None:
    """Finds what else would be told only as a member that cannot be reached.

    Raises: InputError for a file that cannot be read, or is not PEM.
    """
    for path in (tls.ca, tls.cert, tls.key):
        try:
            is_pem = b"-----BEGIN " in path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        if not is_pem:
            raise InputError(f"{path} holds no PEM: certificates and keys start with -----BEGIN")


class Member:
    """One member, connected to when it is first asked; for any thread."""

    def __init__(
        self, endpoint: str, tls: TlsFiles | None, read_login: LoginReader | None = None
    ) -> None:
        self.endpoint = endpoint
        self._tls = tls
        self._read_login = read_login
        self._metadata = _LEADER_WANTED
        self._lock = threading.Lock()
        self._is_closed = False
        self._idle: list[Connection] = []
        self._in_use: set[Connection] = set()

    def call(self, method: str, request: bytes, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """One answer to one request, or to a stream of just one.

        Raises: MemberFailed, or the StoreError that any member would answer with.
        """
        self._log_in()
        for tries in range(1, _RIGHTS_TRIES + 1):
            try:
                return self._call(method, request, timeout_s)
            except Refused as refusal:
                have_rights_moved = refusal.status.details.startswith(_RIGHTS_MOVED)
                if not have_rights_moved or tries == _RIGHTS_TRIES:
                    _raise_for(refusal.status, self.endpoint)
        raise AssertionError("the last try returns or raises")

    def watch(self, request: bytes) -> "Stream":
        """The answers to a request that goes on, over a connection of its own.

        Raises: MemberFailed.
        """
        self._log_in()
        connection = self._take()
        try:
            if not connection.is_open:
                connection.open(CALL_TIMEOUT_S)
            connection.begin(WATCH, request, CALL_TIMEOUT_S, self._metadata)
        except ConnectionFailed as failure:
            self._give_back(connection)
            raise MemberFailed(str(failure), is_unsent=failure.is_unsent) from failure
        return Stream(connection, lambda: self._give_back(connection))

    def close(self) -> None:
        """Ends whatever goes on with it."""
        with self._lock:
            self._is_closed = True
            connections = (*self._idle, *self._in_use)
        for connection in connections:
            connection.close()

    def _call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        connection = self._take()
        try:
            if not connection.is_open:
                connection.open(timeout_s)
            return connection.call(method, request, timeout_s, self._metadata)
        except ConnectionFailed as failure:
            raise MemberFailed(str(failure), is_unsent=failure.is_unsent) from failure
        finally:
            self._give_back(connection)

    def _log_in(self) -> None:
        """Once for each member: a token that is refused ends it, and the next one logs in."""
        if self._read_login is None:
            return
        login, self._read_login = self._read_login(), None
        if login is None:
            return
        request = bytes_field(1, login.user.encode()) + bytes_field(2, login.password.encode())
        try:
            answer = self._call(AUTHENTICATE, request, CALL_TIMEOUT_S)
        except (MemberFailed, Refused) as error:
            # Whatever it is, a password that was changed meanwhile included: the next time it is
            # read anew.
            message = f"{self.endpoint} does not log {login.user} in: {error}"
            raise MemberFailed(message, is_unsent=True) from error
        for number, start, end in fields(answer, 0, len(answer)):
            if number == 2:  # AuthenticateResponse.token
                self._metadata = (*_LEADER_WANTED, ("token", answer[start:end].decode()))

    def _take(self) -> Connection:
        """A connection that nobody uses: one that is open, or one that is yet to be."""
        while True:
            with self._lock:
                if self._is_closed:
                    raise MemberFailed(f"{self.endpoint}: it was left", is_unsent=True)
                found = self._idle.pop() if self._idle else Connection(self.endpoint, self._tls)
                self._in_use.add(found)
            # An error after sending would make a write uncertain, and the writer read everything.
            if not found.is_open or found.is_usable():
                return found
            self._give_back(found)

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            self._in_use.discard(connection)
            if not self._is_closed and connection.is_open:
                self._idle.append(connection)
                return
        connection.close()


class Stream:
    """Answers as they come; ``cancel`` ends them from any thread."""

    def __init__(self, connection: Connection, on_end: Callable[[], None]) -> None:
        self._connection = connection
        self._on_end = on_end

    def receive(self, timeout_s: float | None = None) -> bytes:
        """The next answer; without a limit waits for it as long as the member answers pings.

        Raises: MemberFailed, or the StoreError that any member would end it with.
        """
        try:
            return self._connection.receive(timeout_s)
        except ConnectionFailed as failure:
            self.cancel()
            raise MemberFailed(str(failure), is_unsent=True) from failure
        except Refused as refusal:
            self.cancel()
            _raise_for(refusal.status, self._connection.endpoint)

    def cancel(self) -> None:
        """Ends the stream; whoever waits for its next answer gets an error."""
        self._connection.close()
        self._on_end()


class Members:
    """The members of a cluster, of which one is used until it fails.

    The first is chosen by chance, so that a cluster's many clients are spread over its members.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        tls: TlsFiles | None,
        read_login: LoginReader | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._tls = tls
        self._read_login = read_login
        self._lock = threading.Lock()
        self._is_closed = False
        self._at = random.randrange(len(endpoints))
        self._member: Member | None = None

    def ask(self, attempt: Callable[[Member], T], *, is_write: bool = False) -> T:
        """The result of ``attempt`` with the first member that does not fail it.

        Raises: StoreUnavailable when none did, each asked once and for PATIENCE_S in all;
        StoreUncertain when a write may have reached the one that failed.
        """
        give_up_at = time.monotonic() + PATIENCE_S
        tries = 0
        while True:
            tries += 1
            member = self._current()
            try:
                return attempt(member)
            except MemberFailed as failure:
                self.leave(member)
                if is_write and not failure.is_unsent:
                    raise StoreUncertain(f"may or may not be written: {failure}") from failure
                if tries >= len(self._endpoints) and time.monotonic() > give_up_at:
                    raise StoreUnavailable(f"no member of etcd answers: {failure}") from failure
            except WireError as error:
                message = f"{member.endpoint} does not speak as etcd does: {error}"
                raise StoreForeign(message) from error
            if tries % len(self._endpoints) == 0:
                time.sleep(random.uniform(0.5, 1.0) * PAUSE_S)

    def leave(self, failed: Member) -> None:
        """Moves on to the next member, unless another thread has already.

        The channel is not kept for later: a new one reads the certificates anew.
        """
        with self._lock:
            if self._member is not failed:
                return
            self._at = (self._at + 1) % len(self._endpoints)
            self._member = None
        failed.close()

    def close(self) -> None:
        """Ends every call; later ones raise StoreUnavailable."""
        with self._lock:
            self._is_closed = True
            member, self._member = self._member, None
        if member:
            member.close()

    def _current(self) -> Member:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable("the store has been closed")
            if self._member is None:
                self._member = Member(self._endpoints[self._at], self._tls, self._read_login)
            return self._member


def _raise_for(status: Status, endpoint: str) -> NoReturn:
    """Raises what a status other than OK means."""
    details = status.details
    message = f"{endpoint}: {details or f'status {status.code}'}"
    match status.code:
        # A proxy hands etcd's words on, but not always its code.
        case _ if details.startswith(_GONE):
            raise StoreCompacted(f"that part of etcd's history is not there: {message}")
        case _ if details.startswith(_TOKEN_ENDED):
            raise MemberFailed(message, is_unsent=True)
        case _ if details.startswith(_FORBIDDEN):
            raise StoreForbidden(f"etcd refuses this certificate's user: {message}")
        case _Code.PERMISSION_DENIED | _Code.UNAUTHENTICATED:
            raise StoreForbidden(f"etcd refuses this certificate's user: {message}")
        case _Code.NOT_FOUND if "lease" in details:
            raise StoreLeaseLost(message)
        case _Code.RESOURCE_EXHAUSTED if "space exceeded" in details:
            raise StoreError(f"etcd is full: compact, defragment and disarm it: {message}")
        case _Code.INVALID_ARGUMENT | _Code.FAILED_PRECONDITION | _Code.UNIMPLEMENTED:
            raise StoreError(f"etcd refuses the request: {message}")
        case _:
            raise MemberFailed(message, is_unsent=details.startswith(_UNSENT))
