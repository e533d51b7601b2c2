"""Holds a certificate: asks for it, keeps it on disk, and asks again before it ends.

In: who this is, an API server, a directory.  Out: a key that was made here and never leaves, and
certificates that fit it.  What is there stands until something better is: an API server or a
signer that is away costs nothing before the certificate ends.
"""

import datetime as dt
import hashlib
import threading
import time
from pathlib import Path

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from calico_k8s.certificates import files
from calico_k8s.certificates.authority import (
    Subject,
    key_pem,
    load_certificates,
    new_key,
    renewal_due,
    request_pem,
)
from calico_k8s.certificates.checks import mark_looked_at, usable
from calico_k8s.certificates.kube import file_request, read_bundle, read_request
from calico_k8s.certificates.names import AUTHORITY_NAME, Holder
from calico_k8s.certificates.requests import usages_of
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.reflector import Pause
from calico_k8s.errors import KubeError, KubeUnavailable

CHECK_S = 300.0
"""How often the authority is looked at: one that was replaced makes every certificate useless."""
POLL_S = (0.2, 5.0)
RETRY_S = (0.5, 10.0)
REFUSED_S = 300.0
"""Who was refused asks again after so long: each time is a new object in the API server."""
GRACE_S = 20.0
"""An authority that cannot be asked for so long does not keep others from what there is."""

log = structlog.get_logger()


class Refused(KubeError):
    """The signer will never sign this request."""


class Wish(msgspec.Struct, frozen=True):
    """Which certificate, and where it is kept."""

    holder: Holder
    subject: Subject
    namespace: str
    directory: Path
    valid_for: dt.timedelta


class Keeper:
    """Keeps one certificate; ``run`` belongs to one thread, ``stop`` to any."""

    def __init__(self, api: KubeApi, wish: Wish) -> None:
        self._api = api
        self._wish = wish
        self._stopping = threading.Event()

    def run(self) -> None:
        """Works until stopped.  Raises: UnavailableError where the directory cannot be written."""
        pause, give_up_s = Pause(*RETRY_S), time.monotonic() + GRACE_S
        while not self._stopping.is_set():
            try:
                certificate = self._keep()
                mark_looked_at(self._wish.directory)
                pause.reset()
                wait_s = min(CHECK_S, _left_s(renewal_due(certificate)))
            except KubeError as error:
                wait_s = REFUSED_S if isinstance(error, Refused) else pause.next_s()
                log.warning("not looked at", error=str(error), retry_s=round(wait_s, 1))
                if time.monotonic() > give_up_s and self._wish.directory.exists():
                    mark_looked_at(self._wish.directory)
            self._stopping.wait(max(0.0, wait_s))

    def stop(self) -> None:
        """Ends ``run`` soon; also from a signal's handler."""
        self._stopping.set()

    def _keep(self) -> x509.Certificate:
        """The certificate that is on disk when this returns, and will do for now."""
        wish = self._wish
        bundle = read_bundle(self._api, wish.namespace)
        if not load_certificates(bundle):
            raise KubeUnavailable(
                f"ConfigMap {wish.namespace}/{AUTHORITY_NAME} holds no authority yet:"
                " the signer writes it"
            )
        held = files.read(wish.directory)
        if held is not None:
            certificate = usable(held, bundle, wish.subject)
            if certificate is not None and _left_s(renewal_due(certificate)) > 0:
                if held.authorities != bundle:
                    files.write(wish.directory, msgspec.structs.replace(held, authorities=bundle))
                return certificate
        return self._obtain(bundle)

    def _obtain(self, bundle: bytes) -> x509.Certificate:
        wish, key = self._wish, new_key()
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        name = f"{wish.holder.value}-{hashlib.sha256(public).hexdigest()[:20]}"
        request = request_pem(wish.subject, key)
        file_request(self._api, name, request, usages_of(wish.holder), wish.valid_for)
        log.info("asked for a certificate", request=name, subject=wish.subject.common_name)
        material = files.Material(bundle, self._wait_for(name), key_pem(key))
        certificate = usable(material, bundle, wish.subject)
        if certificate is None:
            raise KubeError(f"request {name} got a certificate that is not the one asked for")
        files.write(wish.directory, material)
        log.info("certificate written", request=name, until=str(certificate.not_valid_after_utc))
        return certificate

    def _wait_for(self, name: str) -> bytes:
        """The signed certificate of a request.

        Raises: Refused; KubeError where it is gone; KubeUnavailable where this is to end.
        """
        pause = Pause(*POLL_S)
        while not self._stopping.is_set():
            stored = read_request(self._api, name)
            if stored.refusal is not None:
                raise Refused(f"request {name} is refused: {stored.refusal}")
            if stored.status.certificate:
                return stored.status.certificate
            self._stopping.wait(pause.next_s())
        raise KubeUnavailable(f"request {name} was not waited for")


def _left_s(moment: dt.datetime) -> float:
    return (moment - dt.datetime.now(dt.UTC)).total_seconds()
