"""The queue between the thread that follows the store and the loop."""

import select
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.datastore.stamp import Stamp, encode_stamp
from calico_k8s.datastore.store import Revision
from calico_k8s.datastore.updates import Pending, Update, UpdateQueue
from calico_k8s.model.keys import WRITTEN_PATH

updates = st.lists(st.builds(Update, st.sampled_from("abc"), st.none() | st.sampled_from([b"1"])))


@pytest.fixture
def queue() -> Iterator[UpdateQueue]:
    with closing(UpdateQueue()) as opened:
        yield opened


def is_readable(queue: UpdateQueue) -> bool:
    return bool(select.select([queue], [], [], 0)[0])


def test_a_new_queue_has_nothing_and_is_not_readable(queue: UpdateQueue) -> None:
    assert not is_readable(queue)
    assert queue.take() == Pending({}, Revision(0), is_in_sync=False)


def test_it_is_readable_from_an_update_to_the_taking(queue: UpdateQueue) -> None:
    queue.on_updates([Update("/a", b"1")], Revision(5))
    assert is_readable(queue)
    assert queue.take() == Pending({"/a": b"1"}, Revision(5), is_in_sync=False)
    assert not is_readable(queue)


def test_being_in_sync_is_news_and_stays(queue: UpdateQueue) -> None:
    queue.on_in_sync()
    assert is_readable(queue)
    assert queue.take().is_in_sync
    assert queue.take().is_in_sync


@given(st.lists(updates, max_size=6), st.sets(st.integers(0, 5)))
def test_what_is_taken_sums_to_the_last_values(
    bursts: list[list[Update]], taken_after: set[int]
) -> None:
    expected: dict[str, bytes | None] = {}
    state: dict[str, bytes | None] = {}
    with closing(UpdateQueue()) as queue:
        for number, burst in enumerate(bursts):
            queue.on_updates(burst, Revision(number))
            expected |= dict(burst)
            if number in taken_after:
                state |= queue.take().values_by_key
                assert state == expected
        state |= queue.take().values_by_key
    assert state == expected


def test_a_burst_is_never_seen_in_part(queue: UpdateQueue) -> None:
    keys = [f"/{number}" for number in range(50)]
    takings = 0

    def write() -> None:
        for number in range(300):
            queue.on_updates([Update(key, b"%d" % number) for key in keys], Revision(number))

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive() or is_readable(queue):
        if pending := queue.take().values_by_key:
            assert len(pending) == len(keys)
            assert len(set(pending.values())) == 1
            takings += 1
    writer.join()
    assert takings


def stamp(written: float) -> Update:
    return Update(WRITTEN_PATH, encode_stamp(Stamp(written)))


def test_the_oldest_pending_change_is_known_with_its_stamp(queue: UpdateQueue) -> None:
    queue.on_updates([Update("/a", b"1"), stamp(1.0)], Revision(1))
    queue.on_in_sync()
    assert queue.take().first is None, "a first snapshot is no change"
    before_s = time.monotonic()
    queue.on_updates([Update("/a", b"2")], Revision(2))
    waits_since_s = queue.waits_since_s
    queue.on_updates([stamp(2.0)], Revision(3))  # of the same write: its last transaction
    queue.on_updates([Update("/a", b"3"), stamp(3.0)], Revision(4))
    first = queue.take().first
    assert first is not None
    assert waits_since_s is not None
    assert before_s <= waits_since_s == first.moment_s <= time.monotonic()
    assert first.stamp == Stamp(2.0)
    assert (queue.take().first, queue.waits_since_s) == (None, None)


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"{}", b'{"written": "now"}', None])
def test_a_stamp_that_is_not_understood_is_no_stamp(queue: UpdateQueue, raw: bytes | None) -> None:
    queue.on_in_sync()
    queue.on_updates([Update(WRITTEN_PATH, raw)], Revision(1))
    first = queue.take().first
    assert first is not None
    assert first.stamp is None
