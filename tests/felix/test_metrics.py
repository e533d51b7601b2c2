"""What Felix counts: names, units, and that each number is of what happened."""

import re
import time

import pytest
from prometheus_client import generate_latest

from calico_k8s.datastore.stamp import Stamp
from calico_k8s.datastore.syncer import SyncState
from calico_k8s.datastore.updates import Arrival
from calico_k8s.errors import LockHeld, StoreUnavailable
from calico_k8s.felix.apply import Written
from calico_k8s.felix.conntrack import CutResult
from calico_k8s.felix.ipsets import Sizes
from calico_k8s.felix.metrics import PREFIX, Metrics

UNITS = ("_seconds", "_total", "_bytes")
WITHOUT_UNIT = {
    "domain_addresses",
    "domain_names",
    "info", "enforcing", "endpoints", "cluster_endpoints", "policy_groups", "ipsets",
    "ipset_members", "problems", "datastore_in_sync", "datastore_revision_seen",
    "datastore_revision_reached",
}  # fmt: skip
"""Gauges of states and counts of things, which have none."""


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.begin("n1", "nft", lambda: None)
    return made


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"{PREFIX}_{name}", labels)


def latency(metrics: Metrics, name: str) -> float:
    """The only one that was measured."""
    assert measured(metrics, name) == 1
    total = value(metrics, f"{name}_latency_seconds_sum")
    assert total is not None
    return total


def measured(metrics: Metrics, name: str) -> float | None:
    """How many were."""
    return value(metrics, f"{name}_latency_seconds_count")


def test_names_follow_the_conventions(metrics: Metrics) -> None:
    names = re.findall(
        r"^# TYPE (\S+) (\S+)$", generate_latest(metrics.registry).decode(), re.MULTILINE
    )
    ours = {
        name.removeprefix(f"{PREFIX}_"): kind
        for name, kind in names
        if name.startswith(PREFIX) and not name.endswith("_created")
    }
    assert len(ours) > 20
    for name, kind in ours.items():
        assert name in WITHOUT_UNIT or name.endswith(UNITS)
        assert (kind == "counter") == name.endswith("_total")


def is_time_from(moment_s: float, begun_s: float, measured_s: float | None) -> bool:
    """Whether what was measured began then, and ended after the test had begun and before now."""
    assert measured_s is not None
    return begun_s - moment_s <= measured_s <= time.monotonic() - moment_s


def test_a_change_is_measured_from_each_of_its_moments(metrics: Metrics) -> None:
    now, now_s = time.time(), time.monotonic()
    changed = now - 3.0
    stamp = Stamp(written=now - 2.5, changed=changed)
    metrics.on_changes(Arrival(now_s - 0.5, now - 0.5, stamp), 7)
    assert is_time_from(now_s - 0.5, now_s, value(metrics, "oldest_change_seconds"))
    metrics.on_calculated()
    metrics.on_applied(Written(lines=2, members=3), 0.004, 7)
    assert latency(metrics, "delivery") == pytest.approx(2.0)
    assert is_time_from(now_s - 0.5, now_s, latency(metrics, "apply"))
    assert is_time_from(now_s - 0.5, now_s, latency(metrics, "calculation"))
    parts = latency(metrics, "calculation") + latency(metrics, "kernel")
    assert parts == pytest.approx(latency(metrics, "apply"))
    assert now - changed <= latency(metrics, "end_to_end") <= time.time() - changed
    assert value(metrics, "oldest_change_seconds") == 0
    assert value(metrics, "datastore_revision_reached") == 7
    assert value(metrics, "rule_lines_written_total") == 2
    assert value(metrics, "ipset_entries_written_total") == 3
    metrics.on_applied(Written(), 0.001, 7)
    assert measured(metrics, "apply") == 1, "nothing was waiting"
    assert value(metrics, "apply_duration_seconds_count") == 1, "nothing was written"


def test_what_fails_waits_on_from_its_first_arrival(metrics: Metrics) -> None:
    now_s = time.monotonic()
    metrics.on_changes(Arrival(now_s - 2.0, time.time()), 7)
    metrics.on_calculated()
    time.sleep(0.02)
    metrics.on_failed(LockHeld("held"))
    assert value(metrics, "enforcing") == 0
    assert value(metrics, "kernel_faults_total", kind="lock-held") == 1
    metrics.on_changes(Arrival(now_s, time.time()), 8)
    metrics.on_calculated()
    assert is_time_from(now_s - 2.0, now_s, value(metrics, "oldest_change_seconds"))
    metrics.on_applied(Written(lines=1), 0.001, 8)
    assert is_time_from(now_s - 2.0, now_s, latency(metrics, "apply"))
    assert is_time_from(now_s - 2.0, now_s, latency(metrics, "calculation"))
    assert latency(metrics, "kernel") >= 0.02, "a failure is the kernel's time, tried again or not"
    assert measured(metrics, "delivery") == 0, "without a stamp nobody knows"
    assert (value(metrics, "enforcing"), value(metrics, "apply_errors_total")) == (1, 1)


def test_a_clock_that_is_behind_is_counted_and_shortens_nothing(metrics: Metrics) -> None:
    now = time.time()
    metrics.on_changes(Arrival(time.monotonic(), now, Stamp(now + 60, now + 60)), 7)
    metrics.on_applied(Written(), 0.001, 7)
    assert latency(metrics, "delivery") == 0
    assert latency(metrics, "end_to_end") == 0
    assert value(metrics, "clock_behind_total") == 1


def test_the_start_is_no_change(metrics: Metrics) -> None:
    metrics.on_changes(Arrival(time.monotonic() - 60, time.time()), 7)
    metrics.on_calculated()
    metrics.on_begun(61.0)
    metrics.on_applied(Written(lines=1), 0.1, 7)
    assert [measured(metrics, name) for name in ("apply", "calculation", "kernel")] == [0, 0, 0]
    assert value(metrics, "start_duration_seconds") == 61


def test_a_change_that_nobody_takes_is_seen_to_wait() -> None:
    made = Metrics()
    since_s = time.monotonic() - 9
    made.begin("n1", "nft", lambda: since_s)
    assert value(made, "oldest_change_seconds") == pytest.approx(9, abs=0.3)


def test_states_and_sizes_are_of_now(metrics: Metrics) -> None:
    nothing = dict.fromkeys(("kernel", "network", "stored", "settings", "rendering"), 0)
    metrics.on_status(["enforced", "enforced", "no-port"], {**nothing, "stored": 2})  # type: ignore[dict-item]
    metrics.on_status(["enforced", "no-interface"], {**nothing, "kernel": 1})  # type: ignore[dict-item]
    metrics.on_sizes(3, Sizes(ipsets=4, members=50), 1000)
    states = {s: value(metrics, "endpoints", state=s) for s in ("enforced", "no-port")}
    assert states == {"enforced": 1, "no-port": 0}
    kinds = {kind: value(metrics, "problems", kind=kind) for kind in ("stored", "kernel")}
    assert kinds == {"stored": 0, "kernel": 1}
    assert [value(metrics, n) for n in ("policy_groups", "ipsets", "ipset_members")] == [3, 4, 50]
    assert value(metrics, "cluster_endpoints") == 1000


def test_the_datastore_and_the_kernel_are_counted(metrics: Metrics) -> None:
    for state in (SyncState.RESYNC, SyncState.IN_SYNC, SyncState.WAIT):
        metrics.on_store(state)
    metrics.on_store_error(StoreUnavailable("away"))
    metrics.on_drift("ipsets", 3)
    metrics.on_judged(CutResult(judged=9, cut=2, restored=1))
    assert value(metrics, "datastore_in_sync") == 0
    assert value(metrics, "datastore_resyncs_total") == 1
    assert value(metrics, "datastore_errors_total", error="StoreUnavailable") == 1
    assert value(metrics, "drift_repaired_total", kind="ipsets") == 3
    flows = [value(metrics, f"flows_{n}_total") for n in ("judged", "cut", "restored")]
    assert flows == [9, 2, 1]
