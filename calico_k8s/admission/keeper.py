"""Keeps the webhook's certificate: made and renewed by the leader, served by every replica.

In: the door to the API server, and whether this replica leads.  Out: a Secret, the ``caBundle`` of
the webhook's configuration, what ``status`` says of them, and material for the server::

    leader: due?      ─► new one ─► caBundle (old and new) ─► Secret
    anybody: no use?  ─►                                      Secret ─► server

A leader that dies in between leaves a bundle with one authority more than is used; the next pass
of the next one writes the Secret's.  Where the component is not installed nothing is done.
"""

import base64
import datetime as dt
import threading
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from calico_k8s.admission.material import VALID_FOR, Material, make_material, webhook_subject
from calico_k8s.controller.kube import KubeApi
from calico_k8s.controller.metrics import Metrics
from calico_k8s.errors import KubeConflict, KubeError, KubeNotFound, StoreError
from calico_k8s.model.status import WEBHOOK_PATH, WebhookStatus

NAME = "calico-k8s-webhook"
"""Of the Secret, the Service and the webhook's configuration."""
CONFIGURATION = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{NAME}"
EVERY_S = 10.0
SOON_S = 1.0
"""The same, while nobody can be served."""

log = structlog.get_logger()


class Place(NamedTuple):
    """Where the API server finds the webhook."""

    namespace: str
    """Of the Secret, and of the Service."""
    names: tuple[str, ...] = ()
    """DNS names and addresses beside the Service's, for a ``clientConfig.url``."""


class Serving(Protocol):
    """Whoever serves by the material."""

    def serve_by(self, material: Material) -> None:
        """From the next connection on."""


class Role(Protocol):
    """What this replica is among the others: a :class:`~calico_k8s.controller.process.Controller`."""

    @property
    def is_leading(self) -> bool:
        """Whether this one writes."""

    def tell(self, path: str, value: bytes | None) -> None:
        """Have the datastore hold what ``status`` reads there, where this one writes.

        Raises: StoreError.
        """


class Keeper:
    """One replica's; a thread from :meth:`start` on."""

    def __init__(
        self,
        api: KubeApi,
        place: Place,
        server: Serving,
        role: Role,
        metrics: Metrics,
    ) -> None:
        self._api = api
        self._secret = f"/api/v1/namespaces/{place.namespace}/secrets/{NAME}"
        self._subject = webhook_subject((f"{NAME}.{place.namespace}.svc", *place.names))
        self.valid_for: dt.timedelta = VALID_FOR
        self._server = server
        self._role = role
        self._metrics = metrics
        self._served = Material()
        self._said = ""
        self._owes_bundle = False
        """Whether this one may have written a bundle whose certificate nobody serves by."""
        self.problem: str | None = None
        """Why nobody can be served, as of the last pass; None also where nothing is installed."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook-keeper", daemon=True)

    def start(self) -> None:
        """Begins to keep."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join()

    def keep(self, now: dt.datetime) -> str | None:
        """One pass; why nobody can be served after it, None where everybody is.

        Raises: KubeError.
        """
        document = msgspec.json.decode(self._api.get(self._secret))
        material = _material(document)
        is_leader = self._role.is_leading
        self._say(material.problem(now) or "")
        # One that nobody can serve by is replaced by whoever finds it: while an update rolls out the
        # leader may be a controller that knows of no webhook.  Of two at once, one meets a conflict.
        if material.problem(now) or (is_leader and material.is_due(now, self._subject)):
            material = make_material(now, self._subject, material, self.valid_for)
            self._owes_bundle = True
            self._publish(material)
            self._api.replace(self._secret, _with(document, material))
            log.info("webhook certificate made", expires=str(material.expires))
        elif is_leader or self._owes_bundle:
            self._publish(material)
        self._owes_bundle = False
        problem, expires = material.problem(now), material.expires
        expires_s = expires.timestamp() if expires else 0.0
        self._metrics.webhook_expires.set(expires_s)
        self._tell(WebhookStatus(expires_s, problem or ""))
        if problem is None and material != self._served:
            self._server.serve_by(material)
            self._served = material
        return problem

    def _publish(self, material: Material) -> None:
        """Have the API server believe who serves by it."""
        configuration: dict[str, Any] = msgspec.json.decode(self._api.get(CONFIGURATION))
        bundle = base64.b64encode(material.authorities).decode()
        hooks = configuration.get("webhooks") or ()
        if any(hook["clientConfig"].get("caBundle") != bundle for hook in hooks):
            for hook in hooks:
                hook["clientConfig"]["caBundle"] = bundle
            self._api.replace(CONFIGURATION, configuration)
            log.info("webhook configuration written")

    def _tell(self, status: WebhookStatus | None) -> None:
        """What ``calico-k8s status`` says of it; a store that is away is told at another pass."""
        try:
            self._role.tell(WEBHOOK_PATH, None if status is None else msgspec.json.encode(status))
        except StoreError as error:
            log.info("the webhook's status is not written", error=str(error))

    def _say(self, problem: str) -> None:
        """Once for each thing that is wrong, not each pass."""
        if problem and problem != self._said:
            log.warning("webhook", problem=problem)
        self._said = problem

    def _run(self) -> None:
        while True:
            self.problem = None
            try:
                self.problem = self.keep(dt.datetime.now(dt.UTC))
            except KubeConflict:
                self.problem = "another controller is making the webhook's certificate"
            except KubeNotFound:
                self._tell(None)
                self._say(
                    "manifests/webhook is not installed whole: nothing is refused at the door"
                )
            except KubeError as error:
                self._say(str(error))
            if self._closing.wait(SOON_S if self.problem else EVERY_S):
                return


def _material(secret: dict[str, Any]) -> Material:
    data = secret.get("data") or {}
    names = ("ca.crt", "tls.crt", "tls.key")
    return Material(*(base64.b64decode(data.get(name, "")) for name in names))


def _with(secret: dict[str, Any], material: Material) -> dict[str, Any]:
    values = {
        "ca.crt": material.authorities,
        "tls.crt": material.certificate,
        "tls.key": material.key,
    }
    data = {name: base64.b64encode(value).decode() for name, value in values.items()}
    return {**secret, "data": data}
