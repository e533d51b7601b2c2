"""What has changed in Kubernetes and is not yet taken: between the reflectors and the one loop.

In come changes from a thread for each kind, out goes all that is pending, at once, whenever the
loop asks.  A change replaces a pending one of the same object, so a burst that outruns the loop
costs memory for objects, not for changes, and the last state wins.
"""

import threading
import time
from collections.abc import Collection, Sequence

import msgspec

from calico_k8s.controller.wire import Change, ref_of
from calico_k8s.translate.findings import ObjectRef


class Arrivals(msgspec.Struct, frozen=True):
    """All changes since the last taking, the last for each object."""

    changes: dict[ObjectRef, Change]
    first_s: float | None
    """When the oldest of them came, by the monotonic clock; None where there are none."""
    is_complete: bool
    """Whether every kind has been listed, with this taking or before."""


class Inbox:
    """A reflector's sink that one loop waits for."""

    def __init__(self, kinds: Collection[str]) -> None:
        self._lock = threading.Lock()
        self._changes: dict[ObjectRef, Change] = {}
        self._first_s: float | None = None
        self._unlisted = set(kinds)
        self._bell = threading.Lock()
        """Held while there is no news.  A Condition is a lock for each waiting, and 40 us more from
        cold caches."""
        self._bell.acquire()
        self._has_news = False

    def on_changes(self, changes: Sequence[Change]) -> None:
        """Adds changes of one kind, in their order."""
        if not changes:
            return
        with self._lock:
            for change in changes:
                self._changes[ref_of(change)] = change
            if self._first_s is None:
                self._first_s = time.monotonic()
            self._ring()

    def on_listed(self, kind: str) -> None:
        """Says that everything there is of a kind has been added."""
        with self._lock:
            self._unlisted.discard(kind)
            self._ring()

    def wake(self) -> None:
        """Ends a waiting ``take``, or the next one; from any thread."""
        with self._lock:
            self._ring()

    def take(self, timeout_s: float) -> Arrivals:
        """Everything pending, as soon as there is something, or nothing after a time."""
        is_held = self._bell.acquire(timeout=timeout_s)
        with self._lock:
            if self._has_news and not is_held:  # it came between the two
                self._bell.acquire()
            self._has_news = False
            arrivals = Arrivals(self._changes, self._first_s, not self._unlisted)
            self._changes, self._first_s = {}, None
            return arrivals

    def _ring(self) -> None:
        if not self._has_news:
            self._has_news = True
            self._bell.release()
