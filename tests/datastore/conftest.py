"""Stores to test: a file, and real etcds of both versions, started once for a run."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Store
from tests.etcd.binaries import EtcdVersion
from tests.etcd.servers import EtcdCluster, etcd_cluster

_ROOT_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def debian_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member of Debian's version; shared, so each test takes a root of its own."""
    with etcd_cluster(tmp_path_factory.mktemp("etcd"), EtcdVersion.DEBIAN) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def current_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member of the current version; shared, so each test takes a root of its own."""
    with etcd_cluster(tmp_path_factory.mktemp("etcd"), EtcdVersion.CURRENT) as cluster:
        yield cluster


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("debian_etcd", marks=pytest.mark.etcd),
        pytest.param("current_etcd", marks=pytest.mark.etcd),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty key space in each kind of store."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/state.db"
    cluster = request.getfixturevalue(request.param)
    assert isinstance(cluster, EtcdCluster)
    return cluster.url(f"/test{next(_ROOT_NUMBERS)}")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store of each kind."""
    with closing(open_store(url)) as opened:
        yield opened
