"""Requests as anybody may make them, and the cluster in which they are judged."""

import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from calico_k8s.certificates.authority import new_key, subject_name
from calico_k8s.certificates.requests import (
    CLIENT_USAGES,
    NODE_CLAIM,
    Request,
    Rules,
)
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName

NAMESPACE = "calico-k8s"
RULES = Rules(
    NAMESPACE, frozenset({Address("10.0.0.1"), Address("10.0.0.2")}), dt.timedelta(days=30)
)
NODES = {
    NodeName("node-1"): frozenset({Address("10.0.0.1"), Address("10.0.1.1")}),
    NodeName("node-2"): frozenset({Address("10.0.0.2")}),
    NodeName("node-3"): frozenset({Address("10.0.0.3")}),
}
KEY = new_key()
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def account(name: str, namespace: str = NAMESPACE) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def pem(
    common_name: str,
    alternatives: Sequence[x509.GeneralName] = (),
    extensions: Sequence[x509.ExtensionType] = (),
    *,
    more_names: Sequence[x509.NameAttribute[str]] = (),
    key: PrivateKey = KEY,
) -> bytes:
    """A request that says this."""
    names = [*subject_name(common_name), *more_names]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request(
    body: bytes,
    by: str,
    node: str | None = None,
    usages: Sequence[str] = CLIENT_USAGES,
    expiration_s: int | None = None,
) -> Request:
    """A request with what the API server says of who makes it."""
    extra = {} if node is None else {NODE_CLAIM: (node,)}
    return Request(body, "calico-k8s.io/etcd", tuple(usages), expiration_s, by, extra)


FELIX = request(pem("node-node-1"), account("calico-k8s-felix"), "node-1")
CONTROLLER = request(pem("controller"), account("calico-k8s-controller"), "node-1")
