"""What has changed and is not yet taken: between the thread that follows the store and the loop.

In come updates from a syncer, out goes all that is pending, at once, whenever the loop asks.  An
update replaces a pending one of the same key, so a burst that outruns the loop costs memory for
keys, not for changes, and the last state wins.
"""

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from calico_k8s.datastore.store import Revision


class Update(NamedTuple):
    """A key's new value; None when it is gone."""

    key: str
    value: bytes | None


class Pending(msgspec.Struct, frozen=True):
    """All updates since the last taking, the last for each key, and how far they reach.

    ``is_in_sync``: the first snapshot is in, with this taking or before.
    """

    values_by_key: dict[str, bytes | None]
    revision: Revision
    is_in_sync: bool


class UpdateQueue:
    """A syncer's sink that a loop can wait for beside its sockets: readable when there is news."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values_by_key: dict[str, bytes | None] = {}
        self._revision = Revision(0)
        self._is_in_sync = False
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """For select and its kin: readable when ``take`` has something new."""
        return self._news

    def on_updates(self, updates: Sequence[Update], revision: Revision) -> None:
        """Adds the changes up to ``revision``; whoever takes gets all of them or none."""
        with self._lock:
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
            pending = Pending(self._values_by_key, self._revision, self._is_in_sync)
            self._values_by_key = {}
        return pending

    def close(self) -> None:
        """Gives the descriptor back; after the syncer has been closed."""
        os.close(self._news)
