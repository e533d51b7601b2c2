"""manifests/ as applied: everything of ours runs by its own arguments, tokens, rights, users."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.cluster.controllers import wait_for
from tests.cluster.installation import Installation, installation
from tests.cluster.kubelet import Pod

pytestmark = [pytest.mark.cluster, pytest.mark.kernel]


class Running(NamedTuple):
    """An installation in which everything runs."""

    site: Installation
    signer: Pod
    etcd: list[Pod]
    controllers: list[Pod]
    agents: list[Pod]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with installation(tmp_path_factory.mktemp("installation")) as site:
        signer = site.signer()
        etcd = site.etcd()
        controllers = [site.controller(number) for number in (1, 2)]
        agents = [site.felix(number) for number in (1, 2, 3)]
        yield Running(site, signer, etcd, controllers, agents)


def test_everything_comes_up_by_what_the_manifests_say(running: Running) -> None:
    pods = [running.signer, *running.etcd, *running.controllers, *running.agents]
    for pod in pods:
        for container in pod.containers.values():
            assert container.is_running, container.log
    agent = running.agents[0]["felix"]
    wait_for(lambda: '"state": "in_sync"' in agent.log, lambda: agent.log)
