"""The last rendered state on disk: what a rebooted node enforces before the datastore answers.

In: tables and ipsets as they were programmed.  Out: a file, replaced whole, that is only used by
a boot other than the one that wrote it: within a boot, the kernel itself is the better memory.
"""

import os
import queue
import tempfile
import threading
from pathlib import Path

import msgspec
import structlog

from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember, Table

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FORMAT = 1

log = structlog.get_logger()


class SavedState(msgspec.Struct, frozen=True):
    """What was programmed, and by which boot."""

    format: int
    boot_id: str
    backend: str
    tables: tuple[Table, ...]
    ipsets: tuple[KernelIpset, ...]
    members: dict[IpsetName, tuple[KernelMember, ...]]


def current_boot() -> str:
    """The id of this boot of the machine."""
    return BOOT_ID.read_text().strip()


def save_state(path: Path, state: SavedState) -> None:
    """Write the file so that a reader, or a power cut, finds the old one or the new one whole.

    Raises:
        OSError: the directory cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.msgpack.encode(state))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def load_state(path: Path) -> SavedState | None:
    """The saved state of an earlier boot; None where there is none that can be used."""
    try:
        state = msgspec.msgpack.decode(path.read_bytes(), type=SavedState)
    except (OSError, msgspec.DecodeError):
        return None
    if state.format != FORMAT or state.boot_id == current_boot():
        return None
    return state


class StateFile:
    """The file of one agent, written by a thread: a disk may take its time, the loop may not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._states: queue.SimpleQueue[SavedState | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="state-file", daemon=True)
        self._thread.start()

    def load(self) -> SavedState | None:
        """As :func:`load_state`."""
        return load_state(self._path)

    def save(self, state: SavedState) -> None:
        """Have the state written soon; never blocks."""
        self._states.put(state)

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._states.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (state := self._states.get()) is not None:
            try:
                save_state(self._path, state)
            except OSError as error:
                log.warning("state not saved: a reboot starts without it", error=str(error))
