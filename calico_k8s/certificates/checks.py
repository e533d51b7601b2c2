"""Whether a certificate on disk will do, for whoever waits for it.

In: a directory as :mod:`.files` writes it.  Out: what is wrong, or nothing.  Nothing is asked for
here, and little is imported: probes call this again and again.

A certificate that was left by an earlier run may be of an authority that has been replaced since,
and etcd reads its authority once.  So it will do only after the process that keeps it now has
looked at it: that one leaves a mark, which holds as long as it lives.
"""

import datetime as dt
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from calico_k8s.certificates import files
from calico_k8s.certificates.authority import (
    Subject,
    is_signed_by,
    load_certificates,
    renewal_due,
)
from calico_k8s.errors import UnavailableError

LATE_SHARE = 5 / 6
"""Of a certificate's life: one that is older should have been renewed long since."""
_MARK = "looked-at-by"


def problem_of(directory: Path, now: dt.datetime) -> str | None:
    """What is wrong with the certificate of a directory; None where it can be used for long."""
    held = files.read(directory)
    if held is None:
        return f"{directory} holds no certificate"
    certificate = usable(held, held.authorities, None)
    if certificate is None:
        return f"the certificate in {directory} does not fit its key or its authority"
    if now >= renewal_due(certificate, LATE_SHARE):
        return f"the certificate in {directory} ends at {certificate.not_valid_after_utc}"
    if not _is_looked_at(directory):
        return f"nobody keeps the certificate in {directory}, or has looked at it yet"
    return None


def usable(
    material: files.Material, authorities: bytes, subject: Subject | None
) -> x509.Certificate | None:
    """The certificate, if it fits its key, is by one of the authorities and of the subject."""
    certificates = load_certificates(material.certificate)
    if len(certificates) != 1 or not is_signed_by(certificates[0], load_certificates(authorities)):
        return None
    (certificate,) = certificates
    try:
        key = serialization.load_pem_private_key(material.key, password=None)
    except (ValueError, TypeError):
        return None
    if key.public_key() != certificate.public_key():
        return None
    return certificate if subject is None or Subject.of(certificate) == subject else None


def mark_looked_at(directory: Path) -> None:
    """Says that this process has looked.

    Raises: UnavailableError where the directory cannot be written.
    """
    mark, fresh = directory / _MARK, directory / f".{_MARK}"
    try:
        fresh.write_text(f"{os.getpid()} {_started(os.getpid())}")
        fresh.replace(mark)
    except OSError as error:
        raise UnavailableError(f"{mark} cannot be written: {error.strerror}") from error


def _is_looked_at(directory: Path) -> bool:
    try:
        number, started = (directory / _MARK).read_text().split()
    except (OSError, ValueError):
        return False
    return number.isdecimal() and started == _started(int(number))


def _started(process: int) -> str | None:
    """When a process started, in the kernel's ticks; None where there is none.  Source: proc(5)."""
    try:
        told = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return None
    return told.rpartition(")")[2].split()[19]
