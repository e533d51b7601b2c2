"""The bytes of the etcd messages that carry data, written and read without a protobuf library.

In come our values, or an answer's bytes; out go a request's bytes, or our values.  Nothing is
sent here.  The etcd3 package runs only on protobuf's pure Python implementation, which takes
1.0 s to parse 100,000 entries; here it takes 0.17 s (tests/bench).  Its messages are the oracle of
this module's tests, and serve where speed is no matter.

Source: etcd api/etcdserverpb/rpc.proto, api/mvccpb/kv.proto; the encoding is protobuf's: a field
is a tag (number << 3 | wire type) and a varint (type 0), or a length and its bytes (type 2).
Unknown fields are skipped.  Raises: WireError for bytes that are no such message.
"""

from collections.abc import Iterator, Sequence

import msgspec

from calico_k8s.datastore.store import Change, Compare, Delete, Entry, Operation, Put, Revision

_VARINT, _LENGTH = 0, 2  # the wire types that etcd's messages use
_MORE = 0x80  # this byte of a varint is not its last

_KEY_ERRORS = "surrogateescape"  # a foreign key may be any bytes; it must not stop the others


class WireError(ValueError):
    """These bytes are not the message they should be."""


class Header(msgspec.Struct, frozen=True):
    """Which cluster answered, and how far it was."""

    cluster_id: int
    revision: Revision


_NO_HEADER = Header(0, Revision(0))


class RangeAnswer(msgspec.Struct, frozen=True):
    """Entries in key order; ``has_more`` when the limit cut them off."""

    header: Header
    entries: list[Entry]
    has_more: bool


class TxnAnswer(msgspec.Struct, frozen=True):
    """``has_succeeded`` False when a compare did not hold."""

    header: Header
    has_succeeded: bool


class WatchAnswer(msgspec.Struct, frozen=True):
    """Changes in order, whole revisions; none in a notice of progress, creation or the end."""

    header: Header
    is_created: bool
    is_cancelled: bool
    compact_revision: int
    cancel_reason: str
    changes: list[Change]


# ── requests ─────────────────────────────────────────────────────────────────────────────────────


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``, which is not empty."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0"  # etcd: \0 is the end of all keys


def encode_range(key: bytes, end: bytes, *, limit: int, revision: int = 0) -> bytes:
    """RangeRequest: ``key`` up to but without ``end`` (empty: just ``key``); revision 0 is now."""
    return (
        bytes_field(1, key)
        + bytes_field(2, end)
        + number_field(3, limit)
        + number_field(4, revision)
    )


def encode_count(key: bytes, end: bytes) -> bytes:
    """RangeRequest whose answer is a header only: where the cluster is, by consensus, now."""
    return bytes_field(1, key) + bytes_field(2, end) + number_field(9, 1)


def encode_watch(key: bytes, end: bytes, start_revision: int) -> bytes:
    """WatchRequest that creates a watch, with notices of progress while nothing changes."""
    create = (
        bytes_field(1, key)
        + bytes_field(2, end)
        + number_field(3, start_revision)
        + number_field(4, 1)
    )
    return bytes_field(1, create)


def encode_txn(root: str, operations: Sequence[Operation], compares: Sequence[Compare]) -> bytes:
    """TxnRequest: all compares hold, then all operations; each key goes below ``root``."""
    parts = [bytes_field(1, _compare(root, compare)) for compare in compares]
    parts += [bytes_field(2, _operation(root, operation)) for operation in operations]
    return b"".join(parts)


def _compare(root: str, compare: Compare) -> bytes:
    # result EQUAL (0) is left out; target MOD (2); a oneof is written even when it is 0
    key = encode_key(root, compare.key)
    return number_field(2, 2) + bytes_field(3, key) + b"\x30" + encode_varint(compare.mod_revision)


def _operation(root: str, operation: Operation) -> bytes:
    key = bytes_field(1, encode_key(root, operation.key))
    match operation:
        case Put(_, value, lease):
            return bytes_field(2, key + bytes_field(2, value) + number_field(3, lease or 0))
        case Delete():
            return bytes_field(3, key)


def encode_key(root: str, key: str) -> bytes:
    """A key of ours as etcd has it, below ``root``."""
    return (root + key).encode(errors=_KEY_ERRORS)


def encode_varint(value: int) -> bytes:
    """Seven bits a byte, the least first; etcd's int64 fields are never negative."""
    if value < _MORE:
        return bytes((value,))
    parts = bytearray()
    while value >= _MORE:
        parts.append(value & 0x7F | _MORE)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field of bytes, text or a message; nothing where it is empty."""
    # An empty field must be left out: etcd takes a range end that is there but empty for "all
    # keys from here on", not for "this key".
    return bytes((number << 3 | _LENGTH,)) + encode_varint(len(value)) + value if value else b""


def number_field(number: int, value: int) -> bytes:
    """A field of a number; nothing where it is 0."""
    return bytes((number << 3,)) + encode_varint(value) if value else b""


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def decode_range(data: bytes, root_bytes: int) -> RangeAnswer:
    """RangeResponse; the first ``root_bytes`` of each key, where our keys live, are cut off."""
    header, has_more = _NO_HEADER, False
    entries: list[Entry] = []
    for number, start, end in fields(data, 0, len(data)):
        if number == 2:
            key, value, mod_revision = _key_value(data, start, end)
            entries.append(
                Entry(key[root_bytes:].decode(errors=_KEY_ERRORS), value, Revision(mod_revision))
            )
        elif number == 1:
            header = _header(data, start, end)
        elif number == 3:
            has_more = bool(start)
    return RangeAnswer(header, entries, has_more)


def decode_txn(data: bytes) -> TxnAnswer:
    """TxnResponse; what each operation answered is skipped."""
    header, has_succeeded = _NO_HEADER, False
    for number, start, end in fields(data, 0, len(data)):
        if number == 1:
            header = _header(data, start, end)
        elif number == 2:
            has_succeeded = bool(start)
    return TxnAnswer(header, has_succeeded)


def decode_watch(data: bytes, root_bytes: int) -> WatchAnswer:
    """WatchResponse; the first ``root_bytes`` of each key are cut off."""
    header, numbers, reason = _NO_HEADER, {3: 0, 4: 0, 5: 0}, ""
    changes: list[Change] = []
    for number, start, end in fields(data, 0, len(data)):
        if number == 11:
            changes.append(_change(data, start, end, root_bytes))
        elif number == 1:
            header = _header(data, start, end)
        elif number == 6:
            reason = data[start:end].decode(errors="replace")
        elif number in numbers:
            numbers[number] = start
    return WatchAnswer(header, bool(numbers[3]), bool(numbers[4]), numbers[5], reason, changes)


def _header(data: bytes, at: int, end: int) -> Header:
    numbers = {number: value for number, value, _ in fields(data, at, end)}
    return Header(numbers.get(1, 0), Revision(numbers.get(3, 0)))


def _change(data: bytes, at: int, end: int, root_bytes: int) -> Change:
    is_delete = False
    key, value, mod_revision = b"", b"", 0
    for number, start, stop in fields(data, at, end):
        if number == 1:
            is_delete = start == 1
        elif number == 2:
            key, value, mod_revision = _key_value(data, start, stop)
    path = key[root_bytes:].decode(errors=_KEY_ERRORS)
    return Change(path, None if is_delete else value, Revision(mod_revision))


def _key_value(data: bytes, at: int, end: int) -> tuple[bytes, bytes, int]:
    """KeyValue: key, value, mod revision."""
    key, value, mod_revision = b"", b"", 0
    for number, start, stop in fields(data, at, end):
        if number == 1:
            key = data[start:stop]
        elif number == 5:
            value = data[start:stop]
        elif number == 3:
            mod_revision = start
    return key, value, mod_revision


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Each field's number, with a number's value and 0, or with where its bytes start and stop.

    Numbers below 128, nearly all, are read in place: a call for each would double the time.
    """
    try:
        while at < end:
            tag = data[at]
            at += 1
            if tag >= _MORE:
                tag, at = _varint(data, at, tag)
            value = data[at]
            at += 1
            if value >= _MORE:
                value, at = _varint(data, at, value)
            wire_type = tag & 7
            if wire_type == _LENGTH:
                start, at = at, at + value
                yield tag >> 3, start, at
            elif wire_type == _VARINT:
                yield tag >> 3, value, 0
            else:
                raise WireError(f"byte {at}: etcd sends no field of wire type {wire_type}")
    except IndexError:
        at = end + 1
    if at > end:
        raise WireError(f"the message ends within a field, at byte {end}")


def _varint(data: bytes, at: int, first: int) -> tuple[int, int]:
    """A varint whose first byte, before ``at``, is not its last: its value, and where it ends."""
    value, shift = first & 0x7F, 7
    while (byte := data[at]) >= _MORE:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return value | byte << shift, at + 1
