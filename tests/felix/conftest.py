"""What the tests of this folder that meet the real kernel have in common.

``namespace`` is theirs; a module that has a ``machine`` gets two pods of it.
"""

import pytest

from tests.felix.nodes import Machine, PodSite
from tests.namespaces import namespace

__all__ = ["namespace"]


@pytest.fixture
def client(machine: Machine) -> PodSite:
    return machine.pod("client", 10)


@pytest.fixture
def server(machine: Machine) -> PodSite:
    return machine.pod("server", 11)
