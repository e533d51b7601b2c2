"""When what is stored was written, as it is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.datastore.stamp import Stamp, decode_stamp, encode_stamp

moments = st.floats(0, 1e11)


@given(moments, st.none() | moments)
def test_a_stamp_is_read_back(written: float, changed: float | None) -> None:
    stamp = Stamp(written, changed)
    assert decode_stamp(encode_stamp(stamp)) == stamp


@pytest.mark.parametrize("raw", [None, b"", b"nonsense", b"[1]", b"{}", b'{"written": "now"}'])
def test_what_is_no_stamp_is_none(raw: bytes | None) -> None:
    assert decode_stamp(raw) is None


def test_what_a_newer_version_adds_is_passed_over() -> None:
    assert decode_stamp(b'{"written": 1.5, "by": "x"}') == Stamp(1.5)
