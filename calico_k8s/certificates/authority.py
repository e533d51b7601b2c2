"""An authority, and the certificates it signs.

In come names and times; out go keys and certificates, as values and PEM.  Nothing is read or
written here, and who may have which certificate is decided elsewhere.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address

AUTHORITY_VALID_FOR = dt.timedelta(days=3650)
ORGANIZATION = "calico-k8s"
CLOCK_SKEW = dt.timedelta(minutes=5)
"""A certificate holds from so long before it is signed, for clocks that are behind."""

PublicKey = ec.EllipticCurvePublicKey


class Subject(msgspec.Struct, frozen=True):
    """What a certificate says of its holder."""

    common_name: str
    """Empty for who is no user of etcd's."""
    addresses: tuple[Address, ...] = ()
    """Where it serves; a certificate without any, and without names, is a client's alone."""
    names: tuple[str, ...] = ()
    """DNS names by which it serves."""

    @property
    def serves(self) -> bool:
        """Whether it is a server's."""
        return bool(self.addresses or self.names)

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Subject":
        """What a certificate says."""
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        try:
            kind = x509.SubjectAlternativeName
            alternatives = certificate.extensions.get_extension_for_class(kind).value
            addresses = alternatives.get_values_for_type(x509.IPAddress)
            dns_names = alternatives.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            addresses, dns_names = [], []
        return cls(
            str(names[0].value) if len(names) == 1 else "",
            tuple(Address(str(address)) for address in addresses),
            tuple(dns_names),
        )


class Authority:
    """A certificate that signs others, with its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def make(cls, now: dt.datetime, valid_for: dt.timedelta = AUTHORITY_VALID_FOR) -> "Authority":
        """A new one."""
        key = new_key()
        name = subject_name(f"calico-k8s {now:%Y-%m-%d}")
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder(name, name, key.public_key(), now, valid_for)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> "Authority":
        """One that was kept as PEM.

        Raises: InputError for what is not a certificate with its key.
        """
        try:
            loaded = x509.load_pem_x509_certificate(certificate)
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError):
            raise InputError(
                "the authority's certificate or key is no PEM that can be read"
            ) from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or (
            private.public_key() != loaded.public_key()
        ):
            raise InputError("the authority's key is not that of its certificate")
        return cls(loaded, private)

    @property
    def certificate_pem(self) -> bytes:
        """What everybody may know."""
        return certificate_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """What nobody else may know."""
        return key_pem(self._key)

    def sign(
        self, subject: Subject, key: PublicKey, now: dt.datetime, valid_for: dt.timedelta
    ) -> x509.Certificate:
        """A certificate; it ends no later than the authority's own."""
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if subject.serves:
            usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        valid_for = min(valid_for, self.certificate.not_valid_after_utc - now)
        issuer = self.certificate.subject
        builder = (
            _builder(subject_name(subject.common_name), issuer, key, now, valid_for)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SIGNATURES, critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if subject.serves:
            builder = builder.add_extension(_alternatives(subject), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key that nobody has yet."""
    return ec.generate_private_key(ec.SECP256R1())


def request_pem(subject: Subject, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request for a certificate, which proves that the asker has the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        subject_name(subject.common_name)
    )
    if subject.serves:
        builder = builder.add_extension(_alternatives(subject), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as text."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Every certificate of a PEM text; none where it is no such text."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        return ()


def is_signed_by(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    """Whether one of the authorities signed it; its time is not looked at."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def renewal_due(certificate: x509.Certificate, share: float = 2 / 3) -> dt.datetime:
    """When that share of a certificate's life has gone."""
    signed = certificate.not_valid_before_utc + CLOCK_SKEW
    return signed + share * (certificate.not_valid_after_utc - signed)


_SIGNATURES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    now: dt.datetime,
    valid_for: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + valid_for)
    )


def subject_name(common_name: str) -> x509.Name:
    """The whole subject of a certificate; who has no common name is no user of etcd's."""
    if not common_name:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION)])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternatives(subject: Subject) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in subject.addresses),
            *(x509.DNSName(name) for name in subject.names),
        ]
    )
