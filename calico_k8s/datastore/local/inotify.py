"""The kernel's notice that a file of a folder was announced or replaced, and an end to the waiting.

In come a folder and the beginning of the files' names; out comes "one of them is news": its times
were set, or it was made, moved there or removed.  Writes are no news: a log is written in parts,
and before what it says holds.  Source: inotify(7), eventfd(2); by ctypes, since Python has no
inotify of its own and a thread between us and the kernel would cost a millisecond.
"""

import ctypes
import os
import select
import struct
import threading
from contextlib import suppress
from pathlib import Path

_IN_ATTRIB, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x4, 0x80, 0x100, 0x200
_MASK = _IN_ATTRIB | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name that follows
_BUFFER_BYTES = 1 << 16
_CLOSE_ON_EXEC_AND_NONBLOCKING = os.O_CLOEXEC | os.O_NONBLOCK  # IN_CLOEXEC, IN_NONBLOCK


class FolderNotice:
    """Waits for news of files of one folder; ``wait`` belongs to one thread.

    Where the kernel gives no inotify (its limit of instances, some file systems), ``has_inotify``
    is False and ``wait`` only waits.
    """

    def __init__(self, folder: Path, name_start: str) -> None:
        self._name_start = name_start.encode()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._inotify = _watch_folder(folder)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        if self.has_inotify:
            self._poll.register(self._inotify, select.POLLIN)

    @property
    def has_inotify(self) -> bool:
        """Whether anything is noticed at all."""
        return self._inotify >= 0

    def wait(self, timeout_s: float) -> bool:
        """Whether there is news of a file; False after the timeout or ``wake``."""
        ready = self._poll.poll(timeout_s * 1000)
        return any(fd == self._inotify for fd, _ in ready) and self._read()

    def wake(self) -> None:
        """Ends this and every later ``wait`` at once, from any thread; nothing after ``close``."""
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Gives the descriptors back; more than once if need be; while no thread waits."""
        with self._lock:
            for descriptor in (self._wake, self._inotify):
                if descriptor >= 0:
                    os.close(descriptor)
            self._wake = self._inotify = -1

    def _read(self) -> bool:
        data, at, is_ours = os.read(self._inotify, _BUFFER_BYTES), 0, False
        while at < len(data):
            _, _, _, name_bytes = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            is_ours |= data.startswith(self._name_start, at)
            at += name_bytes
        return is_ours


def announce(path: Path) -> None:
    """Tell whoever waits that what was written to the file can be read; nothing if it is gone."""
    with suppress(FileNotFoundError):
        os.utime(path)


def _watch_folder(folder: Path) -> int:
    """A descriptor, or -1."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(_CLOSE_ON_EXEC_AND_NONBLOCKING)
    if descriptor < 0:
        return -1
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), _MASK) < 0:
        os.close(descriptor)
        return -1
    return descriptor
