"""A prefix of the file followed: its log replayed, then awaited.

In come a prefix and the revision after which to begin; out come batches.  Nothing is written.

A commit by any process of the machine writes the file's ``-wal``, of which inotify tells within
50 us.  That write comes a moment before the commit can be seen, so after a notice the file is
looked at again and again, at intervals that double until they are long.  A look that finds nothing
costs 5 us.
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

FIRST_INTERVAL_S = 0.001
IDLE_INTERVAL_S = 0.5
IDLE_INTERVAL_WITHOUT_INOTIFY_S = 0.002


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
        self._prefix = prefix
        self._revision = after
        self._on_close = on_close
        self._closed = threading.Event()
        self._lock = threading.Lock()  # of the thread that iterates, while it does
        self._notice = FolderNotice(path.parent, path.name)
        self._connection: sqlite3.Connection | None = None
        self._data_version = -1
        self._is_first = True
        self._interval_s = FIRST_INTERVAL_S

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._lock:
            try:
                while not self._closed.is_set():
                    batch = self._look()
                    if batch and (batch.changes or self._is_first):
                        self._is_first = False
                        return batch
                    self._wait()
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
            with schema.transaction(self._connection, "deferred"):
                batch = self._read_log(self._connection)
        # Taken before the log was read: a commit in between is looked at twice, never missed.
        self._data_version = data_version
        return batch

    def _read_log(self, connection: sqlite3.Connection) -> Batch:
        revision, forgotten = connection.execute("select revision, forgotten from mark").fetchone()
        if self._revision < forgotten:
            raise StoreCompacted(
                f"changes after revision {self._revision} are gone:"
                f" {self._path} has forgotten all up to {forgotten}"
            )
        if revision < self._revision:
            raise StoreCompacted(
                f"{self._path} is at revision {revision}, {self._revision} was seen before"
            )
        rows = connection.execute(
            "select key, value, revision from change"
            " where revision > ? and key >= ? and key < ? order by revision, place",
            (self._revision, self._prefix, self._prefix + schema.PREFIX_END),
        )
        changes = tuple(Change(*row) for row in rows)
        self._revision = revision
        return Batch(revision, changes)

    def _wait(self) -> None:
        has_inotify = self._notice.has_inotify
        longest_s = IDLE_INTERVAL_S if has_inotify else IDLE_INTERVAL_WITHOUT_INOTIFY_S
        if self._notice.wait(self._interval_s):
            self._interval_s = FIRST_INTERVAL_S
        else:
            self._interval_s = min(2 * self._interval_s, longest_s)

    def _release(self) -> None:
        """Gives everything back, once; by whoever holds the lock."""
        self._closed.set()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._notice.close()
        self._on_close(self)
