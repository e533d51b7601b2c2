"""A prefix of the file followed: its log replayed, then awaited.

In come a prefix and the revision after which to begin; out come batches.  Nothing is written.

Whoever commits announces it then, by the file's times, of which inotify tells within 50 us: one
look for each commit.  (The log's own writes tell too early: whoever heard of those looked eight
times.)  A commit that nobody announced, by a writer that was killed just then, is found by a look
at long intervals.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from calico_k8s.datastore.local import schema
from calico_k8s.datastore.local.inotify import FolderNotice
from calico_k8s.datastore.location import Access
from calico_k8s.datastore.store import Batch, Change, Revision
from calico_k8s.errors import StoreCompacted, StoreError

INTERVAL_S = 0.5
INTERVAL_WITHOUT_INOTIFY_S = 0.002


# The marks, and beside them each change: one statement sees the file as it is at one moment.
_READ = """
    select mark.revision, mark.forgotten, change.key, change.value, change.revision
    from mark left join change on change.revision > ? and change.key >= ? and change.key < ?
    order by change.revision, change.place
"""


class LocalWatcher:
    """The changes below a prefix; see :class:`~calico_k8s.datastore.store.Watcher`.

    ``file`` tells which file ``after`` is a revision of.
    """

    def __init__(
        self,
        path: Path,
        file: tuple[int, int],
        prefix: str,
        after: Revision,
        on_close: Callable[["LocalWatcher"], None],
    ) -> None:
        self._path = path
        self._file = file
        self._range = prefix, prefix + schema.PREFIX_END
        self._revision = after
        self._on_close = on_close
        self._closed = threading.Event()
        self._lock = threading.Lock()  # of the thread that iterates, while it does
        self._notice = FolderNotice(path.parent, path.name)
        self._connection: sqlite3.Connection | None = None
        self._data_version = -1
        self._is_first = True
        self._has_looked = False

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._lock:
            try:
                while self._wait():
                    batch = self._look()
                    if batch and (batch.changes or self._is_first):
                        self._is_first = False
                        return batch
            except StoreError:
                self._release()
                raise
        raise StopIteration

    def close(self) -> None:
        """Ends the iteration, from any thread, and waits until it has ended."""
        self._closed.set()
        self._notice.wake()
        with self._lock:
            self._release()

    def _look(self) -> Batch | None:
        """What is new, which may be nothing below the prefix; None when nothing is new at all."""
        if schema.file_identity(self._path) != self._file:
            raise StoreCompacted(f"{self._path} has been replaced by another file")
        if self._connection is None:
            self._connection = schema.connect(self._path, Access.READ_ONLY)
        with schema.our_errors(self._path):
            (data_version,) = self._connection.execute("pragma data_version").fetchone()
            if data_version == self._data_version:
                return None
            batch = self._read_log(self._connection)
        # Taken before the log was read: a commit in between is looked at twice, never missed.
        self._data_version = data_version
        return batch

    def _read_log(self, connection: sqlite3.Connection) -> Batch:
        rows = connection.execute(_READ, (self._revision, *self._range)).fetchall()
        revision, forgotten = rows[0][:2]
        if self._revision < forgotten:
            raise StoreCompacted(
                f"changes after revision {self._revision} are gone:"
                f" {self._path} has forgotten all up to {forgotten}"
            )
        if revision < self._revision:
            raise StoreCompacted(
                f"{self._path} is at revision {revision}, {self._revision} was seen before"
            )
        changes = tuple(Change(*row[2:]) for row in rows if row[2] is not None)
        self._revision = revision
        return Batch(revision, changes)

    def _wait(self) -> bool:
        """Until something may be new since the last look; False where the watcher is closed."""
        if self._has_looked:
            has_inotify = self._notice.has_inotify
            self._notice.wait(INTERVAL_S if has_inotify else INTERVAL_WITHOUT_INOTIFY_S)
        self._has_looked = True
        return not self._closed.is_set()

    def _release(self) -> None:
        """Gives everything back, once; by whoever holds the lock."""
        self._closed.set()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._notice.close()
        self._on_close(self)
