"""gRPC over HTTP/2 as bytes, one call at a time: no socket, no clock, no thread.

In come a call's headers and its request, and whatever the server sends; out go bytes for the
server, the messages of the answer, and how the call ended.  What the messages say is never known
here.  Frames are the hyperframe package's, headers hpack's.

What is left out, because etcd has no use for it: many calls on a connection, compression, server
push, priorities.  The server is told to keep no table of headers, so that equal headers are equal
bytes, and are decoded once.  (h2, the protocol's whole state machine in Python, was tried: with it a
put is at a watcher no sooner than with grpc.)

Source: RFC 9113 (HTTP/2); grpc, doc/PROTOCOL-HTTP2.md.
"""

import struct
from functools import lru_cache
from typing import NamedTuple, NoReturn
from urllib.parse import unquote

import hpack
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    FRAME_MAX_LEN,
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD_BYTES = 9
_MESSAGE_HEAD_BYTES = 5  # whether it is compressed, and its length
_HEADERS_BYTES_MAX = 1 << 16
_REFUSED_STREAM = 7
_WINDOW_START, _WINDOW_MAX = 65535, 2**31 - 1
_WINDOW_STEP = 1 << 24
"""After so much of the server's data it is allowed as much again."""

Metadata = tuple[tuple[str, str], ...]
"""Headers that a request has beside those that every one has."""


class PeerFailed(Exception):
    """What the server said leaves the call without an answer.

    ``is_unsent``: it also said that it has not taken the request up.
    """

    def __init__(self, message: str, *, is_unsent: bool = False) -> None:
        self.is_unsent = is_unsent
        super().__init__(message)


class Status(NamedTuple):
    """How a call ended; code 0 is well.  Source: grpc, doc/statuscodes.md."""

    code: int
    details: str


class Session:
    """The client's end of one connection.

    Raises: PeerFailed by :meth:`take` and :meth:`message`, after which it is of no more use.
    """

    def __init__(self) -> None:
        wanted = {
            SettingsFrame.HEADER_TABLE_SIZE: 0,
            SettingsFrame.ENABLE_PUSH: 0,
            SettingsFrame.INITIAL_WINDOW_SIZE: _WINDOW_MAX,
        }
        self._outgoing = [_PREFACE, SettingsFrame(0, wanted).serialize()]
        self._credit(0, _WINDOW_MAX - _WINDOW_START)
        self._incoming = b""
        self._stream = -1
        self._rest: memoryview | None = None
        """What the windows have not yet let go of the request."""
        self._is_last = False
        """Whether no request follows on the same stream."""
        self._block: bytearray | None = None
        """Headers of which more is to come."""
        self._are_headers_last = False
        self._message = bytearray()
        """What has come of messages that are not yet taken."""
        self._uncredited = 0
        self._send_windows = [_WINDOW_START, _WINDOW_START]
        """How much may be sent on the connection, and on the stream."""
        self._stream_window = _WINDOW_START
        """With how much a stream begins."""
        self.is_greeted = False
        """Whether the server has begun to speak HTTP/2."""
        self.is_leaving = False
        """Whether the server takes no more calls."""
        self.status: Status | None = None
        """How the call has ended; None while it goes on."""

    def begin(self, headers: bytes, request: bytes, *, ends: bool) -> None:
        """Begins the next call; without ``ends`` the server is left to expect more requests."""
        self._stream += 2
        self.status = None
        self._message.clear()
        self._send_windows[1] = self._stream_window
        self._rest = memoryview(struct.pack(">BI", 0, len(request)) + request)
        self._is_last = ends
        head = HeadersFrame(self._stream, headers, flags=("END_HEADERS",))
        self._outgoing.append(head.serialize())
        self._send_rest()

    def ping(self) -> None:
        """Asks the server for a sign of life."""
        self._outgoing.append(PingFrame().serialize())

    def to_send(self) -> bytes:
        """What is to be sent now; nothing of it is said twice."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def take(self, data: bytes) -> None:
        """Takes in what has come, in pieces of any size."""
        incoming = memoryview(self._incoming + data)
        at = 0
        try:
            while len(incoming) - at >= _FRAME_HEAD_BYTES:
                start = at + _FRAME_HEAD_BYTES
                frame, size = Frame.parse_frame_header(incoming[at:start])
                if size > FRAME_MAX_LEN:
                    raise PeerFailed("it does not speak HTTP/2")
                if len(incoming) < start + size:
                    break
                at = start + size
                frame.parse_body(incoming[start:at])
                self._handle(frame)
        except HyperframeError as error:
            raise PeerFailed(f"it does not speak HTTP/2: {error}") from None
        self._incoming = bytes(incoming[at:])

    def message(self) -> bytes | None:
        """The answer's next message; None until it has come whole, and after the last."""
        message = self._message
        if len(message) < _MESSAGE_HEAD_BYTES:
            return None
        end = _MESSAGE_HEAD_BYTES + int.from_bytes(message[1:_MESSAGE_HEAD_BYTES], "big")
        if len(message) < end:
            return None
        if message[0]:
            raise PeerFailed("an answer is compressed")
        found = bytes(message[_MESSAGE_HEAD_BYTES:end])
        del message[:end]
        return found

    def _handle(self, frame: Frame) -> None:
        if not self.is_greeted:
            if not isinstance(frame, SettingsFrame) or "ACK" in frame.flags:
                raise PeerFailed("it does not speak HTTP/2")
            self.is_greeted = True
        if self._block is not None and not isinstance(frame, ContinuationFrame):
            raise PeerFailed("headers are cut off")
        if frame.stream_id == self._stream and self.status is None:
            self._handle_own(frame)
        elif isinstance(frame, SettingsFrame | PingFrame | GoAwayFrame | WindowUpdateFrame):
            self._handle_general(frame)
        # anything else is of a call that is over, or of a later version

    def _handle_general(self, frame: Frame) -> None:
        match frame:
            case SettingsFrame() if "ACK" not in frame.flags:
                window = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._stream_window)
                self._send_windows[1] += window - self._stream_window
                self._stream_window = window
                self._outgoing.append(SettingsFrame(0, flags=("ACK",)).serialize())
                self._send_rest()
            case PingFrame() if "ACK" not in frame.flags:
                answer = PingFrame(0, frame.opaque_data, flags=("ACK",))
                self._outgoing.append(answer.serialize())
            case WindowUpdateFrame() if frame.stream_id == 0:
                self._send_windows[0] += frame.window_increment
                self._send_rest()
            case GoAwayFrame():
                self.is_leaving = True
                if self.status is None and self._stream > frame.last_stream_id:
                    raise PeerFailed("it goes away", is_unsent=True)
            case _:
                pass  # an acknowledgement, or of a call that is over

    def _handle_own(self, frame: Frame) -> None:
        """Takes in a frame of the call that goes on."""
        match frame:
            case DataFrame():
                self._message += frame.data
                self._count_taken(frame.body_len)
                if "END_STREAM" in frame.flags:
                    raise PeerFailed("an answer without a status")
            case HeadersFrame():
                self._block = bytearray(frame.data)
                self._are_headers_last = "END_STREAM" in frame.flags
                self._end_headers(frame)
            case ContinuationFrame() if self._block is not None:
                self._block += frame.data
                self._end_headers(frame)
            case WindowUpdateFrame():
                self._send_windows[1] += frame.window_increment
                self._send_rest()
            case RstStreamFrame():
                is_unsent = frame.error_code == _REFUSED_STREAM
                raise PeerFailed(f"the call was reset ({frame.error_code})", is_unsent=is_unsent)
            case _:
                pass  # priorities, or a later version's

    def _end_headers(self, frame: Frame) -> None:
        assert self._block is not None
        if len(self._block) > _HEADERS_BYTES_MAX:
            raise PeerFailed("headers without end")
        if "END_HEADERS" not in frame.flags:
            return
        block, self._block = bytes(self._block), None
        try:
            headers = _decode_headers(block)
        except hpack.HPACKError:
            raise PeerFailed("headers that cannot be read") from None
        if not self._are_headers_last:
            if headers.get(":status") != "200":
                _refuse_http(headers)
            return
        code = headers.get("grpc-status", "")
        if not code.isdecimal():
            _refuse_http(headers)
        self.status = Status(int(code), unquote(headers.get("grpc-message", "")))
        if self._rest is not None:  # it did not wait for the request's end, and will not now
            self._rest = None
            self.is_leaving = True

    def _send_rest(self) -> None:
        """Sends of the request what the server has room for."""
        while self._rest is not None:
            size = min(len(self._rest), FRAME_MAX_LEN, *self._send_windows)
            if size <= 0:
                return
            self._send_windows = [window - size for window in self._send_windows]
            piece, self._rest = bytes(self._rest[:size]), self._rest[size:] or None
            flags = ("END_STREAM",) if self._is_last and self._rest is None else ()
            self._outgoing.append(DataFrame(self._stream, piece, flags=flags).serialize())

    def _count_taken(self, size: int) -> None:
        """Lets the server send as much again, now and then."""
        self._uncredited += size
        if self._uncredited >= _WINDOW_STEP:
            self._credit(0, self._uncredited)
            self._credit(self._stream, self._uncredited)
            self._uncredited = 0

    def _credit(self, stream: int, size: int) -> None:
        self._outgoing.append(WindowUpdateFrame(stream, size).serialize())


@lru_cache(maxsize=64)
def encode_headers(
    method: str, authority: str, timeout_s: float | None, metadata: Metadata
) -> bytes:
    """The headers of a request, none of them to be remembered by the server."""
    headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", method),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "calico-k8s"),
        *metadata,
    ]
    if timeout_s is not None:
        headers.append(("grpc-timeout", f"{int(timeout_s * 1000)}m"))
    sensitive = [(name, value, True) for name, value in headers]
    return bytes(hpack.Encoder().encode(sensitive, huffman=False))


@lru_cache(maxsize=256)
def _decode_headers(block: bytes) -> dict[str, str]:
    """Headers by name: no table is kept between blocks, so equal bytes are equal headers.

    Raises: hpack.HPACKError.
    """
    return {str(name): str(value) for name, value in hpack.Decoder().decode(block)}


def _refuse_http(headers: dict[str, str]) -> NoReturn:
    raise PeerFailed(f"it does not speak gRPC: HTTP status {headers.get(':status')}")
