"""Tells users what is wrong with their objects, where they look: as Kubernetes Events.

In: each object's findings, whenever they change.  Out: one Event for each finding, said again
while it stays true, so that it does not go when the API server forgets Events (after an hour).
Which findings there are is not decided here.

A finding is always the same Event: said again, also by the next controller, it counts up.  A
thread of its own writes, at a rate that a template's mistake in a thousand pods cannot raise.
"""

import contextlib
import datetime as dt
import hashlib
import threading
import time
from collections.abc import Callable, Mapping

import msgspec

from calico_k8s.controller.kube import KubeApi
from calico_k8s.errors import KubeConflict, KubeError, KubeUnavailable
from calico_k8s.translate.findings import Finding, ObjectRef, finding_text, reason_of
from calico_k8s.translate.objects import DEFAULT_NAMESPACE, KINDS
from calico_k8s.translate.references import UNKNOWN

COMPONENT = "calico-k8s-controller"
_CALICO = "projectcalico.org/v3"
API_VERSIONS: Mapping[str, str] = {
    "Pod": "v1",
    "Namespace": "v1",
    "Service": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "ClusterNetworkPolicy": "policy.networking.k8s.io/v1alpha2",
    "Tier": _CALICO,
    "GlobalNetworkPolicy": _CALICO,
    "CalicoNetworkPolicy": _CALICO,
    "GlobalNetworkSet": _CALICO,
    "NetworkSet": _CALICO,
    "Profile": _CALICO,
    "HostEndpoint": _CALICO,
    "StagedGlobalNetworkPolicy": _CALICO,
    "StagedNetworkPolicy": _CALICO,
    "StagedKubernetesNetworkPolicy": _CALICO,
}
"""Whose findings are told, since users write these, and the version of each kind's API."""
REPEAT_S = 1800.0
RETRY_S = 10.0
SETTLE_S = 30.0
"""How long what only waits for a pod or service account to come, as a policy may that is applied first,
is left untold."""
CLOSE_S = 0.5
BURST = 25
PER_S = 5.0
MESSAGE_BYTES_MAX = 1024  # Kubernetes pkg/apis/core/validation, NoteLengthLimit
_NAME_MAX = 200  # of 253, so that the hash fits


class _Told(msgspec.Struct, frozen=True):
    """An object that has findings."""

    ref: ObjectRef
    uid: str
    findings: tuple[Finding, ...]


class _StoredEvent(msgspec.Struct):
    count: int | None = None


class Announcer:
    """Writes Events beside the loop.  ``on_result`` is told how each went: created, and so on."""

    def __init__(self, api: KubeApi, identity: str, on_result: Callable[[str], None]) -> None:
        self._api = api
        self._identity = identity
        self._on_result = on_result
        self._news = threading.Condition()
        self._due_s: dict[ObjectRef, float] = {}
        self._told: dict[ObjectRef, _Told] = {}
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: it ends by ``close``, or by a mistake of ours."""
        return self._thread.is_alive()

    def tell(self, ref: ObjectRef, uid: str, findings: tuple[Finding, ...]) -> None:
        """What is wrong with an object from now on; nothing where it is fine, or gone."""
        if ref.kind not in API_VERSIONS:
            return
        with self._news:
            if findings:
                self._told[ref] = _Told(ref, uid, findings)
                is_waiting = all(finding.code in UNKNOWN for finding in findings)
                self._due_s[ref] = time.monotonic() + (SETTLE_S if is_waiting else 0.0)
                self._news.notify()
            else:
                self._told.pop(ref, None)
                self._due_s.pop(ref, None)

    def close(self) -> None:
        """Ends; what is not yet written is left to the next controller."""
        with self._news:
            self._is_over = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_S)

    def _run(self) -> None:
        allowance = Allowance(BURST, PER_S)
        while (told := self._next()) is not None:
            for finding in told.findings:
                self._pause(allowance.wait_s(time.monotonic()))
                self._say(told, finding)

    def _next(self) -> _Told | None:
        """The object that is due first, as soon as it is; None at the end."""
        with self._news:
            while not self._is_over:
                ref = min(self._due_s, key=self._due_s.__getitem__, default=None)
                wait_s = None if ref is None else self._due_s[ref] - time.monotonic()
                if ref is not None and wait_s is not None and wait_s <= 0:
                    self._due_s[ref] = time.monotonic() + REPEAT_S
                    return self._told[ref]
                self._news.wait(wait_s)
            return None

    def _pause(self, duration_s: float) -> None:
        with self._news:
            self._news.wait_for(lambda: self._is_over, duration_s)

    def _say(self, told: _Told, finding: Finding) -> None:
        collection = f"/api/v1/namespaces/{event_namespace(told.ref)}/events"
        document = event_document(told.ref, told.uid, finding, self._identity)
        try:
            result = "created"
            try:
                self._api.create(collection, document)
            except KubeConflict:
                result = "repeated"
                self._say_again(f"{collection}/{event_name(told.ref, told.uid, finding)}", document)
        except KubeUnavailable:
            result = "delayed"
            with self._news:
                if told.ref in self._due_s:
                    self._due_s[told.ref] = time.monotonic() + RETRY_S
        except KubeError:
            result = "refused"  # no right to, or the namespace is ending
        self._on_result(result)

    def _say_again(self, path: str, document: dict[str, object]) -> None:
        before = None
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            before = msgspec.json.decode(self._api.get(path), type=_StoredEvent).count
        again = {"count": (before or 1) + 1, "lastTimestamp": document["lastTimestamp"]}
        self._api.merge(path, again)


class Allowance:
    """So many at once, and so many a second from then on."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left = float(burst)
        self._at_s: float | None = None

    def wait_s(self, now_s: float) -> float:
        """Spends one; how long to wait before doing it."""
        if self._at_s is not None:
            gained = (now_s - self._at_s) * self._per_s
            self._left = min(float(self._burst), self._left + gained)
        self._at_s = now_s
        self._left -= 1
        return max(0.0, -self._left / self._per_s)


def event_name(ref: ObjectRef, uid: str, finding: Finding) -> str:
    """The same for the same finding about the same object, whoever tells it."""
    digest = hashlib.sha256(f"{uid}\0{finding.code}\0{finding.message}".encode()).hexdigest()
    return f"{ref.name[:_NAME_MAX].rstrip('.-')}.{digest[:16]}"


def event_namespace(ref: ObjectRef) -> str:
    """Where the Events about an object are: a Namespace's own in it, where its users look.

    Source: Kubernetes pkg/apis/core/validation/events.go, for objects that are in no namespace.
    """
    return ref.namespace or (ref.name if ref.kind == "Namespace" else DEFAULT_NAMESPACE)


def event_document(ref: ObjectRef, uid: str, finding: Finding, identity: str) -> dict[str, object]:
    """The ``v1/Event`` of a finding."""
    namespace = event_namespace(ref)
    is_in_it = ref.namespace or ref.kind == "Namespace"
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(ref, uid, finding), "namespace": namespace},
        "involvedObject": {
            "apiVersion": API_VERSIONS[ref.kind],
            "kind": KINDS[ref.kind].written or ref.kind,
            "name": ref.name,
            **({"namespace": namespace} if is_in_it else {}),
            **({"uid": uid} if uid else {}),
        },
        "type": "Warning",
        "reason": reason_of(finding),
        "message": _message(finding),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": identity,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _message(finding: Finding) -> str:
    """What an Event has room for of a finding's text."""
    raw = finding_text(finding).encode()
    if len(raw) > MESSAGE_BYTES_MAX:
        raw = raw[: MESSAGE_BYTES_MAX - 3].decode(errors="ignore").encode() + b"..."
    return raw.decode()
