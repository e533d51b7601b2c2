"""Files that are not ours, not whole, or open to others: each is told, none is touched."""

import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from calico_k8s.datastore.local import schema
from calico_k8s.datastore.local.store import LocalStore
from calico_k8s.datastore.location import Access
from calico_k8s.datastore.store import Put, Revision
from calico_k8s.errors import StoreError, StoreForbidden, StoreForeign, StoreUnavailable


def another_programs(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table theirs (x)")


def another_programs_by_mark(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma application_id = 7")


def of_a_newer_version(path: Path) -> None:
    LocalStore(path, Access.READ_WRITE).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"pragma user_version = {schema.FORMAT + 1}")


def no_database(path: Path) -> None:
    path.write_text("apiVersion: v1\nkind: Pod\n" * 100)


def damaged(path: Path) -> None:
    LocalStore(path, Access.READ_WRITE).close()
    data = bytearray(path.read_bytes())
    data[100:] = b"\xa5" * (len(data) - 100)
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (another_programs, "another program's database"),
        (another_programs_by_mark, "another program's database"),
        (of_a_newer_version, f"format {schema.FORMAT + 1}"),
        (no_database, "no datastore"),
        (damaged, "damaged"),
        (folder, "Is a directory"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_file_that_is_not_ours_is_told_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], told: str
) -> None:
    path = tmp_path / "state.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreForeign, match=told) as raised:
        LocalStore(path, Access.READ_WRITE)
    assert str(path) in str(raised.value)
    if make is not another_programs and make is not another_programs_by_mark:
        # SQLite itself marks a database as one with a write-ahead log when that is switched on
        assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        store.transact([Put("/v1/a", b"1")])
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "state.db"
    LocalStore(path, Access.READ_WRITE).close()
    path.chmod(mode)
    for access in Access:
        with pytest.raises(StoreForbidden, match=f"chmod 600 {path}"):
            LocalStore(path, access)


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"state\.db is not there"):
        LocalStore(tmp_path / "state.db", Access.READ_ONLY)
    with pytest.raises(StoreUnavailable, match="nowhere is not there"):
        LocalStore(tmp_path / "nowhere" / "state.db", Access.READ_WRITE)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_reads_and_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(LocalStore(path, Access.READ_WRITE)) as writer:
        revision = writer.transact([Put("/v1/a", b"1")])
        with closing(LocalStore(path, Access.READ_ONLY)) as reader:
            assert reader.read("/").entries == writer.read("/").entries
            assert reader.identity() == writer.identity()
            writes: list[Callable[[], object]] = [
                lambda: reader.transact([Put("/v1/a", b"2")]),
                lambda: reader.grant_lease(5),
                lambda: reader.compact(revision),
            ]
            for write in writes:
                with pytest.raises(StoreForbidden, match="reading only"):
                    write()


@pytest.mark.parametrize("name", ["with space", "per%20cent", "question?", "hash#tag", "ü"])
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    with closing(LocalStore(tmp_path / name, Access.READ_WRITE)) as store:
        store.transact([Put("/v1/a", b"1")])
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_what_was_written_is_there_after_a_reopening(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        revision = store.transact([Put("/v1/a", b"1")])
        identity = store.identity()
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        assert store.identity() == identity
        assert store.read("/").revision == revision
        assert store.transact([Put("/v1/a", b"2")]) == revision + 1


def test_several_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    context = get_context("spawn")
    with context.Pool(4) as pool:
        counts = pool.map(write_some, [(path, number) for number in range(8)])
    assert counts == [25] * 8
    with closing(LocalStore(path, Access.READ_ONLY)) as store:
        snapshot = store.read("/v1/")
    assert len(snapshot.entries) == 200
    assert snapshot.revision == Revision(200)
    assert len({entry.mod_revision for entry in snapshot.entries}) == 200


def write_some(job: tuple[Path, int]) -> int:
    path, name = job
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        for number in range(25):
            store.transact([Put(f"/v1/{name}/{number}", b"x")])
    return 25


def test_a_file_that_is_removed_is_told_and_its_return_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(LocalStore(path, Access.READ_WRITE)) as store:
        store.transact([Put("/v1/a", b"1")])
        path.rename(tmp_path / "aside")
        with pytest.raises(StoreError, match="is gone"):
            store.get("/v1/a")
        (tmp_path / "aside").rename(path)
        assert store.get("/v1/a")
