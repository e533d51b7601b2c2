"""Manifest files, folders and standard input to objects as they were written.

In: paths.  Out: every object in them, notes on what was passed over, and errors with
``file:line:column``: a broken file takes nothing from the others.  What the objects mean is not
known here.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.sources.documents import Manifest, read_text

STANDARD_INPUT = "-"
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
"""What counts as a manifest in a folder; a file that is named itself may have any."""


class Manifests(msgspec.Struct, frozen=True):
    """Everything that was read, in the order of the paths."""

    manifests: tuple[Manifest, ...]
    notes: tuple[str, ...] = ()
    errors: tuple[InputError, ...] = ()

    def checked(self) -> "Manifests":
        """Itself.

        Raises:
            InputError: the first there was, when something could not be read.
        """
        for error in self.errors:
            raise error
        return self


def read_manifests(paths: Sequence[str]) -> Manifests:
    """Read files, folders (with all below them) and ``-``, standard input."""
    manifests: list[Manifest] = []
    notes: list[str] = []
    errors: list[InputError] = []
    for path in paths:
        for file in manifest_files(path, notes, errors):
            try:
                text = _decode(_read(file), file)
            except InputError as error:
                errors.append(error)
                continue
            reading = read_text(text, file)
            manifests += reading.manifests
            notes += reading.notes
            errors += reading.errors
    return Manifests(tuple(manifests), tuple(notes), tuple(errors))


def is_manifest(path: Path) -> bool:
    """Whether a file in a folder counts: by its suffix, and not hidden."""
    return path.suffix in SUFFIXES and not path.name.startswith(".")


def manifest_files(path: str, notes: list[str], errors: list[InputError]) -> Iterator[str]:
    """The files that a path stands for: itself, or a folder's manifests, sorted."""
    if path == STANDARD_INPUT:
        yield path
        return
    given = Path(path)
    if not given.is_dir():
        if given.exists():
            yield path
        else:
            errors.append(InputError("no such file or folder", file=path))
        return
    unreadable: list[InputError] = []
    found = [str(file) for file in sorted(_walk(given, unreadable))]
    if not (found or unreadable):
        notes.append(f"{path}: no manifests in this folder (.yaml, .yml or .json)")
    errors += unreadable
    yield from found


def _walk(folder: Path, errors: list[InputError]) -> Iterator[Path]:
    """Manifests below a folder; hidden ones and folders that are links are passed over."""
    try:
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                # A Kubernetes volume links the folder itself; a link below may lead in a circle.
                if not entry.is_symlink():
                    yield from _walk(entry, errors)
            elif is_manifest(entry):
                if entry.is_file() or not entry.exists():
                    yield entry
                else:  # a pipe that nobody writes to would be read for ever
                    message = "is a pipe, socket or device: a folder's manifests are files"
                    errors.append(InputError(message, file=str(entry)))
    except OSError as error:
        errors.append(InputError(f"cannot be read: {error.strerror}", file=str(folder)))


def _read(file: str) -> bytes:
    try:
        if file == STANDARD_INPUT:
            return sys.stdin.buffer.read()
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None


def _decode(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8 text", file=file, line=line) from None
