"""A key and its certificates on disk, of which readers find the old ones or the new ones.

In comes a directory; out go files in it, readable by their owner alone::

    DIRECTORY/current  ─►  DIRECTORY/of-SOME-NAME/   ca.pem   cert.pem   key.pem

Replacing them is one rename.  Who opens the certificate before it and the key after it has two
that do not fit, fails once, and finds both new at the next try.
"""

import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from calico_k8s.datastore.location import TlsFiles
from calico_k8s.errors import UnavailableError

CURRENT = "current"
_LINK, _FRESH = ".current", "of-"


class Material(msgspec.Struct, frozen=True):
    """What is kept, as PEM: authorities, a certificate by one of them, its key."""

    authorities: bytes
    certificate: bytes
    key: bytes


def tls_files(directory: Path) -> TlsFiles:
    """The paths that stay the same while what they hold is replaced."""
    current = directory / CURRENT
    return TlsFiles(current / "ca.pem", current / "cert.pem", current / "key.pem")


def write(directory: Path, material: Material) -> None:
    """Replaces what there is.

    Raises: UnavailableError where the directory cannot be written.
    """
    try:
        _write(directory, material)
    except OSError as error:
        raise UnavailableError(
            f"the certificate cannot be kept in {directory}: {error.strerror}"
        ) from error


def read(directory: Path) -> Material | None:
    """What there is; None where it is not whole."""
    files = tls_files(directory)
    try:
        return Material(files.ca.read_bytes(), files.cert.read_bytes(), files.key.read_bytes())
    except OSError:
        return None


def _write(directory: Path, material: Material) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    current, link = directory / CURRENT, directory / _LINK
    fresh = Path(tempfile.mkdtemp(dir=directory, prefix=_FRESH))  # of mode 0700
    contents = {
        "ca.pem": material.authorities,
        "cert.pem": material.certificate,
        "key.pem": material.key,
    }
    for name, content in contents.items():
        descriptor = os.open(fresh / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(current)
    for other in directory.glob(f"{_FRESH}*"):
        if other != fresh:
            shutil.rmtree(other)
