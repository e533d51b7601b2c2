"""Reading through etcd's own proxies: what comes through, as whom, and what their end costs."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from calico_k8s.certificates.users import is_ours, users_of
from calico_k8s.datastore.etcd import store as etcd_store
from calico_k8s.datastore.etcd.rights import EtcdRights, Grant
from calico_k8s.datastore.etcd.store import READER, READER_KEY, EtcdStore
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import EtcdLocation, TlsFiles
from calico_k8s.datastore.store import Put, Store
from calico_k8s.datastore.syncer import Syncer
from calico_k8s.errors import InputError, StoreCompacted, StoreForbidden, StoreUnavailable
from calico_k8s.model import keys
from calico_k8s.model.names import NodeName
from tests.datastore.followers import Follower, Recorder, wait_until
from tests.etcd.certificates import Authority
from tests.etcd.servers import EtcdCluster, GrpcProxy, etcd_cluster, grpc_proxies

pytestmark = pytest.mark.etcd

OWN = f"{keys.STATUS}host/one/status"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path_factory.mktemp("proxied")) as running:
        yield running


@pytest.fixture
def proxies(tmp_path: Path, cluster: EtcdCluster) -> Iterator[tuple[GrpcProxy, ...]]:
    with grpc_proxies(tmp_path, cluster, 2) as running:
        yield running


@pytest.fixture
def stores() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def through(
    cluster: EtcdCluster, proxies: tuple[GrpcProxy, ...], root: str, tls: TlsFiles | None = None
) -> Store:
    return open_store(cluster.url(root), tls, proxies=tuple(each.endpoint for each in proxies))


def test_each_change_comes_through_once_and_in_order_though_proxies_end(
    cluster: EtcdCluster,
    proxies: tuple[GrpcProxy, ...],
    stores: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(etcd_store, "SPREAD_S", 0.2)
    writer = stores.enter_context(closing(open_store(cluster.url("/ends"))))
    reader = stores.enter_context(closing(through(cluster, proxies, "/ends")))
    writer.transact([Put("/v1/0", b"0")])
    start = reader.read("/v1/")
    assert [entry.value for entry in start.entries] == [b"0"]
    follower = Follower(reader.watch("/v1/", start.revision))
    for number in range(1, 40):
        writer.transact([Put("/v1/0", b"%d" % number)])
        if number % 10 == 0:
            proxies[number // 10 % 2].kill()
        if number % 10 == 5 and number > 10:
            proxies[number // 10 % 2].start()
    follower.wait_for_value(b"39")
    assert [change.value for change in follower.changes] == [b"%d" % n for n in range(1, 40)]
    follower.close()


def test_a_compacted_history_is_told_as_such(
    cluster: EtcdCluster, proxies: tuple[GrpcProxy, ...], stores: ExitStack
) -> None:
    writer = stores.enter_context(closing(open_store(cluster.url("/gone"))))
    reader = stores.enter_context(closing(through(cluster, proxies, "/gone")))
    start = writer.transact([Put("/v1/a", b"1")])
    writer.transact([Put("/v1/a", b"2")])
    writer.compact(writer.transact([Put("/v1/a", b"3")]))
    follower = Follower(reader.watch("/v1/", start))
    wait_until(lambda: follower.has_ended, "the end of the watch")
    assert isinstance(follower.error, StoreCompacted)
    follower.close()


def test_without_any_proxy_nothing_is_asked_of_the_members(
    cluster: EtcdCluster, proxies: tuple[GrpcProxy, ...], stores: ExitStack
) -> None:
    reader = stores.enter_context(closing(through(cluster, proxies, "/none")))
    for proxy in proxies:
        proxy.kill()
    with pytest.raises(StoreUnavailable):
        reader.read("/v1/")
    reader.transact([Put(OWN, b"alive")])
    entry = reader.get(OWN)
    assert entry is not None, "status takes its own way"
    assert entry.value == b"alive"


def test_a_reader_that_stands_still_slows_no_other(
    cluster: EtcdCluster, proxies: tuple[GrpcProxy, ...], stores: ExitStack
) -> None:
    one = proxies[:1]
    writer = stores.enter_context(closing(open_store(cluster.url("/slow"))))
    reader = stores.enter_context(closing(through(cluster, one, "/slow")))
    start = writer.transact([Put("/v1/a", b"")])
    follower = Follower(reader.watch("/v1/", start))
    follower.wait_until_open()
    child = os.fork()
    if child == 0:  # reads nothing once it is stopped
        with closing(through(cluster, one, "/slow")) as slow:
            for _batch in slow.watch("/v1/", start):
                os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        for number in range(300):
            writer.transact([Put("/v1/a", b"%0100000d" % number)])
        follower.wait_for_value(b"%0100000d" % 299)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    follower.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[EtcdCluster, GrpcProxy, Authority]]:
    authority = Authority(tmp_path)
    (tmp_path / "etcd").mkdir()
    with (
        etcd_cluster(
            tmp_path / "etcd" / "data", authority=authority, extra=("--bcrypt-cost", "4")
        ) as cluster,
        grpc_proxies(tmp_path, cluster, 1, authority.issue("")) as (proxy,),
    ):
        yield cluster, proxy, authority


def test_through_a_proxy_everybody_is_the_reader_and_nobody_is_more(
    guarded: tuple[EtcdCluster, GrpcProxy, Authority], stores: ExitStack
) -> None:
    cluster, proxy, authority = guarded
    location = EtcdLocation((cluster.members[0].endpoint,), "/calico")
    rights = stores.enter_context(closing(EtcdRights(location, authority.issue("root"))))
    assert READER not in rights.bring_to(users_of([NodeName("one")]), is_ours)
    rights.renew_reader((Grant(keys.V1),))
    assert READER in rights.bring_to(users_of([NodeName("one")]), is_ours)
    rights.enforce()
    controller = stores.enter_context(
        closing(open_store(cluster.url(), authority.issue("controller")))
    )
    node = stores.enter_context(
        closing(through(cluster, (proxy,), "/calico", authority.issue("node-one")))
    )
    first = controller.transact([Put("/v1/a", b"1")])
    assert [entry.key for entry in node.read("/v1/").entries] == ["/v1/a"]
    follower = Follower(node.watch("/v1/", first))
    node.transact([Put(OWN, b"alive")])
    with pytest.raises(StoreForbidden):
        node.read(keys.STATUS)

    nobody = EtcdStore(location, authority.issue("stranger"), (proxy.endpoint,))
    with pytest.raises((StoreForbidden, StoreUnavailable)):
        stores.enter_context(closing(nobody)).read("/v1/")
    direct = EtcdLocation((proxy.endpoint,), "/calico")
    as_proxy = stores.enter_context(closing(EtcdStore(direct, authority.issue("controller"))))
    with pytest.raises(StoreForbidden):
        as_proxy.transact([Put("/v1/a", b"2")])

    # A new password ends the tokens of the old one, and nobody who reads notices.
    follower.wait_until_open()
    password = node.get(READER_KEY)
    rights.renew_reader((Grant(keys.V1),))
    assert node.get(READER_KEY) != password
    controller.transact([Put("/v1/a", b"3")])
    follower.wait_for_value(b"3")
    assert node.read("/v1/").entries[0].value == b"3"
    follower.close()


def test_a_syncer_goes_on_when_its_proxy_and_the_password_are_new(
    guarded: tuple[EtcdCluster, GrpcProxy, Authority],
    stores: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(etcd_store, "SPREAD_S", 0.2)
    cluster, proxy, authority = guarded
    location = EtcdLocation((cluster.members[0].endpoint,), "/calico")
    rights = stores.enter_context(closing(EtcdRights(location, authority.issue("root"))))
    rights.bring_to(users_of([NodeName("one")]), lambda _user: True)
    rights.renew_reader((Grant(keys.V1),))
    rights.enforce()
    controller = stores.enter_context(
        closing(open_store(cluster.url(), authority.issue("controller")))
    )
    controller.transact([Put("/v1/a", b"1")])
    node = stores.enter_context(
        closing(through(cluster, (proxy,), "/calico", authority.issue("node-one")))
    )
    recorder = Recorder()
    syncer = Syncer(node, "/v1/", recorder, recorder)
    syncer.start()
    try:
        wait_until(lambda: recorder.values_by_key == {"/v1/a": b"1"}, "the first value")
        proxy.kill()
        rights.renew_reader((Grant(keys.V1),))
        controller.transact([Put("/v1/a", b"2")])
        time.sleep(0.3)
        proxy.start()
        wait_until(lambda: recorder.values_by_key == {"/v1/a": b"2"}, "what changed meanwhile")
    finally:
        syncer.close()


def test_a_file_takes_no_proxies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without proxies"):
        open_store(f"sqlite://{tmp_path}/a.db", proxies=("127.0.0.1:2379",))
