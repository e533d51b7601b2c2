"""The tests mirror the source: whoever reads one finds the other without searching.

`tests/<package>/test_<module>.py` tests `calico_k8s/<package>/<module>.py`, or the module of that
name in `grammar/`; `test_<module>_<aspect>.py` tests one aspect of it.
"""

from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Folders whose tests are about a meeting of many parts, not about one module.
FOLDERS_BY_MEANING = {
    "bench": "budgets with units",
    "cluster": "a real Kubernetes API server",
    "docs": "the commands of the documents, run",
    "etcd": "the servers that tests start",
    "kernel": "real namespaces and packets",
    "laws": "what holds between packages: tests/README.md lists them",
    "manifests": "what an operator applies and builds",
    "soak": "an agent for a long time",
}

# Files at the top: tests of the repository itself and of the helpers of the tests.
TOP_LEVEL = {"test_layout.py", "test_repo.py"}


@cache
def modules() -> set[tuple[str, ...]]:
    """Every module of ours as its path below its root package; a package counts as a module."""
    found = set()
    for root in ("calico_k8s", "grammar", "tests"):
        prefix = ("grammar",) if root == "grammar" else ()
        for path in (ROOT / root).rglob("*.py"):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            found.add(prefix + (parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def possible_modules(test: Path) -> list[tuple[str, ...]]:
    """The modules a test file may mean, the longest name first: aspects are words after `_`."""
    words = test.stem.removeprefix("test_").split("_")
    folder = test.relative_to(TESTS).parent.parts
    return [(*folder, "_".join(words[:count])) for count in range(len(words), 0, -1)]


def files_that_mirror() -> list[Path]:
    """The test files that must mirror a module."""
    return [
        path
        for path in sorted(TESTS.rglob("test_*.py"))
        if path.relative_to(TESTS).parts[0] not in FOLDERS_BY_MEANING and path.name not in TOP_LEVEL
    ]


@pytest.mark.parametrize("test", files_that_mirror(), ids=lambda path: str(path.relative_to(TESTS)))
def test_every_test_file_has_its_module(test: Path) -> None:
    known = modules()
    candidates = possible_modules(test)
    assert any(module in known for module in candidates), (
        f"there is no module {'/'.join(candidates[0])}.py: name the test after the module it tests"
    )


def test_tests_are_no_package() -> None:
    found = [str(path.relative_to(ROOT)) for path in TESTS.rglob("__init__.py")]
    assert not found, "pytest imports tests by their path; __init__.py makes names collide"
