"""What nodes tell, followed over a real store: counted at once, told when it lasts."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from calico_k8s.controller.nodes import LASTING_S, NOT_ENFORCED, NodeReports
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Delete, Put, Store
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName
from calico_k8s.model.status import (
    EndpointStatus,
    StoredStatus,
    endpoint_status_path,
    status_path,
)
from calico_k8s.translate.findings import Finding, ObjectRef, Severity

NODE = NodeName("n1")
WEB = EndpointId(NODE, NamespaceName("shop"), "web")
REASON = "no interface of this node leads to 10.1.0.2"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{tmp_path}/state.db")) as opened:
        yield opened


@pytest.fixture
def reports(store: Store, clock: Clock) -> Iterator[NodeReports]:
    with closing(NodeReports(store, clock)) as made:
        made.start()
        yield made


def tell(store: Store, state: str, reason: str = "", endpoint: EndpointId = WEB) -> None:
    raw = msgspec.json.encode(EndpointStatus(state, reason))
    store.transact([Put(endpoint_status_path(endpoint), raw)])


def tell_node(store: Store, state: str) -> None:
    told = StoredStatus("n1", 1, 0.0, state, 5, "nft", 1, 1, 1, 0.0, errors=("e",))
    store.transact([Put(status_path(NODE), msgspec.json.encode(told))])


def wait(reports: NodeReports, **counts: int) -> None:
    wanted = {name.replace("_", "-"): count for name, count in counts.items()}
    give_up_s = time.monotonic() + 60
    while dict(reports.endpoints()) != wanted:
        assert time.monotonic() < give_up_s, reports.endpoints()
        time.sleep(0.005)


def test_a_pod_that_lacks_enforcement_is_told_once_it_lasts_and_when_it_is_mended(
    store: Store, reports: NodeReports, clock: Clock
) -> None:
    tell(store, "no-interface", REASON)
    wait(reports, no_interface=1)
    assert reports.news() == {}
    clock.now_s += LASTING_S - 1
    tell(store, "no-port", "still")
    wait(reports, no_port=1)
    assert reports.news() == {}
    clock.now_s += 1
    (told,) = reports.news().values()
    assert told == Finding(
        NOT_ENFORCED,
        Severity.ERROR,
        "node n1 cannot enforce this pod's policy (no-port): still",
        ObjectRef("Pod", "shop", "web"),
    )
    assert reports.news() == {}, "said once"
    tell(store, "enforced")
    wait(reports, enforced=1)
    assert reports.news() == {WEB: None}
    assert reports.news() == {}


def test_what_passes_is_not_told(store: Store, reports: NodeReports, clock: Clock) -> None:
    tell(store, "no-interface", REASON)
    wait(reports, no_interface=1)
    tell(store, "enforced")
    wait(reports, enforced=1)
    tell(store, "no-interface", REASON)
    wait(reports, no_interface=1)
    clock.now_s += LASTING_S - 1
    assert reports.news() == {}
    store.transact([Delete(endpoint_status_path(WEB))])
    wait(reports)
    clock.now_s += LASTING_S
    assert reports.news() == {}


def test_a_pod_that_is_enforced_in_part_is_told_so(
    store: Store, reports: NodeReports, clock: Clock
) -> None:
    tell(store, "enforced", "10.1.0.2 belongs to shop/new, which is newer")
    wait(reports, enforced=1)
    clock.now_s += LASTING_S
    (told,) = reports.news().values()
    assert told is not None
    assert told.message.startswith("node n1 enforces this pod's policy only in part: 10.1.0.2")


def test_nodes_are_counted_while_their_agents_tell(store: Store, reports: NodeReports) -> None:
    tell_node(store, "failing")
    tell(store, "enforced")
    store.transact([Put("/felix/v2/host/n1/newer", b"?"), Put("/felix/v2/host/n2/status", b"?")])
    wait(reports, enforced=1)
    give_up_s = time.monotonic() + 60
    while dict(reports.nodes()) != {"failing": 1}:
        assert time.monotonic() < give_up_s
    store.transact([Delete(status_path(NODE)), Delete(endpoint_status_path(WEB))])
    wait(reports)
    assert dict(reports.nodes()) == {}


def test_what_a_node_has_is_known_while_its_agent_tells_and_once_it_has_anything(
    store: Store, clock: Clock
) -> None:
    begun = StoredStatus("n2", 1, 0.0, "waiting", 0, "nft", 0, 0, 0, 0.0)
    tell_node(store, "in-sync")
    store.transact([Put(status_path(NodeName("n2")), msgspec.json.encode(begun))])
    with closing(NodeReports(store, clock)) as reports:
        assert reports.revisions() is None, "not before all of them are heard"
        reports.start()
        give_up_s = time.monotonic() + 10
        while reports.revisions() is None:
            assert time.monotonic() < give_up_s
        assert reports.revisions() == {NODE: 5}
        store.transact([Delete(status_path(NODE))])
        while reports.revisions():
            assert time.monotonic() < give_up_s
