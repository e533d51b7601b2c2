"""What the controller counts, by Prometheus' conventions: base units, ``_total``, few labels.

In: what happened.  Out: a registry that :mod:`calico_k8s.telemetry` serves.  Nothing is decided
here.
"""

import time
from collections.abc import Mapping

import structlog

from calico_k8s.controller.wire import PATHS
from calico_k8s.errors import KubeError
from calico_k8s.model.status import ENDPOINT_STATES, NODE_STATES
from calico_k8s.telemetry import MetricSet
from calico_k8s.translate.findings import Finding, ObjectRef

PREFIX = "calico_k8s_controller"
LOG_AGAIN_S = 30.0
POLICY_STATES = ("not-accepted", "behind", "programmed")
"""The worst that is so of a policy object."""

log = structlog.get_logger()


class Metrics:
    """One controller's; its methods may be called from any thread."""

    def __init__(self) -> None:
        made = MetricSet(PREFIX)
        self.registry = made.registry
        self._objects = made.gauge("listed_objects", "Objects in the last list", "kind")
        self._absent = made.gauge(
            "kind_absent", "1 while the cluster has no definition of the kind", "kind"
        )
        self._list_s = made.histogram("list_duration_seconds", "Whole lists", "kind")
        self._events = made.tally("watch_events_total", "Events of watches", "kind")
        self._events.counts.update({(kind,): 0.0 for kind in PATHS})
        self._kube_errors = made.counter(
            "kube_errors_total", "Lists and watches that failed", "kind", "error"
        )
        self.store_errors = made.counter(
            "store_errors_total", "Writes and reads of the datastore that failed", "error"
        )
        self._logged_by_kind: dict[str, tuple[type[KubeError], float]] = {}
        self._findings = made.gauge(
            "findings", "What is wrong with users' objects now", "code", "kind", "namespace"
        )
        self._findings_by_object: dict[ObjectRef, tuple[Finding, ...]] = {}
        self.events = made.counter(
            "kube_events_total", "Kubernetes Events about findings", "result"
        )
        self.statuses = made.counter(
            "status_writes_total", "Statuses of policy objects that were to be written", "result"
        )
        self._policies = made.gauge(
            "policies", "Policy objects by what has become of them", "state"
        )
        self.latency_s = made.latency(
            "write_latency_seconds", "From a change's arrival to its transactions' end"
        )
        self.sync_s = made.histogram("sync_duration_seconds", "Comparisons of the whole datastore")
        self.put = made.tally("keys_put_total", "Keys written")
        self.deleted = made.tally("keys_deleted_total", "Keys deleted")
        self.drift = made.counter(
            "drift_repaired_total", "Keys that somebody else had changed, put right again"
        )
        self.held = made.counter(
            "mass_deletions_checked_total", "Syncs that listed Kubernetes again before deleting"
        )
        self.is_leader = made.gauge("leader", "1 while this one writes")
        self.is_in_sync = made.gauge("in_sync", "1 while the datastore has all that is known")
        self.endpoints = made.gauge("endpoints", "Workload endpoints wanted")
        self.synced_at = made.gauge(
            "last_write_timestamp_seconds", "When the datastore was last known to be complete"
        )
        self._nodes = made.gauge("nodes", "Nodes by what their Felix tells", "state")
        self._enforcement = made.gauge(
            "endpoint_states", "Workload endpoints by what their nodes tell", "state"
        )
        self.reviews = made.counter(
            "webhook_reviews_total", "Questions of the API server about objects", "result"
        )
        self.review_s = made.latency("webhook_review_seconds", "From a question to its answer")
        self.webhook_expires = made.gauge(
            "webhook_certificate_expiry_timestamp_seconds", "When the webhook's certificate ends"
        )
        self.too_large = made.gauge("too_large_keys", "Values that no datastore takes")

    # What reflectors tell.

    def on_list(self, kind: str, objects: int, duration_s: float) -> None:
        """A list has been handed on."""
        self._logged_by_kind.pop(kind, None)
        log.info("listed", kind=kind, objects=objects, duration_s=round(duration_s, 3))
        self._objects.labels(kind).set(objects)
        self._absent.labels(kind).set(0)
        self._list_s.labels(kind).observe(duration_s)

    def on_absent(self, kind: str) -> None:
        """The cluster has not got the kind."""
        self._logged_by_kind.pop(kind, None)
        log.info("not installed", kind=kind)
        self._objects.labels(kind).set(0)
        self._absent.labels(kind).set(1)

    def on_event(self, kind: str) -> None:
        """A watch said something."""
        self._events.add(1, kind)

    def on_error(self, kind: str, error: KubeError) -> None:
        """A list or watch failed; the same error of a kind is logged now and then only."""
        self._kube_errors.labels(kind, type(error).__name__).inc()
        now_s = time.monotonic()
        before, logged_s = self._logged_by_kind.get(kind, (None, 0.0))
        if before is not type(error) or now_s >= logged_s + LOG_AGAIN_S:
            self._logged_by_kind[kind] = (type(error), now_s)
            log.warning("kubernetes", kind=kind, error=str(error))

    # What the loop tells.

    def set_nodes(self, nodes: Mapping[str, int], endpoints: Mapping[str, int]) -> None:
        """How many nodes, and endpoints, are in which state."""
        for node_state in NODE_STATES:
            self._nodes.labels(node_state).set(nodes.get(node_state, 0))
        for state in ENDPOINT_STATES:
            self._enforcement.labels(state).set(endpoints.get(state, 0))

    def set_policies(self, states: Mapping[str, int]) -> None:
        """How many policy objects are in which state."""
        for state in POLICY_STATES:
            self._policies.labels(state).set(states.get(state, 0))

    def set_findings(self, ref: ObjectRef, findings: tuple[Finding, ...]) -> None:
        """All there are of one object."""
        for each in self._findings_by_object.pop(ref, ()):
            self._findings.labels(each.code, ref.kind, ref.namespace).dec()
        for each in findings:
            self._findings.labels(each.code, ref.kind, ref.namespace).inc()
        if findings:
            self._findings_by_object[ref] = findings
