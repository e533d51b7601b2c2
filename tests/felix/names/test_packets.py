"""Messages from packets: of UDP at once, of TCP as the last segment of each comes, whatever order."""

import struct
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.names.packets import STREAM_BYTES_MAX, STREAMS_MAX, Reassembly

SYN, ACK, FIN = 2, 16, 1
SERVER, CLIENT = bytes((10, 0, 0, 53)), bytes((10, 0, 0, 1))


def ipv4(protocol: int, data: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0x4000, 64, protocol, 0)
    return head + SERVER + CLIENT + data


def ipv6(protocol: int, data: bytes, extension: bytes = b"") -> bytes:
    first = 0 if extension else protocol
    head = struct.pack(">IHBB", 6 << 28, len(extension + data), first, 64)
    return head + SERVER.rjust(16, b"\0") + CLIENT.rjust(16, b"\0") + extension + data


def udp(data: bytes) -> bytes:
    return struct.pack(">HHHH", 53, 40000, 8 + len(data), 0) + data


def tcp(sequence: int, data: bytes = b"", flags: int = ACK, port: int = 40000) -> bytes:
    head = struct.pack(">HHIIBBHHH", 53, port, sequence % 2**32, 1, 5 << 4, flags, 100, 0, 0)
    return ipv4(6, head + data)


def stream(messages: list[bytes]) -> bytes:
    return b"".join(struct.pack(">H", len(message)) + message for message in messages)


def test_a_datagram_is_a_message() -> None:
    read = Reassembly()
    assert read.messages(ipv4(17, udp(b"abc"))) == (b"abc",)
    assert read.messages(ipv6(17, udp(b"abc"))) == (b"abc",)
    assert read.messages(ipv6(17, udp(b"abc"), bytes((17, 0, 1, 4, 0, 0, 0, 0)))) == (b"abc",)
    assert read.messages(ipv4(1, b"ping")) == ()


@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=5),
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
)
def test_messages_of_a_stream_come_whole_in_order_and_once(
    messages: list[bytes], sizes: list[int], start: int, random: Random
) -> None:
    read, data = Reassembly(), stream(messages)
    assert read.messages(tcp(start, flags=SYN | ACK)) == ()
    segments, at = list[tuple[int, bytes]](), 0
    for turn in range(len(data)):
        size = sizes[turn % len(sizes)]
        if at < len(data):
            segments.append((start + 1 + at, data[at : at + size]))
        at += size
    shuffled = _shuffled_and_sent_again(segments, random)
    found = [m for sequence, part in shuffled for m in read.messages(tcp(sequence, part))]
    assert found == messages


def _shuffled_and_sent_again(
    segments: list[tuple[int, bytes]], random: Random
) -> list[tuple[int, bytes]]:
    order = [*segments, *random.sample(segments, len(segments) // 2)]
    random.shuffle(order)
    return order


def test_a_message_comes_with_its_last_segment_and_not_before() -> None:
    read, data = Reassembly(), stream([b"0123456789"])
    read.messages(tcp(99, flags=SYN | ACK))
    assert read.messages(tcp(100, data[:5])) == ()
    assert read.messages(tcp(105, data[5:])) == (b"0123456789",)


def test_a_stream_that_began_before_is_read_from_its_next_message() -> None:
    assert Reassembly().messages(tcp(5000, stream([b"abc"]))) == (b"abc",)


def test_a_stream_that_ends_is_not_kept() -> None:
    read = Reassembly()
    read.messages(tcp(1, b"\0"))
    assert len(read) == 1
    read.messages(tcp(2, flags=FIN | ACK))
    assert len(read) == 0


@given(st.binary(max_size=120))
def test_any_bytes_are_no_harm(data: bytes) -> None:
    read = Reassembly()
    for packet in (data, b"\x45" + data, b"\x60" + data, tcp(1)[:20] + data, ipv6(6, data)):
        read.messages(packet)


def test_what_is_kept_is_bounded() -> None:
    read = Reassembly()
    for port in range(2 * STREAMS_MAX):
        read.messages(tcp(1, b"\xff\xff part", port=port))
        read.messages(tcp(1, flags=SYN, port=port + 20_000))
    assert len(read) <= STREAMS_MAX
    for turn in range(1000):
        read.messages(tcp(10 + turn * 1000, bytes(900), port=65000))  # each after a gap
    (flow,) = (key for key in read._streams if key[1][2:] == (65000).to_bytes(2, "big"))
    kept = read._streams[flow]
    assert len(kept._data) + sum(map(len, kept._later.values())) <= STREAM_BYTES_MAX + 900
