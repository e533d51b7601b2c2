"""What nodes told, for people and for programs."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from calico_k8s.controller.reconcile import Reconciler
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Put, Store
from calico_k8s.model.keys import Key, NodeKey
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName
from calico_k8s.model.resources import Node, Value
from calico_k8s.model.status import (
    EndpointStatus,
    StoredStatus,
    endpoint_status_path,
    status_path,
)
from tests.cli.program import Ran, run

GOOD, BAD, SILENT = map(NodeName, ("good", "bad", "silent"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'state.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(open_store(url)) as opened:
        yield opened


def write(store: Store, *nodes: NodeName) -> int:
    """The nodes, as the controller has them; the revision."""
    items: dict[Key, Value] = {NodeKey(node): Node(node) for node in nodes}
    return Reconciler(store).sync(items).revision or 0


def tell(store: Store, node: NodeName, revision: int, state: str = "in-sync", *errors: str) -> None:
    told = StoredStatus(node, 1, 0.0, state, revision, "nft", 3, 2, 4, time.time(), 1, errors)
    store.transact([Put(status_path(node), msgspec.json.encode(told))])


def tell_pod(store: Store, name: str, state: str, reason: str = "", node: NodeName = BAD) -> None:
    path = endpoint_status_path(EndpointId(node, NamespaceName("shop"), name))
    store.transact([Put(path, msgspec.json.encode(EndpointStatus(state, reason)))])


def status(url: str, *more: str) -> Ran:
    return run("status", "--datastore", url, *more)


def test_a_cluster_that_is_well_is_0(url: str, store: Store) -> None:
    revision = write(store, GOOD)
    tell(store, GOOD, revision)
    tell_pod(store, "web", "enforced", node=GOOD)
    ran = status(url)
    assert (ran.code, len(ran.out.splitlines())) == (0, 2)
    assert ran.out.split()[:3] == ["NODE", "STATE", "REVISION"]


def test_every_thing_that_is_wrong_is_a_sentence_with_its_node(url: str, store: Store) -> None:
    revision = write(store, BAD, SILENT)
    tell(store, BAD, revision - 1, "failing", "the lock, which another holds", "and more")
    tell_pod(store, "a", "no-interface", "no interface of this node leads to 10.1.0.2")
    tell_pod(store, "b", "enforced", "10.1.0.3 belongs to shop/c, which is newer")
    tell_pod(store, "c", "enforced")
    ran = status(url)
    assert ran.code == 1
    assert ran.out.splitlines()[3:] == [
        "bad: error: the lock, which another holds",
        "bad: error: and more",
        "bad: shop/a: no-interface: no interface of this node leads to 10.1.0.2",
        "bad: shop/b: in part: 10.1.0.3 belongs to shop/c, which is newer",
        "silent: error: no agent has told its status: is Felix running there?",
    ]
    bad, silent = status(url, "-o", "json").json
    assert (bad["behind"], silent["state"]) == (1, "silent")
    assert [each["pod"] for each in bad["not_enforced"]] == ["shop/a", "shop/b"]


def test_a_pod_that_is_not_enforced_is_1_though_its_node_is_well(url: str, store: Store) -> None:
    tell(store, BAD, write(store, BAD))
    assert status(url).code == 0
    tell_pod(store, "a", "no-port", "why")
    assert status(url).code == 1


def test_what_a_newer_version_tells_is_shown_or_passed_over(url: str, store: Store) -> None:
    tell(store, GOOD, write(store, GOOD), "better-than-ever")
    store.transact([Put("/felix/v2/host/good/newer/thing", b"?")])
    store.transact([Put("/felix/v2/host/bad/status", b"?")])
    (row,) = status(url, "-o", "json").json
    assert row["state"] == "better-than-ever"
