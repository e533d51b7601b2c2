"""What we write and read is what etcd3's own protobuf messages write and read."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.datastore.etcd import messages, wire
from calico_k8s.datastore.store import Change, Compare, Delete, Entry, LeaseId, Put, Revision

# The oracle is generated code without types, which loads only behind our door.
etcdrpc: Any = vars(messages)["etcdrpc"]

ROOT = "/calico"

keys = st.text(alphabet="ab/ü.\U0001f408", max_size=300).map(lambda text: "/" + text)
values = st.binary(max_size=300)
numbers = st.integers(0, 2**63 - 1)
revisions = numbers.map(Revision)
puts = st.builds(Put, keys, values, st.none() | st.integers(1, 2**63 - 1).map(LeaseId))
operations = st.lists(puts | st.builds(Delete, keys), max_size=8)
compares = st.lists(st.builds(Compare, keys, revisions), max_size=4)


def fill_header(header: Any, number: int) -> wire.Header:
    header.cluster_id = (number << 1) + 1  # a uint64
    header.member_id = number
    header.revision = number
    header.raft_term = number >> 3
    return wire.Header((number << 1) + 1, Revision(number))


def fill_key_value(message: Any, key: str, value: bytes, mod_revision: int) -> None:
    message.key = (ROOT + key).encode()
    message.value = value
    message.mod_revision = mod_revision
    message.create_revision = mod_revision >> 1
    message.version = mod_revision & 0xFF
    message.lease = mod_revision >> 3


@given(st.binary(min_size=1, max_size=9), st.binary(max_size=9), st.integers(0, 10**6), numbers)
def test_a_range_request_is_etcds(key: bytes, end: bytes, limit: int, revision: int) -> None:
    request = etcdrpc.RangeRequest.FromString(
        wire.encode_range(key, end, limit=limit, revision=revision)
    )
    expected = etcdrpc.RangeRequest(key=key, range_end=end, limit=limit, revision=revision)
    assert request == expected
    count = etcdrpc.RangeRequest.FromString(wire.encode_count(key, end))
    assert count == etcdrpc.RangeRequest(key=key, range_end=end, count_only=True)


@given(st.binary(min_size=1, max_size=9), st.binary(max_size=9), numbers)
def test_a_watch_request_is_etcds(key: bytes, end: bytes, start_revision: int) -> None:
    request = etcdrpc.WatchRequest.FromString(wire.encode_watch(key, end, start_revision))
    expected = etcdrpc.WatchCreateRequest(
        key=key, range_end=end, start_revision=start_revision, progress_notify=True
    )
    assert request == etcdrpc.WatchRequest(create_request=expected)


@given(operations, compares)
def test_a_transaction_is_etcds(todo: list[Put | Delete], conditions: list[Compare]) -> None:
    expected = etcdrpc.TxnRequest()
    for condition in conditions:
        message = expected.compare.add()
        message.target = etcdrpc.Compare.MOD
        message.key = (ROOT + condition.key).encode()
        message.mod_revision = condition.mod_revision
    for operation in todo:
        message = expected.success.add()
        if isinstance(operation, Put):
            message.request_put.key = (ROOT + operation.key).encode()
            message.request_put.value = operation.value
            message.request_put.lease = operation.lease or 0
        else:
            message.request_delete_range.key = (ROOT + operation.key).encode()
    assert etcdrpc.TxnRequest.FromString(wire.encode_txn(ROOT, todo, conditions)) == expected


def test_an_empty_range_end_is_left_out_since_etcd_would_take_it_for_all_keys() -> None:
    assert wire.encode_range(b"a", b"", limit=0) == b"\x0a\x01a"


@given(st.lists(st.tuples(keys, values, numbers), max_size=5), numbers, st.booleans())
def test_a_range_answer_is_read(
    rows: list[tuple[str, bytes, int]],
    number: int,
    has_more: bool,
) -> None:
    answer = etcdrpc.RangeResponse(more=has_more, count=len(rows))
    header = fill_header(answer.header, number)
    for row in rows:
        fill_key_value(answer.kvs.add(), *row)
    assert wire.decode_range(answer.SerializeToString(), len(ROOT)) == wire.RangeAnswer(
        header, [Entry(key, value, Revision(revision)) for key, value, revision in rows], has_more
    )


@given(numbers, st.booleans())
def test_a_transactions_answer_is_read(
    number: int,
    has_succeeded: bool,
) -> None:
    answer = etcdrpc.TxnResponse(succeeded=has_succeeded)
    header = fill_header(answer.header, number)
    answer.responses.add().response_put.header.revision = number
    assert wire.decode_txn(answer.SerializeToString()) == wire.TxnAnswer(header, has_succeeded)


@given(
    st.lists(st.tuples(keys, values, numbers, st.booleans()), max_size=5),
    st.tuples(st.booleans(), st.booleans(), numbers, st.text(max_size=9)),
    numbers,
)
def test_a_watch_answer_is_read(
    rows: list[tuple[str, bytes, int, bool]], end: tuple[bool, bool, int, str], number: int
) -> None:
    is_created, is_cancelled, compacted, reason = end
    answer = etcdrpc.WatchResponse(
        watch_id=3,
        created=is_created,
        canceled=is_cancelled,
        compact_revision=compacted,
        cancel_reason=reason,
    )
    header = fill_header(answer.header, number)
    changes = []
    for key, value, revision, is_delete in rows:
        event = answer.events.add(type=int(is_delete))
        fill_key_value(event.kv, key, value, revision)
        event.prev_kv.key = b"not this one"
        changes.append(Change(key, None if is_delete else value, Revision(revision)))
    assert wire.decode_watch(answer.SerializeToString(), len(ROOT)) == wire.WatchAnswer(
        header, is_created, is_cancelled, compacted, reason, changes
    )


@given(st.binary(max_size=60))
def test_bytes_that_are_no_answer_are_told_and_nothing_else_is_raised(data: bytes) -> None:
    for decode in (wire.decode_txn, lambda each: wire.decode_range(each, 0)):
        with suppress(wire.WireError):
            decode(data)


@given(st.lists(st.tuples(keys, values, numbers), min_size=1, max_size=3), st.data())
def test_an_answer_that_is_cut_short_is_told(
    rows: list[tuple[str, bytes, int]], data: st.DataObject
) -> None:
    answer = etcdrpc.RangeResponse()
    for row in rows:
        fill_key_value(answer.kvs.add(), *row)
    whole = answer.SerializeToString()
    # cut inside the last entry, not between two
    last_bytes = len(answer.kvs[-1].SerializeToString())
    cut = data.draw(st.integers(len(whole) - last_bytes, len(whole) - 1))
    with pytest.raises(wire.WireError):
        wire.decode_range(whole[:cut], len(ROOT))


def test_fields_of_a_newer_etcd_are_skipped() -> None:
    newer = b"\xa0\x06\x96\x01" + b"\xaa\x06\x03new"  # field 100, a number; field 101, bytes
    answer = etcdrpc.RangeResponse()
    fill_key_value(answer.kvs.add(), "/a", b"1", 5)
    data = newer + answer.SerializeToString() + newer
    assert wire.decode_range(data, len(ROOT)).entries == [Entry("/a", b"1", Revision(5))]


def test_a_foreign_key_that_is_no_text_stops_nothing() -> None:
    answer = etcdrpc.RangeResponse()
    answer.kvs.add(key=b"/calico/\xff\xfe", value=b"")
    (entry,) = wire.decode_range(answer.SerializeToString(), len(ROOT)).entries
    assert wire.encode_key(ROOT, entry.key) == b"/calico/\xff\xfe"


@given(st.binary(min_size=1, max_size=4), st.binary(max_size=4))
def test_a_prefix_ends_before_the_first_key_without_it(prefix: bytes, other: bytes) -> None:
    end = wire.prefix_end(prefix)
    is_inside = prefix <= other and (end == b"\0" or other < end)
    assert is_inside == other.startswith(prefix)
