"""The file's log, followed: other processes, replaced files, a machine without inotify."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from calico_k8s.datastore.local import inotify
from calico_k8s.datastore.local import store as local_store
from calico_k8s.datastore.local import watcher as local_watcher
from calico_k8s.datastore.local.store import LocalStore
from calico_k8s.datastore.location import Access
from calico_k8s.datastore.store import Delete, Put
from calico_k8s.datastore.syncer import Syncer
from calico_k8s.datastore.updates import Update
from calico_k8s.errors import StoreCompacted, StoreUnavailable
from tests.datastore.followers import Follower, Recorder, wait_until

WRITE_100 = """
import sys; from pathlib import Path
from calico_k8s.datastore.local.store import LocalStore
from calico_k8s.datastore.location import Access
from calico_k8s.datastore.store import Put
store = LocalStore(Path(sys.argv[1]), Access.READ_WRITE)
for number in range(100):
    store.transact([Put("/v1/%s" % sys.argv[2], b"%d" % number)])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[LocalStore]:
    with closing(LocalStore(path, Access.READ_WRITE)) as opened:
        yield opened


@contextmanager
def following(store: LocalStore) -> Iterator[Follower]:
    follower = Follower(store.watch("/v1/", store.read("/v1/").revision))
    follower.wait_until_open()
    try:
        yield follower
    finally:
        follower.close()


def test_the_changes_of_other_processes_come_once_each_and_in_order(
    store: LocalStore, path: Path
) -> None:
    with following(store) as follower:
        writers = [
            # -c: the writer ends without closing, so that nothing of it is tidied up
            subprocess.Popen([sys.executable, "-c", WRITE_100, path, name])
            for name in ("one", "two")
        ]
        assert [writer.wait() for writer in writers] == [0, 0]
        changes = follower.wait_for(200)
    assert len(changes) == 200
    for name in ("one", "two"):
        values = [int(each.value or b"") for each in changes if each.key == f"/v1/{name}"]
        assert values == list(range(100))
    revisions = [each.mod_revision for each in changes]
    assert revisions == sorted(set(revisions))


def test_a_change_is_delivered_by_its_announcement_and_not_by_the_next_look(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_watcher, "INTERVAL_S", 3600.0)
    with following(store) as follower:
        for number in range(5):
            store.transact([Put("/v1/a", b"%d" % number)])
            follower.wait_for_value(b"%d" % number)


def test_a_commit_that_nobody_announced_is_found(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As by a writer that is killed between the two.
    monkeypatch.setattr(local_store, "announce", lambda _: None)
    with following(store) as follower:
        store.transact([Put("/v1/a", b"1")])
        wait_until(lambda: len(follower.changes) == 1, "the change")


def test_a_watcher_that_has_nothing_to_do_does_next_to_nothing(store: LocalStore) -> None:
    with following(store) as follower:
        time.sleep(1)
        start_s = follower.processor_s()
        time.sleep(1)
        assert follower.processor_s() - start_s < 0.02


def test_without_inotify_the_file_is_looked_at_often(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel allows each user only so many; past that it gives -1 and EMFILE.
    monkeypatch.setattr(inotify, "_watch_folder", lambda _: -1)
    with following(store) as follower:
        store.transact([Put("/v1/a", b"1")])
        wait_until(lambda: len(follower.changes) == 1, "the change")


@contextmanager
def syncing(store: LocalStore) -> Iterator[Recorder]:
    recorder = Recorder()
    syncer = Syncer(store, "/v1/", recorder, recorder)
    syncer.start()
    wait_until(lambda: bool(recorder.in_sync_after), "in-sync")
    try:
        yield recorder
    finally:
        syncer.close()


def backup(path: Path, to: Path) -> None:
    store = LocalStore(path, Access.READ_WRITE)
    store.close()  # the last to close leaves one whole file
    to.write_bytes(path.read_bytes())
    to.chmod(0o600)


def restore(path: Path, backup: Path) -> None:
    for suffix in ("-wal", "-shm"):  # SQLite would take the old file's log for the backup's
        path.with_name(path.name + suffix).unlink()
    backup.replace(path)


@pytest.mark.parametrize("writes_after_the_return", [0, 10])
def test_a_backup_put_in_the_files_place_ends_in_the_differences(
    path: Path, tmp_path: Path, writes_after_the_return: int
) -> None:
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        store.transact([Put("/v1/a", b"1"), Put("/v1/b", b"1")])
    backup(path, tmp_path / "backup")
    with closing(LocalStore(path, Access.READ_WRITE)) as store, syncing(store) as recorder:
        store.transact([Put("/v1/a", b"2"), Put("/v1/c", b"2"), Delete("/v1/b")])
        wait_until(lambda: len(recorder.updates) == 5, "the changes")
        restore(path, tmp_path / "backup")
        for number in range(writes_after_the_return):
            store.transact([Put("/elsewhere", b"%d" % number)])
        wait_until(lambda: len(recorder.updates) == 8, "the differences")
        assert recorder.updates[5:] == [
            *(Update("/v1/a", b"1"), Update("/v1/b", b"1"), Update("/v1/c", None))
        ]
        assert any(isinstance(error, StoreCompacted) for error in recorder.errors)


def test_a_file_that_goes_away_is_waited_for(store: LocalStore, path: Path, tmp_path: Path) -> None:
    with syncing(store) as recorder:
        path.rename(tmp_path / "aside")
        wait_until(lambda: bool(recorder.errors), "the loss to be noticed")
        assert isinstance(recorder.errors[0], StoreUnavailable)
        (tmp_path / "aside").rename(path)
        store.transact([Put("/v1/a", b"1")])
        wait_until(lambda: "/v1/a" in recorder.values_by_key, "the change")


def test_the_log_is_pruned_and_who_is_behind_it_resyncs(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_store, "LOG_CHANGES", 300)
    start = store.transact([Put("/v1/a", b"")])
    with following(store) as follower:
        for number in range(1000):
            store.transact([Put("/v1/a", b"%d" % number)])
        # who keeps up within the log's length sees each one
        values = [each.value for each in follower.wait_for(1000)]
        assert values == [b"%d" % number for number in range(1000)]
    (kept,) = store._connection.execute("select count(*) from change").fetchone()
    assert 300 <= kept <= 300 + local_store.PRUNE_EVERY
    behind = Follower(store.watch("/v1/", start))
    wait_until(lambda: behind.has_ended, "the watcher's end")
    assert isinstance(behind.error, StoreCompacted)
