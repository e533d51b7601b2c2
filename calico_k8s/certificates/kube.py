"""Requests for certificates, and the authority, as the Kubernetes API keeps them.

In: the door to an API server.  Out: values; and what a signer or a holder writes there.  Who is
granted what is not decided here.
"""

import base64
import datetime as dt
from collections.abc import Sequence

import msgspec

from calico_k8s.certificates.authority import Authority
from calico_k8s.certificates.names import AUTHORITY_NAME, SIGNER_NAME
from calico_k8s.certificates.requests import Denied, Request
from calico_k8s.controller.kube import Document, KubeApi, Query, Stream
from calico_k8s.errors import KubeConflict, KubeNotFound

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
BUNDLE_KEY = "ca.pem"
_OURS = f"spec.signerName={SIGNER_NAME}"
_APPROVED, _DENIED, _FAILED = "Approved", "Denied", "Failed"
_WATCH_S = 300
_PATIENCE_S = 30.0


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """What was decided."""

    type: str
    status: str = "True"
    reason: str = ""
    message: str = ""


class Status(msgspec.Struct, frozen=True):
    """What has become of a request."""

    conditions: tuple[Condition, ...] = ()
    certificate: bytes = b""


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What names it."""

    name: str
    resource_version: str = ""


class StoredRequest(msgspec.Struct, frozen=True):
    """``certificates.k8s.io/v1/CertificateSigningRequest``."""

    metadata: Metadata
    spec: Request
    status: Status = Status()

    @property
    def refusal(self) -> str | None:
        """Why it will never be signed; None where it may be."""
        for condition in self.status.conditions:
            if condition.type in (_DENIED, _FAILED):
                return f"{condition.reason}: {condition.message}"
        return None

    @property
    def is_open(self) -> bool:
        """Whether a signer still has something to do."""
        return self.refusal is None and not self.status.certificate

    @property
    def is_approved(self) -> bool:
        """Whether somebody has approved it: a signer that was stopped, or a person."""
        return any(condition.type == _APPROVED for condition in self.status.conditions)


class _Requests(msgspec.Struct, frozen=True):
    items: tuple[StoredRequest, ...] | None = None


class _Data(msgspec.Struct, frozen=True):
    metadata: Metadata
    data: dict[str, str] | None = None


# ── for holders ──────────────────────────────────────────────────────────────────────────────────


def file_request(
    api: KubeApi, name: str, request: bytes, usages: Sequence[str], valid_for: dt.timedelta
) -> None:
    """Asks for a certificate.  Raises: KubeError."""
    api.create(
        REQUESTS,
        {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": {
                "request": base64.b64encode(request).decode(),
                "signerName": SIGNER_NAME,
                "usages": list(usages),
                "expirationSeconds": int(valid_for.total_seconds()),
            },
        },
    )


def read_request(api: KubeApi, name: str) -> StoredRequest:
    """A request as it is now.  Raises: KubeError."""
    return msgspec.json.decode(api.get(f"{REQUESTS}/{name}"), type=StoredRequest)


def read_bundle(api: KubeApi, namespace: str) -> bytes:
    """The certificates of the authorities to trust; empty before there is one.

    Raises: KubeError.
    """
    try:
        body = api.get(f"/api/v1/namespaces/{namespace}/configmaps/{AUTHORITY_NAME}")
    except KubeNotFound:
        return b""
    return (msgspec.json.decode(body, type=_Data).data or {}).get(BUNDLE_KEY, "").encode()


# ── for the signer ───────────────────────────────────────────────────────────────────────────────


def list_requests(api: KubeApi) -> tuple[StoredRequest, ...]:
    """Every request to our signer.  Raises: KubeError."""
    body = api.get(REQUESTS, {"fieldSelector": _OURS})
    return msgspec.json.decode(body, type=_Requests).items or ()


def follow_requests(api: KubeApi) -> Stream:
    """A line for each request there is, and for each change.  Raises: KubeError."""
    query: Query = {"watch": "true", "fieldSelector": _OURS, "timeoutSeconds": _WATCH_S}
    return api.follow(REQUESTS, query, _WATCH_S + _PATIENCE_S)


def deny(api: KubeApi, request: StoredRequest, denied: Denied) -> None:
    """Says that it will never be signed, and why.  Raises: KubeError.

    What somebody else has approved cannot be denied any more: it has failed.
    """
    part, kind = ("status", _FAILED) if request.is_approved else ("approval", _DENIED)
    _patch(api, request, part, _conditions(request, kind, denied.reason, denied.message))


def approve(api: KubeApi, request: StoredRequest) -> StoredRequest:
    """Says that it may be signed; the request as it is then.  Raises: KubeError."""
    if request.is_approved:
        return request
    message = "the token and the request name one holder"
    body = _patch(api, request, "approval", _conditions(request, _APPROVED, "Checked", message))
    return msgspec.json.decode(body, type=StoredRequest)


def hand_out(api: KubeApi, request: StoredRequest, certificate: bytes) -> None:
    """Gives a certificate to the holder of an approved request.  Raises: KubeError."""
    status = {"certificate": base64.b64encode(certificate).decode()}
    _patch(api, request, "status", status)


def keep_authority(api: KubeApi, namespace: str, now: dt.datetime) -> Authority:
    """The authority of this cluster, made if there is none; one that is there is never replaced.

    Raises: KubeError; InputError where its Secret holds something else.
    """
    collection = f"/api/v1/namespaces/{namespace}/secrets"
    try:
        return _load(api.get(f"{collection}/{AUTHORITY_NAME}"))
    except KubeNotFound:
        made = Authority.make(now)
    data = {"tls.crt": made.certificate_pem, "tls.key": made.key_pem}
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "immutable": True,
        "metadata": {"name": AUTHORITY_NAME},
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }
    try:
        api.create(collection, document)
    except KubeConflict:  # another signer was faster
        return _load(api.get(f"{collection}/{AUTHORITY_NAME}"))
    return made


def publish(api: KubeApi, namespace: str, authority: Authority) -> None:
    """Lets everybody know the authority's certificate, and no other.  Raises: KubeError."""
    collection = f"/api/v1/namespaces/{namespace}/configmaps"
    wanted = authority.certificate_pem.decode()
    held = read_bundle(api, namespace).decode(errors="replace")
    if held == wanted:
        return
    data = {"data": {BUNDLE_KEY: wanted}}
    if held:
        api.merge(f"{collection}/{AUTHORITY_NAME}", data)
        return
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": AUTHORITY_NAME}}
    try:
        api.create(collection, document | data)
    except KubeConflict:
        api.merge(f"{collection}/{AUTHORITY_NAME}", data)


def _load(body: bytes) -> Authority:
    data = msgspec.json.decode(body, type=_Data).data or {}
    pem = {name: base64.b64decode(data.get(name, "")) for name in ("tls.crt", "tls.key")}
    return Authority.load(pem["tls.crt"], pem["tls.key"])


def _patch(api: KubeApi, request: StoredRequest, part: str, status: Document) -> bytes:
    metadata = {"resourceVersion": request.metadata.resource_version}
    path = f"{REQUESTS}/{request.metadata.name}/{part}"
    return api.merge(path, {"metadata": metadata, "status": status})


def _conditions(request: StoredRequest, kind: str, reason: str, message: str) -> Document:
    conditions = (*request.status.conditions, Condition(kind, "True", reason, message))
    return {"conditions": [msgspec.to_builtins(condition) for condition in conditions]}
