"""etcd's users and roles, on a real etcd over mutual TLS, and our clients under them."""

import datetime as dt
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from calico_k8s.datastore.etcd.rights import EtcdRights, Grant
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import EtcdLocation, parse_url
from calico_k8s.datastore.store import Put, Store
from calico_k8s.datastore.syncer import Syncer
from calico_k8s.errors import StoreForbidden, StoreUnavailable
from tests.datastore.followers import Follower, Recorder, wait_until
from tests.etcd.certificates import Authority
from tests.etcd.servers import EtcdCluster, etcd_cluster

pytestmark = pytest.mark.etcd

Users = dict[str, tuple[Grant, ...]]
READER: Users = {"reader": (Grant("/v1/"),)}
WRITER: Users = {"writer": (Grant("/v1/", can_write=True), Grant("/felix/v2/"))}
OWN = "/felix/v2/host/one/"
NODE: Users = {"node-one": (Grant("/v1/"), Grant(OWN, can_write=True))}


def is_ours(name: str) -> bool:
    return not name.startswith("guest")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def cluster(tmp_path: Path, authority: Authority) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path / "etcd", authority=authority) as running:
        yield running


@pytest.fixture
def rights(cluster: EtcdCluster, authority: Authority) -> Iterator[EtcdRights]:
    with closing(EtcdRights(location(cluster), authority.issue("root"))) as opened:
        yield opened


def location(cluster: EtcdCluster) -> EtcdLocation:
    found = parse_url(cluster.url())
    assert isinstance(found, EtcdLocation)
    return found


@pytest.fixture
def stores(cluster: EtcdCluster, authority: Authority) -> Iterator["Stores"]:
    with ExitStack() as stack:
        yield Stores(cluster, authority, stack)


class Stores:
    """The datastore as somebody."""

    def __init__(self, cluster: EtcdCluster, authority: Authority, stack: ExitStack) -> None:
        self._cluster, self._authority, self._stack = cluster, authority, stack

    def __call__(self, user: str) -> Store:
        store = open_store(self._cluster.url(), self._authority.issue(user))
        return self._stack.enter_context(closing(store))


def test_users_may_do_what_they_are_granted_and_nothing_else(
    rights: EtcdRights, stores: Stores
) -> None:
    assert not rights.state().is_enforced
    rights.bring_to(WRITER | NODE, is_ours)
    rights.enforce()
    rights.enforce()
    assert rights.state().is_enforced
    writer, node = stores("writer"), stores("node-one")
    writer.transact([Put("/v1/a", b"1")])
    node.transact([Put(f"{OWN}status", b"1")])
    assert node.read("/v1/").entries[0].value == b"1"
    assert writer.read("/felix/v2/").entries[0].key == f"{OWN}status"
    for store, key in (
        (node, "/v1/a"),
        (node, "/felix/v2/host/two/status"),
        (node, "/felix/v2/host/one"),
        (node, "/felix/v2/host/one2/status"),
        (writer, f"{OWN}status"),
        (stores("stranger"), "/v1/a"),
    ):
        with pytest.raises(StoreForbidden):
            store.transact([Put(key, b"2")])
    for store, prefix in (
        (node, "/"),
        (node, "/felix/v2/"),
        (node, "/felix/v2/host/two/"),
        (writer, "/"),
        (stores("stranger"), "/v1/"),
    ):
        with pytest.raises(StoreForbidden):
            store.read(prefix)


def test_a_users_rights_follow_what_is_wanted_and_others_stay(
    rights: EtcdRights, stores: Stores
) -> None:
    rights.bring_to(READER | {"guest": (Grant("/guest/", can_write=True),)}, is_ours)
    rights.enforce()
    stores("guest").transact([Put("/guest/a", b"1")])
    rights.bring_to(WRITER, is_ours)
    with pytest.raises(StoreForbidden):
        stores("reader").read("/v1/")
    stores("guest").transact([Put("/guest/a", b"2")])
    rights.bring_to({"writer": (Grant("/v1/"), Grant("/felix/v2/"))}, is_ours)
    writer = stores("writer")
    assert writer.read("/felix/v2/").entries == ()
    with pytest.raises(StoreForbidden):
        writer.transact([Put("/v1/a", b"1")])


def test_what_somebody_has_meddled_with_is_mended_by_whoever_comes_next(
    rights: EtcdRights, cluster: EtcdCluster, authority: Authority, stores: Stores
) -> None:
    rights.bring_to(NODE, is_ours)
    rights.enforce()
    as_root = location(cluster), authority.issue("root")
    with closing(EtcdRights(*as_root)) as meddler:
        meddler.bring_to({"node-one": (Grant("/", can_write=True),)}, is_ours)
    stores("node-one").transact([Put("/v1/a", b"1")])
    with closing(EtcdRights(*as_root)) as successor:
        successor.bring_to(NODE, is_ours)
    with pytest.raises(StoreForbidden):
        stores("node-one").transact([Put("/v1/a", b"2")])
    rights.bring_to({}, is_ours)
    rights.bring_to(NODE, is_ours)
    assert stores("node-one").read("/v1/").entries


def test_rights_are_refused_to_all_but_root(
    rights: EtcdRights, cluster: EtcdCluster, authority: Authority
) -> None:
    rights.bring_to(WRITER, is_ours)
    rights.enforce()
    with (
        closing(EtcdRights(location(cluster), authority.issue("writer"))) as others,
        pytest.raises(StoreForbidden),
    ):
        others.bring_to({}, is_ours)


def test_watches_and_leases_outlive_a_member_and_any_change_of_rights(
    rights: EtcdRights, cluster: EtcdCluster, stores: Stores
) -> None:
    rights.bring_to(WRITER | NODE, is_ours)
    rights.enforce()
    writer, node = stores("writer"), stores("node-one")
    start = writer.transact([Put("/v1/a", b"0")])
    follower = Follower(node.watch("/v1/", start))
    follower.wait_until_open()
    lease = node.grant_lease(30)
    node.transact([Put(f"{OWN}status", b"1", lease)])
    rights.bring_to(WRITER | NODE | READER, is_ours)
    writer.transact([Put("/v1/a", b"1")])
    follower.wait_for_value(b"1")
    node.keep_alive(lease)
    cluster.members[0].restart()
    rights.bring_to(WRITER | NODE, is_ours)
    wait_until(lambda: write(writer, b"2"), "a write after the restart")
    follower.wait_for_value(b"2")
    node.keep_alive(lease)
    node.revoke_lease(lease)
    assert writer.read(OWN).entries == ()
    follower.close()
    assert follower.error is None


def write(store: Store, value: bytes) -> bool:
    try:
        store.transact([Put("/v1/a", value)])
    except StoreUnavailable:
        return False
    return True


def test_nothing_fails_while_nodes_come_and_go(rights: EtcdRights, stores: Stores) -> None:
    rights.bring_to(WRITER, is_ours)
    rights.enforce()
    writer = stores("writer")
    writer.transact([Put("/v1/a", b"0")])
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            rights.bring_to(WRITER | READER, is_ours)
            rights.bring_to(WRITER, is_ours)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        end_s = time.monotonic() + 1.5
        count = 0
        while time.monotonic() < end_s:
            count += 1
            writer.transact([Put("/v1/a", str(count).encode())])
            assert [entry.value for entry in writer.read("/v1/").entries] == [str(count).encode()]
    finally:
        is_over.set()
        thread.join()
    assert count > 20


def test_a_certificate_that_ended_is_taken_anew_when_a_connection_is(
    cluster: EtcdCluster, authority: Authority
) -> None:
    # Files that are replaced, as by the keeper of a certificate.
    tls = authority.issue("short", valid_for=dt.timedelta(seconds=3))
    ends_s = time.monotonic() + 3.5
    recorder = Recorder()
    with closing(open_store(cluster.url(), tls)) as store:
        syncer = Syncer(store, "/v1/", recorder, recorder)
        syncer.start()
        store.transact([Put("/v1/a", b"1")])
        wait_until(lambda: time.monotonic() > ends_s, "the certificate's end")
        store.transact([Put("/v1/a", b"2")])  # what is connected stays so
        wait_until(lambda: recorder.values_by_key.get("/v1/a") == b"2", "the change")
        cluster.members[0].restart()
        with pytest.raises(StoreUnavailable):
            store.get("/v1/a")
        assert authority.issue("short") == tls, "the same files"
        wait_until(lambda: write(store, b"3"), "the new certificate to be taken")
        wait_until(lambda: recorder.values_by_key.get("/v1/a") == b"3", "the watch to go on")
        syncer.close()
