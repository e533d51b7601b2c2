"""Statuses at a real API server, by one writer in this process: how often, and what of others'."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from calico_k8s.controller import statuses
from calico_k8s.controller.kube import KubeApi, connect
from calico_k8s.controller.shown import Shown, read_shown
from calico_k8s.controller.statuses import PolicyStatuses, Told
from calico_k8s.controller.summary import SummaryKeeper
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Revision, Store
from calico_k8s.errors import KubeUnavailable
from calico_k8s.model.names import NodeName
from calico_k8s.model.status import POLICIES_PATH, PolicySummary
from calico_k8s.translate.findings import Code, ObjectRef, make_finding
from calico_k8s.translate.policy_book import Standing
from tests.cluster.controllers import wait_for
from tests.cluster.definitions import define_calicos
from tests.cluster.objects import Document, KubeObjects
from tests.cluster.servers import api_server

pytestmark = pytest.mark.cluster

TIERS = "/apis/projectcalico.org/v3/tiers"
NODES = frozenset(NodeName(f"n{number:04}") for number in range(1000))


class Nodes:
    """1,000 nodes, of which each has what it is said to have."""

    def __init__(self, revision: int) -> None:
        self.told = dict.fromkeys(NODES, Revision(revision))

    def revisions(self) -> Mapping[NodeName, Revision]:
        return self.told.copy()


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeObjects]:
    """A server of this module alone: no controller follows it."""
    with api_server(tmp_path_factory.mktemp("kube")) as server:
        define_calicos(server)
        with closing(connect(str(server.kubeconfig()))) as api:
            yield KubeObjects(api)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite://{tmp_path / 'state.db'}")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "TICK_S", 0.02)


@contextmanager
def writing(
    objects: KubeObjects, store: Store, nodes: Nodes
) -> Iterator[tuple[PolicyStatuses, Counter[str]]]:
    """A term of a writer, and how its writes went."""
    results: Counter[str] = Counter()
    summary = SummaryKeeper(store, lambda: ())
    writer = PolicyStatuses(
        objects.api, nodes, summary, lambda result: results.update([result]), lambda _states: None
    )
    writer.tell_nodes(NODES)
    writer.start()
    try:
        yield writer, results
    finally:
        writer.close()


@pytest.fixture
def tier(objects: KubeObjects, request: pytest.FixtureRequest) -> Iterator[ObjectRef]:
    """A tier of this test's own."""
    name = f"t{abs(hash(request.node.name))}"
    objects.api.create(TIERS, {**TIER, "metadata": {"name": name}})
    yield ObjectRef("Tier", "", name)
    objects.api.delete(f"{TIERS}/{name}")


TIER: Document = {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "spec": {}}


def read(objects: KubeObjects, ref: ObjectRef) -> Document:
    found: Document = msgspec.json.decode(objects.api.get(f"{TIERS}/{ref.name}"))
    return found


def shown(objects: KubeObjects, ref: ObjectRef) -> dict[str, Document]:
    status = read(objects, ref).get("status", {})
    return {each["type"]: each for each in status.get("conditions", ())}


def told(objects: KubeObjects, ref: ObjectRef, revision: int | None, *codes: Code) -> Told:
    metadata = read(objects, ref)["metadata"]
    findings = tuple(make_finding(code, f"about {code}", ref) for code in codes)
    standing = Standing(metadata["uid"], metadata["generation"], frozenset(), findings)
    return Told(standing, None if revision is None else Revision(revision))


def says(objects: KubeObjects, ref: ObjectRef, message: str) -> Callable[[], bool]:
    return lambda: shown(objects, ref).get("Programmed", {}).get("message") == message


def test_a_thousand_nodes_that_come_one_by_one_are_a_few_writes(
    objects: KubeObjects, store: Store, tier: ObjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses, "HOLD_S", 0.3)
    monkeypatch.setattr(statuses, "EVERY_S", 0.3)
    nodes = Nodes(4)
    started_s = time.monotonic()
    with writing(objects, store, nodes) as (writer, results):
        writer.tell({tier: told(objects, tier, 5)})
        for place, node in enumerate(sorted(NODES)):
            nodes.told[node] = Revision(5)
            if place % 10 == 0:
                time.sleep(0.006)
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))
        wait_for(lambda: results["written"])
        most = 1 + (time.monotonic() - started_s) / 0.3
        assert results["written"] <= most
        assert set(results) == {"written"}


def test_a_new_writer_writes_nothing_that_is_so_already_and_mends_what_is_not(
    objects: KubeObjects, store: Store, tier: ObjectRef
) -> None:
    nodes = Nodes(5)
    with writing(objects, store, nodes) as (writer, _results):
        writer.tell({tier: told(objects, tier, 5)})
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))
    before = read(objects, tier)
    other = {"type": "Ready", "status": "True"}
    spoilt = [{**each, "message": "nonsense"} for each in before["status"]["conditions"]]
    with writing(objects, store, nodes) as (writer, results):
        writer.tell({tier: told(objects, tier, 5)})
        wait_for(lambda: writer.rounds >= 3)
    assert not results
    assert (
        read(objects, tier)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    )
    objects.api.merge(f"{TIERS}/{tier.name}/status", {"status": {"conditions": [*spoilt, other]}})
    with writing(objects, store, nodes) as (writer, results):
        writer.tell({tier: told(objects, tier, 5)})
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))
        wait_for(lambda: results == {"written": 1})
    after = shown(objects, tier)
    assert after.pop("Ready") == other, "another's condition stays"
    assert list(after.values()) == before["status"]["conditions"], "times too"


def test_what_others_do_to_a_status_is_mended_while_a_writer_lives(
    objects: KubeObjects, store: Store, tier: ObjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses, "READ_AGAIN_S", 0.1)
    monkeypatch.setattr(statuses, "EVERY_S", 0.1)
    with writing(objects, store, Nodes(5)) as (writer, _results):
        writer.tell({tier: told(objects, tier, 5)})
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))
        objects.api.merge(f"{TIERS}/{tier.name}/status", {"status": {"conditions": []}})
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))


def test_an_object_made_anew_and_one_that_is_gone_stop_nobody(
    objects: KubeObjects, store: Store, tier: ObjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses, "HOLD_S", 0.0)
    gone = ObjectRef("Tier", "", "gone")
    with writing(objects, store, Nodes(5)) as (writer, results):
        writer.tell({gone: told(objects, tier, 5), tier: told(objects, tier, 5)})
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))
        wait_for(lambda: results["refused"])
        objects.api.delete(f"{TIERS}/{tier.name}")
        objects.api.create(TIERS, {**TIER, "metadata": {"name": tier.name}})
        writer.tell({tier: told(objects, tier, 6, Code.POLICY_INVALID)})
        behind = ", ".join(sorted(NODES)[:5])
        wait_for(says(objects, tier, f"on 0 of 1000 nodes, not on {behind} and 995 more"))
        assert shown(objects, tier)["Accepted"]["reason"] == "PolicyInvalid"


def test_an_agent_replaced_beside_the_writer_flips_no_status(
    objects: KubeObjects, store: Store, tier: ObjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses, "EVERY_S", 0.1)
    nodes = Nodes(5)
    with writing(objects, store, nodes) as (writer, _results):
        writer.tell({tier: told(objects, tier, 5)})
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))
    replaced = min(NODES)
    del nodes.told[replaced]
    with writing(objects, store, nodes) as (writer, results):
        writer.tell({tier: told(objects, tier, 5)})
        wait_for(lambda: writer.rounds >= 3)
        nodes.told[replaced] = Revision(5)
        wait_for(lambda: writer.rounds >= 6)
    assert not results
    monkeypatch.setattr(statuses, "GRACE_S", 0.0)
    del nodes.told[replaced]
    with writing(objects, store, nodes) as (writer, _results):
        writer.tell({tier: told(objects, tier, 5)})
        wait_for(says(objects, tier, f"on 999 of 1000 nodes, not on {replaced}"))


def test_a_kind_whose_definition_has_no_status_is_left_alone(
    objects: KubeObjects, store: Store, tier: ObjectRef
) -> None:
    gone = [ObjectRef("Tier", "", f"gone{number:02}") for number in range(20)]
    one = told(objects, tier, 5)
    with writing(objects, store, Nodes(5)) as (writer, results):
        writer.tell(dict.fromkeys(gone, one))
        wait_for(lambda: results["refused"] == statuses.REFUSALS_MAX)
        rounds = writer.rounds
        wait_for(lambda: writer.rounds >= rounds + 3)
    assert results == {"refused": statuses.REFUSALS_MAX}


def test_an_api_server_that_is_away_is_asked_now_and_then(
    objects: KubeObjects, store: Store, tier: ObjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statuses, "RETRY_S", 0.3)
    away = threading.Event()
    away.set()
    asked: list[float] = []

    def read_or_not(api: KubeApi, kind: str) -> Mapping[ObjectRef, Shown]:
        asked.append(time.monotonic())
        if away.is_set():
            raise KubeUnavailable("away")
        return read_shown(api, kind)

    monkeypatch.setattr(statuses, "read_shown", read_or_not)
    others = [ObjectRef("Tier", "", f"other{number}") for number in range(30)]
    one = told(objects, tier, 5)
    with writing(objects, store, Nodes(5)) as (writer, results):
        writer.tell({tier: one, **dict.fromkeys(others, one)})
        wait_for(lambda: results["delayed"] >= 3)
        assert asked[2] - asked[0] >= 2 * 0.3 - 0.05, "not for each of them"
        writer.tell(dict.fromkeys(others))
        away.clear()
        wait_for(says(objects, tier, "on 1000 of 1000 nodes"))


def test_the_summary_names_what_is_in_trouble_and_forgets_what_is_gone(
    objects: KubeObjects, store: Store, tier: ObjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico_k8s.controller.summary.EVERY_S", 0.05)

    def summary() -> PolicySummary | None:
        entry = store.get(POLICIES_PATH)
        return None if entry is None else msgspec.json.decode(entry.value, type=PolicySummary)

    policy = ObjectRef("NetworkPolicy", "shop", "web")
    good, bad = told(objects, tier, 5), told(objects, tier, 5, Code.POLICY_SERVICE_UNKNOWN)
    with writing(objects, store, Nodes(5)) as (writer, _results):
        writer.tell({tier: good, policy: bad})
        wait_for(lambda: (found := summary()) is not None and found.objects == 2)
        found = summary()
        assert found is not None
        (troubled,) = found.troubled
        assert (troubled.kind, troubled.name, troubled.reason) == (
            "NetworkPolicy",
            "web",
            "PolicyServiceUnknown",
        )
        assert (troubled.is_accepted, troubled.is_resolved) == (True, False)
        writer.tell({policy: None})
        wait_for(lambda: summary() == PolicySummary(1))
