"""Settings of the whole test run: options, hypothesis profiles, and what each marker needs.

In come the command line and the environment; out go fixtures that every test may ask for.
"""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.needs import is_allowed_skip, is_ci, require_program, require_root

# No deadline anywhere: the machine is shared, and speed is measured in tests/bench.
settings.register_profile("dev", deadline=None, max_examples=60)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=150,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("ci"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if is_ci() else "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --update-golden."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what was rendered into tests/golden/ instead of comparing; review the diff",
    )


PACED = frozenset({"cli", "docs", "lab", "laws", "soak"})
"""Folders whose kernel tests hold agents at work to bounds of time, and fixtures of others that do."""
PACED_FIXTURES = frozenset({"machine", "world"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what cannot share the machine with another test."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in PACED or not PACED_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.paced)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Checks that the machine has what the test's markers promise."""
    if item.get_closest_marker("kernel"):
        require_root()
        require_program("ip", package="iproute2")
        require_program("iptables", package="iptables")
        require_program("ipset", package="ipset")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure where the machine promises to have everything."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        file, line, reason = report.longrepr
        if not is_allowed_skip(reason):
            report.outcome = "failed"
            report.longrepr = f"{file}:{line}: {reason}, but with CI=true nothing may be skipped"
    return report


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True when golden files are to be written anew, not compared."""
    return bool(request.config.getoption("--update-golden"))
