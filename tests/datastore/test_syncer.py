"""A syncer over each kind of store: whatever happens, the sum of what it hands on is the store."""

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Delete, Put, Store
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import Update
from calico_k8s.errors import StoreCompacted, StoreUnavailable
from tests.datastore.followers import Recorder, wait_until

PREFIX = "/v1/"


@contextmanager
def syncing(store: Store) -> Iterator[Recorder]:
    recorder = Recorder()
    syncer = Syncer(store, PREFIX, recorder, recorder)
    syncer.start()
    try:
        yield recorder
    finally:
        syncer.close()


def wait_until_equal(recorder: Recorder, store: Store) -> None:
    expected = {entry.key: entry.value for entry in store.read(PREFIX).entries}
    wait_until(
        lambda: recorder.values_by_key == expected, "the syncer to hold what the store holds"
    )


def test_the_snapshot_comes_first_then_in_sync_then_changes(store: Store) -> None:
    store.transact([Put("/v1/a", b"1"), Put("/v1/b", b"1"), Put("/v2/a", b"1")])
    with syncing(store) as recorder:
        wait_until(lambda: bool(recorder.in_sync_after), "in-sync")
        last = store.transact([Put("/v1/c", b"2"), Delete("/v1/a")])
        wait_until(lambda: len(recorder.updates) == 4, "the changes")
        assert recorder.handed_on == [
            (Update("/v1/a", b"1"), Update("/v1/b", b"1")),
            (Update("/v1/c", b"2"), Update("/v1/a", None)),
        ]
        assert recorder.in_sync_after == [2]
        assert recorder.revision == last
        assert recorder.states == [SyncState.RESYNC, SyncState.IN_SYNC]


def test_an_empty_store_is_in_sync_with_nothing(store: Store) -> None:
    with syncing(store) as recorder:
        wait_until(lambda: bool(recorder.in_sync_after), "in-sync")
        assert recorder.updates == []


def test_a_value_written_again_is_no_difference(store: Store) -> None:
    with syncing(store) as recorder:
        for value in (b"1", b"1", b"1", b"2", b"2"):
            store.transact([Put("/v1/a", value)])
        store.transact([Put("/v1/end", b"")])
        wait_until(lambda: "/v1/end" in recorder.values_by_key, "the last")
        assert [value for key, value in recorder.updates if key == "/v1/a"] in (
            [b"1", b"2"],
            [b"2"],  # the first snapshot came late
        )


def test_a_key_written_again_after_its_removal_is_a_difference(store: Store) -> None:
    store.transact([Put("/v1/a", b"1")])
    with syncing(store) as recorder:
        wait_until(lambda: bool(recorder.in_sync_after), "in-sync")
        store.transact([Delete("/v1/a")])
        store.transact([Put("/v1/a", b"1")])
        wait_until(lambda: len(recorder.updates) == 3, "both changes")
        assert [value for _, value in recorder.updates] == [b"1", None, b"1"]


def test_a_syncer_that_missed_compacted_changes_hands_on_the_differences(store: Store) -> None:
    store.transact([Put(f"/v1/{number}", b"1") for number in range(20)])
    recorder = Recorder()
    syncer = Syncer(store, PREFIX, recorder, recorder)
    behind = store.read(PREFIX).revision
    store.transact([Put("/v1/3", b"2"), Delete("/v1/4"), Put("/v1/new", b"2")])
    # As if all of this had happened between its snapshot and its watch:
    syncer._hand_on(syncer._differences(store.read(PREFIX)), behind)
    store.transact([Put("/v1/5", b"3"), Put("/v1/3", b"2")])
    store.transact([Delete("/v1/6")])
    store.compact(store.read(PREFIX).revision)
    before = len(recorder.updates)
    syncer.start()
    try:
        wait_until(lambda: len(recorder.updates) > before, "the differences")
        wait_until_equal(recorder, store)
        assert recorder.updates[before:] == [Update("/v1/5", b"3"), Update("/v1/6", None)]
        assert isinstance(recorder.errors[0], StoreCompacted)
    finally:
        syncer.close()


def test_random_histories_end_in_what_the_store_holds(url: str) -> None:
    # One key space written by one handle, compacted now and then, followed by another.
    chance = random.Random(7)
    with (
        closing(open_store(url)) as writer,
        closing(open_store(url)) as reader,
        syncing(reader) as recorder,
    ):
        for _ in range(200):
            keys = chance.sample([f"/v1/{number}" for number in range(12)], chance.randint(1, 5))
            writer.transact(
                [
                    Delete(key) if chance.random() < 0.4 else Put(key, chance.choice([b"1", b"2"]))
                    for key in keys
                ]
            )
            if chance.random() < 0.05:
                writer.compact(writer.read(PREFIX).revision)
        wait_until_equal(recorder, writer)
        assert len(recorder.in_sync_after) == 1


def test_closing_the_syncer_leaves_the_store_open(store: Store) -> None:
    with syncing(store) as recorder:
        wait_until(lambda: bool(recorder.in_sync_after), "in-sync")
    store.transact([Put("/v1/late", b"")])
    assert recorder.updates == []


def test_a_syncer_waits_for_a_store_that_is_away() -> None:
    recorder = Recorder()
    with closing(open_store("etcd://127.0.0.1:1")) as store:
        syncer = Syncer(store, PREFIX, recorder, recorder)
        syncer.start()
        wait_until(lambda: bool(recorder.errors), "an error")
        assert isinstance(recorder.errors[0], StoreUnavailable)
        assert syncer.state is SyncState.WAIT
        assert recorder.in_sync_after == []
        syncer.close()
