"""What is known of names, in a file: kept over a restart, however sudden.

In: names as they change.  Out: the same names, when the agent starts again.  Each change is a line
more, written before the answer that brought it is let go, so that what a pod was told is known to
the next agent too; where lines have become many more than names, the file is replaced whole.  A
line that is not whole, or not understood, is passed over.

A line is not forced to the disk: a process that dies loses nothing, a machine may lose the last.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from calico_k8s.felix.names.book import NameRecord
from calico_k8s.model.domains import DomainName

LINES_MAX: Final = 10_000
"""A file of so many lines more than names is replaced."""

REFRESH_S: Final = 5.0
"""By so much the file may say that a name lasts for less than it does."""

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


def names_path(state_path: Path) -> Path:
    """Where an agent keeps names, by where it keeps its state."""
    return state_path.with_suffix(".names")


class Journal:
    """The file of one agent; for one thread.  Cost: some 20 us a change.

    A file that cannot be written costs what it would have kept, and is told of once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._last_s: dict[DomainName, float] = {}
        """When the last address of each name lapses, as the file has it."""
        self._is_broken = False
        self._file: int | None = None

    def load(self) -> list[NameRecord]:
        """What the file holds, of each name what was said last."""
        return load_names(self._path)

    def note(self, records: Mapping[DomainName, NameRecord], changed: Iterable[DomainName]) -> None:
        """Write names that changed; one that is not among the records is forgotten."""
        names = list(changed)
        if self._file is None or self._lines + len(names) > len(records) + LINES_MAX:
            self._replace(records.values())
            return
        self._write(self._file, [records.get(name) or NameRecord(name) for name in names])

    def refresh(
        self, records: Mapping[DomainName, NameRecord], names: Iterable[DomainName]
    ) -> None:
        """Write those of the names that last for longer than the file says, and not for a moment."""
        longer = [
            name
            for name in set(names) & records.keys()
            if records[name].last_s > self._last_s.get(name, 0.0) + REFRESH_S
        ]
        if longer:
            self.note(records, longer)

    def close(self) -> None:
        """Release the file, which stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, file: int, records: Iterable[NameRecord]) -> None:
        lines: list[bytes] = []
        for record in records:
            lines.append(_encode(record) + b"\n")
            self._last_s.pop(record.name, None)
            if record.until_s:
                self._last_s[record.name] = record.last_s
        self._lines += len(lines)
        try:
            os.write(file, b"".join(lines))
        except OSError as error:
            self._tell(error)

    def _replace(self, records: Iterable[NameRecord]) -> None:
        """Write all to a new file, which takes the old one's place."""
        self.close()
        self._lines = 0
        self._last_s.clear()
        new = self._path.with_name(self._path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(new, flags, 0o600)
            self._write(self._file, records)
            new.replace(self._path)
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._is_broken:
            self._is_broken = True
            log.warning("names not saved: a restart learns them anew", error=str(error))


def load_names(path: Path) -> list[NameRecord]:
    """What a file of names holds, of each name what was said last."""
    records: dict[DomainName, NameRecord] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            record = msgspec.json.decode(line, type=NameRecord)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        records.pop(record.name, None)
        if record.until_s or record.lapsed:
            records[record.name] = record
    return list(records.values())
