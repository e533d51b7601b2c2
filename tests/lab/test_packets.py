"""SCTP packets are what the standard says, and damaged ones say nothing."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.lab.packets import ChunkType, SctpPacket, crc32c, decode_sctp, encode_sctp

PORTS = st.integers(0, 65535)
TAGS = st.integers(1, 2**32 - 1)


@st.composite
def packets(draw: st.DrawFn) -> SctpPacket:
    chunk = draw(st.sampled_from(ChunkType))
    return SctpPacket(
        src_port=draw(PORTS),
        dst_port=draw(PORTS),
        tag=0 if chunk is ChunkType.INIT else draw(TAGS),
        chunk=chunk,
        own_tag=0 if chunk is ChunkType.ABORT else draw(TAGS),
        cookie=draw(st.binary(max_size=40)) if chunk is ChunkType.INIT_ACK else b"",
    )


def test_the_checksum_is_castagnolis() -> None:
    # RFC 3720 appendix B.4 gives these.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@given(packets())
def test_what_is_encoded_decodes_to_itself(packet: SctpPacket) -> None:
    assert decode_sctp(encode_sctp(packet)) == packet


@given(packets(), st.data())
def test_one_changed_bit_is_damage(packet: SctpPacket, data: st.DataObject) -> None:
    encoded = bytearray(encode_sctp(packet))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    assert decode_sctp(bytes(encoded)) is None


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_say_nothing(data: bytes) -> None:
    decoded = decode_sctp(data)
    assert decoded is None or decoded.chunk in ChunkType


def test_an_init_is_laid_out_as_in_rfc_9260() -> None:
    encoded = encode_sctp(SctpPacket(1, 2, 0, ChunkType.INIT, own_tag=0x01020304))
    assert encoded[:8] == b"\0\1\0\2\0\0\0\0"
    assert encoded[12:20] == b"\1\0\0\x14\1\2\3\4"
    assert len(encoded) == 32
