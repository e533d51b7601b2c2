"""What follows a store in tests: a thread that keeps all that a watcher or a syncer gives."""

import threading
import time
from collections.abc import Callable, Sequence

from calico_k8s.datastore.store import Batch, Change, Revision, Watcher
from calico_k8s.datastore.syncer import SyncState
from calico_k8s.datastore.updates import Update
from calico_k8s.errors import StoreError

WAIT_S = 60.0


def wait_until(condition: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
    """Returns when the condition holds; fails the test when it does not come to."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at, f"waited {within_s} s for {what}"
        time.sleep(0.002)


class Follower:
    """Reads a watcher to its end, in a thread; ``error`` is what ended it."""

    def __init__(self, watcher: Watcher) -> None:
        self.batches: list[Batch] = []
        self.error: StoreError | None = None
        self._watcher = watcher
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for batch in self._watcher:
                self.batches.append(batch)
        except StoreError as error:
            self.error = error

    @property
    def changes(self) -> list[Change]:
        """All changes so far."""
        return [change for batch in tuple(self.batches) for change in batch.changes]

    @property
    def has_ended(self) -> bool:
        """Whether the iteration is over."""
        return not self._thread.is_alive()

    def processor_s(self) -> float:
        """The processor time that the iteration has taken; not that of the process's others."""
        assert self._thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def wait_for(self, count: int) -> list[Change]:
        """The changes, once there are so many; waits a moment more for any that should not come."""
        wait_until(lambda: len(self.changes) >= count or self.has_ended, f"{count} changes")
        time.sleep(0.05)
        return self.changes

    def wait_for_value(self, value: bytes) -> None:
        """Returns when a change to this value has come."""
        wait_until(lambda: any(each.value == value for each in self.changes), f"{value!r}")

    def wait_until_open(self) -> None:
        """Returns when the store has answered the watcher."""
        wait_until(lambda: bool(self.batches) or self.has_ended, "the watcher's first batch")

    def close(self) -> None:
        """Closes the watcher and waits for the end of the thread."""
        self._watcher.close()
        self._thread.join(WAIT_S)
        assert self.has_ended, "the iteration goes on after close"


class Recorder:
    """A syncer's sink and observer that keeps everything."""

    def __init__(self) -> None:
        self.handed_on: list[tuple[Update, ...]] = []
        self.values_by_key: dict[str, bytes] = {}
        self.revision = Revision(0)
        self.in_sync_after: list[int] = []
        """How many updates had come when it was said that they are a whole snapshot."""
        self.states: list[SyncState] = []
        self.errors: list[StoreError] = []

    @property
    def updates(self) -> list[Update]:
        """All updates so far."""
        return [update for each in tuple(self.handed_on) for update in each]

    def on_updates(self, updates: Sequence[Update], revision: Revision) -> None:
        for key, value in updates:
            if value is None:
                del self.values_by_key[key]  # a KeyError here is a removal of what never was
            else:
                self.values_by_key[key] = value
        self.handed_on.append(tuple(updates))
        self.revision = revision

    def on_in_sync(self) -> None:
        self.in_sync_after.append(len(self.updates))

    def on_state(self, state: SyncState) -> None:
        self.states.append(state)

    def on_error(self, error: StoreError) -> None:
        self.errors.append(error)
