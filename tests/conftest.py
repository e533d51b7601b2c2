"""Settings of the whole test run: options, hypothesis profiles, and what each marker needs.

In come the command line and the environment; out go fixtures that every test may ask for.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.needs import require_program, require_root

# No deadline anywhere: the machine is shared, and speed is measured in tests/bench.
settings.register_profile("dev", deadline=None, max_examples=60)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=200,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("ci"), max_examples=5000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") == "true" else "dev")
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --update-golden."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what was rendered into tests/golden/ instead of comparing; review the diff",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Checks that the machine has what the test's markers promise."""
    if item.get_closest_marker("kernel"):
        require_root()
        require_program("ip", package="iproute2")
        require_program("iptables", package="iptables")
        require_program("ipset", package="ipset")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True when golden files are to be written anew, not compared."""
    return bool(request.config.getoption("--update-golden"))
