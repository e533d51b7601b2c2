"""What an authority signs, OpenSSL takes; what it should not, it does not."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from calico_k8s.certificates.authority import (
    CLOCK_SKEW,
    Authority,
    Subject,
    certificate_pem,
    is_signed_by,
    key_pem,
    load_certificates,
    new_key,
    renewal_due,
)
from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
MEMBER = Subject("etcd-member", (Address("10.0.0.1"), Address("fd00::1")))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make(NOW)


@pytest.mark.parametrize("subject", [Subject("node-one"), MEMBER])
def test_a_certificate_says_its_subject_and_nothing_else(
    authority: Authority, subject: Subject
) -> None:
    certificate = authority.sign(subject, new_key().public_key(), NOW, DAY)
    assert Subject.of(certificate) == subject
    usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert (ExtendedKeyUsageOID.SERVER_AUTH in usages) is bool(subject.addresses)
    assert ExtendedKeyUsageOID.CLIENT_AUTH in usages
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    assert is_signed_by(certificate, [authority.certificate])
    assert not is_signed_by(certificate, [Authority.make(NOW).certificate])
    assert not is_signed_by(certificate, [])


def test_it_holds_from_now_for_clocks_that_are_behind_and_as_long_as_said(
    authority: Authority,
) -> None:
    certificate = authority.sign(MEMBER, new_key().public_key(), NOW, DAY)
    assert certificate.not_valid_before_utc == NOW - CLOCK_SKEW
    assert certificate.not_valid_after_utc == NOW + DAY
    assert renewal_due(certificate) == NOW + dt.timedelta(hours=16)
    assert renewal_due(certificate, 0.5) == NOW + dt.timedelta(hours=12)


def test_nothing_outlives_its_authority() -> None:
    authority = Authority.make(NOW, DAY)
    certificate = authority.sign(MEMBER, new_key().public_key(), NOW, 2 * DAY)
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_an_authority_that_was_kept_is_the_same(authority: Authority) -> None:
    again = Authority.load(authority.certificate_pem, authority.key_pem)
    certificate = again.sign(MEMBER, new_key().public_key(), NOW, DAY)
    assert is_signed_by(certificate, [authority.certificate])


@pytest.mark.parametrize(
    ("certificate", "key"),
    [(b"", b""), (b"nonsense", None), (None, b"nonsense"), (None, key_pem(new_key()))],
)
def test_what_is_no_authority_is_refused(
    authority: Authority, certificate: bytes | None, key: bytes | None
) -> None:
    with pytest.raises(InputError, match="the authority's"):
        Authority.load(
            authority.certificate_pem if certificate is None else certificate,
            authority.key_pem if key is None else key,
        )


def test_text_without_certificates_holds_none(authority: Authority) -> None:
    assert load_certificates(b"nonsense") == ()
    assert load_certificates(b"") == ()
    two = certificate_pem(authority.certificate) * 2
    assert load_certificates(two) == (authority.certificate, authority.certificate)
