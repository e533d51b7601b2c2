"""Manifests that change while they are used.

In: paths of files and folders.  Out: all their objects, again and again, and a call when something
below the paths was written.  A file that cannot be read counts as it last could: a mistake while
editing opens and closes nothing.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import watchfiles

from calico_k8s.errors import InputError
from calico_k8s.sources.documents import Manifest
from calico_k8s.sources.manifests import STANDARD_INPUT, manifest_files, read_manifests

DEBOUNCE_MS = 40
"""Changes closer together than this come as one."""
STEP_MS = 10
ROUND_MS = 200
"""How long the watch waits at most before it looks whether it is over."""
_CLOCK_STEP_NS = 20_000_000  # a kernel with 100 ticks a second, twice
_NO_STAMP = (0, -1, 0)


class Followed(NamedTuple):
    """What the paths hold now."""

    manifests: tuple[Manifest, ...]
    notes: tuple[str, ...]
    errors: tuple[InputError, ...]
    """Of files that count as they were before, or not at all if they never could be read."""
    is_whole: bool
    """Whether nothing is missing: every file that cannot be read now could be once."""


class _Read(NamedTuple):
    """A file's last reading."""

    stamp: tuple[int, int, int]
    good: tuple[Manifest, ...] | None
    """None: it never could be read."""
    errors: tuple[InputError, ...]
    notes: tuple[str, ...]


class Follower:
    """Reads the paths again, each file only when it changed."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)
        self._reads: dict[str, _Read] = {}

    def read(self) -> Followed:
        """Everything as it is now.  Cost: 0.2 ms for each object in a changed file."""
        notes: list[str] = []
        errors: list[InputError] = []
        files = [file for path in self._paths for file in manifest_files(path, notes, errors)]
        is_whole = not errors
        self._reads = {file: self._read(file) for file in files}
        manifests: list[Manifest] = []
        for read in self._reads.values():
            manifests += read.good or ()
            notes += read.notes
            errors += read.errors
            is_whole = is_whole and read.good is not None
        return Followed(tuple(manifests), tuple(notes), tuple(errors), is_whole)

    def _read(self, file: str) -> _Read:
        before = self._reads.get(file)
        stamp = _stamp(file)
        if before is not None and before.stamp == stamp and stamp[0]:
            return before
        good = before.good if before is not None else None
        if good and not stamp[1]:
            error = InputError("empty: counts as it was until it is written or deleted", file=file)
            return _Read(stamp, good, (error,), ())
        reading = read_manifests([file])
        if reading.errors:
            return _Read(stamp, good, reading.errors, reading.notes)
        return _Read(stamp, reading.manifests, (), reading.notes)


class Watch:
    """Calls ``on_change`` from threads of its own when something below the paths was written.

    Calls come some 20 ms after the write, and one for many that come together.  One comes when the
    watch has begun: what was written from the making of this object on is never missed.
    """

    def __init__(self, paths: Sequence[str], on_change: Callable[[], None]) -> None:
        self._is_over = threading.Event()
        self._on_change = on_change
        self._threads = [
            threading.Thread(
                target=self._run, args=(Path(path),), name=f"watch {path}", daemon=True
            )
            for path in paths
            if path != STANDARD_INPUT
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Calls no more."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, path: Path) -> None:
        # A file is replaced rather than written by most editors, so its folder is watched.
        is_folder = path.is_dir()
        changes = watchfiles.watch(
            path if is_folder else path.parent,
            watch_filter=None if is_folder else _is_named(path.name),
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            stop_event=self._is_over,
            rust_timeout=ROUND_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=is_folder,
        )
        # Whatever changed: a volume of Kubernetes changes by a hidden link beside the manifests.
        # The first round counts as a change: something may have been written before it began.
        for number, batch in enumerate(changes):
            if batch or number == 0:
                self._on_change()


def _is_named(name: str) -> Callable[[watchfiles.Change, str], bool]:
    return lambda _change, path: Path(path).name == name


def _stamp(file: str) -> tuple[int, int, int]:
    """What differs when a file was written or replaced: time, size, and which file it is."""
    try:
        status = Path(file).stat()
    except OSError:
        return _NO_STAMP
    if abs(time.time_ns() - status.st_mtime_ns) < _CLOCK_STEP_NS:
        # It may be written once more at the very same time of the file system's clock.
        return (0, status.st_size, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
