"""One thread that serves sockets and timers: every listener and every probe of the lab.

In: sockets with what to do when they are ready, and deeds with their time.  Out: those deeds, all
on the loop's own thread, input before timers: an answer that is in the kernel is seen before the
time limit that waits for it.  The thread moves between network namespaces as it pleases.
"""

import heapq
import itertools
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar

from calico_k8s.errors import CalicoError

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT

_EVENTS_MAX = 512
_IDLE_S = 10.0
_LATE_S = 0.02
"""Timers that are later than this mean a thread that was held up."""
_LOOKS_MAX = 4
"""More than there are turns from a question to its answer: it is served, and the answer is seen."""
_Result = TypeVar("_Result")

Deed = Callable[[], None]


class HasFileno(Protocol):
    """A socket, or what wraps one."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class LoopStopped(CalicoError):
    """The loop has ended; nothing is served any more."""


class Timer:
    """A deed that is due; :meth:`cancel` makes it never happen."""

    __slots__ = ("deed",)

    def __init__(self, deed: Deed) -> None:
        self.deed: Deed | None = deed

    def cancel(self) -> None:
        """Forgets the deed; twice, or after it, is fine."""
        self.deed = None


class _Due(NamedTuple):
    at_s: float
    order: int
    timer: Timer


class Loop:
    """Starts its thread at once.  :meth:`call` is for other threads, all else for the loop's."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._gone: set[int] = set()
        self._due: list[_Due] = []
        self._orders = itertools.count()
        self._calls: queue.SimpleQueue[Deed] = queue.SimpleQueue()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._is_stopping = False
        self._failure: BaseException | None = None
        self._lag_s = 0.0
        self._seen_s = 0.0
        self.watch(self._wake_out, READABLE, self._woken)
        self._thread = threading.Thread(target=self._run, name="lab-loop", daemon=True)
        self._thread.start()

    def call(self, deed: Callable[[], _Result], timeout_s: float | None = None) -> _Result:
        """Does something on the loop's thread; its result, or what it raised.

        Raises:
            LoopStopped: the loop ended before.
            TimeoutError: it took longer.
        """
        future: Future[_Result] = Future()

        def run() -> None:
            try:
                future.set_result(deed())
            except CalicoError as error:
                future.set_exception(error)

        self.post(run)
        return self.wait(future, timeout_s)

    def post(self, deed: Deed) -> None:
        """Has something done soon on the loop's thread."""
        self._calls.put(deed)
        self._wake_in.send(b".")

    def wait(self, future: "Future[_Result]", timeout_s: float | None = None) -> _Result:
        """The result of a future that the loop will complete, for other threads.

        Raises:
            LoopStopped: the loop ended before.
            TimeoutError: it took longer.
        """
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while self._thread.is_alive():
            left = 0.5 if limit is None else min(0.5, limit - time.monotonic())
            try:
                return future.result(max(left, 0.0))
            except TimeoutError:
                if limit is not None and time.monotonic() >= limit:
                    raise
        if future.done():
            return future.result()
        raise LoopStopped("the lab's probes have ended") from self._failure

    def watch(self, source: HasFileno, events: int, handler: Callable[[int], None]) -> None:
        """Calls the handler with the events whenever there are some, errors and hang-ups too."""
        descriptor = source.fileno()
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def rewatch(self, source: HasFileno, events: int, handler: Callable[[int], None]) -> None:
        """Replaces events and handler of a watched source."""
        self._handlers[source.fileno()] = handler
        self._epoll.modify(source.fileno(), events)

    def unwatch(self, source: HasFileno) -> None:
        """Forgets a source; do it before closing it.  One that is not watched is fine."""
        descriptor = source.fileno()
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)
            self._gone.add(descriptor)

    def at(self, when_s: float, deed: Deed) -> Timer:
        """Does something at a time of the monotonic clock, or as soon after as it can."""
        timer = Timer(deed)
        heapq.heappush(self._due, _Due(when_s, next(self._orders), timer))
        return timer

    def take_lag_s(self) -> float:
        """How late the latest timer was since the last call: how busy thread and machine are."""
        lag, self._lag_s = self._lag_s, 0.0
        return lag

    def stop(self) -> None:
        """Ends the thread; sockets stay as they are.  From another thread; twice is fine."""
        if self._thread.is_alive():
            self._is_stopping = True
            self._wake_in.send(b".")
            self._thread.join()
        if not self._epoll.closed:
            self._epoll.close()
            self._wake_in.close()
            self._wake_out.close()

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn()
        except BaseException as error:  # whoever waits for the loop is told, whatever ended it
            self._failure = error
            raise

    def _turn(self) -> None:
        wait_s = max(self._due[0].at_s - time.monotonic(), 0.0) if self._due else _IDLE_S
        served = self._serve(min(wait_s, _IDLE_S))
        due_s = self._seen_s
        if self._due and due_s - self._due[0].at_s > _LATE_S:
            # What was served may have been a question, whose answer is there by now: a thread that
            # was held up past a time limit looks again before it keeps it.
            for _ in range(_LOOKS_MAX):
                if not served:
                    break
                served = self._serve(0.0)
        if served < _EVENTS_MAX:
            self._run_due(due_s)

    def _serve(self, wait_s: float) -> int:
        """Serves what is ready, which has all that arrived before ``_seen_s``; how much it was."""
        ready = self._epoll.poll(wait_s, _EVENTS_MAX)
        self._seen_s = time.monotonic()
        self._gone.clear()
        for descriptor, events in ready:
            # A handler of this turn may have closed it, and opened another of the same number.
            if descriptor not in self._gone:
                self._handlers[descriptor](events)
        return len(ready)

    def _run_due(self, until_s: float) -> None:
        while self._due and self._due[0].at_s <= until_s:
            at_s, _order, timer = heapq.heappop(self._due)
            if timer.deed is not None:
                self._lag_s = max(self._lag_s, until_s - at_s)
                timer.deed()

    def _woken(self, _events: int) -> None:
        self._wake_out.recv(4096)
        while True:
            try:
                deed = self._calls.get_nowait()
            except queue.Empty:
                return
            deed()
