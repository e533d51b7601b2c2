"""The API server that tests of a meeting share."""

from collections.abc import Iterator

import pytest

from tests.cluster.servers import ApiServer, api_server


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One server for the run: each test takes namespaces of its own."""
    with api_server(tmp_path_factory.mktemp("kube")) as server:
        yield server
