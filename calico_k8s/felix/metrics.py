"""What Felix counts, by Prometheus' conventions: base units, ``_total``, few labels.

In: what happened.  Out: a registry that :mod:`calico_k8s.telemetry` serves.  Nothing is decided
here.  A change's way is measured between its moments::

    reaches the controller ─► written ─► arrives here ─► calculated ─► in the kernel
    └─────────────────────────── end_to_end_latency_seconds ───────────────────────┘
                              └ delivery ┘└─ calculation ─┘└─── kernel ────────────┘
                                          └──────────── apply_latency ─────────────┘

The last three are of one clock.  The other two compare the controller's clock, whose times come with
each write (:mod:`calico_k8s.datastore.stamp`), with this node's: they are as true as the two agree,
and what a difference makes impossible is counted and taken for nothing.  Batches are measured, each
by its oldest change; the first snapshot is no change and is not.
"""

import time
from collections import Counter as Count
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Literal, get_args

from prometheus_client import Counter, Gauge

from calico_k8s.datastore.syncer import SyncState
from calico_k8s.datastore.updates import Arrival
from calico_k8s.errors import KernelError, LockHeld, StoreError
from calico_k8s.felix.apply import Written
from calico_k8s.felix.conntrack import CutResult
from calico_k8s.felix.ipsets import Sizes
from calico_k8s.felix.names.listener import Counts
from calico_k8s.model.resources import Direction
from calico_k8s.model.status import ENDPOINT_STATES
from calico_k8s.telemetry import MetricSet

PREFIX = "calico_k8s_felix"

ProblemKind = Literal["kernel", "network", "stored", "settings", "rendering"]
DriftKind = Literal["tables", "ipsets", "bridges"]
FaultKind = Literal["ipset-full", "events-lost", "lock-held"]
"""A set at its limit, made larger; events of the network that found no room, so it is read anew; a
write that another program's xtables lock kept waiting for longer than ``--lock-timeout``."""


class Metrics:
    """One agent's; cost of each call: 0.3 us for each value that it sets."""

    def __init__(self) -> None:
        made = MetricSet(PREFIX)
        self.registry = made.registry
        self._waiting: Arrival | None = None
        """The oldest change that is taken and not in the kernel."""
        self._calculated_s: float | None = None
        """When it was known what that means for this node, of the monotonic clock."""
        self._info = made.gauge("info", "1, and what this is", "version", "backend", "node")
        self._end_to_end_s = made.latency(
            "end_to_end_latency_seconds",
            "From a change's arrival at the controller to its being in the kernel; two clocks",
        )
        self._delivery_s = made.latency(
            "delivery_latency_seconds", "From a change's writing to its arrival here; two clocks"
        )
        self._apply_latency_s = made.latency(
            "apply_latency_seconds", "From a change's arrival here to its being in the kernel"
        )
        self._calculation_s = made.latency(
            "calculation_latency_seconds",
            "From a change's arrival here to its meaning for this node; a part of apply_latency",
        )
        self._kernel_s = made.latency(
            "kernel_latency_seconds",
            "From a change's meaning to its being in the kernel; the rest of apply_latency",
        )
        self._clock_behind = made.counter(
            "clock_behind_total", "Changes that arrived before they were written: clocks differ"
        )
        self._waits_s = made.gauge(
            "oldest_change_seconds", "How long the oldest change not in the kernel has waited"
        )
        self._start_s = made.gauge(
            "start_duration_seconds", "From the agent's start to the kernel's first being right"
        )
        self._set_up_kernel(made)
        self._set_up_store(made)
        self._set_up_sizes(made)
        self._set_up_names(made)

    def _set_up_kernel(self, made: MetricSet) -> None:
        self._apply_s = made.latency("apply_duration_seconds", "Batches that wrote the kernel")
        self._rules = made.counter("rule_lines_written_total", "Lines of iptables-restore written")
        self._members = made.counter("ipset_entries_written_total", "Ipset entries written")
        self._apply_errors = made.counter("apply_errors_total", "Kernel writes that failed")
        faults = made.counter(
            "kernel_faults_total",
            "What the kernel refused or lost, each made good or tried again",
            "kind",
        )
        self._faults: dict[FaultKind, Counter] = {
            kind: faults.labels(kind) for kind in get_args(FaultKind)
        }
        drift = made.counter(
            "drift_repaired_total", "What another program had changed, put right again", "kind"
        )
        self._drift: dict[DriftKind, Counter] = {
            kind: drift.labels(kind) for kind in get_args(DriftKind)
        }
        denied = made.counter(
            "denied_packets_total", "Packets that policy denied, where `denials` is on", "direction"
        )
        self._denied = {each: denied.labels(each.value) for each in Direction}
        self._judged = made.counter("flows_judged_total", "Live flows judged after changes")
        self._cut = made.counter("flows_cut_total", "Live flows ended: a change denies them")
        self._restored = made.counter("flows_restored_total", "Cut flows that may live again")
        self._is_enforcing = made.gauge("enforcing", "1 while the kernel is as the datastore said")

    def _set_up_store(self, made: MetricSet) -> None:
        self._is_store_in_sync = made.gauge("datastore_in_sync", "1 while changes arrive")
        self._resyncs = made.counter("datastore_resyncs_total", "Whole readings of the datastore")
        self._store_errors = made.counter(
            "datastore_errors_total", "Failures of the datastore", "error"
        )
        self._seen = made.gauge("datastore_revision_seen", "Newest revision with a change for us")
        self._reached = made.gauge("datastore_revision_reached", "Revision that the kernel has")

    def _set_up_sizes(self, made: MetricSet) -> None:
        endpoints = made.gauge("endpoints", "This node's workload endpoints", "state")
        self._endpoints = {state: endpoints.labels(state) for state in ENDPOINT_STATES}
        self._cluster_endpoints = made.gauge("cluster_endpoints", "All workload endpoints")
        self._groups = made.gauge("policy_groups", "Policy groups of this node's endpoints")
        self._ipsets = made.gauge("ipsets", "Ipsets desired")
        self._ipset_members = made.gauge("ipset_members", "Entries of all ipsets desired")
        problems = made.gauge("problems", "What is wrong now, as status tells it", "kind")
        self._problems: dict[ProblemKind, Gauge] = {
            kind: problems.labels(kind) for kind in get_args(ProblemKind)
        }

    def _set_up_names(self, made: MetricSet) -> None:
        self._names = made.gauge("domain_names", "Names of domains with what was learnt of them")
        self._addresses = made.gauge("domain_addresses", "Addresses of names that have not lapsed")
        answers = made.counter("dns_answers_total", "Trusted DNS answers to pods", "outcome")
        self._answers = {outcome: answers.labels(outcome) for outcome in Counts._fields}
        self._told_answers = Counts(0, 0, 0)
        self._answer_held_s = made.latency(
            "dns_answer_held_seconds", "How long answers waited for the sets to be written"
        )

    def begin(
        self, node: str, backend: str, queue_waits_since_s: Callable[[], float | None]
    ) -> None:
        """Whose these are; and how to ask since when a change waits that nobody has taken."""
        self._info.labels(version("calico_k8s"), backend, node).set(1)

        def waits_s() -> float:
            waiting = self._waiting
            since_s = waiting.moment_s if waiting is not None else queue_waits_since_s()
            return 0.0 if since_s is None else max(0.0, time.monotonic() - since_s)

        self._waits_s.set_function(waits_s)

    # What the syncer's thread tells.

    def on_store(self, state: SyncState) -> None:
        """The datastore's state is another one."""
        self._is_store_in_sync.set(state is SyncState.IN_SYNC)
        if state is SyncState.RESYNC:
            self._resyncs.inc()

    def on_store_error(self, error: StoreError) -> None:
        """The datastore failed."""
        self._store_errors.labels(type(error).__name__).inc()

    # What the loop tells.

    def on_changes(self, first: Arrival | None, revision: int) -> None:
        """Changes were taken from the queue."""
        self._seen.set(revision)
        self._waiting = self._waiting or first

    def on_calculated(self) -> None:
        """What was taken is calculated: what follows is the kernel's time, however often it fails."""
        if self._waiting is not None and self._calculated_s is None:
            self._calculated_s = time.monotonic()

    def on_applied(self, written: Written, duration_s: float, revision: int) -> None:
        """The kernel is as was desired."""
        self._is_enforcing.set(1)
        self._reached.set(revision)
        if any(written):
            self._apply_s.observe(duration_s)
            self._rules.inc(written.lines)
            self._members.inc(written.members)
        waiting, self._waiting = self._waiting, None
        calculated_s, self._calculated_s = self._calculated_s, None
        if waiting is None:
            return
        now_s = time.monotonic()
        self._apply_latency_s.observe(now_s - waiting.moment_s)
        if calculated_s is not None:
            self._calculation_s.observe(calculated_s - waiting.moment_s)
            self._kernel_s.observe(now_s - calculated_s)
        if (stamp := waiting.stamp) is None:
            return
        delivery_s = waiting.at - stamp.written
        if delivery_s < 0:
            self._clock_behind.inc()
        self._delivery_s.observe(max(0.0, delivery_s))
        if stamp.changed is not None:
            self._end_to_end_s.observe(max(0.0, time.time() - stamp.changed))

    def on_begun(self, duration_s: float) -> None:
        """The kernel was as desired for the first time; what waited was no change, but the start."""
        self._start_s.set(duration_s)
        self._waiting = self._calculated_s = None

    def on_failed(self, error: KernelError) -> None:
        """A kernel write failed."""
        self._is_enforcing.set(0)
        self._apply_errors.inc()
        if isinstance(error, LockHeld):
            self.on_fault("lock-held")

    def on_fault(self, kind: FaultKind) -> None:
        """Something was refused or lost that need not be told of otherwise."""
        self._faults[kind].inc()

    def on_drift(self, kind: DriftKind, count: int) -> None:
        """Something was mended."""
        self._drift[kind].inc(count)

    def on_denied(self, direction: Direction, packets: int) -> None:
        """Packets were denied, by policy of the receiver's or the sender's."""
        self._denied[direction].inc(packets)

    def on_judged(self, result: CutResult) -> None:
        """Live flows were judged."""
        self._judged.inc(result.judged)
        self._cut.inc(result.cut)
        self._restored.inc(result.restored)

    def on_status(self, states: Iterable[str], problems: Mapping[ProblemKind, int]) -> None:
        """How the node's endpoints are, and how much is wrong.  Cost: O(endpoints)."""
        count_by_state = Count(states)
        for state, gauge in self._endpoints.items():
            gauge.set(count_by_state[state])
        for kind, gauge in self._problems.items():
            gauge.set(problems[kind])

    def on_answer_held(self, held_s: float) -> None:
        """An answer waited until what was learnt from it was in the kernel."""
        self._answer_held_s.observe(held_s)

    def on_names(self, sizes: tuple[int, int], counts: Counts) -> None:
        """How much is known of names, and what has become of answers since the start."""
        names, addresses = sizes
        self._names.set(names)
        self._addresses.set(addresses)
        for outcome, now, before in zip(Counts._fields, counts, self._told_answers, strict=True):
            self._answers[outcome].inc(now - before)
        self._told_answers = counts

    def on_sizes(self, groups: int, sizes: Sizes, cluster_endpoints: int) -> None:
        """How much there is."""
        self._groups.set(groups)
        self._ipsets.set(sizes.ipsets)
        self._ipset_members.set(sizes.members)
        self._cluster_endpoints.set(cluster_endpoints)
