"""Netlink bytes: what is packed is what is read, and what is cut short is never misread."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.netlink.wire import (
    MESSAGE_HEADER,
    NLA_F_NESTED,
    NLMSG_ERROR,
    Message,
    attribute,
    attribute_map,
    attribute_text,
    error_number,
    nested,
    split_attributes,
    split_messages,
    text_attribute,
)

PARTS = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=6)


@given(PARTS)
def test_attributes_are_read_as_they_were_packed(parts: list[tuple[int, bytes]]) -> None:
    packed = b"".join(attribute(kind, payload) for kind, payload in parts)
    assert len(packed) % 4 == 0
    read = [(kind, bytes(payload)) for kind, payload in split_attributes(memoryview(packed))]
    assert read == parts


@given(PARTS, st.integers(0, 0x3FFF))
def test_a_nested_attribute_holds_attributes_and_hides_its_flag(
    parts: list[tuple[int, bytes]], kind: int
) -> None:
    packed = nested(kind, *(attribute(*part) for part in parts))
    assert struct.unpack_from("=H", packed, 2)[0] == kind | NLA_F_NESTED
    ((read_kind, inner),) = split_attributes(memoryview(packed))
    assert read_kind == kind
    assert [(k, bytes(p)) for k, p in split_attributes(inner)] == parts


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    for _, payload in split_attributes(memoryview(data)):
        assert len(payload) <= len(data)
    for message in split_messages(memoryview(data)):
        error_number(message)


@given(PARTS, st.integers(1, 8))
def test_of_attributes_cut_short_the_whole_ones_are_read(
    parts: list[tuple[int, bytes]], cut: int
) -> None:
    packed = b"".join(attribute(kind, payload) for kind, payload in parts)[:-cut]
    read = [(kind, bytes(payload)) for kind, payload in split_attributes(memoryview(packed))]
    assert read == parts[: len(read)]


@pytest.mark.parametrize("text", ["", "cali4-x", "ünïcode"])
def test_a_string_ends_at_its_zero(text: str) -> None:
    attributes = attribute_map(memoryview(text_attribute(7, text) + attribute(8, b"a\0b\0")))
    assert attribute_text(attributes[7]) == text
    assert attribute_text(attributes[8]) == "a"


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (-17, 17), (-4352, 4352)])
def test_an_errno_is_positive_and_an_acknowledgement_is_zero(code: int, expected: int) -> None:
    body = struct.pack("=i", code) + bytes(16)
    packed = MESSAGE_HEADER.pack(16 + len(body), NLMSG_ERROR, 0, 9, 0) + body
    (message,) = split_messages(memoryview(packed))
    assert (message.type, message.sequence, error_number(message)) == (NLMSG_ERROR, 9, expected)
    assert error_number(Message(NLMSG_ERROR, 0, 9, memoryview(b"\0"))) == 0
