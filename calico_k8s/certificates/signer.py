"""The signer: the only process that reads the authority's key.

In: requests for certificates in the Kubernetes API, and its nodes.  Out: certificates, denials,
and an etcd that knows its users.  What may be granted is decided in :mod:`.requests`.

::

    requests ─ watch ─► news ─┐
    nodes ── reflector ───────┼─► loop: list, decide, deny or sign
    users in etcd ────────────┘

It makes the authority if there is none, publishes its certificate, and needs no datastore for
either, nor to sign for etcd's members.  A client's certificate is signed only once etcd asks who
its clients are and knows this one: before that, any certificate could write anything.
"""

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from calico_k8s.certificates import files
from calico_k8s.certificates.authority import (
    Authority,
    Subject,
    certificate_pem,
    key_pem,
    load_certificates,
    new_key,
    renewal_due,
)
from calico_k8s.certificates.kube import (
    StoredRequest,
    approve,
    deny,
    follow_requests,
    hand_out,
    keep_authority,
    list_requests,
    publish,
)
from calico_k8s.certificates.metrics import Metrics
from calico_k8s.certificates.names import Holder
from calico_k8s.certificates.requests import (
    AddressesByNode,
    Decision,
    Denied,
    Granted,
    Rules,
    Undecided,
    decide,
)
from calico_k8s.certificates.users import UserKeeper
from calico_k8s.controller.kube import KubeApi, Stream
from calico_k8s.controller.reflector import Pause, Reflector
from calico_k8s.controller.wire import Change
from calico_k8s.datastore.etcd.rights import ROOT_USER, EtcdRights
from calico_k8s.datastore.etcd.store import READER
from calico_k8s.datastore.location import EtcdLocation
from calico_k8s.errors import KubeError, KubeForbidden, KubeUnavailable
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from calico_k8s.telemetry import Telemetry, serving
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import Decoded, Node

LOOK_S = 10.0
"""How often requests are listed though no news came."""
LIVE_S = 120.0
"""A loop that has not come round for so long hangs: every call has a shorter limit."""

log = structlog.get_logger()


class Options(msgspec.Struct, frozen=True):
    """How to run."""

    rules: Rules
    location: EtcdLocation
    directory: Path
    """For the signer's own certificate, which no other process needs."""
    metrics_port: int = 0
    """0: nothing is served."""


class Nodes:
    """The cluster's nodes, as a reflector tells them; see its ``Sink`` and ``Observer``."""

    def __init__(self, on_news: Callable[[], None], metrics: Metrics) -> None:
        self._on_news = on_news
        self._metrics = metrics
        self._lock = threading.Lock()
        self._addresses: dict[NodeName, frozenset[Address]] = {}
        self._is_listed = False

    def now(self) -> AddressesByNode | None:
        """Internal addresses by node; None before all are known."""
        with self._lock:
            return dict(self._addresses) if self._is_listed else None

    def on_changes(self, changes: Sequence[Change]) -> None:
        """Nodes that are new, other or gone."""
        with self._lock:
            for change in changes:
                node = change.object if isinstance(change, Decoded) else None
                if isinstance(node, Node):
                    self._addresses[NodeName(node.metadata.name)] = _internal(node)
                elif isinstance(change, ObjectRef):
                    self._addresses.pop(NodeName(change.name), None)
        self._on_news()

    def on_listed(self, kind: str) -> None:  # noqa: ARG002 - there is one kind
        """All nodes are known."""
        with self._lock:
            self._is_listed = True
        self._on_news()

    def on_list(self, kind: str, objects: int, duration_s: float) -> None:
        """No news: see ``on_listed``."""

    def on_absent(self, kind: str) -> None:
        """Never: every cluster has nodes."""

    def on_event(self, kind: str) -> None:
        """No news: see ``on_changes``."""

    def on_error(self, kind: str, error: KubeError) -> None:  # noqa: ARG002 - there is one kind
        """It will be asked again."""
        self._metrics.kube_errors.inc()
        log.warning("nodes", error=str(error))


class Signer:
    """One process's signer; ``run`` belongs to one thread, the rest to any."""

    def __init__(self, api: KubeApi, options: Options) -> None:
        self._api = api
        self._options = options
        self.metrics = Metrics()
        self._news, self._stopping = threading.Event(), threading.Event()
        self._nodes = Nodes(self._news.set, self.metrics)
        self._reflector = Reflector(api, "Node", self._nodes, self._nodes)
        self._bell = threading.Thread(target=self._listen, name="requests", daemon=True)
        self._stream: Stream | None = None
        self._users: UserKeeper | None = None
        self._problem: str | None = "starting"
        self._beat_s = time.monotonic()
        self._said: dict[str, str] = {}
        self._known: bytes | None = None

    def run(self) -> None:
        """Works until stopped.

        Raises: InputError where the authority's Secret holds something else; UnavailableError for a
        port that is taken, or a directory that cannot be written.
        """
        if not self._options.metrics_port:
            self._run()
            return
        telemetry = Telemetry(self.metrics.registry, self.is_live, self.is_ready)
        with serving(self._options.metrics_port, telemetry):
            self._run()

    def stop(self) -> None:
        """Ends ``run`` soon."""
        self._stopping.set()
        self._news.set()
        self._reflector.stop()
        if self._stream is not None:
            self._stream.close()

    def is_live(self) -> str | None:
        """None while the process works."""
        quiet_s = time.monotonic() - self._beat_s
        if quiet_s > LIVE_S:
            return f"nothing has moved for {quiet_s:.0f} s"
        users = self._users
        if users is None:
            return None
        are_alive = (users.is_alive, self._bell.is_alive(), self._reflector.is_alive)
        return None if all(are_alive) else "a thread has ended: please report its last words"

    def is_ready(self) -> str | None:
        """None while requests are answered and etcd knows its users, and asks for them."""
        return self._problem or (self._users.problem if self._users else "starting")

    def _run(self) -> None:
        authority = self._begin()
        if authority is None:
            return
        self._renew_own(authority)
        tls = files.tls_files(self._options.directory)
        users = UserKeeper(EtcdRights(self._options.location, tls), self._news.set)
        self._reflector.start()
        self._bell.start()
        users.start()
        self._users = users
        try:
            self._serve(users)
        finally:
            self.stop()
            users.close()
            self._reflector.close()

    def _begin(self) -> Authority | None:
        """The authority, once the API server answers; None when told to stop."""
        pause = Pause()
        while not self._stopping.is_set():
            self._beat_s = time.monotonic()
            try:
                return self._authority()
            except KubeError as error:
                self._fail(error, pause.next_s())
        return None

    def _authority(self) -> Authority:
        """The one that everybody is to know: whoever deletes its Secret has it replaced.

        It is asked for before each round of answers, or two signers, one of them from before the
        Secret was deleted, would hand out certificates that do not fit together.
        """
        namespace = self._options.rules.namespace
        authority = keep_authority(self._api, namespace, _now())
        publish(self._api, namespace, authority)
        if authority.certificate_pem != self._known:
            self._known = authority.certificate_pem
            certificate = authority.certificate
            self.metrics.authority_ends.set(certificate.not_valid_after_utc.timestamp())
            log.info("signing", authority=certificate.subject.rfc4514_string())
        return authority

    def _serve(self, users: UserKeeper) -> None:
        pause = Pause()
        while not self._stopping.is_set():
            self._beat_s = time.monotonic()
            self._news.clear()
            nodes = self._nodes.now()
            try:
                authority = self._authority()
                self._renew_own(authority)
                if nodes is not None:
                    users.set_nodes(nodes.keys())
                    self._answer_all(authority, users, nodes)
                self.metrics.nodes.set(len(nodes or ()))
                self.metrics.enforced.set(users.problem is None)
                self._problem = None if nodes is not None else "the nodes are not listed yet"
                pause.reset()
            except KubeError as error:
                self._fail(error, pause.next_s())
                continue
            self._news.wait(LOOK_S)

    def _answer_all(self, authority: Authority, users: UserKeeper, nodes: AddressesByNode) -> None:
        waiting: dict[str, str] = {}
        for request in list_requests(self._api):
            if not request.is_open:
                continue
            decision = decide(request.spec, self._options.rules, nodes)
            if isinstance(decision, Granted) and not _is_of_use(decision, users):
                decision = Undecided(
                    f"etcd does not know {_user_of(decision)} yet: {users.problem or 'soon'}"
                )
            try:
                self._answer(request, decision, authority, waiting)
            except (KubeUnavailable, KubeForbidden):
                raise
            except KubeError as error:  # this one alone: changed meanwhile, say, or gone
                log.info("request changed", request=request.metadata.name, error=str(error))
        self._said = waiting
        self.metrics.waiting.set(len(waiting))

    def _answer(
        self,
        request: StoredRequest,
        decision: Decision,
        authority: Authority,
        waiting: dict[str, str],
    ) -> None:
        name = request.metadata.name
        match decision:
            case Undecided(message):
                if self._said.get(name) != message:
                    log.info("request waits", request=name, why=message)
                waiting[name] = message
            case Denied() as denied:
                deny(self._api, request, denied)
                self.metrics.answered.labels("denied").inc()
                log.warning(
                    "request denied",
                    request=name,
                    by=request.spec.username,
                    reason=denied.reason,
                    message=denied.message,
                )
            case Granted() as granted:
                approved = approve(self._api, request)
                signed = authority.sign(granted.subject, granted.key, _now(), granted.valid_for)
                hand_out(self._api, approved, certificate_pem(signed))
                self.metrics.answered.labels("signed").inc()
                log.info(
                    "request signed",
                    request=name,
                    subject=granted.subject.common_name or granted.holder.value,
                )

    def _renew_own(self, authority: Authority) -> None:
        """A certificate as etcd's root, by which users are kept there."""
        held = files.read(self._options.directory)
        if held is not None and held.authorities == authority.certificate_pem:
            (own,) = load_certificates(held.certificate)
            if _now() < renewal_due(own):
                return
        key = new_key()
        valid_for = self._options.rules.valid_for
        own = authority.sign(Subject(ROOT_USER), key.public_key(), _now(), valid_for)
        material = files.Material(authority.certificate_pem, certificate_pem(own), key_pem(key))
        files.write(self._options.directory, material)

    def _listen(self) -> None:
        """Rings whenever a request is made or changed."""
        pause = Pause()
        while not self._stopping.is_set():
            try:
                self._stream = follow_requests(self._api)
                for _ in self._stream:
                    self._news.set()
                    pause.reset()
            except KubeError as error:
                self.metrics.kube_errors.inc()
                log.warning("requests", error=str(error))
            self._stopping.wait(pause.next_s())

    def _fail(self, error: KubeError, retry_s: float) -> None:
        self._problem = str(error)
        self.metrics.kube_errors.inc()
        log.warning("signer", error=str(error), retry_s=round(retry_s, 2))
        self._stopping.wait(retry_s)


def _is_of_use(granted: Granted, users: UserKeeper) -> bool:
    return granted.holder is Holder.MEMBER or users.is_known(_user_of(granted))


def _user_of(granted: Granted) -> str:
    """As whom etcd serves who holds this; a proxy's certificate names nobody."""
    return READER if granted.holder is Holder.PROXY else granted.subject.common_name


def _internal(node: Node) -> frozenset[Address]:
    told = (node.status.addresses if node.status else None) or ()
    return frozenset(Address(each.address) for each in told if each.type == "InternalIP")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
