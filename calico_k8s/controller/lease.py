"""Election by a Lease: which of several controllers is to write.

In: the Lease in the Kubernetes API, and a clock.  Out: that this process holds it, or that another
does.  What the holder does is not known here, nor is it stopped in time by this: clocks and pauses
make every lease a guess, and what keeps two from writing is :mod:`.fence`.

So a holder that cannot reach the API server goes on: nothing can change there that it would miss.
It ends when it sees another holder, or when the fence refuses it.

Source: k8s.io/client-go/tools/leaderelection, whose records these are.
"""

import datetime as dt
import time
from collections.abc import Callable

import msgspec

from calico_k8s.controller.kube import KubeApi
from calico_k8s.errors import Deposed, KubeConflict, KubeNotFound, KubeUnavailable

API = "coordination.k8s.io/v1"
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class LeaseTimes(msgspec.Struct, frozen=True):
    """How long things take; as client-go's defaults."""

    duration_s: int = 15
    """A holder that has not renewed for so long may be replaced."""
    retry_s: float = 2.0
    """Between two renewals, or two looks at another's Lease."""


def lease_times(duration_s: int) -> LeaseTimes:
    """The times of a Lease that lasts so long, in client-go's proportion."""
    default = LeaseTimes()
    return LeaseTimes(duration_s, default.retry_s * duration_s / default.duration_s)


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who holds it, since when."""

    holder_identity: str | None = None
    """Empty: given up, to be taken at once."""
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class LeaseMetadata(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What names it."""

    name: str
    namespace: str
    uid: str = ""
    resource_version: str = ""


class Lease(msgspec.Struct, frozen=True):
    """``coordination.k8s.io/v1/Lease``."""

    metadata: LeaseMetadata
    spec: LeaseSpec = LeaseSpec()

    @property
    def holder(self) -> str:
        """Empty where nobody holds it."""
        return self.spec.holder_identity or ""

    @property
    def transitions(self) -> int:
        """How often it has changed hands."""
        return self.spec.lease_transitions or 0


class Elector:
    """One candidate for one Lease; belongs to one thread."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._metadata = LeaseMetadata(name, namespace)
        self._collection = f"/apis/{API}/namespaces/{namespace}/leases"
        self.identity = identity
        self.times = times or LeaseTimes()
        self._clock = clock
        self._seen: LeaseSpec | None = None
        self._seen_s = 0.0

    def attempt(self) -> Lease | None:
        """Takes or renews the Lease where that may be done now; None while another holds it.

        Another's Lease is taken when it has not changed for its duration by our own clock, so
        clocks need not agree.

        Raises: KubeError.
        """
        try:
            lease = self.read()
        except KubeNotFound:
            return self._write(Lease(self._metadata), 0)
        if lease.holder == self.identity:
            return self._write(lease, lease.transitions)
        if lease.spec != self._seen:
            self._seen, self._seen_s = lease.spec, self._clock()
        duration_s = lease.spec.lease_duration_seconds or self.times.duration_s
        if lease.holder and self._clock() < self._seen_s + duration_s:
            return None
        return self._write(lease, lease.transitions + 1)

    def renew(self) -> None:
        """Keeps the Lease; one that somebody deleted is made again.

        Raises: Deposed where another holds it; KubeError.
        """
        try:
            lease = self.read()
        except KubeNotFound:
            lease = Lease(self._metadata, LeaseSpec(self.identity))
        if lease.holder != self.identity:
            by = f"controller {lease.holder}" if lease.holder else "somebody who emptied it"
            raise Deposed(f"the Lease is held by {by}, so this one ends")
        self._write(lease, lease.transitions)

    def read(self) -> Lease:
        """The Lease as etcd has it now.  Raises: KubeError; KubeNotFound where there is none."""
        return _decode(self._api.get(f"{self._collection}/{self._metadata.name}"))

    def surpass(self, transitions: int) -> Lease:
        """Counts the Lease that we hold further than a number that is known elsewhere.

        That number can only be ahead where the API server was set back to a backup.

        Raises: KubeConflict where it is not held any more; KubeError.
        """
        lease = self.read()
        if lease.holder != self.identity:
            raise KubeConflict(f"the Lease is held by {lease.holder or 'nobody'}")
        written = self._write(lease, max(lease.transitions, transitions + 1))
        if written is None:
            raise KubeConflict("the Lease was taken by another")
        return written

    def release(self) -> None:
        """Lets the next candidate take it at once.  Raises: KubeError."""
        lease = self.read()
        if lease.holder == self.identity:
            given_up = LeaseSpec("", 1, None, _now(), lease.transitions)
            self._api.replace(self._path, _document(Lease(lease.metadata, given_up)))

    @property
    def _path(self) -> str:
        return f"{self._collection}/{self._metadata.name}"

    def _write(self, lease: Lease, transitions: int) -> Lease | None:
        is_new = lease.holder != self.identity
        spec = LeaseSpec(
            self.identity,
            self.times.duration_s,
            _now() if is_new else lease.spec.acquire_time,
            _now(),
            transitions,
        )
        document = _document(Lease(lease.metadata, spec))
        try:
            if lease.metadata.resource_version:
                return _decode(self._api.replace(self._path, document))
            return _decode(self._api.create(self._collection, document))
        except KubeConflict:
            return None  # another candidate was faster


def _decode(body: bytes) -> Lease:
    try:
        return msgspec.json.decode(body, type=Lease)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KubeUnavailable(
            f"the API server's answer about a Lease is not readable: {error}"
        ) from None


def _document(lease: Lease) -> dict[str, object]:
    builtins: dict[str, object] = msgspec.to_builtins(lease)
    return {"apiVersion": API, "kind": "Lease", **builtins}


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime(_TIME)
