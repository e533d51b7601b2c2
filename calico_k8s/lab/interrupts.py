"""Ctrl-C and SIGTERM unwind like an exception, and wait while something is being removed.

In: the signals of the process.  Out: ``KeyboardInterrupt`` or ``SystemExit`` in the main thread,
at once or after a removal.  In another thread nothing happens: Python runs handlers in the main
thread only.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_Handler = Callable[[int, FrameType | None], object] | int | None

_ENDINGS = (signal.SIGTERM, signal.SIGHUP)
_ALL = (signal.SIGINT, *_ENDINGS)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise ``SystemExit`` inside, so that every ``finally`` runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _exit) for number in _ENDINGS}
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP that come inside have their effect at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in _ALL}
    try:
        yield
    finally:
        _restore(before)
        if seen:
            signal.raise_signal(seen[0])


def _restore(before: dict[signal.Signals, _Handler]) -> None:
    for number, handler in before.items():
        # None: it was set outside Python, which cannot set it back.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
