"""Several controllers, one writer: killed, told to stop, stopped without a word, and deposed."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from calico_k8s.controller.fence import Writer, claim
from calico_k8s.controller.kube import connect
from calico_k8s.controller.lease import API, Elector, LeaseTimes
from calico_k8s.datastore.store import Put, Store
from calico_k8s.errors import Deposed, KubeConflict
from calico_k8s.model import keys
from tests.cluster.controllers import Candidate, Stored, wait_for
from tests.cluster.objects import KubeObjects, pod_path
from tests.cluster.servers import ApiServer

pytestmark = pytest.mark.cluster

Make = Callable[[str], Candidate]


@pytest.fixture
def candidate(
    request: pytest.FixtureRequest, kube: ApiServer, url: str, namespace: str, tmp_path: Path
) -> Iterator[Callable[[str], Candidate]]:
    """Starts a controller of a name; all are after one Lease and write one datastore."""
    started: list[Candidate] = []
    lease_s = getattr(request, "param", Candidate.LEASE_S)

    def start(name: str) -> Candidate:
        controller = Candidate(kube.kubeconfig(), url, name, namespace, tmp_path, lease_s)
        started.append(controller)
        controller.start()
        return controller

    yield start
    for controller in started:
        controller.kill()


@pytest.fixture
def stored(store: Store) -> Stored:
    return Stored(store)


def wait_for_writer(stored: Stored, controller: Candidate) -> None:
    wait_for(
        lambda: (writer := stored.writer()) and writer.identity == controller.name,
        lambda: controller.log,
    )


def two(candidate: Make, stored: Stored) -> tuple[Candidate, Candidate]:
    """A leader, and one that stands by."""
    leader = candidate("one")
    wait_for_writer(stored, leader)
    standby = candidate("two")
    wait_for(lambda: "standing by" in standby.log)
    return leader, standby


def test_one_writes_and_when_it_is_killed_the_other_does(
    candidate: Make, stored: Stored, objects: KubeObjects, namespace: str
) -> None:
    leader, standby = two(candidate, stored)
    objects.pod(namespace, "first", ["10.4.0.1"])
    wait_for(lambda: stored.endpoint(namespace, "first"))
    assert "writing from now on" not in standby.log
    leader.kill()
    objects.pod(namespace, "second", ["10.4.0.2"])
    wait_for(lambda: stored.endpoint(namespace, "second"), lambda: standby.log)
    assert stored.endpoint(namespace, "first")
    writer = stored.writer()
    assert writer is not None
    assert (writer.identity, writer.transitions) == ("two", 1)


LONG_LEASE_S = 20
"""Long after a busy machine's pauses: a Lease that ends in this time has been given up."""


@pytest.mark.parametrize("candidate", [LONG_LEASE_S], ids=["long"], indirect=True)
def test_a_leader_that_is_told_to_stop_leaves_at_once(candidate: Make, stored: Stored) -> None:
    leader, standby = two(candidate, stored)
    started_s = time.monotonic()
    leader.signal(signal.SIGTERM)
    assert leader.wait() == 0
    wait_for_writer(stored, standby)
    assert time.monotonic() - started_s < LONG_LEASE_S


def test_a_leader_that_wakes_up_deposed_writes_nothing_and_ends(
    candidate: Make, stored: Stored, store: Store, objects: KubeObjects, namespace: str
) -> None:
    leader, standby = two(candidate, stored)
    objects.pod(namespace, "web", ["10.4.1.1"])
    wait_for(lambda: stored.endpoint(namespace, "web"))
    leader.signal(signal.SIGSTOP)
    objects.change(pod_path(namespace, "web"), labels={"for": "both"})
    wait_for_writer(stored, standby)
    wait_for(lambda: f"{namespace}_for_both" in stored.tags(namespace, "web"))
    # What the deposed one would write in any case: the key of a value that is not as it knows it.
    before = store.read(keys.V1)
    leader.signal(signal.SIGCONT)
    assert leader.wait() == 3
    assert "two" in leader.log.splitlines()[-1]
    assert "so this one ends" in leader.log.splitlines()[-1]
    assert store.read(keys.V1).entries == before.entries


def test_a_leader_outlives_the_api_server_and_its_lease(
    candidate: Make, stored: Stored, kube: ApiServer, objects: KubeObjects, namespace: str
) -> None:
    leader = candidate("one")
    wait_for_writer(stored, leader)
    kube.kill()
    time.sleep(Candidate.LEASE_S + 1)
    kube.start()
    kube.wait_until_ready()
    objects.pod(namespace, "web", ["10.4.2.1"])
    wait_for(lambda: stored.endpoint(namespace, "web"), lambda: leader.log)
    leases = f"/apis/{API}/namespaces/kube-system/leases"
    objects.api.delete(f"{leases}/{namespace}")
    wait_for(lambda: namespace.encode() in objects.api.get(leases))
    objects.pod(namespace, "more", ["10.4.2.2"])
    wait_for(lambda: stored.endpoint(namespace, "more"), lambda: leader.log)


def test_a_controller_of_another_cluster_refuses_to_write(
    candidate: Make, store: Store, objects: KubeObjects
) -> None:
    store.transact([Put(keys.CLUSTER_PATH, b'{"uid":"another"}')])
    before = store.read(keys.V1)
    controller = candidate("one")
    assert controller.wait() == 3
    uid = msgspec.json.decode(objects.api.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"]
    assert controller.log.splitlines()[-1].startswith(
        "error: the datastore holds the policy of another cluster: its kube-system has the UID"
        f" another, here it is {uid}"
    )
    assert store.read(keys.V1).entries == before.entries


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def elector(kube: ApiServer, namespace: str) -> Callable[[str, Clock], Elector]:
    api = connect(str(kube.kubeconfig()))
    return lambda name, clock: Elector(api, namespace, "lease", name, LeaseTimes(10, 1), clock)


def test_a_lease_is_taken_when_it_has_not_moved_for_its_time_by_ones_own_clock(
    elector: Callable[[str, Clock], Elector],
) -> None:
    clock = Clock()
    one, two = elector("one", clock), elector("two", clock)
    first = one.attempt()
    assert first is not None
    assert (first.holder, first.transitions) == ("one", 0)
    assert two.attempt() is None
    clock.now_s = 9
    one.renew()
    clock.now_s = 11
    assert two.attempt() is None, "it has moved: its time begins again"
    clock.now_s = 20.5
    assert two.attempt() is None
    clock.now_s = 21.5
    taken = two.attempt()
    assert taken is not None
    assert (taken.holder, taken.transitions) == ("two", 1)
    assert taken.metadata.uid == first.metadata.uid
    with pytest.raises(Deposed, match="two"):
        one.renew()
    assert one.attempt() is None


def test_a_released_lease_is_taken_at_once_and_counts_as_a_transition(
    elector: Callable[[str, Clock], Elector],
) -> None:
    clock = Clock()
    one, two = elector("one", clock), elector("two", clock)
    one.attempt()
    two.release()
    assert one.read().holder == "one", "only its holder may give it up"
    one.release()
    taken = two.attempt()
    assert taken is not None
    assert (taken.holder, taken.transitions) == ("two", 1)


def test_a_datastore_that_is_ahead_of_the_lease_is_surpassed_by_its_holder_only(
    elector: Callable[[str, Clock], Elector], store: Store
) -> None:
    one, two = elector("one", Clock()), elector("two", Clock())
    lease = one.attempt()
    assert lease is not None
    claim(store, "cluster", lambda _before: Writer("old", lease.metadata.uid, 41))
    assert one.surpass(41).transitions == 42
    with pytest.raises(KubeConflict, match="held by one"):
        two.surpass(41)


def test_a_leader_counts_on_from_a_datastore_that_is_ahead_of_its_lease(
    candidate: Make, stored: Stored, kube: ApiServer, store: Store, namespace: str
) -> None:
    before = Elector(connect(str(kube.kubeconfig())), "kube-system", namespace, "old", LeaseTimes())
    lease = before.attempt()
    before.release()
    assert lease is not None
    old = Writer("old", lease.metadata.uid, 41)
    store.transact([Put(keys.LEADER_PATH, msgspec.json.encode(old))])
    wait_for_writer(stored, candidate("one"))
    writer = stored.writer()
    assert writer is not None
    assert writer.transitions == 42
