"""The SQLite file: its tables, its marks, and who may have it.

In comes a path, out comes a connection to a file that is ours, or a sentence that says why not.
Rows are never read or written here, but for the marks.

=========  ================================================================================
mark       the key space's identity, its last revision, and the last one whose changes are
           forgotten
entry      what is: key, value, the revision that wrote it, its lease
change     what was done, for watchers: one row for each key of a transaction, in their order;
           value null is a removal
lease      when a lease ends, on the clock of one boot of the machine
=========  ================================================================================

Keys are UTF-8 and compare by their bytes, as etcd's do.

Who puts a backup in the file's place removes ``-wal`` and ``-shm`` beside it first: SQLite takes
any log of that name for the file's own.
"""

import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from calico_k8s.datastore.location import Access
from calico_k8s.errors import StoreForbidden, StoreForeign, StoreUnavailable

APPLICATION_ID = 0x63616C69  # "cali"
FORMAT = 1
BUSY_TIMEOUT_S = 5.0

_TABLES = """
create table mark (identity text not null, revision integer not null, forgotten integer not null);
create table entry (
    key text primary key, value blob not null, revision integer not null, lease integer
) without rowid;
create index entry_by_lease on entry (lease) where lease is not null;
create table change (
    revision integer, place integer, key text not null, value blob, primary key (revision, place)
) without rowid;
create table lease (
    id integer primary key autoincrement,
    ttl_s real not null, boot text not null, ends_at real not null
);
"""

PREFIX_END = "\U0010ffff"
"""After every key with a prefix comes the prefix with Unicode's last code point, in no key of ours."""

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def connect(path: Path, access: Access) -> sqlite3.Connection:
    """Opens the file, made if need be; the connection may go from thread to thread, locked.

    Raises: StoreForeign for a file that is not ours, StoreForbidden for one that others may write
    or we may not, StoreUnavailable for one that is not there or stays locked.
    """
    is_read_only = access is Access.READ_ONLY
    with our_errors(path):
        _check_file(path, is_read_only=is_read_only)
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode={'ro' if is_read_only else 'rw'}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            if not is_read_only:
                _prepare(connection)
            _check_ours(connection, path)
            on_failure.pop_all()
    return connection


@contextmanager
def our_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreForeign(
            f"{path} is damaged or no datastore ({error}): move it away, the controller writes a"
            " new one from the cluster's objects"
        ) from error


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """``kind`` is ``deferred`` for a view that holds still, ``immediate`` to write."""
    connection.execute(f"begin {kind}")
    try:
        yield
        connection.execute("commit")
    finally:
        connection.rollback()  # which does nothing after a commit


def file_identity(path: Path) -> tuple[int, int]:
    """What tells a file from another that is put in its place.

    Raises: StoreUnavailable when there is none.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise StoreUnavailable(f"{path} is gone") from error
    return status.st_dev, status.st_ino


def _check_file(path: Path, *, is_read_only: bool) -> None:
    try:
        if not is_read_only:
            # Made here, not by SQLite: its own files take the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        missing = path if path.parent.is_dir() else path.parent
        raise StoreUnavailable(f"{missing} is not there") from error
    except PermissionError as error:
        raise StoreForbidden(f"{path}: this user may not open it") from error
    except OSError as error:
        raise StoreForeign(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise StoreForeign(f"{path} is no file")
    if mode & _OTHERS_MAY_WRITE:
        raise StoreForbidden(
            f"{path} may be written by other users, and who writes it opens the network:"
            f" chmod 600 {path}"
        )


def _prepare(connection: sqlite3.Connection) -> None:
    """Makes an empty file ours; several processes may try at once."""
    _use_write_ahead_log(connection)
    connection.execute("pragma synchronous = normal")
    with transaction(connection, "immediate"):
        (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
        (application_id,) = connection.execute("pragma application_id").fetchone()
        if tables or application_id:
            return
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute("insert into mark values (?, 0, 0)", (str(uuid.uuid4()),))
        connection.execute(f"pragma application_id = {APPLICATION_ID}")
        connection.execute(f"pragma user_version = {FORMAT}")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # The change of mode fails at once where another process is changing it: no busy timeout there.
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("pragma application_id").fetchone()
    (version,) = connection.execute("pragma user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise StoreForeign(f"{path} is another program's database: choose another path")
    if version != FORMAT:
        raise StoreForeign(
            f"{path} has format {version}, this version of calico-k8s reads format {FORMAT}:"
            " move it away, the controller writes a new one from the cluster's objects"
        )
