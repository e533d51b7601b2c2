"""An SQLite file as a :class:`~calico_k8s.datastore.store.Store`, with etcd's revisions and leases.

In come paths and bytes, out go values of the store's door.  Every transaction also leaves a row
for each key in a log, from which watchers of any process of this machine follow; its older part is
forgotten as it grows.  No server: a lease that has ended is taken away by whoever writes next, and
no reader sees its keys before that.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from calico_k8s.datastore.local import schema
from calico_k8s.datastore.local.inotify import announce
from calico_k8s.datastore.local.watcher import LocalWatcher
from calico_k8s.datastore.location import Access
from calico_k8s.datastore.store import (
    ABSENT,
    Compare,
    Delete,
    Entry,
    LeaseId,
    Operation,
    Put,
    Revision,
    Snapshot,
    check_transaction,
)
from calico_k8s.errors import StoreConflict, StoreForbidden, StoreLeaseLost, StoreUnavailable

LOG_CHANGES = 20_000
"""How far a watcher may fall behind and still go on without a new snapshot."""
PRUNE_EVERY = 250
"""Revisions between two looks at the log's length, each of which takes 1 ms."""

# An entry whose lease has ended is there until the next write, but nobody is to see it.
_READ = """
    select key, value, revision from entry
    where key >= :start and key < :end and (
        lease is null or lease in (select id from lease where boot = :boot and ends_at > :now))
    order by key
"""
_GET = """
    select key, value, revision from entry
    where key = :key and (
        lease is null or lease in (select id from lease where boot = :boot and ends_at > :now))
"""


class LocalStore:
    """A key space in a file.  One connection, used by one thread at a time."""

    def __init__(self, path: Path, access: Access) -> None:
        self._path = path
        self._access = access
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._lock = threading.Lock()
        self._is_closed = False
        self._watchers: set[LocalWatcher] = set()
        self._connection = schema.connect(path, access)
        self._file = schema.file_identity(path)
        self._file_read = self._file  # by the last read: revisions speak of that one

    def identity(self) -> str:
        """The random name that the file was given when it was made."""
        with self._view() as connection:
            (identity,) = connection.execute("select identity from mark").fetchone()
        return str(identity)

    def read(self, prefix: str) -> Snapshot:
        """Everything below a prefix."""
        with self._view() as connection:
            self._file_read = self._file
            revision = _revision(connection)
            prefix_range = {"start": prefix, "end": prefix + schema.PREFIX_END}
            rows = connection.execute(_READ, prefix_range | self._clock())
            return Snapshot(revision, tuple(Entry(*row) for row in rows))

    def get(self, key: str) -> Entry | None:
        """One entry."""
        with self._view() as connection:
            row = connection.execute(_GET, {"key": key} | self._clock()).fetchone()
        return Entry(*row) if row else None

    def transact(
        self, operations: Sequence[Operation], compares: Sequence[Compare] = ()
    ) -> Revision:
        """Does all operations at once, provided that all compares hold."""
        check_transaction(operations, compares)
        with self._writing() as connection:
            self._end_leases(connection)
            _check_compares(connection, compares)
            _check_leases(connection, operations)
            return _apply(connection, operations)

    def watch(self, prefix: str, after: Revision) -> LocalWatcher:
        """Follows a prefix, over a connection of its own."""
        watcher = LocalWatcher(self._path, self._file_read, prefix, after, self._forget)
        with self._lock:
            self._watchers.add(watcher)
        return watcher

    def _forget(self, watcher: LocalWatcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def grant_lease(self, ttl_s: int) -> LeaseId:
        """A lease."""
        with self._writing() as connection:
            row = connection.execute(
                "insert into lease (ttl_s, boot, ends_at) values (:ttl_s, :boot, :now + :ttl_s)"
                " returning id",
                {"ttl_s": ttl_s} | self._clock(),
            ).fetchone()
        return LeaseId(row[0])

    def keep_alive(self, lease: LeaseId) -> None:
        """Gives the lease its full time again."""
        with self._writing() as connection:
            self._end_leases(connection)
            cursor = connection.execute(
                "update lease set ends_at = :now + ttl_s where id = :id",
                {"id": lease} | self._clock(),
            )
        if cursor.rowcount == 0:
            raise StoreLeaseLost(f"lease {lease} has ended")

    def revoke_lease(self, lease: LeaseId) -> None:
        """Ends a lease."""
        with self._writing() as connection:
            connection.execute("update lease set ends_at = 0 where id = ?", (lease,))
            self._end_leases(connection)

    def compact(self, revision: Revision) -> None:
        """Forgets the changes up to ``revision``."""
        with self._writing() as connection:
            _forget_changes(connection, revision)

    def close(self) -> None:
        """Ends every watcher and gives everything back."""
        with self._lock:
            watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher.close()
        with self._lock:
            self._is_closed = True
            self._connection.close()

    def _end_leases(self, connection: sqlite3.Connection) -> None:
        """Removes ended leases and their keys, as a transaction of its own."""
        ended = connection.execute(
            "select id from lease where not (boot = :boot and ends_at > :now)", self._clock()
        ).fetchall()
        for lease in ended:
            keys = connection.execute("select key from entry where lease = ? order by key", lease)
            _apply(connection, [Delete(key) for (key,) in keys.fetchall()])
            connection.execute("delete from lease where id = ?", lease)

    def _clock(self) -> dict[str, object]:
        # Neither set by hand nor stopped by sleep; it starts anew with each boot.
        return {"boot": self._boot, "now": time.clock_gettime(time.CLOCK_BOOTTIME)}

    @contextmanager
    def _view(self) -> Iterator[sqlite3.Connection]:
        """The file as it is now, and holding still."""
        with self._lock, schema.our_errors(self._path):
            connection = self._current()
            with schema.transaction(connection, "deferred"):
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The file with every other writer kept out, and all written at the end or nothing."""
        if self._access is Access.READ_ONLY:
            raise StoreForbidden(f"{self._path} was opened for reading only")
        with self._lock, schema.our_errors(self._path):
            connection = self._current()
            with schema.transaction(connection, "immediate"):
                yield connection
            announce(self._path)

    def _current(self) -> sqlite3.Connection:
        """The connection, opened again when another file stands at the path (a backup)."""
        if self._is_closed:
            raise StoreUnavailable("the store has been closed")
        file = schema.file_identity(self._path)
        if file != self._file:
            self._connection.close()
            self._connection = schema.connect(self._path, self._access)
            self._file = file
        return self._connection


def _apply(connection: sqlite3.Connection, operations: Sequence[Operation]) -> Revision:
    """Writes entries and log.  Like etcd, what changes nothing has no revision of its own."""
    operations = [op for op in operations if isinstance(op, Put) or _exists(connection, op.key)]
    if not operations:
        return _revision(connection)
    (number,) = connection.execute(
        "update mark set revision = revision + 1 returning revision"
    ).fetchone()
    puts = [(op.key, op.value, number, op.lease) for op in operations if isinstance(op, Put)]
    deletes = [(op.key,) for op in operations if isinstance(op, Delete)]
    changes = [
        (number, place, op.key, op.value if isinstance(op, Put) else None)
        for place, op in enumerate(operations)
    ]
    connection.executemany("insert or replace into entry values (?, ?, ?, ?)", puts)
    connection.executemany("delete from entry where key = ?", deletes)
    connection.executemany("insert into change values (?, ?, ?, ?)", changes)
    if number % PRUNE_EVERY == 0:
        _prune(connection)
    return Revision(number)


def _exists(connection: sqlite3.Connection, key: str) -> bool:
    return connection.execute("select 1 from entry where key = ?", (key,)).fetchone() is not None


def _check_leases(connection: sqlite3.Connection, operations: Sequence[Operation]) -> None:
    leases = {op.lease for op in operations if isinstance(op, Put) and op.lease is not None}
    for lease in leases:
        if not connection.execute("select 1 from lease where id = ?", (lease,)).fetchone():
            raise StoreLeaseLost(f"lease {lease} has ended")


def _check_compares(connection: sqlite3.Connection, compares: Sequence[Compare]) -> None:
    for compare in compares:
        row = connection.execute(
            "select revision from entry where key = ?", (compare.key,)
        ).fetchone()
        if (row[0] if row else ABSENT) != compare.mod_revision:
            raise StoreConflict(f"changed by another writer, so nothing was written: {compare.key}")


def _forget_changes(connection: sqlite3.Connection, revision: int) -> None:
    connection.execute(
        "update mark set forgotten = :to where forgotten < :to and :to <= revision",
        {"to": revision},
    )
    connection.execute("delete from change where revision <= (select forgotten from mark)")


def _prune(connection: sqlite3.Connection) -> None:
    """Forgets whole revisions, all but the last LOG_CHANGES changes or a few less."""
    oldest_kept = connection.execute(
        "select revision from change order by revision desc limit 1 offset ?", (LOG_CHANGES,)
    ).fetchone()
    if oldest_kept:
        _forget_changes(connection, oldest_kept[0])


def _revision(connection: sqlite3.Connection) -> Revision:
    (revision,) = connection.execute("select revision from mark").fetchone()
    return Revision(revision)
