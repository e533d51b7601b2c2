"""Fixtures of the iptables tests: a namespace, a backend, a family."""

import pytest

from calico_k8s.felix.iptables import inprocess
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.model.addresses import Version
from tests.namespaces import namespace

__all__ = ["namespace"]


@pytest.fixture(params=list(Backend), ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    return Backend(request.param)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> Version:
    return 6 if request.param == 6 else 4


@pytest.fixture(autouse=True, scope="session")
def python_iptables() -> None:
    """Small legacy edits are made in process wherever they can be, as in a running agent."""
    inprocess.load()
