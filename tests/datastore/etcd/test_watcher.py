"""Real etcds that are killed, stopped, cut off, compacted and set back, under a watcher.

What must hold each time: no change lost, none twice, the order kept; or else a resync that hands
on the differences.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import pytest

from calico_k8s.datastore.etcd.store import EtcdStore
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import EtcdLocation
from calico_k8s.datastore.store import ABSENT, Compare, Delete, Entry, Put, Revision, Store
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import Update
from calico_k8s.errors import StoreCompacted, StoreConflict, StoreUnavailable, StoreUncertain
from tests.datastore.followers import Follower, Recorder, wait_until
from tests.etcd.binaries import EtcdVersion
from tests.etcd.servers import EtcdCluster, EtcdMember, etcd_cluster

pytestmark = pytest.mark.etcd

PREFIX = "/v1/"
SILENCE_NOTICED_S = 12.0
"""A ping after 6 s of silence, 3 s for its answer, and a slow machine."""


@pytest.fixture
def single(tmp_path: Path) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path, members=3) as cluster:
        yield cluster


def store_at(*members: EtcdMember) -> EtcdStore:
    return EtcdStore(EtcdLocation(tuple(member.endpoint for member in members), "/calico"), None)


def first_watched_member(cluster: EtcdCluster, follower: Follower) -> EtcdMember:
    watcher = follower._watcher
    endpoint = watcher._members._member.endpoint  # type: ignore[attr-defined]  # to be broken here
    return next(member for member in cluster.members if member.endpoint == endpoint)


@contextmanager
def following(store: Store) -> Iterator[Follower]:
    store.transact([Put("/v1/first", b"")])
    follower = Follower(store.watch(PREFIX, store.read(PREFIX).revision))
    follower.wait_until_open()
    try:
        yield follower
    finally:
        follower.close()


@contextmanager
def syncing(store: Store) -> Iterator[Recorder]:
    recorder = Recorder()
    syncer = Syncer(store, PREFIX, recorder, recorder)
    syncer.start()
    try:
        wait_until(lambda: bool(recorder.in_sync_after), "in-sync")
        yield recorder
    finally:
        syncer.close()


class Load:
    """A thread that writes numbers, one after the other, each once, whatever happens to etcd.

    A write whose outcome is not known is read back, and compared with the revision before, so that
    of two of the same number one fails, however late it comes.
    """

    def __init__(self, store: Store) -> None:
        self.written = 0
        self._revision = ABSENT
        self._store = store
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def wait_for_progress(self) -> None:
        before = self.written
        wait_until(lambda: self.written > before + 20, "writes that succeed")

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._revision = self._write(b"%d" % (self.written + 1))
            self.written += 1
            time.sleep(0.002)

    def _write(self, value: bytes) -> Revision:
        while True:
            try:
                return self._store.transact(
                    [Put("/v1/number", value)], [Compare("/v1/number", self._revision)]
                )
            except (StoreUncertain, StoreConflict):
                entry = self._read()
                if entry and entry.value == value:
                    return entry.mod_revision
            except StoreUnavailable:
                continue

    def _read(self) -> Entry | None:
        while True:
            try:
                return self._store.get("/v1/number")
            except StoreUnavailable:
                continue


def numbers_of(follower: Follower) -> list[int]:
    return [int(each.value or b"0") for each in follower.changes if each.key == "/v1/number"]


@pytest.mark.parametrize("version", EtcdVersion)
def test_a_restarted_member_is_watched_on(tmp_path: Path, version: EtcdVersion) -> None:
    with (
        etcd_cluster(tmp_path, version) as cluster,
        closing(open_store(cluster.url())) as store,
        following(store) as follower,
    ):
        for number in range(3):
            store.transact([Put("/v1/before", b"%d" % number)])
            cluster.members[0].restart()
            store.transact([Put("/v1/after", b"%d" % number)])
        values = [(each.key, each.value) for each in follower.wait_for(6)]
        assert values == [
            (key, b"%d" % number) for number in range(3) for key in ("/v1/before", "/v1/after")
        ]
        assert follower.error is None


def test_each_member_killed_in_turn_under_load_costs_no_change(trio: EtcdCluster) -> None:
    with (
        closing(open_store(trio.url())) as writer,
        closing(open_store(trio.url())) as reader,
        following(reader) as follower,
        Load(writer) as load,
    ):
        for member in (*trio.members, first_watched_member(trio, follower)):
            load.wait_for_progress()
            member.kill()
            load.wait_for_progress()
            member.start()
            member.wait_until_healthy()
        load.wait_for_progress()
        load.stop()
        wait_until(lambda: load.written in numbers_of(follower), "the last number")
        assert numbers_of(follower) == list(range(1, load.written + 1))
        assert follower.error is None


def test_a_member_that_falls_silent_is_left_within_seconds(trio: EtcdCluster) -> None:
    # It neither answers nor closes its connections: what a network that drops packets looks like.
    with closing(open_store(trio.url())) as reader, following(reader) as follower:
        silent = first_watched_member(trio, follower)
        others = [member for member in trio.members if member is not silent]
        with closing(store_at(*others)) as writer, Load(writer) as load:
            load.wait_for_progress()
            silent.pause()
            try:
                load.wait_for_progress()
                written = load.written
                wait_until(lambda: written in numbers_of(follower), "news", SILENCE_NOTICED_S)
            finally:
                silent.resume()
            load.stop()
            wait_until(lambda: load.written in numbers_of(follower), "the last number")
        assert numbers_of(follower) == list(range(1, load.written + 1))


def test_a_member_without_the_others_is_left_and_found_again(trio: EtcdCluster) -> None:
    # The member that is watched answers pings all the while; it only has no leader.
    alone, *others = trio.members
    with closing(store_at(alone)) as reader, syncing(reader) as recorder:
        for member in others:
            member.pause()
        try:
            wait_until(lambda: SyncState.WAIT in recorder.states, "the loss to be noticed")
        finally:
            for member in others:
                member.resume()
        with closing(open_store(trio.url())) as writer:
            wait_until(lambda: _can_write(writer), "a majority")
        wait_until(lambda: "/v1/back" in recorder.values_by_key, "the change")
        assert recorder.states[-1] is SyncState.IN_SYNC
        assert recorder.handed_on == [(Update("/v1/back", b"1"),)]


def _can_write(store: Store) -> bool:
    try:
        store.transact([Put("/v1/back", b"1")])
    except StoreUnavailable:
        return False
    return True


def test_a_cluster_that_was_away_is_followed_on_without_a_new_snapshot(single: EtcdCluster) -> None:
    (member,) = single.members
    with closing(open_store(single.url())) as store, syncing(store) as recorder:
        store.transact([Put("/v1/a", b"1")])
        wait_until(lambda: "/v1/a" in recorder.values_by_key, "the change")
        member.kill()
        wait_until(lambda: SyncState.WAIT in recorder.states, "the loss to be noticed")
        member.restart()
        store.transact([Put("/v1/b", b"1")])
        wait_until(lambda: "/v1/b" in recorder.values_by_key, "the change")
        assert recorder.states == [
            *(SyncState.RESYNC, SyncState.IN_SYNC, SyncState.WAIT, SyncState.IN_SYNC)
        ]
        assert recorder.updates == [Update("/v1/a", b"1"), Update("/v1/b", b"1")]


def test_changes_compacted_while_away_end_in_their_differences(trio: EtcdCluster) -> None:
    followed, *others = trio.members
    with (
        closing(store_at(followed)) as reader,
        closing(store_at(*others)) as writer,
    ):
        writer.transact([Put(f"/v1/{number}", b"1") for number in range(100)])
        with syncing(reader) as recorder:
            followed.kill()
            wait_until(lambda: SyncState.WAIT in recorder.states, "the loss to be noticed")
            wait_until(lambda: _can_write(writer), "a majority")
            writer.transact([Put("/v1/5", b"2"), Delete("/v1/6"), Put("/v1/7", b"1")])
            writer.transact([Put("/v1/8", b"2")])
            writer.compact(writer.transact([Put("/v1/8", b"1")]))
            before = len(recorder.updates)
            followed.restart()
            wait_until(lambda: len(recorder.updates) > before, "the differences")
            assert recorder.updates[before:] == [
                *(Update("/v1/5", b"2"), Update("/v1/back", b"1"), Update("/v1/6", None))
            ]
            assert any(isinstance(error, StoreCompacted) for error in recorder.errors)
            assert recorder.in_sync_after == [100]


def test_a_restored_backup_ends_in_the_differences(single: EtcdCluster, tmp_path: Path) -> None:
    (member,) = single.members
    with closing(open_store(single.url())) as store:
        store.transact([Put("/v1/a", b"1"), Put("/v1/b", b"1")])
        member.kill()
        member.back_up(tmp_path / "backup")
        member.restart()
        with syncing(store) as recorder:
            store.transact([Put("/v1/a", b"2"), Put("/v1/c", b"2")])
            store.transact([Delete("/v1/b")])
            wait_until(lambda: len(recorder.updates) == 5, "the changes")
            member.kill()
            member.restore(tmp_path / "backup")
            member.restart()
            wait_until(lambda: len(recorder.updates) == 8, "the differences")
            assert recorder.updates[5:] == [
                *(Update("/v1/a", b"1"), Update("/v1/b", b"1"), Update("/v1/c", None))
            ]
            assert any(isinstance(error, StoreCompacted) for error in recorder.errors)


@pytest.mark.parametrize("newest", ["a put", "a removal"])
def test_a_restored_backup_that_has_grown_past_the_revision_seen_is_told_apart(
    single: EtcdCluster, tmp_path: Path, newest: str
) -> None:
    # Same cluster id, same term, a higher revision: only the history differs.
    (member,) = single.members
    with closing(open_store(single.url())) as store:
        store.transact([Put("/v1/a", b"1"), Put("/v1/b", b"1")])
        member.kill()
        member.back_up(tmp_path / "backup")
        member.restart()
        with following(store) as follower:
            store.transact([Put("/v1/a", b"2") if newest == "a put" else Delete("/v1/b")])
            follower.wait_for(1)
        seen = follower.batches[-1].revision
        member.kill()
        member.restore(tmp_path / "backup")
        member.restart()
        while store.transact([Put("/v1/other", b"3")]) < seen + 5:
            continue
        again = Follower(store.watch(PREFIX, seen))
        wait_until(lambda: again.has_ended, "the watcher's end")
        assert isinstance(again.error, StoreCompacted)
        assert again.changes == []


def test_another_cluster_in_its_place_ends_in_a_resync(tmp_path: Path) -> None:
    with etcd_cluster(tmp_path / "one") as one, closing(open_store(one.url())) as store:
        store.transact([Put("/v1/a", b"1")])
        with syncing(store) as recorder:
            (member,) = one.members
            member.kill()
            empty = tmp_path / "empty"
            empty.mkdir()
            member.restore(empty)
            member.form(one.members, ["--initial-cluster-token", "another"])
            member.restart()
            wait_until(lambda: recorder.values_by_key == {}, "the removal")
            assert recorder.updates == [Update("/v1/a", b"1"), Update("/v1/a", None)]


def test_notices_of_progress_keep_a_quiet_watcher_ahead_of_compaction(tmp_path: Path) -> None:
    often = ["--watch-progress-notify-interval", "100ms"]
    with (
        etcd_cluster(tmp_path, EtcdVersion.CURRENT, extra=often) as cluster,
        closing(open_store(cluster.url())) as store,
        following(store) as follower,
    ):
        store.transact([Put("/elsewhere", b"1")])
        last = store.transact([Put("/elsewhere", b"2")])
        wait_until(lambda: follower.batches[-1].revision >= last, "a notice of progress")
        store.compact(last)
        cluster.members[0].restart()
        store.transact([Put("/v1/a", b"1")])
        assert [each.key for each in follower.wait_for(1)] == ["/v1/a"]
        assert follower.error is None
