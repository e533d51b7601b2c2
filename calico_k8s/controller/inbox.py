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
        self._news = threading.Condition()
        self._changes: dict[ObjectRef, Change] = {}
        self._first_s: float | None = None
        self._unlisted = set(kinds)
        self._is_woken = False

    def on_changes(self, changes: Sequence[Change]) -> None:
        """Adds changes of one kind, in their order."""
        with self._news:
            for change in changes:
                self._changes[ref_of(change)] = change
            if changes and self._first_s is None:
                self._first_s = time.monotonic()
            self._news.notify()

    def on_listed(self, kind: str) -> None:
        """Says that everything there is of a kind has been added."""
        with self._news:
            self._unlisted.discard(kind)
            self._is_woken = True
            self._news.notify()

    def wake(self) -> None:
        """Ends a waiting ``take``, or the next one; from any thread or signal handler's."""
        with self._news:
            self._is_woken = True
            self._news.notify()

    def take(self, timeout_s: float) -> Arrivals:
        """Everything pending, as soon as there is something, or nothing after a time."""
        with self._news:
            self._news.wait_for(self._has_news, timeout_s)
            self._is_woken = False
            arrivals = Arrivals(self._changes, self._first_s, not self._unlisted)
            self._changes, self._first_s = {}, None
            return arrivals

    def _has_news(self) -> bool:
        return bool(self._changes) or self._is_woken
