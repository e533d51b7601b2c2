"""Follows a prefix of a store for as long as it takes, and hands on differences only.

In come snapshots and batches, out go updates: first all there is, then "in sync", then what
changes.  Nothing is decoded here, and nothing is ever written.

::

            snapshot handed on
    RESYNC ────────────────────► IN_SYNC ──┐ batches handed on
      ▲ ▲                          │  │ ◄──┘
      │ └──────────────────────────┘  │ the store cannot be reached: what was handed on stands
      │  changes are lost: compacted, │
      │  a backup, another cluster    ▼
      └───────────────────────────── WAIT ──► IN_SYNC where the store still has what was missed

A resync reads everything and compares it with what was handed on, so a consumer sees no gap, no
repetition, and no difference between a resync and a batch.
"""

import enum
import random
import threading
from collections.abc import Sequence
from typing import Protocol

from calico_k8s.datastore.store import Batch, Revision, Snapshot, Store, Watcher
from calico_k8s.datastore.updates import Update
from calico_k8s.errors import StoreCompacted, StoreError

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0


class SyncState(enum.Enum):
    """How what was handed on compares with the store."""

    WAIT = enum.auto()
    """The store cannot be reached."""
    RESYNC = enum.auto()
    """A snapshot is being read."""
    IN_SYNC = enum.auto()
    """Changes are handed on as they happen."""


class Sink(Protocol):
    """Who takes the updates; called from the syncer's thread only."""

    def on_updates(self, updates: Sequence[Update], revision: Revision) -> None:
        """The changes of whole transactions, in order, up to and with ``revision``."""

    def on_in_sync(self) -> None:
        """Comes once, after the first snapshot."""


class Observer(Protocol):
    """Who counts and logs; called from the syncer's thread only."""

    def on_state(self, state: SyncState) -> None:
        """The state is another one now."""

    def on_error(self, error: StoreError) -> None:
        """The store failed the syncer, which goes on trying."""


class Syncer:
    """A thread that keeps a sink up to date with a prefix of a store."""

    def __init__(self, store: Store, prefix: str, sink: Sink, observer: Observer) -> None:
        self._store = store
        self._prefix = prefix
        self._sink = sink
        self._observer = observer
        self._state = SyncState.WAIT
        self._has_been_in_sync = False
        self._revision: Revision | None = None  # handed on up to here; None: read a snapshot
        self._hash_by_key: dict[str, int] = {}  # of the values handed on
        self._failures = 0  # since the store last gave something
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watcher: Watcher | None = None
        self._thread = threading.Thread(target=self._run, name="syncer", daemon=True)

    @property
    def state(self) -> SyncState:
        """The state now."""
        return self._state

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: it ends by ``close``, or by a mistake of ours."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and waits for it; the store stays open."""
        self._closed.set()
        with self._lock:
            watcher = self._watcher
        if watcher:
            watcher.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                revision = self._revision if self._revision is not None else self._resync()
                self._follow(revision)
            except StoreCompacted as error:
                self._revision = None
                self._fail(error, SyncState.RESYNC)
            except StoreError as error:
                self._fail(error, SyncState.WAIT)

    def _resync(self) -> Revision:
        self._enter(SyncState.RESYNC)
        snapshot = self._store.read(self._prefix)
        updates = self._differences(snapshot)
        self._hand_on(updates, snapshot.revision)
        if not self._has_been_in_sync:
            self._has_been_in_sync = True
            self._sink.on_in_sync()
        self._enter(SyncState.IN_SYNC)
        return snapshot.revision

    def _differences(self, snapshot: Snapshot) -> list[Update]:
        """What turns what was handed on into the snapshot; removals last."""
        present = {entry.key for entry in snapshot.entries}
        updates = [Update(entry.key, entry.value) for entry in snapshot.entries]
        updates += [Update(key, None) for key in self._hash_by_key if key not in present]
        return self._news(updates)

    def _follow(self, revision: Revision) -> None:
        watcher = self._store.watch(self._prefix, revision)
        with self._lock:
            self._watcher = watcher
        try:
            if self._closed.is_set():  # before close() could see the watcher
                return
            for batch in watcher:
                self._on_batch(batch)
        finally:
            watcher.close()

    def _on_batch(self, batch: Batch) -> None:
        self._enter(SyncState.IN_SYNC)
        self._hand_on(
            self._news([Update(change.key, change.value) for change in batch.changes]),
            batch.revision,
        )

    def _hand_on(self, updates: Sequence[Update], revision: Revision) -> None:
        if updates:
            self._sink.on_updates(updates, revision)
        self._revision = revision
        self._failures = 0

    def _news(self, updates: Sequence[Update]) -> list[Update]:
        """The updates without those that say what was said before."""
        news = []
        for update in updates:
            key, value = update
            known = self._hash_by_key.get(key)
            if value is None:
                if self._hash_by_key.pop(key, None) is not None:
                    news.append(update)
            elif (now := hash(value)) != known:
                self._hash_by_key[key] = now
                news.append(update)
        return news

    def _fail(self, error: StoreError, state: SyncState) -> None:
        """Says so and waits a while, by chance, so that a cluster's nodes come back spread."""
        if self._closed.is_set():
            return
        self._enter(state)
        self._observer.on_error(error)
        longest_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**self._failures)
        self._failures += 1
        self._closed.wait(random.uniform(0, longest_s))

    def _enter(self, state: SyncState) -> None:
        if state is not self._state:
            self._state = state
            self._observer.on_state(state)
