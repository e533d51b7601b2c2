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
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import EndpointKey, Key, NodeKey, PolicyKey
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, PolicyId, SelectorText
from calico_k8s.model.resources import Node, Policy, Value, WorkloadEndpoint
from calico_k8s.model.status import (
    POLICIES_PATH,
    WEBHOOK_PATH,
    EndpointStatus,
    PolicySummary,
    StoredStatus,
    TroubledPolicy,
    WebhookStatus,
    endpoint_status_path,
    status_path,
)
from calico_k8s.translate.reading import BOTH
from calico_k8s.translate.tiers import DEFAULT_TIER
from tests.cli.program import Ran, run

ADDRESSES = {"good": "10.1.0.1", "bad": "10.1.0.2"}
ALL = SelectorText("all()")
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


def tell_policies(store: Store, *troubled: TroubledPolicy, more: int = 0) -> None:
    summary = PolicySummary(len(troubled), troubled, more)
    store.transact([Put(POLICIES_PATH, msgspec.json.encode(summary))])


def write_policies(store: Store, *names: str) -> int:
    """Policies without rules, and a pod on each of two nodes; the revision."""
    items: dict[Key, Value] = {NodeKey(node): Node(node) for node in (GOOD, BAD)}
    for name in names:
        own = PolicyId("NetworkPolicy", "shop", name)
        items[PolicyKey(DEFAULT_TIER, own)] = Policy(own, DEFAULT_TIER, ALL, BOTH)
    for node in (GOOD, BAD):
        endpoint = EndpointId(node, NamespaceName("shop"), f"on-{node}")
        items[EndpointKey(endpoint)] = WorkloadEndpoint(endpoint, (Address(ADDRESSES[node]),))
    return Reconciler(store).sync(items).revision or 0


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


def test_policies_in_force_are_one_line(url: str, store: Store) -> None:
    revision = write_policies(store, "a", "b")
    for node in (GOOD, BAD):
        tell(store, node, revision)
    tell_policies(store)
    ran = status(url)
    assert (ran.code, ran.out.splitlines()[3:]) == (0, ["policies: 2, all in force"])


def test_a_policy_that_a_node_has_not_got_is_told_with_the_node(url: str, store: Store) -> None:
    revision = write_policies(store, "a")
    tell(store, GOOD, revision)
    tell(store, BAD, revision - 1)
    ran = status(url)
    assert ran.code == 1
    assert ran.out.splitlines()[3:] == [
        "policies: 1, 1 not on all nodes",
        "NetworkPolicy/shop/a: on 1 of 2 nodes, not on bad",
    ]
    (row,) = status(url, "--policies", "-o", "json").json
    assert (row["nodes"], row["of"], row["behind"]) == (1, 2, ["bad"])


def test_a_policy_that_is_not_accepted_is_told_whether_it_is_stored_or_not(
    url: str, store: Store
) -> None:
    revision = write_policies(store, "a", "b")
    for node in (GOOD, BAD):
        tell(store, node, revision)
    lost = TroubledPolicy(
        "NetworkPolicy", "shop", "a", "TierUnknown", "no tier", False, False, False
    )
    host = TroubledPolicy("GlobalNetworkPolicy", "", "c", "PolicyHostOnly", "hosts", False)
    tell_policies(store, lost, host, more=3)
    ran = status(url)
    assert ran.code == 1
    assert ran.out.splitlines()[3:] == [
        "policies: 6, 5 not accepted, 1 naming what is not there, 2 not on all nodes",
        "GlobalNetworkPolicy/c: hosts",
        "NetworkPolicy/shop/a: no tier",
        "... and 3 more: status --policies",
    ]
    assert status(url, "--policies").code == 1


def test_what_a_policy_names_and_is_not_there_is_told_and_no_failure(
    url: str, store: Store
) -> None:
    revision = write_policies(store, "a")
    for node in (GOOD, BAD):
        tell(store, node, revision)
    tell_policies(
        store, TroubledPolicy("NetworkPolicy", "shop", "a", "PortUnknown", "no port", True, False)
    )
    ran = status(url)
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "NetworkPolicy/shop/a: no port")


def test_of_many_policies_the_first_are_told_and_how_many_there_are(url: str, store: Store) -> None:
    revision = write_policies(store, *(f"p{number:03}" for number in range(30)))
    tell(store, GOOD, revision)
    assert status(url).out.splitlines()[-1] == "... and 10 more: status --policies"
    assert len(status(url, "--policies").out.splitlines()) == 31


# the webhook


def tell_webhook(store: Store, lasts_s: float, problem: str = "") -> None:
    expires = time.time() + lasts_s if lasts_s else 0.0
    store.transact([Put(WEBHOOK_PATH, msgspec.json.encode(WebhookStatus(expires, problem)))])


@pytest.mark.parametrize(
    ("lasts_s", "problem", "code", "words"),
    [
        (86400.0, "", 0, "webhook: its certificate holds until 20"),
        (-60.0, "", 1, "webhook: the webhook's certificate has expired, 20"),
        (-60.0, "of then", 1, "UTC: the API server asks in vain, and lets in what it would refuse"),
        (0.0, "the webhook has no certificate yet", 1, "webhook: the webhook has no certificate"),
    ],
)
def test_the_webhooks_certificate_is_told_and_one_that_has_ended_is_no_success(
    store: Store, url: str, lasts_s: float, problem: str, code: int, words: str
) -> None:
    tell(store, GOOD, write(store, GOOD))
    assert "webhook" not in status(url).out
    tell_webhook(store, lasts_s, problem)
    asked = status(url)
    assert asked.code == code
    assert words in asked.out.splitlines()[-1]
    assert status(url, "-o", "json").code == code
