"""The runner of the checks: what it reads from tox.ini, and how it counts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import run
from tests.run import Check, Counts, count_results, read_checks

TOX_INI = """
[tox]
env_list = lint, kernel
[testenv:lint]
commands =
    ruff format --check .
    ruff check .
[testenv:kernel]
commands = pytest -m "kernel and not cluster" {posargs}
[testenv:bench]
commands = python scripts/bench
"""

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase name="a"/><testcase name="b"><system-out>talk</system-out></testcase>
<testcase name="c"><failure message="no"/></testcase>
<testcase name="d"><error message="no"/></testcase>
<testcase name="e"><skipped message="no root"/></testcase>
</testsuite></testsuites>"""


def test_without_arguments_every_command_of_the_listed_environments_runs() -> None:
    assert read_checks(TOX_INI, []) == [
        Check("lint", ("ruff", "format", "--check", "."), is_pytest=False),
        Check("lint", ("ruff", "check", "."), is_pytest=False),
        Check("kernel", ("pytest", "-m", "kernel and not cluster"), is_pytest=True),
    ]


def test_arguments_go_to_pytest_and_only_pytest_runs() -> None:
    expected = ("pytest", "-m", "kernel and not cluster", "-k", "chain or set")
    assert [check.command for check in read_checks(TOX_INI, ["-k", "chain or set"])] == [expected]


def test_an_error_counts_as_failed() -> None:
    assert count_results(JUNIT) == Counts(passed=2, failed=2, skipped=1)


def test_the_counts_print_in_the_form_that_scripts_rely_on() -> None:
    assert str(Counts(3, 0, 1)) == "3 passed, 0 failed, 1 skipped"


@pytest.mark.parametrize("found", [{}, {"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1"}])
def test_checks_find_their_programs_and_keep_what_they_have_compiled(found: dict[str, str]) -> None:
    environment = dict(found)
    run.prepare(environment)
    first, *_, last = environment["PATH"].split(os.pathsep)
    assert (Path(first), last) == (Path(sys.executable).parent, "/sbin")
    assert set(environment) == {"PATH"}


@pytest.mark.parametrize(
    ("code", "is_pytest", "expected"),
    [
        ("", False, Counts()),
        ("raise SystemExit(2)", False, Counts(failed=1)),
        # a run of pytest that dies before it writes its results
        ("import os; os._exit(3)", True, Counts(failed=1)),
        ("raise SystemExit(5)", True, Counts(failed=1)),
    ],
)
def test_a_check_that_ends_badly_counts_as_failed(
    tmp_path: Path, code: str, is_pytest: bool, expected: Counts
) -> None:
    check = Check("any", (sys.executable, "-c", code), is_pytest=is_pytest)
    assert run.run_check(check, tmp_path / "none.xml", may_be_empty=False) == expected


def test_nothing_collected_is_fine_only_when_the_user_chose_tests(tmp_path: Path) -> None:
    check = Check("any", (sys.executable, "-c", "raise SystemExit(5)"), is_pytest=True)
    assert run.run_check(check, tmp_path / "none.xml", may_be_empty=True) == Counts()


# Takes longer to clean up than subprocess.run would wait for.
SLOW_TO_CLEAN_UP = """
import pathlib, sys, time
try:
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    pathlib.Path(sys.argv[2]).touch()
"""

RUNNER = """
import sys
from tests import run
run.take_signals()
run.run_to_its_end([sys.executable, "-c", *sys.argv[1:]])
"""


@pytest.mark.parametrize("shell", ["", "trap '' INT; "], ids=["foreground", "background"])
def test_a_run_that_is_terminated_lets_its_check_clean_up(tmp_path: Path, shell: str) -> None:
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    command = ["sh", "-c", f'{shell}exec "$@"', "sh", sys.executable, "-c", RUNNER]
    command += [SLOW_TO_CLEAN_UP, str(started), str(cleaned)]
    with subprocess.Popen(command, cwd=run.ROOT) as runner:
        while not started.exists() and runner.poll() is None:
            time.sleep(0.01)
        runner.send_signal(signal.SIGTERM)
        assert runner.wait() == 128 + signal.SIGTERM
    assert cleaned.exists()


def is_running(pid: int) -> bool:
    """False for a process that has ended, also while nobody has collected it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_build_that_is_not_wanted_any_more_ends_with_its_compilers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, pid_file = tmp_path / "named", tmp_path / "pid"
    compiler = (
        "import os, pathlib, time; "
        f"pathlib.Path({str(named)!r}).write_text(str(os.getpid())); "
        f"os.rename({str(named)!r}, {str(pid_file)!r}); time.sleep(60)"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {compiler!r}])"
    monkeypatch.setattr(run, "BUILDS", {"etcd": code})
    build = run.start_builds()["etcd"]
    while not pid_file.exists() and build.poll() is None:
        time.sleep(0.01)
    assert is_running(int(pid_file.read_text()))
    run.end_build(build)
    deadline_s = time.monotonic() + 60
    while is_running(int(pid_file.read_text())) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_running(int(pid_file.read_text()))
