"""The contract of every store, on each: a file and two versions of a real etcd."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import (
    ABSENT,
    OPERATIONS_MAX,
    TRANSACTION_BYTES_MAX,
    Change,
    Compare,
    Delete,
    Entry,
    LeaseId,
    Put,
    Revision,
    Store,
    transact_in_order,
)
from calico_k8s.errors import (
    StoreCompacted,
    StoreConflict,
    StoreError,
    StoreLeaseLost,
    StoreUnavailable,
)
from tests.datastore.followers import Follower, wait_until

A, B, C = "/v1/a", "/v1/b", "/v1/c"


@contextmanager
def following(store: Store, prefix: str, after: Revision) -> Iterator[Follower]:
    follower = Follower(store.watch(prefix, after))
    try:
        yield follower
    finally:
        follower.close()


def pairs(changes: list[Change]) -> list[tuple[str, bytes | None]]:
    return [(change.key, change.value) for change in changes]


# ── entries ──────────────────────────────────────────────────────────────────────────────────────


def test_a_key_that_was_never_written_is_absent(store: Store) -> None:
    assert store.get(A) is None
    assert store.read("/v1/").entries == ()


def test_a_value_is_read_back_with_the_revision_that_wrote_it(store: Store) -> None:
    first = store.transact([Put(A, b"1")])
    second = store.transact([Put(B, b"")])
    assert second > first
    assert store.get(A) == Entry(A, b"1", first)
    assert store.get(B) == Entry(B, b"", second)


@pytest.mark.parametrize(
    "value", [b"", b"\0", bytes(range(256)), "ü 🐈".encode(), b"x" * 1_000_000], ids=len
)
def test_values_are_any_bytes(store: Store, value: bytes) -> None:
    store.transact([Put(A, value)])
    entry = store.get(A)
    assert entry
    assert entry.value == value


def test_a_snapshot_holds_what_begins_with_the_prefix_in_key_order(store: Store) -> None:
    keys = ["/v1/b", "/v1/a/z", "/v1/a/", "/v1/a0", "/v1/a", "/v2/a", "/v1/a/ü"]
    store.transact([Put(key, key.encode()) for key in keys])
    assert [entry.key for entry in store.read("/v1/a").entries] == [
        *("/v1/a", "/v1/a/", "/v1/a/z", "/v1/a/ü", "/v1/a0")
    ]
    assert [entry.key for entry in store.read("/v1/a/").entries] == ["/v1/a/", "/v1/a/z", "/v1/a/ü"]
    assert all(entry.value == entry.key.encode() for entry in store.read("/").entries)


def test_a_snapshot_says_its_revision(store: Store) -> None:
    revision = store.transact([Put(A, b"1")])
    assert store.read("/v1/").revision == revision
    assert store.read("/v2/").revision == revision


def test_a_long_snapshot_is_of_one_revision_while_others_write(store: Store) -> None:
    # Each transaction writes both ends of the key space; a torn snapshot would see them differ.
    middle = [Put(f"/v1/m/{number:05}", b"x" * 100) for number in range(3000)]
    transact_in_order(store, middle)
    is_over = threading.Event()

    def write() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            store.transact([Put("/v1/a", b"%d" % number), Put("/v1/z", b"%d" % number)])

    store.transact([Put("/v1/a", b"0"), Put("/v1/z", b"0")])
    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            entries = store.read("/v1/").entries
            assert len(entries) == len(middle) + 2
            assert entries[0].value == entries[-1].value
            assert entries[0].mod_revision == entries[-1].mod_revision
    finally:
        is_over.set()
        thread.join()


def test_a_snapshot_of_more_than_4_mib_is_whole(store: Store) -> None:
    puts = [Put(f"/v1/{number:05}", bytes([number % 256]) * 3000) for number in range(3000)]
    transact_in_order(store, puts)
    entries = store.read("/v1/").entries
    assert [(entry.key, entry.value) for entry in entries] == [(put.key, put.value) for put in puts]


# ── transactions ─────────────────────────────────────────────────────────────────────────────────


def test_a_transaction_writes_and_removes_at_one_revision(store: Store) -> None:
    store.transact([Put(A, b"1"), Put(B, b"1")])
    revision = store.transact([Delete(A), Put(B, b"2"), Put(C, b"2")])
    assert store.read("/v1/").entries == (Entry(B, b"2", revision), Entry(C, b"2", revision))


def test_what_changes_nothing_has_no_revision(store: Store) -> None:
    revision = store.transact([Put(A, b"1")])
    assert store.transact([Delete(B)]) == revision
    assert store.transact([]) == revision


@pytest.mark.parametrize("count", [1, OPERATIONS_MAX])
def test_a_transaction_may_be_full(store: Store, count: int) -> None:
    operations = [Put(f"/v1/{number:03}", b"x") for number in range(count)]
    compares = [Compare(f"/v1/{number:03}", ABSENT) for number in range(count)]
    store.transact(operations, compares)
    assert len(store.read("/v1/").entries) == count


def test_more_than_a_transaction_holds_is_the_callers_mistake(store: Store) -> None:
    with pytest.raises(ValueError, match="128"):
        store.transact([Put(f"/v1/{number:03}", b"") for number in range(OPERATIONS_MAX + 1)])
    with pytest.raises(ValueError, match="once"):
        store.transact([Put(A, b"1"), Delete(A)])
    assert store.read("/").entries == ()


def test_a_value_too_large_is_refused_by_its_name_and_the_largest_is_taken(store: Store) -> None:
    largest = TRANSACTION_BYTES_MAX - len(A) - 32
    with pytest.raises(StoreError, match=f"{A} and 0 other keys"):
        store.transact([Put(A, b"x" * (largest + 1))])
    assert store.get(A) is None
    store.transact([Put(A, b"x" * largest)])
    assert len(store.read("/").entries[0].value) == largest


def test_a_compare_holds_a_write_to_what_was_read(store: Store) -> None:
    revision = store.transact([Put(A, b"1")], [Compare(A, ABSENT)])
    with pytest.raises(StoreConflict, match=A):
        store.transact([Put(A, b"2")], [Compare(A, ABSENT)])
    with pytest.raises(StoreConflict):
        store.transact([Put(B, b"2")], [Compare(A, revision), Compare(C, revision)])
    assert store.read("/").entries == (Entry(A, b"1", revision),)
    newer = store.transact([Put(A, b"3"), Put(B, b"3")], [Compare(A, revision)])
    assert store.read("/").entries == (Entry(A, b"3", newer), Entry(B, b"3", newer))


def test_of_two_writers_that_compare_one_wins(url: str) -> None:
    with closing(open_store(url)) as one, closing(open_store(url)) as other:
        outcomes: list[str] = []

        def claim(store: Store, name: str) -> None:
            for number in range(20):
                try:
                    store.transact(
                        [Put(f"/v1/{number}", name.encode())], [Compare(f"/v1/{number}", ABSENT)]
                    )
                    outcomes.append(name)
                except StoreConflict:
                    continue

        threads = [
            threading.Thread(target=claim, args=pair) for pair in ((one, "one"), (other, "other"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 20
        owners = [entry.value.decode() for entry in one.read("/v1/").entries]
        assert sorted(owners) == sorted(outcomes)


def test_operations_without_number_are_done_in_order(store: Store) -> None:
    puts = [Put(f"/v1/{number:04}", b"x") for number in range(300)]
    deletes = [Delete(put.key) for put in puts[:200]]
    start = store.transact([Put("/v1/last", b"")])
    with following(store, "/v1/", start) as follower:
        last = transact_in_order(store, [*puts, *deletes])
        changes = follower.wait_for(500)
    assert pairs(changes) == [(put.key, b"x") for put in puts] + [
        (delete.key, None) for delete in deletes
    ]
    assert changes[-1].mod_revision == last
    assert transact_in_order(store, []) is None


def test_large_values_are_spread_over_transactions(store: Store) -> None:
    sizes = [10, 700_000, 700_000, 700_000, TRANSACTION_BYTES_MAX - 100, 10, 10]
    puts = [Put(f"/v1/{number}", b"x" * size) for number, size in enumerate(sizes)]
    transact_in_order(store, puts)
    assert [len(entry.value) for entry in store.read("/v1/").entries] == sizes


def test_a_fence_stops_every_transaction_of_a_series(store: Store) -> None:
    fence = store.transact([Put("/v1/leader", b"me")])
    store.transact([Put("/v1/leader", b"other")])
    with pytest.raises(StoreConflict):
        transact_in_order(store, [Put(A, b"1")], [Compare("/v1/leader", fence)])
    assert store.get(A) is None


# ── watching ─────────────────────────────────────────────────────────────────────────────────────


def test_a_watcher_gives_what_came_after_its_revision_and_what_comes(store: Store) -> None:
    store.transact([Put(A, b"before")])
    start = store.read("/v1/").revision
    store.transact([Put(A, b"1")])
    with following(store, "/v1/", start) as follower:
        follower.wait_for(1)
        store.transact([Put(B, b"2")])
        store.transact([Delete(A)])
        assert pairs(follower.wait_for(3)) == [(A, b"1"), (B, b"2"), (A, None)]


def test_a_watcher_sees_its_prefix_only(store: Store) -> None:
    start = store.transact([Put(A, b"")])
    with following(store, "/v1/", start) as follower:
        store.transact([Put("/v2/a", b""), Put("/v1/b", b""), Put("/v10", b"")])
        store.transact([Put("/v1", b""), Put("/v1/c", b"")])
        assert [change.key for change in follower.wait_for(2)] == ["/v1/b", "/v1/c"]


def test_a_watcher_says_at_once_that_the_store_is_there(store: Store) -> None:
    start = store.transact([Put(A, b"")])
    with following(store, "/v1/", start) as follower:
        follower.wait_until_open()
        assert follower.batches[0].changes == ()
        assert follower.batches[0].revision >= start


def test_the_changes_of_a_transaction_stay_together(store: Store) -> None:
    start = store.transact([Put(A, b"")])
    with following(store, "/v1/", start) as follower:
        for number in range(50):
            store.transact([Put(f"/v1/{key}", b"%d" % number) for key in range(20)])
        assert len(follower.wait_for(1000)) == 1000
        for batch in follower.batches:
            revisions = [change.mod_revision for change in batch.changes]
            assert all(revisions.count(revision) == 20 for revision in set(revisions))
            assert not revisions or revisions[-1] == batch.revision
            assert revisions == sorted(revisions)


def test_each_change_comes_once_and_in_order_however_fast_they_are(store: Store) -> None:
    start = store.transact([Put(A, b"")])
    with following(store, "/v1/", start) as follower:
        for number in range(500):
            store.transact([Put(A, b"%d" % number)])
        assert [change.value for change in follower.wait_for(500)] == [
            b"%d" % number for number in range(500)
        ]


def test_writers_in_other_handles_are_seen(url: str) -> None:
    with closing(open_store(url)) as reader, closing(open_store(url)) as writer:
        start = writer.transact([Put(A, b"")])
        with following(reader, "/v1/", start) as follower:
            follower.wait_until_open()
            writer.transact([Put(B, b"1")])
            assert pairs(follower.wait_for(1)) == [(B, b"1")]


def test_a_watcher_that_is_closed_ends_whether_it_waits_or_not(store: Store) -> None:
    start = store.transact([Put(A, b"")])
    never_read = store.watch("/v1/", start)
    never_read.close()
    assert list(never_read) == []
    waiting = Follower(store.watch("/v1/", start))
    waiting.wait_until_open()
    waiting.close()
    waiting.close()
    assert waiting.error is None


def test_closing_the_store_ends_its_watchers(url: str) -> None:
    store = open_store(url)
    follower = Follower(store.watch("/v1/", store.transact([Put(A, b"")])))
    follower.wait_until_open()
    store.close()
    wait_until(lambda: follower.has_ended, "the watcher's end")
    assert follower.error is None
    with pytest.raises(StoreUnavailable, match="closed"):
        store.get(A)


# ── compaction ───────────────────────────────────────────────────────────────────────────────────


def test_what_is_compacted_can_be_read_but_not_watched(store: Store) -> None:
    start = store.transact([Put(A, b"1")])
    store.transact([Put(A, b"2")])
    last = store.transact([Put(B, b"3")])
    store.compact(last)
    assert [entry.value for entry in store.read("/v1/").entries] == [b"2", b"3"]
    with following(store, "/v1/", start) as follower:
        wait_until(lambda: follower.has_ended, "the watcher's end")
        assert isinstance(follower.error, StoreCompacted)
        assert follower.changes == []
    with following(store, "/v1/", last) as follower:
        store.transact([Put(C, b"4")])
        assert pairs(follower.wait_for(1)) == [(C, b"4")]


def test_compaction_disturbs_no_watcher_that_has_kept_up(store: Store) -> None:
    start = store.transact([Put(A, b"")])
    with following(store, "/v1/", start) as follower:
        follower.wait_until_open()
        for number in range(20):
            revision = store.transact([Put(A, b"%d" % number)])
            follower.wait_for(number + 1)
            store.compact(revision)
        assert [change.value for change in follower.changes] == [b"%d" % n for n in range(20)]


def test_compacting_twice_or_the_future_does_nothing(store: Store) -> None:
    revision = store.transact([Put(A, b"1")])
    store.compact(revision)
    store.compact(revision)
    store.compact(Revision(revision + 1000))
    with following(store, "/v1/", revision) as follower:
        store.transact([Put(A, b"2")])
        assert pairs(follower.wait_for(1)) == [(A, b"2")]


def test_a_revision_that_the_store_has_not_reached_is_another_history(store: Store) -> None:
    revision = store.transact([Put(A, b"1")])
    with following(store, "/v1/", Revision(revision + 1000)) as follower:
        wait_until(lambda: follower.has_ended, "the watcher's end")
        assert isinstance(follower.error, StoreCompacted)


# ── leases ───────────────────────────────────────────────────────────────────────────────────────


def test_a_lease_keeps_its_keys_while_it_is_kept_alive_and_no_longer(store: Store) -> None:
    lease = store.grant_lease(2)
    start = store.transact([Put(A, b"alive", lease), Put(B, b"stays")])
    with following(store, "/v1/", start) as follower:
        for _ in range(3):
            time.sleep(0.8)
            store.keep_alive(lease)
            assert store.get(A) is not None
        wait_until(lambda: store.get(A) is None, "the lease's end")
        with pytest.raises(StoreLeaseLost):
            store.keep_alive(lease)
        store.transact([Put(C, b"")])
        assert pairs(follower.wait_for(2)) == [(A, None), (C, b"")]
    assert [entry.key for entry in store.read("/v1/").entries] == [B, C]


def test_revoking_a_lease_removes_its_keys(store: Store) -> None:
    lease = store.grant_lease(60)
    store.transact([Put(A, b"1", lease), Put(B, b"1", lease), Put(C, b"1")])
    store.revoke_lease(lease)
    store.revoke_lease(lease)
    assert [entry.key for entry in store.read("/v1/").entries] == [C]


def test_a_lease_that_has_ended_takes_no_keys(store: Store) -> None:
    lease = store.grant_lease(60)
    store.revoke_lease(lease)
    with pytest.raises(StoreLeaseLost):
        store.transact([Put(A, b"1", lease)])
    with pytest.raises(StoreLeaseLost):
        store.transact([Put(A, b"1", LeaseId(4711))])
    assert store.get(A) is None


def test_a_key_written_without_its_lease_outlives_it(store: Store) -> None:
    lease = store.grant_lease(60)
    store.transact([Put(A, b"1", lease)])
    store.transact([Put(A, b"2")])
    store.revoke_lease(lease)
    assert store.get(A) is not None


# ── identity ─────────────────────────────────────────────────────────────────────────────────────


def test_every_handle_knows_the_store_by_the_same_name(url: str) -> None:
    with closing(open_store(url)) as one, closing(open_store(url)) as other:
        assert one.identity() == other.identity() == one.identity() != ""


def test_many_threads_may_use_one_store(store: Store) -> None:
    def work(name: int) -> None:
        for number in range(20):
            store.transact([Put(f"/v1/{name}/{number}", b"x")])
            assert store.get(f"/v1/{name}/{number}")
            store.read(f"/v1/{name}/")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.read("/v1/").entries) == 120
