"""What a webhook serves by: a certificate, its key, and the authorities by which it is believed.

In: the time, and what there was before.  Out: values and PEM.  Pure but for chance.

The authority of a certificate signs that one and no other: its key is forgotten at once.  Those who
are to believe the new one have to know its authority before anybody serves by it, and go on
believing the old one as long as somebody may: a bundle holds both.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from calico_k8s.certificates.authority import (
    Authority,
    Subject,
    certificate_pem,
    key_pem,
    load_certificates,
    new_key,
    renewal_due,
)
from calico_k8s.model.addresses import Address
from calico_k8s.model.status import expired_sentence

VALID_FOR = dt.timedelta(days=90)
COMMON_NAME = "calico-k8s-webhook"


def webhook_subject(names: Sequence[str]) -> Subject:
    """Of a server that is asked by these DNS names and addresses."""
    addresses = tuple(Address(name) for name in names if is_address(name))
    return Subject(COMMON_NAME, addresses, tuple(n for n in names if not is_address(n)))


class Material(msgspec.Struct, frozen=True):
    """PEM texts; empty ones are of nobody yet."""

    authorities: bytes = b""
    certificate: bytes = b""
    key: bytes = b""

    @property
    def expires(self) -> dt.datetime | None:
        """When the certificate ends; None where there is none that can be read."""
        found = load_certificates(self.certificate)
        return found[0].not_valid_after_utc if found else None

    def problem(self, now: dt.datetime) -> str | None:
        """Why nobody can be served by it; None where it holds."""
        found, expires = load_certificates(self.certificate), self.expires
        if expires is None or not self.key or not load_certificates(self.authorities):
            return "the webhook has no certificate yet"
        if expires <= now:
            return expired_sentence(expires)
        if not _fits(found[0], self.key):
            return "the webhook's certificate and its key do not fit: somebody has changed one"
        if found[0].not_valid_before_utc > now:
            return "the webhook's certificate is of a time to come: a clock was wrong, or is"
        return None

    def is_due(self, now: dt.datetime, subject: Subject) -> bool:
        """Whether another one is to be made: it is none, or old, or somebody else's."""
        if self.problem(now) is not None:
            return True
        certificate = load_certificates(self.certificate)[0]
        return renewal_due(certificate) <= now or Subject.of(certificate) != subject


def make_material(
    now: dt.datetime,
    subject: Subject,
    before: Material,
    valid_for: dt.timedelta = VALID_FOR,
) -> Material:
    """A new one, whose bundle has the authority of the one before, too, while that holds."""
    authority = Authority.make(now, valid_for)
    key = new_key()
    certificate = authority.sign(subject, key.public_key(), now, valid_for)
    older = load_certificates(before.authorities)[:1] if before.problem(now) is None else ()
    return Material(
        b"".join([authority.certificate_pem, *map(certificate_pem, older)]),
        certificate_pem(certificate),
        key_pem(key),
    )


def _fits(certificate: x509.Certificate, key: bytes) -> bool:
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        return False
    return private.public_key() == certificate.public_key()


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    with suppress(ValueError):
        ipaddress.ip_address(text)
        return True
    return False
