"""The API server that tests of a meeting share, and what they write into it."""

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest

from calico_k8s.controller.kube import connect
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Store
from tests.cluster.objects import KubeObjects
from tests.cluster.servers import ApiServer, api_server

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One server for the run: each test takes namespaces of its own."""
    with api_server(tmp_path_factory.mktemp("kube")) as server:
        yield server


@pytest.fixture(scope="session")
def objects(kube: ApiServer) -> Iterator[KubeObjects]:
    """Writes into the server as an administrator and as Kubernetes' own controllers."""
    with closing(connect(str(kube.kubeconfig()))) as api:
        yield KubeObjects(api)


@pytest.fixture
def namespace(objects: KubeObjects) -> str:
    """A new namespace without a flag."""
    name = f"shop-{next(_NUMBERS)}"
    objects.namespace(name)
    return name


@pytest.fixture
def url(kube: ApiServer) -> str:
    """An empty datastore, in the etcd that is the API server's too."""
    return kube.etcd.url(f"/test{next(_NUMBERS)}")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """The same, opened."""
    with closing(open_store(url)) as opened:
        yield opened
