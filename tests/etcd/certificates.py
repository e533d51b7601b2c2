"""Certificates for tests: an authority, etcd's servers on loopback, and their clients.

In comes a folder, out go PEM files in it.  Keys are made anew for every run and never leave it.
"""

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

from calico_k8s.datastore.location import TlsFiles
from calico_k8s.lab import certificates
from calico_k8s.lab.certificates import VALID_FOR
from calico_k8s.model.addresses import Address

LOOPBACK = "127.0.0.1"


class Authority:
    """The lab's, for servers that are on loopback unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self._authority = certificates.Authority(folder)
        self.path = self._authority.path

    def issue(
        self,
        common_name: str,
        addresses: Iterable[str] = (LOOPBACK,),
        valid_for: dt.timedelta = VALID_FOR,
    ) -> TlsFiles:
        """A certificate for a server at these addresses and for a client of this name."""
        return self._authority.issue(common_name, map(Address, addresses), valid_for)
