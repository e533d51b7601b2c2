"""What has changed and is not yet taken: between the thread that follows the store and the loop.

In come updates from a syncer, out goes all that is pending, at once, whenever the loop asks.  An
update replaces a pending one of the same key, so a burst that outruns the loop costs memory for
keys, not for changes, and the last state wins.  When the first of them came, and what its stamp
says, is kept for whoever measures.
"""

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from calico_k8s.datastore.stamp import Stamp, decode_stamp
from calico_k8s.datastore.store import Revision
from calico_k8s.model.keys import WRITTEN_PATH


class Update(NamedTuple):
    """A key's new value; None when it is gone."""

    key: str
    value: bytes | None


class Arrival(NamedTuple):
    """When a change came in, after the first snapshot."""

    moment_s: float
    """Of the monotonic clock."""
    at: float
    """When the stamp came, if there is one; seconds since the epoch."""
    stamp: Stamp | None = None
    """The writer's, of the same write: it comes with the last of its transactions."""


class Pending(msgspec.Struct, frozen=True):
    """All updates since the last taking, the last for each key, and how far they reach.

    ``is_in_sync``: the first snapshot is in, with this taking or before.
    """

    values_by_key: dict[str, bytes | None]
    revision: Revision
    is_in_sync: bool
    first: Arrival | None = None
    """The oldest of the changes; None for the first snapshot, which is no change."""


class UpdateQueue:
    """A syncer's sink that a loop can wait for beside its sockets: readable when there is news.

    ``stamp_key`` is where the writer's stamps are.
    """

    def __init__(self, stamp_key: str = WRITTEN_PATH) -> None:
        self._stamp_key = stamp_key
        self._lock = threading.Lock()
        self._values_by_key: dict[str, bytes | None] = {}
        self._revision = Revision(0)
        self._first: Arrival | None = None
        self._is_in_sync = False
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """For select and its kin: readable when ``take`` has something new."""
        return self._news

    @property
    def waits_since_s(self) -> float | None:
        """When the oldest pending change came, of the monotonic clock; None where there is none."""
        first = self._first
        return None if first is None else first.moment_s

    def on_updates(self, updates: Sequence[Update], revision: Revision) -> None:
        """Adds the changes up to ``revision``; whoever takes gets all of them or none."""
        with self._lock:
            if self._is_in_sync and (self._first is None or self._first.stamp is None):
                self._first = self._stamped(updates)
            self._values_by_key.update(updates)
            self._revision = revision
        os.eventfd_write(self._news, 1)

    def on_in_sync(self) -> None:
        """Says that what has come so far is a whole snapshot."""
        with self._lock:
            self._is_in_sync = True
        os.eventfd_write(self._news, 1)

    def take(self) -> Pending:
        """Everything pending, which may be nothing; never blocks."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._news)
        with self._lock:
            pending = Pending(self._values_by_key, self._revision, self._is_in_sync, self._first)
            self._values_by_key, self._first = {}, None
        return pending

    def _stamped(self, updates: Sequence[Update]) -> Arrival:
        raw = next((value for key, value in updates if key == self._stamp_key), None)
        moment_s = self._first.moment_s if self._first is not None else time.monotonic()
        return Arrival(moment_s, time.time(), decode_stamp(raw))

    def close(self) -> None:
        """Gives the descriptor back; after the syncer has been closed."""
        os.close(self._news)
