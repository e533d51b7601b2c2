"""Our own gRPC: whatever a server says is an answer, or an error that tells what it means."""

import struct
from itertools import pairwise

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_k8s.datastore.etcd.http2 import PeerFailed, Session, Status, encode_headers

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    3,
    4,
    6,
    7,
    8,
    9,
)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
INITIAL_WINDOW_SIZE = 4
WINDOW = 65535
FRAME_BYTES_MAX = 16384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(*pairs: tuple[str, str]) -> bytes:
    return bytes(hpack.Encoder().encode(list(pairs)))


def message(payload: bytes) -> bytes:
    return struct.pack(">BI", 0, len(payload)) + payload


GREETING = frame(SETTINGS, 0, 0)
BEGINNING = headers((":status", "200"), ("content-type", "application/grpc"))
END = headers(("grpc-status", "0"), ("grpc-message", ""))
BEGINS = frame(HEADERS, END_HEADERS, 1, BEGINNING)
ENDS = frame(HEADERS, END_HEADERS | END_STREAM, 1, END)
ANSWERS = {
    "plain": BEGINS + frame(DATA, 0, 1, message(b"hello")) + ENDS,
    "after a ping": frame(PING, 0, 0, b"12345678")
    + BEGINS
    + frame(DATA, 0, 1, message(b"hello"))
    + ENDS,
    "after an unknown frame": frame(99, 0, 0, b"of a later version")
    + frame(99, 0, 1, b"of a later version")
    + BEGINS
    + frame(DATA, 0, 1, message(b"hello"))
    + ENDS,
    "padded and continued": frame(HEADERS, 0, 1, BEGINNING[:3])
    + frame(CONTINUATION, END_HEADERS, 1, BEGINNING[3:])
    + frame(DATA, PADDED, 1, b"\2" + message(b"hello") + b"\0\0")
    + ENDS,
    "in pieces": BEGINS
    + b"".join(frame(DATA, 0, 1, bytes((byte,))) for byte in message(b"hello"))
    + ENDS,
}


def asked(*, ends: bool = True) -> Session:
    """A session in which a call has begun."""
    session = Session()
    session.begin(encode_headers("/a/b", "here", 1.0, ()), b"request", ends=ends)
    session.to_send()
    return session


def taken(session: Session, said: bytes) -> list[bytes]:
    """The messages in what the server says."""
    session.take(said)
    return [*iter(session.message, None)]


def sent_frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        kind, flags, stream = struct.unpack(">BBI", data[at + 3 : at + 9])
        found.append((kind, flags, stream, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@given(data=st.data())
@settings(max_examples=20)
def test_an_answer_may_come_in_any_form_and_any_pieces(answer: bytes, data: st.DataObject) -> None:
    said = GREETING + answer
    cuts = data.draw(st.sets(st.integers(1, len(said) - 1), max_size=8))
    session = asked()
    ends = pairwise((0, *sorted(cuts), len(said)))
    assert [each for start, end in ends for each in taken(session, said[start:end])] == [b"hello"]
    assert session.status == Status(0, "")


def test_pings_and_settings_are_acknowledged() -> None:
    session = asked()
    session.take(GREETING + frame(PING, 0, 0, b"12345678"))
    told = session.to_send()
    assert frame(SETTINGS, 1, 0) in told
    assert frame(PING, 1, 0, b"12345678") in told


def test_a_refusal_has_the_servers_words() -> None:
    session = asked()
    ends = headers((":status", "200"), ("grpc-status", "11"), ("grpc-message", "too%20far"))
    session.take(GREETING + frame(HEADERS, END_HEADERS | END_STREAM, 1, ends))
    assert session.status == Status(11, "too far")
    assert session.message() is None


@pytest.mark.parametrize(
    ("answer", "is_unsent"),
    [
        (frame(GOAWAY, 0, 0, bytes(8)), True),
        (frame(RST_STREAM, 0, 1, struct.pack(">I", 7)), True),
        (frame(RST_STREAM, 0, 1, struct.pack(">I", 2)), False),
        (frame(HEADERS, END_HEADERS, 1, headers((":status", "502"))), False),
        (frame(HEADERS, END_HEADERS | END_STREAM, 1, BEGINNING), False),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff"), False),
        (frame(HEADERS, 0, 1, BEGINNING[:3]) + frame(PING, 0, 0, bytes(8)), False),
        (frame(DATA, END_STREAM, 1, message(b"hello")), False),
        (frame(DATA, 0, 1, b"\1" + message(b"hello")[1:]), False),
        (struct.pack(">I", 1 << 20)[1:] + bytes(6), False),
    ],
    ids=[
        *("goes away", "refused", "reset", "a proxy's error", "no status", "bad headers"),
        *("headers cut off", "data ends it", "compressed", "a frame too long"),
    ],
)
def test_what_is_no_answer_is_told_with_whether_the_request_was_taken_up(
    answer: bytes, is_unsent: bool
) -> None:
    session = asked()
    with pytest.raises(PeerFailed) as failed:
        taken(session, GREETING + answer)
    assert failed.value.is_unsent is is_unsent


def test_headers_without_end_are_not_kept() -> None:
    session = asked()
    more = frame(CONTINUATION, 0, 1, bytes(FRAME_BYTES_MAX))
    with pytest.raises(PeerFailed, match="without end"):
        session.take(GREETING + frame(HEADERS, 0, 1) + 10 * more)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", BEGINS], ids=repr)
def test_a_server_that_does_not_greet_does_not_speak_http2(said: bytes) -> None:
    with pytest.raises(PeerFailed, match="does not speak HTTP/2"):
        asked().take(said)


def test_after_a_goodbye_a_call_that_was_taken_up_is_answered_and_no_other_begun() -> None:
    session = asked()
    session.take(GREETING + frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0)) + ANSWERS["plain"])
    assert session.message() == b"hello"
    assert session.is_leaving


def test_calls_follow_one_another() -> None:
    session = asked()
    session.take(GREETING + ANSWERS["plain"])
    assert session.message() == b"hello"
    session.begin(b"", b"again", ends=True)
    assert session.status is None
    late = frame(RST_STREAM, 0, 1, struct.pack(">I", 2))  # of the first call, which is over
    session.take(late + frame(HEADERS, END_HEADERS | END_STREAM, 3, END))
    assert session.status == Status(0, "")


def test_an_answer_before_the_requests_end_is_the_last_on_its_connection() -> None:
    session = Session()
    session.begin(b"", bytes(2 * WINDOW), ends=True)
    ends = headers((":status", "200"), ("grpc-status", "8"), ("grpc-message", "too long"))
    session.take(GREETING + frame(HEADERS, END_HEADERS | END_STREAM, 1, ends))
    assert session.status == Status(8, "too long")
    assert session.is_leaving


@given(
    st.integers(0, 4 * WINDOW),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from((0, 1)), st.integers(1, 2 * WINDOW)),
            st.tuples(st.none(), st.integers(0, 2 * WINDOW)),
        ),
        max_size=12,
    ),
)
def test_a_request_is_sent_as_the_server_has_room_and_no_sooner(
    size: int, news: list[tuple[int | None, int]]
) -> None:
    request = bytes(number % 251 for number in range(size))
    session = Session()
    session.take(GREETING)
    session.to_send()
    session.begin(b"", request, ends=True)
    room, begins_with = {0: WINDOW, 1: WINDOW}, WINDOW
    body, has_ended = b"", False

    def look() -> None:
        nonlocal body, has_ended
        for kind, flags, _, payload in sent_frames(session.to_send()):
            if kind == DATA:
                assert not has_ended
                assert len(payload) <= FRAME_BYTES_MAX
                body += payload
                has_ended = bool(flags & END_STREAM)
                assert len(body) <= min(room.values())

    look()
    for stream, count in (*news, (0, 8 * WINDOW), (None, WINDOW), (1, 8 * WINDOW)):
        if stream is None:
            room[1] += count - begins_with
            begins_with = count
            wanted = struct.pack(">HI", INITIAL_WINDOW_SIZE, count)
            session.take(frame(SETTINGS, 0, 0, wanted))
        else:
            room[stream] += count
            session.take(frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", count)))
        look()
    assert body == message(request)
    assert has_ended


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                frame,
                st.integers(0, 10),
                st.integers(0, 255),
                st.sampled_from((0, 1, 3)),
                st.one_of(st.binary(max_size=30), st.sampled_from((BEGINNING, END))),
            ),
        ),
        max_size=6,
    )
)
def test_whatever_a_server_says_is_taken_in_or_an_error_of_ours(said: list[bytes]) -> None:
    session = asked(ends=False)
    try:
        session.take(GREETING)
        for each in said:
            taken(session, each)
    except PeerFailed:
        return
