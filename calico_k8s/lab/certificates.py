"""Certificates for one run of the lab: an authority, a server, its clients.

In: a folder that only root reads.  Out: PEM files in it, gone with the run.
"""

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

from calico_k8s.certificates import authority
from calico_k8s.certificates.authority import Subject
from calico_k8s.datastore.location import TlsFiles
from calico_k8s.model.addresses import Address

VALID_FOR = dt.timedelta(days=7)
"""Longer than anybody keeps a lab."""


class Authority:
    """Signs certificates; its own is ``ca.pem``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = authority.Authority.make(_now(), VALID_FOR)
        self.path = folder / "ca.pem"
        self.path.write_bytes(self._authority.certificate_pem)

    def issue(
        self, name: str, addresses: Iterable[Address] = (), valid_for: dt.timedelta = VALID_FOR
    ) -> TlsFiles:
        """A certificate of that name, for a client, and for a server at these addresses."""
        key = authority.new_key()
        subject = Subject(name, tuple(sorted(addresses)))
        certificate = self._authority.sign(subject, key.public_key(), _now(), valid_for)
        files = TlsFiles(self.path, self._folder / f"{name}.pem", self._folder / f"{name}.key")
        files.cert.write_bytes(authority.certificate_pem(certificate))
        files.key.touch(mode=0o600)
        files.key.write_bytes(authority.key_pem(key))
        return files


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
