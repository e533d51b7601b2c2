"""Certificates and rights, errors and time limits, against real etcds."""

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.datastore.etcd import transport
from calico_k8s.datastore.etcd.store import EtcdStore
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import EtcdLocation, TlsFiles
from calico_k8s.datastore.store import Put
from calico_k8s.errors import StoreForbidden, StoreUnavailable, StoreUncertain
from tests.datastore.followers import Follower, wait_until
from tests.etcd.binaries import EtcdVersion
from tests.etcd.certificates import Authority
from tests.etcd.servers import EtcdCluster, etcd_cluster

pytestmark = pytest.mark.etcd


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path_factory.mktemp("guarded"), authority=authority) as cluster:
        yield cluster


@pytest.mark.parametrize("version", EtcdVersion)
def test_our_certificate_lets_us_read_write_and_watch(
    authority: Authority, tmp_path: Path, version: EtcdVersion
) -> None:
    with (
        etcd_cluster(tmp_path, version, authority=authority) as cluster,
        closing(open_store(cluster.url(), cluster.tls)) as store,
    ):
        start = store.transact([Put("/v1/a", b"1")])
        follower = Follower(store.watch("/v1/", start))
        store.transact([Put("/v1/b", b"2")])
        assert [each.key for each in follower.wait_for(1)] == ["/v1/b"]
        store.keep_alive(store.grant_lease(10))
        follower.close()


def test_without_a_certificate_etcd_is_not_reached(guarded: EtcdCluster) -> None:
    with (
        closing(open_store(guarded.url())) as store,
        pytest.raises(StoreUnavailable, match="no member of etcd answers"),
    ):
        store.get("/v1/a")


def test_a_certificate_of_another_authority_is_refused(
    guarded: EtcdCluster, tmp_path: Path
) -> None:
    assert guarded.tls
    stranger = Authority(tmp_path).issue("stranger")
    tls = TlsFiles(guarded.tls.ca, stranger.cert, stranger.key)
    with closing(open_store(guarded.url(), tls)) as store, pytest.raises(StoreUnavailable):
        store.get("/v1/a")


def test_a_server_of_another_authority_is_not_trusted(guarded: EtcdCluster, tmp_path: Path) -> None:
    assert guarded.tls
    elsewhere = Authority(tmp_path)
    tls = TlsFiles(elsewhere.path, guarded.tls.cert, guarded.tls.key)
    with closing(open_store(guarded.url(), tls)) as store, pytest.raises(StoreUnavailable):
        store.get("/v1/a")


def test_certificates_are_read_again_when_etcd_comes_back(
    authority: Authority, tmp_path: Path
) -> None:
    with etcd_cluster(tmp_path, authority=authority) as cluster:
        assert cluster.tls
        cert, key = tmp_path / "rotated.pem", tmp_path / "rotated.key"
        stranger = Authority(tmp_path).issue("stranger")
        cert.write_bytes(stranger.cert.read_bytes())
        key.write_bytes(stranger.key.read_bytes())
        with closing(open_store(cluster.url(), TlsFiles(authority.path, cert, key))) as store:
            with pytest.raises(StoreUnavailable):
                store.get("/v1/a")
            cert.write_bytes(cluster.tls.cert.read_bytes())
            key.write_bytes(cluster.tls.key.read_bytes())
            assert store.get("/v1/a") is None


def test_a_role_bounds_what_is_read_written_and_watched(
    authority: Authority, tmp_path: Path
) -> None:
    own = "/felix/v2/host/node-1/"
    node = authority.issue("node-1")
    root = authority.issue("root")
    # "root" is etcd's name of who may all, as soon as it has users
    with etcd_cluster(tmp_path, EtcdVersion.DEBIAN, authority=authority) as cluster:
        for path, request in (
            ("user/add", {"name": "root", "options": {"no_password": True}}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("role/add", {"name": "node"}),
            ("role/grant", {"name": "node", "perm": permission("READ", "/calico/v1/")}),
            ("role/grant", {"name": "node", "perm": permission("READWRITE", "/calico" + own)}),
            ("user/add", {"name": "node-1", "options": {"no_password": True}}),
            ("user/grant", {"user": "node-1", "role": "node"}),
            ("enable", {}),
        ):
            cluster.members[0].http(f"/v3/auth/{path}", json.dumps(request).encode())
        with closing(open_store(cluster.url(), root)) as store:
            store.transact([Put("/v1/a", b"1")])
        with closing(open_store(cluster.url(), node)) as store:
            revision = store.read("/v1/").revision
            store.transact([Put(own + "status", b"1")])
            for key in ("/v1/a", "/felix/v2/host/node-2/status"):
                with pytest.raises(StoreForbidden, match="certificate's user"):
                    store.transact([Put(key, b"1")])
            with pytest.raises(StoreForbidden):
                store.read("/")
            follower = Follower(store.watch("/", revision))
            wait_until(lambda: follower.has_ended, "the refusal")
            assert isinstance(follower.error, StoreForbidden)
            allowed = Follower(store.watch("/v1/", revision))
            allowed.wait_until_open()
            assert allowed.error is None
            allowed.close()


def permission(kind: str, prefix: str) -> dict[str, str]:
    ends = (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))
    key, range_end = (base64.b64encode(each.encode()).decode() for each in ends)
    return {"permType": kind, "key": key, "range_end": range_end}


def test_nobody_there_is_told_within_the_patience() -> None:
    start = time.monotonic()
    location = EtcdLocation(("127.0.0.1:1", "127.0.0.1:2"), "/calico")
    with (
        closing(EtcdStore(location, None)) as store,
        pytest.raises(StoreUnavailable, match=r"no member of etcd answers: 127\.0\.0\.1:"),
    ):
        store.get("/v1/a")
    assert time.monotonic() - start < transport.PATIENCE_S + 3


def test_a_write_that_was_never_sent_is_not_uncertain() -> None:
    location = EtcdLocation(("127.0.0.1:1",), "/calico")
    with closing(EtcdStore(location, None)) as store:
        with pytest.raises(StoreUnavailable) as told:
            store.transact([Put("/v1/a", b"1")])
        assert not isinstance(told.value, StoreUncertain)


def test_a_write_to_a_member_that_falls_silent_is_uncertain(tmp_path: Path) -> None:
    with etcd_cluster(tmp_path) as cluster, closing(open_store(cluster.url())) as store:
        store.transact([Put("/v1/a", b"1")])
        cluster.members[0].pause()
        start = time.monotonic()
        with pytest.raises(StoreUncertain, match="may or may not be written"):
            store.transact([Put("/v1/a", b"2")])
        assert time.monotonic() - start < transport.CALL_TIMEOUT_S + 2
        cluster.members[0].resume()
        wait_until(lambda: store.get("/v1/a") is not None, "the member to answer again")


def test_a_read_goes_on_to_the_next_member_when_the_first_is_silent(tmp_path: Path) -> None:
    with etcd_cluster(tmp_path, members=3) as cluster, closing(open_store(cluster.url())) as store:
        store.transact([Put("/v1/a", b"1")])
        endpoint = store._members._member.endpoint  # type: ignore[attr-defined]  # to be silenced
        (silent,) = (each for each in cluster.members if each.endpoint == endpoint)
        silent.pause()
        start = time.monotonic()
        assert store.get("/v1/a")
        assert time.monotonic() - start < transport.CALL_TIMEOUT_S + 4
        start = time.monotonic()
        assert store.get("/v1/a")
        assert time.monotonic() - start < transport.CALL_TIMEOUT_S / 2
        silent.resume()


def test_a_server_that_is_no_etcd_is_told(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with (
                closing(open_store(f"etcd://127.0.0.1:{server.server_port}")) as store,
                pytest.raises(StoreUnavailable),
            ):
                store.get("/v1/a")
        finally:
            server.shutdown()
