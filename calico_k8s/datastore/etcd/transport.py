"""etcd's members: channels to them, time limits, and what their errors mean.

In come endpoints, certificates and requests as bytes; out go answers as bytes, from the first
member that gives one.  What the bytes say is never known here.  This is the only module that
imports etcd3, whose client makes the channels, and grpc.

A member may be dead (refuses), stopped or cut off without a word (pings go unanswered), cut off
from the others (says that it has no leader), or restarting.  Every call has a time limit and says
that it wants a member with a leader; when it fails, the next member is asked.  A write is asked
again only when it is certain that the first member did not get it: two of the same could
otherwise be done with another write in between.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn, Protocol, TypeVar

# etcd3 0.12 carries code generated for protobuf 3, which later ones load only as pure Python.
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
# grpc's core writes to standard error of what it also raises.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

try:
    import etcd3
    from etcd3 import etcdrpc
except TypeError as error:
    raise ImportError(
        "etcd3 needs protobuf as pure Python, but something imported protobuf before this module"
    ) from error

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

_PING_S = 6
"""Silence after which a member is pinged.  Source: etcd --grpc-keepalive-min-time is 5 s."""
_PING_TIMEOUT_S = 3

_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", _PING_S * 1000),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_S * 1000),
    # grpc 1.85 waits this long for a ping's answer, 60 s unless said, whatever the line above says
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),  # 4 MiB unless said
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),  # the members are on our own network
)

_LEADER_WANTED = (("hasleader", "true"),)

RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
COMPACT = "/etcdserverpb.KV/Compact"
WATCH = "/etcdserverpb.Watch/Watch"
LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"

_UNSENT = (
    "failed to connect to all addresses",
    "DNS resolution failed",
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


class Stream(Protocol):
    """Answers as they come; ``cancel`` ends them from any thread."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def cancel(self) -> object:
        """Ends the stream; whoever waits for its next answer gets an error."""


def check_tls(tls: TlsFiles) -> None:
    """Finds what grpc would tell only as a failed handshake.

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
    """A channel to one member, connected at its first call."""

    def __init__(
        self, endpoint: str, tls: TlsFiles | None, read_login: LoginReader | None = None
    ) -> None:
        self.endpoint = endpoint
        self._read_login = read_login
        self._metadata: tuple[tuple[str, str], ...] = _LEADER_WANTED
        host, _, port = endpoint.rpartition(":")
        certificates = (
            {"ca_cert": str(tls.ca), "cert_cert": str(tls.cert), "cert_key": str(tls.key)}
            if tls
            else {}
        )
        try:
            self._client = etcd3.Etcd3Client(
                host, int(port), grpc_options=_CHANNEL_OPTIONS, **certificates
            )
        except OSError as error:
            raise StoreUnavailable(f"cannot read {error.filename}: {error.strerror}") from error
        self._unary: dict[str, Callable[..., bytes]] = {}

    def call(self, method: str, request: bytes, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """One answer to one request.

        Raises: MemberFailed, or the StoreError that any member would answer with.
        """
        for tries in range(1, _RIGHTS_TRIES + 1):
            try:
                self._log_in()
                ask = self._unary.get(method) or self._client.channel.unary_unary(method)
                self._unary[method] = ask
                return ask(request, timeout=timeout_s, metadata=self._metadata)
            except (grpc.RpcError, ValueError) as error:
                if not _have_rights_moved(error) or tries == _RIGHTS_TRIES:
                    raise_for(error, self.endpoint)
        raise AssertionError("the last try returns or raises")

    def stream(self, method: str, requests: Iterator[bytes], timeout_s: float | None) -> Stream:
        """Answers to a stream of requests; iterating raises grpc's errors (``STREAM_ERRORS``)."""
        try:
            self._log_in()
            stream: Stream = self._client.channel.stream_stream(method)(
                requests, timeout=timeout_s, metadata=self._metadata
            )
        except ValueError as error:
            raise_for(error, self.endpoint)
        return stream

    def close(self) -> None:
        """Ends whatever goes on over this channel."""
        self._client.close()

    def _log_in(self) -> None:
        """Once for each channel: a token that is refused ends the channel, and the next logs in."""
        if self._read_login is None:
            return
        login, self._read_login = self._read_login(), None
        if login is None:
            return
        request = bytes_field(1, login.user.encode()) + bytes_field(2, login.password.encode())
        ask = self._client.channel.unary_unary(AUTHENTICATE)
        try:
            answer = ask(request, timeout=CALL_TIMEOUT_S, metadata=_LEADER_WANTED)
        except (grpc.RpcError, ValueError) as error:
            # Whatever it is, a password that was changed meanwhile included: with a new channel it
            # is read anew.
            details = error.details() if isinstance(error, grpc.Call) else "the channel was closed"
            message = f"{self.endpoint} does not log {login.user} in: {details}"
            raise MemberFailed(message, is_unsent=True) from error
        for number, start, end in fields(answer, 0, len(answer)):
            if number == 2:  # AuthenticateResponse.token
                self._metadata = (*_LEADER_WANTED, ("token", answer[start:end].decode()))


STREAM_ERRORS = (grpc.RpcError, ValueError)
"""What a stream's iteration raises; grpc says ValueError when the channel is closed under it."""


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


def _have_rights_moved(error: Exception) -> bool:
    return isinstance(error, grpc.Call) and (error.details() or "").startswith(_RIGHTS_MOVED)


def raise_for(error: Exception, endpoint: str) -> NoReturn:
    """Raises what a grpc error means."""
    if not isinstance(error, grpc.Call):
        # grpc raises ValueError when another thread has closed the channel
        raise MemberFailed(f"{endpoint}: the channel was closed", is_unsent=True) from error
    code, details = error.code(), error.details() or ""
    message = f"{endpoint}: {details or code.name}"
    match code:
        # A proxy hands etcd's words on, but not always its code.
        case _ if details.startswith(_GONE):
            raise StoreCompacted(f"that part of etcd's history is not there: {message}") from error
        case _ if details.startswith(_TOKEN_ENDED):
            raise MemberFailed(message, is_unsent=True) from error
        case _ if details.startswith(_FORBIDDEN):
            raise StoreForbidden(f"etcd refuses this certificate's user: {message}") from error
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            raise StoreForbidden(f"etcd refuses this certificate's user: {message}") from error
        case grpc.StatusCode.NOT_FOUND if "lease" in details:
            raise StoreLeaseLost(message) from error
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "space exceeded" in details:
            raise StoreError(f"etcd is full: compact, defragment and disarm it: {message}")
        case (
            grpc.StatusCode.INVALID_ARGUMENT
            | grpc.StatusCode.FAILED_PRECONDITION
            | grpc.StatusCode.UNIMPLEMENTED
        ):
            raise StoreError(f"etcd refuses the request: {message}") from error
        case _:
            raise MemberFailed(message, is_unsent=details.startswith(_UNSENT)) from error


# ── leases and compaction: rare, so by etcd3's own messages ──────────────────────────────────────


def encode_lease_grant(ttl_s: int) -> bytes:
    """LeaseGrantRequest; etcd chooses the id."""
    request: bytes = etcdrpc.LeaseGrantRequest(TTL=ttl_s).SerializeToString()
    return request


def decode_lease_grant(answer: bytes) -> int:
    """The id of a granted lease."""
    lease: int = etcdrpc.LeaseGrantResponse.FromString(answer).ID
    return lease


def encode_lease_revoke(lease: int) -> bytes:
    """LeaseRevokeRequest."""
    request: bytes = etcdrpc.LeaseRevokeRequest(ID=lease).SerializeToString()
    return request


def encode_keep_alive(lease: int) -> bytes:
    """LeaseKeepAliveRequest."""
    request: bytes = etcdrpc.LeaseKeepAliveRequest(ID=lease).SerializeToString()
    return request


def decode_keep_alive(answer: bytes) -> int:
    """The seconds the lease has now; 0 when it has ended."""
    ttl_s: int = etcdrpc.LeaseKeepAliveResponse.FromString(answer).TTL
    return ttl_s


def encode_compaction(revision: int) -> bytes:
    """CompactionRequest."""
    request: bytes = etcdrpc.CompactionRequest(revision=revision).SerializeToString()
    return request
