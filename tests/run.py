"""Runs every check of tox.ini's env_list in this one environment, and counts.

In come tox.ini and arguments for pytest; out goes what the checks print, then for each check a
line, and at the end `N passed, N failed, N skipped` alone on a line. Exit 1 if anything failed.
A check that is not pytest counts as one failure when it fails, and not at all when it passes;
neither does a run that ends without results pass unseen.

Nothing is installed here: scripts/test sets up first.
"""

import argparse
import configparser
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
NO_TESTS_COLLECTED = 5  # pytest's exit code
POSARGS = "{posargs}"

# For an environment, code that makes what its tests want; it runs beside the checks before.
BUILDS = {
    "etcd": "from tests.etcd.binaries import EtcdVersion, etcd_binary; "
    "etcd_binary(EtcdVersion.CURRENT)",
    "cluster": "from tests.cluster.binaries import kube_program; "
    "[kube_program(name) for name in ('kube-apiserver', 'kubectl', 'kube-proxy')]",
}


class Counts(NamedTuple):
    """How many tests ended how; an error counts as failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        """The form that scripts may rely on."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


class Check(NamedTuple):
    """One command of one tox environment."""

    environment: str
    command: tuple[str, ...]
    is_pytest: bool


def total(counts: Sequence[Counts]) -> Counts:
    """The sum."""
    return Counts(*(sum(column) for column in zip(*counts, strict=True))) if counts else Counts()


def read_checks(tox_ini: str, pytest_arguments: Sequence[str]) -> list[Check]:
    """The commands of each environment of env_list, in order; with arguments, only pytest's."""
    # tox's own `{...}` substitutions and pytest's `%` must reach us untouched.
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(tox_ini)
    checks = []
    for name in config["tox"]["env_list"].replace(",", " ").split():
        for line in config[f"testenv:{name}"]["commands"].strip().splitlines():
            words = shlex.split(line.replace(POSARGS, ""))
            is_pytest = words[0] == "pytest"
            if is_pytest and POSARGS in line:
                words += pytest_arguments
            if is_pytest or not pytest_arguments:
                checks.append(Check(name, tuple(words), is_pytest))
    return checks


def count_results(junit_xml: str) -> Counts:
    """The tests of a JUnit file as pytest writes it.

    Raises: ElementTree.ParseError when the file was not finished.
    """
    passed = failed = skipped = 0
    for case in ET.fromstring(junit_xml).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return Counts(passed, failed, skipped)


def read_results(path: Path) -> Counts | None:
    """The counts in `path`, or None where a run left no results."""
    try:
        return count_results(path.read_text())
    except (FileNotFoundError, ET.ParseError):
        return None


def run_to_its_end(command: Sequence[str]) -> int:
    """The exit code of `command`, which cleans up after itself even when we are told to stop.

    subprocess.run would kill it a quarter of a second after Ctrl-C: network namespaces would stay.
    """
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal has told it, too
        process.wait()
        raise
    except SystemExit:  # only we were told
        process.send_signal(signal.SIGINT)
        process.wait()
        raise


def stop(signal_number: int, _frame: FrameType | None) -> NoReturn:
    """Ends the run as a shell would report it; a handler of signals."""
    raise SystemExit(128 + signal_number)


def take_signals() -> None:
    """Has SIGTERM and Ctrl-C end the run and what it has started."""
    signal.signal(signal.SIGTERM, stop)
    # A shell that starts us in the background has it ignored, for all that we start too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def prepare(environment: MutableMapping[str, str]) -> None:
    """Has the checks find their programs, and compile a module once."""
    # The checks are programs of this environment; iptables and ipset live in sbin.
    environment["PATH"] = os.pathsep.join(
        [
            str(Path(sys.executable).parent),
            environment.get("PATH", os.defpath),
            "/usr/sbin",
            "/sbin",
        ]
    )
    # Images of containers set it. Each run of pytest would then rewrite the asserts of every test
    # anew, and each agent, controller and command that a test starts compile what it imports.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)


def run_check(check: Check, results: Path, *, may_be_empty: bool) -> Counts:
    """Runs one check to its end, its output going where ours goes."""
    command = [*check.command, f"--junitxml={results}"] if check.is_pytest else [*check.command]
    exit_code = run_to_its_end(command)
    if not check.is_pytest:
        return Counts(failed=int(exit_code != 0))
    if exit_code == NO_TESTS_COLLECTED and may_be_empty:
        return Counts()
    counts = read_results(results) or Counts()
    # pytest can fail without a failed test: nothing collected, a crash, a coverage limit.
    return counts._replace(failed=max(counts.failed, int(exit_code != 0)))


def start_builds() -> dict[str, subprocess.Popen[bytes]]:
    """Starts making the programs that take long to make and are wanted late; by environment.

    What is made is kept in the user's cache. A failure is reported by the fixture that wants the
    program and then makes it itself, where it matters.
    """
    return {
        environment: subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for environment, code in BUILDS.items()
    }


def end_build(build: subprocess.Popen[bytes]) -> None:
    """Ends a build, its compilers too, unless it has ended."""
    if build.poll() is None:
        os.killpg(build.pid, signal.SIGTERM)
        build.wait()


def run_checks(
    checks: Sequence[Check], builds: Mapping[str, subprocess.Popen[bytes]], results: Path
) -> Counts:
    """Runs the checks one after another, each when its build has ended.

    Without builds the user has chosen tests, and an environment may have none of them.
    """
    counts = []
    for number, check in enumerate(checks):
        if check.environment in builds:  # waiting here costs no test its time limit
            builds[check.environment].wait()
        print(f"== {check.environment}: {shlex.join(check.command)}", flush=True)
        started_s = time.monotonic()
        path = results / f"{number}.xml"
        counts.append(run_check(check, path, may_be_empty=not builds))
        duration_s = time.monotonic() - started_s
        verdict = "FAILED" if counts[-1].failed else "ok"
        detail = f", {counts[-1]}" if check.is_pytest else ""
        print(f"== {check.environment}: {verdict} in {duration_s:.1f} s{detail}", flush=True)
    return total(counts)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when everything passed, 130 when interrupted, 143 when terminated, else 1."""
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        allow_abbrev=False,
        description="Runs format, lint, types, imports and all tests. With arguments, which go to "
        "pytest (paths, -k, -m, -x ...), only the tests.",
    )
    _, pytest_arguments = parser.parse_known_args(arguments)
    take_signals()
    prepare(os.environ)
    checks = read_checks((ROOT / "tox.ini").read_text(), pytest_arguments)
    builds = {} if pytest_arguments else start_builds()
    with tempfile.TemporaryDirectory(prefix="calico-k8s-test-") as results:
        try:
            counts = run_checks(checks, builds, Path(results))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        finally:
            for build in builds.values():
                end_build(build)
    print(counts)
    return int(counts.failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
