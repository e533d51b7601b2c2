"""Nobody gets a certificate that is not theirs, whatever they ask for."""

import datetime as dt
import ipaddress
from collections.abc import Sequence

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.certificates.authority import Subject
from calico_k8s.certificates.names import Holder
from calico_k8s.certificates.requests import (
    CLIENT_USAGES,
    NODE_CLAIM,
    SERVER_USAGES,
    Denied,
    Granted,
    Request,
    Undecided,
    decide,
)
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from tests.certificates.asking import (
    CONTROLLER,
    FELIX,
    KEY,
    NODES,
    RULES,
    account,
    pem,
    request,
)


def ip(address: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(address))


MEMBER = request(
    pem("etcd-member", [ip("10.0.0.1")]), account("calico-k8s-etcd"), "node-1", SERVER_USAGES
)

PROXY = request(
    pem("", [ip("10.0.1.1")]), account("calico-k8s-etcd-proxy"), "node-1", SERVER_USAGES
)


@pytest.mark.parametrize(
    ("asked", "holder", "subject"),
    [
        (FELIX, Holder.FELIX, Subject("node-node-1")),
        (CONTROLLER, Holder.CONTROLLER, Subject("controller")),
        (MEMBER, Holder.MEMBER, Subject("etcd-member", (Address("10.0.0.1"),))),
        (PROXY, Holder.PROXY, Subject("", (Address("10.0.1.1"),))),
    ],
)
def test_who_asks_for_their_own_gets_it(asked: Request, holder: Holder, subject: Subject) -> None:
    granted = decide(asked, RULES, NODES)
    assert granted == Granted(holder, subject, KEY.public_key(), RULES.valid_for)


def altered(asked: Request, **fields: object) -> Request:
    return msgspec.structs.replace(asked, **fields)


@pytest.mark.parametrize(
    ("asked", "reason", "message"),
    [
        (altered(FELIX, username="admin"), "NotOurServiceAccount", "admin is none of"),
        (
            altered(FELIX, username=account("calico-k8s-felix", "elsewhere")),
            "NotOurServiceAccount",
            "elsewhere:calico-k8s-felix is none of",
        ),
        (altered(FELIX, username=account("calico-k8s-signer")), "NotOurServiceAccount", "signer"),
        (altered(FELIX, extra={}), "NotBoundToANode", "bound to no pod"),
        (altered(MEMBER, extra={}), "NotBoundToANode", "bound to no pod"),
        (altered(FELIX, extra={NODE_CLAIM: ("node-1", "node-2")}), "NotBoundToANode", ""),
        (altered(FELIX, extra={NODE_CLAIM: ("node-2",)}), "WrongName", "CN=node-node-2, not"),
        (altered(FELIX, request=pem("node-node-2")), "WrongName", "CN=node-node-1, not CN=node-no"),
        (altered(FELIX, request=pem("root")), "WrongName", "not CN=root"),
        (altered(CONTROLLER, request=pem("root")), "WrongName", "CN=controller, not CN=root"),
        (altered(MEMBER, request=pem("root", [ip("10.0.0.1")])), "WrongName", "not CN=root"),
        (altered(PROXY, request=pem("root", [ip("10.0.1.1")])), "WrongName", "not CN=root"),
        (altered(PROXY, request=pem("")), "WrongAddresses", "asks for the address"),
        (altered(PROXY, extra={}), "NotBoundToANode", "bound to no pod"),
        (
            altered(PROXY, request=pem("", [ip("10.0.0.2")])),
            "WrongAddresses",
            "10.0.0.2 is no internal address of node node-1",
        ),
        (altered(FELIX, usages=SERVER_USAGES), "WrongUsages", "digital signature, client auth"),
        (altered(FELIX, usages=(*CLIENT_USAGES, "cert sign")), "WrongUsages", ""),
        (altered(FELIX, usages=("client auth",)), "WrongUsages", ""),
        (altered(MEMBER, usages=CLIENT_USAGES), "WrongUsages", "server auth"),
        (altered(FELIX, request=pem("node-node-1", [ip("10.0.0.1")])), "WrongAddresses", "serves"),
        (altered(CONTROLLER, request=pem("controller", [ip("10.0.0.1")])), "WrongAddresses", ""),
        (altered(MEMBER, request=pem("etcd-member")), "WrongAddresses", "asks for the address"),
        (
            altered(MEMBER, request=pem("etcd-member", [ip("10.0.0.2")])),
            "WrongAddresses",
            "10.0.0.2 is no internal address of node node-1",
        ),
        (
            altered(MEMBER, request=pem("etcd-member", [ip("10.0.0.1"), ip("10.0.1.1")])),
            "WrongAddresses",
            "10.0.1.1 is no member of etcd",
        ),
        (
            altered(MEMBER, request=pem("etcd-member", [ip("10.0.0.1"), x509.DNSName("api")])),
            "WrongRequest",
            "no address",
        ),
        (altered(FELIX, request=b"nonsense"), "WrongRequest", "no request for a certificate"),
        (altered(FELIX, request=b""), "WrongRequest", "no request for a certificate"),
    ],
)
def test_what_is_not_theirs_is_denied_with_a_reason(
    asked: Request, reason: str, message: str
) -> None:
    denied = decide(asked, RULES, NODES)
    assert isinstance(denied, Denied)
    assert denied.reason == reason
    assert message in denied.message


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.NameConstraints([x509.DNSName("example.org")], None),
    ],
)
def test_a_request_that_asks_for_more_is_denied(extension: x509.ExtensionType) -> None:
    denied = decide(
        altered(FELIX, request=pem("node-node-1", extensions=[extension])), RULES, NODES
    )
    assert isinstance(denied, Denied)
    assert "more than a name and addresses" in denied.message


def test_a_name_with_more_to_it_is_denied() -> None:
    more = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")]
    denied = decide(altered(FELIX, request=pem("node-node-1", more_names=more)), RULES, NODES)
    assert isinstance(denied, Denied)
    assert denied.reason == "WrongName"


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP384R1()),
    ],
)
def test_a_key_that_we_would_not_make_is_denied(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    denied = decide(altered(FELIX, request=pem("node-node-1", key=key)), RULES, NODES)
    assert isinstance(denied, Denied)
    assert "P-256" in denied.message


def test_a_request_that_its_key_has_not_signed_is_denied() -> None:
    encoding = serialization.Encoding
    der = bytearray(x509.load_pem_x509_csr(FELIX.request).public_bytes(encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(encoding.PEM)
    denied = decide(altered(FELIX, request=forged), RULES, NODES)
    assert isinstance(denied, Denied)
    assert "not signed by the key" in denied.message


def test_a_node_that_is_not_there_yet_is_waited_for() -> None:
    asked = request(pem("node-node-9"), account("calico-k8s-felix"), "node-9")
    assert decide(asked, RULES, NODES) == Undecided("there is no node node-9 yet")


@pytest.mark.parametrize(
    ("asked_s", "given"),
    [
        (None, RULES.valid_for),
        (600, dt.timedelta(seconds=600)),
        (10**9, RULES.valid_for),
    ],
)
def test_a_certificate_lasts_as_long_as_asked_and_no_longer_than_allowed(
    asked_s: int | None, given: dt.timedelta
) -> None:
    granted = decide(altered(FELIX, expiration_seconds=asked_s), RULES, NODES)
    assert isinstance(granted, Granted)
    assert granted.valid_for == given


@st.composite
def any_request(draw: st.DrawFn) -> Request:
    accounts = [*(holder.value for holder in Holder), "default"]
    names = ["node-node-1", "node-node-2", "controller", "etcd-member", "root", ""]
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1"]
    alternatives: Sequence[x509.GeneralName] = draw(
        st.lists(st.sampled_from(addresses).map(ip), max_size=2, unique=True)
    )
    return request(
        pem(draw(st.sampled_from(names)), alternatives),
        account(draw(st.sampled_from(accounts)), draw(st.sampled_from(["calico-k8s", "other"]))),
        draw(st.sampled_from([None, "node-1", "node-2", "node-3"])),
        draw(st.sampled_from([CLIENT_USAGES, SERVER_USAGES, ("client auth",)])),
    )


@given(any_request())
def test_whatever_is_granted_is_the_askers_own(asked: Request) -> None:
    decision = decide(asked, RULES, NODES)
    if not isinstance(decision, Granted):
        return
    name, addresses = decision.subject.common_name, set(decision.subject.addresses)
    (node,) = asked.extra.get(NODE_CLAIM, ("",))
    assert asked.username == account(decision.holder.value)
    match decision.holder:
        case Holder.FELIX:
            assert (name, addresses) == (f"node-{node}", set())
        case Holder.CONTROLLER:
            assert (name, addresses) == ("controller", set())
        case Holder.MEMBER:
            assert name == "etcd-member"
            assert addresses
            assert addresses <= RULES.members & NODES[NodeName(node)]
        case Holder.PROXY:
            assert name == ""
            assert addresses
            assert addresses <= NODES[NodeName(node)]
