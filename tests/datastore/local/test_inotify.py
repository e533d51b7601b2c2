"""The kernel's notice of writes to one file among others."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.datastore.local.inotify import FolderNotice, announce


@pytest.fixture
def notice(tmp_path: Path) -> Iterator[FolderNotice]:
    with closing(FolderNotice(tmp_path, "state.db")) as opened:
        yield opened


def test_nothing_is_noticed_where_nothing_happens(notice: FolderNotice) -> None:
    assert notice.has_inotify
    assert not notice.wait(0.01)


def test_what_is_announced_of_ours_is_noticed_once_and_writes_are_not(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.touch()
    with closing(FolderNotice(tmp_path, path.name)) as notice:
        path.write_bytes(b"x")
        assert not notice.wait(0.01)
        announce(path)
        assert notice.wait(20)
        assert not notice.wait(0.01)


def test_a_file_that_is_made_is_noticed(notice: FolderNotice, tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    assert notice.wait(20)


def test_another_file_is_not(notice: FolderNotice, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    announce(tmp_path / "other")
    assert not notice.wait(0.01)


def test_what_is_gone_is_announced_to_nobody(notice: FolderNotice, tmp_path: Path) -> None:
    announce(tmp_path / "state.db")
    assert not notice.wait(0.01)


def test_a_file_moved_into_place_or_removed_is_noticed(
    notice: FolderNotice, tmp_path: Path
) -> None:
    (tmp_path / "other").write_bytes(b"x")
    notice.wait(0.01)
    (tmp_path / "other").rename(tmp_path / "state.db")
    assert notice.wait(20)
    (tmp_path / "state.db").unlink()
    assert notice.wait(20)


def test_waking_ends_the_wait_from_another_thread_and_stays(notice: FolderNotice) -> None:
    threading.Timer(0.05, notice.wake).start()
    start = time.monotonic()
    assert not notice.wait(20)
    assert not notice.wait(20)
    assert time.monotonic() - start < 5


def test_closing_twice_and_waking_afterwards_do_nothing(tmp_path: Path) -> None:
    notice = FolderNotice(tmp_path, "state.db")
    notice.close()
    notice.close()
    notice.wake()


def test_a_folder_that_cannot_be_watched_leaves_the_waiting_only(tmp_path: Path) -> None:
    with closing(FolderNotice(tmp_path / "missing", "state.db")) as notice:
        assert not notice.has_inotify
        assert not notice.wait(0.01)
