"""Reads the live flows of this node beside the loop: the kernel takes its time over it.

In: addresses.  Out: their flows, from a thread of its own, with a descriptor to wait on.  The
kernel walks its whole table for each reading, 12 ms at 262,144 buckets whatever there is in it,
so readings are few: what is asked for while one is under way is read together afterwards, and the
thread keeps to an allowance of processor time: under changes without pause, a flow that is denied
is cut the later for it.
"""

import os
import queue
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Final, NamedTuple

from calico_k8s.errors import NetlinkError
from calico_k8s.felix.allowance import Allowance
from calico_k8s.felix.conntrack import FlowCutter
from calico_k8s.model.addresses import Address
from calico_k8s.netlink.conntrack import ConntrackEntry

SHARE: Final = 0.1
"""Of a core, that readings take in the long run.  At 50 changes a second and 4 ms a reading they
would take a fifth of one; now a reading waits 40 ms then, and none does where changes pause.  With a
fiftieth, or at a low priority, denied connections lived for seconds on a busy node."""


class Wish(NamedTuple):
    """Whose flows to read."""

    addresses: frozenset[Address] = frozenset()
    is_whole: bool = False
    """All, whatever the addresses."""


class Reading(NamedTuple):
    """What came of a wish."""

    wish: Wish
    flows: Collection[ConntrackEntry] = ()
    error: NetlinkError | None = None


class FlowReader:
    """One reading at a time, in the network namespace of the thread that made it."""

    def __init__(self, cutter: FlowCutter) -> None:
        self._cutter = cutter
        self._wishes: queue.SimpleQueue[Wish | None] = queue.SimpleQueue()
        self._readings: queue.SimpleQueue[Reading] = queue.SimpleQueue()
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_closing = threading.Event()
        self.is_busy = False
        """Whether a reading is asked for and not yet taken."""
        self._thread = threading.Thread(target=self._run, name="flows", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when :meth:`take` has something."""
        return self._news

    @property
    def has_reading(self) -> bool:
        """Whether :meth:`take` has something; the descriptor tells of the next one."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._news)
        return not self._readings.empty()

    def ask(self, wish: Wish) -> None:
        """Begin a reading; only while not busy."""
        self.is_busy = True
        self._wishes.put(wish)

    def take(self) -> Reading | None:
        """The reading that was asked for; None while it is under way.  Never blocks."""
        try:
            reading = self._readings.get_nowait()
        except queue.Empty:
            return None
        self.is_busy = False
        return reading

    def close(self) -> None:
        """End the thread and release everything."""
        self._is_closing.set()
        self._wishes.put(None)
        self._thread.join()
        self._cutter.close()
        os.close(self._news)

    def _run(self) -> None:
        allowance = Allowance(SHARE, time.monotonic())
        while (wish := self._wishes.get()) is not None:
            start_s = time.thread_time()
            reading = self._read(wish)
            self._readings.put(reading)
            os.eventfd_write(self._news, 1)
            # What this thread ran, not how long it waited for its turn on a busy node.
            spent_s = time.thread_time() - start_s
            self._is_closing.wait(allowance.spend(spent_s, time.monotonic()))

    def _read(self, wish: Wish) -> Reading:
        try:
            if wish.is_whole:
                return Reading(wish, self._cutter.all_flows())
            return Reading(wish, self._cutter.flows_of(wish.addresses))
        except NetlinkError as error:
            return Reading(wish, error=error)
