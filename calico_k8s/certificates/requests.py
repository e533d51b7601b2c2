"""What a request for a certificate may be granted: the whole of it, as a pure decision.

In comes a request with what the API server vouches for: who asks, by which token, bound to which
node.  Out goes what to sign, a denial with its reason, or that it cannot be said yet.  A
certificate is made from what this grants, never from what the request says: of that, only the
public key gets through.

============  =====================================  ==============================================
asks          as                                     is granted
============  =====================================  ==============================================
Felix         CN of the node that its token is       a client's certificate of that name
              bound to, no addresses
controller    CN ``controller``, no addresses        a client's certificate of that name
etcd          CN ``etcd-member``, addresses that     a server's and client's certificate for those
              are both a member's and its node's     addresses
etcd's proxy  no CN, internal addresses of its node  the same
anyone else   anything                               nothing
============  =====================================  ==============================================
"""

import datetime as dt
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from calico_k8s.certificates.authority import PublicKey, Subject, subject_name
from calico_k8s.certificates.names import Holder, common_name
from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName

NODE_CLAIM = "authentication.kubernetes.io/node-name"
"""Where the API server says which node a token is bound to.  Source: KEP-4193, Kubernetes 1.30."""

CLIENT_USAGES = ("digital signature", "client auth")
SERVER_USAGES = (*CLIENT_USAGES, "server auth")


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """``spec`` of a CertificateSigningRequest; all but the first four is the API server's word."""

    request: bytes
    signer_name: str
    usages: tuple[str, ...] = ()
    expiration_seconds: int | None = None
    username: str = ""
    extra: Mapping[str, tuple[str, ...]] = {}


class Rules(msgspec.Struct, frozen=True):
    """What is known of the cluster, and how long a certificate is to last at most."""

    namespace: str
    """Of the service accounts."""
    members: frozenset[Address]
    """Where etcd's members are to be."""
    valid_for: dt.timedelta


class Granted(msgspec.Struct, frozen=True):
    """What to sign."""

    holder: Holder
    subject: Subject
    key: PublicKey
    valid_for: dt.timedelta


class Denied(msgspec.Struct, frozen=True):
    """Why nothing is signed: a word, and a sentence for people."""

    reason: str
    message: str


class Undecided(msgspec.Struct, frozen=True):
    """What is not known yet."""

    message: str


Decision = Granted | Denied | Undecided

AddressesByNode = Mapping[NodeName, frozenset[Address]]


def usages_of(holder: Holder) -> tuple[str, ...]:
    """What a holder's certificate is for, in the words of requests."""
    return SERVER_USAGES if holder.serves else CLIENT_USAGES


def decide(request: Request, rules: Rules, nodes: AddressesByNode) -> Decision:
    """What becomes of a request; ``nodes`` are those that Kubernetes has."""
    holder = _holder(request.username, rules.namespace)
    if holder is None:
        return Denied(
            "NotOurServiceAccount",
            f"{request.username} is none of {', '.join(sorted(each.value for each in Holder))}"
            f" in namespace {rules.namespace}",
        )
    usages = usages_of(holder)
    if sorted(request.usages) != sorted(usages):
        return Denied("WrongUsages", f"{holder.value} gets a certificate for {', '.join(usages)}")
    node = _bound_node(request)
    if node is None and holder is not Holder.CONTROLLER:
        return Denied(
            "NotBoundToANode",
            "the token of this request is bound to no pod on a node: only the kubelet's are",
        )
    try:
        asked = _parse(request.request)
    except InputError as error:
        return Denied("WrongRequest", str(error))
    expected = common_name(holder, node or NodeName(""))
    if asked.name != subject_name(expected):
        right, name = (each.rfc4514_string() for each in (subject_name(expected), asked.name))
        message = f"the name of this certificate is {right}, not {name or 'empty'}"
        return Denied("WrongName", message)
    problem = _addresses_problem(holder, asked.addresses, rules)
    if problem is None and node is not None:
        if node not in nodes:
            return Undecided(f"there is no node {node} yet")
        foreign = sorted(set(asked.addresses) - nodes[node])
        problem = f"{', '.join(foreign)} is no internal address of node {node}" if foreign else None
    if problem is not None:
        return Denied("WrongAddresses", problem)
    subject = Subject(expected, asked.addresses)
    return Granted(holder, subject, asked.key, _valid_for(request, rules))


class _Asked(NamedTuple):
    """What a request says."""

    name: x509.Name
    addresses: tuple[Address, ...]
    key: PublicKey


def _parse(pem: bytes) -> _Asked:
    """What a request says, which its asker has signed.  Raises: InputError."""
    try:
        asked = x509.load_pem_x509_csr(pem)
        extensions = tuple(asked.extensions)
        key = asked.public_key()
    except ValueError as error:
        raise InputError(f"this is no request for a certificate: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError("the key is to be one of the curve P-256")
    if not asked.is_signature_valid:
        raise InputError("the request is not signed by the key it asks for")
    addresses: list[Address] = []
    for extension in extensions:
        names = extension.value
        if not isinstance(names, x509.SubjectAlternativeName):
            raise InputError(f"it asks for more than a name and addresses: {extension.oid}")
        found = names.get_values_for_type(x509.IPAddress)
        if len(found) != len(tuple(names)):
            raise InputError("it asks for a name beside its own that is no address")
        addresses += [Address(str(address)) for address in found]
    return _Asked(asked.subject, tuple(addresses), key)


def _holder(username: str, namespace: str) -> Holder | None:
    for holder in Holder:
        if username == f"system:serviceaccount:{namespace}:{holder.value}":
            return holder
    return None


def _bound_node(request: Request) -> NodeName | None:
    named = request.extra.get(NODE_CLAIM, ())
    return NodeName(named[0]) if len(named) == 1 and named[0] else None


def _addresses_problem(holder: Holder, addresses: tuple[Address, ...], rules: Rules) -> str | None:
    if not holder.serves:
        message = f"{holder.value} serves nobody, so its certificate has no addresses"
        return message if addresses else None
    if not addresses:
        return f"{holder.value} asks for the address that it serves at"
    foreign = sorted(set(addresses) - rules.members) if holder is Holder.MEMBER else ()
    return f"{', '.join(foreign)} is no member of etcd" if foreign else None


def _valid_for(request: Request, rules: Rules) -> dt.timedelta:
    if request.expiration_seconds is None:
        return rules.valid_for
    return min(rules.valid_for, dt.timedelta(seconds=request.expiration_seconds))
