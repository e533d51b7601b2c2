"""Lines of logs: JSON where no person looks on, whatever is logged; columns on a terminal."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import ROOT, run_apart, run_on_terminal

SCRIPT = """
import sys, threading, structlog
from calico_k8s.cli.logging import LogOptions, logging_of
from calico_k8s.errors import UnavailableError
with logging_of("felix", LogOptions(*sys.argv[1:3])):
    log = structlog.get_logger()
    log.debug("small")
    log.warning("a\\nb", error="c\\nd", thing=Ellipsis, number=1)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    exec("".join(sys.argv[3:]))
"""
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"

Line = dict[str, Any]  # Any: what JSON can say


def stderr_of(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stderr


def lines(*arguments: str) -> list[Line]:
    return [json.loads(line) for line in stderr_of(*arguments).splitlines()]


@pytest.mark.parametrize("form", ["auto", "json"])
def test_without_a_terminal_every_line_is_json_with_the_same_keys_first(form: str) -> None:
    found = lines("info", form)
    assert [each["event"] for each in found] == ["starting", "a\nb", "a mistake of ours"]
    for each in found:
        assert list(each)[:3] == ["timestamp", "level", "event"]
        assert re.fullmatch(TIME, each["timestamp"])
    assert found[0]["daemon"] == "felix"
    assert (found[1]["error"], found[1]["number"]) == ("c\nd", 1)
    assert "ZeroDivisionError" in found[2]["exception"]


def test_what_ends_the_process_is_a_line_too() -> None:
    mistake = lines("error", "json", "raise ValueError('x')")[-1]
    assert (mistake["event"], mistake["level"]) == ("a mistake of ours", "critical")
    assert "ValueError: x" in mistake["exception"]
    lost = lines("error", "json", "raise OSError(24, 'Too many open files')")[-2]
    assert lost["event"] == "a mistake of ours"
    assert "Too many open files" in lost["exception"]
    error = lines("error", "json", "raise UnavailableError('no etcd')")[-2]
    assert (error["event"], error["error"]) == ("ended by an error", "no etcd")


def test_levels_below_are_not_logged() -> None:
    assert [each["event"] for each in lines("debug", "json")][1] == "small"
    assert [each["level"] for each in lines("error", "json")] == ["critical"]


def test_text_is_for_people_also_without_a_terminal() -> None:
    text = stderr_of("info", "text")
    assert "starting" in text.splitlines()[0]
    assert "daemon=felix" in text
    assert "\x1b" not in text, "no colours"


def test_a_terminal_has_columns_in_colour_unless_nobody_wants_them() -> None:
    shown = run_on_terminal(SCRIPT, "info", "auto")
    assert "starting" in shown
    assert "\x1b[" in shown
    assert "\x1b[" not in run_on_terminal(SCRIPT, "info", "auto", env={"NO_COLOR": "1"})
    assert '"event"' in run_on_terminal(SCRIPT, "info", "json")


def test_a_daemon_that_cannot_start_says_so_in_its_form_with_its_exit_code(tmp_path: Path) -> None:
    command = ("controller", "--datastore", f"sqlite://{tmp_path}/s.db", "--metrics-port", "0")
    ran = run_apart(*command, "--kubeconfig", tmp_path / "none")
    assert ran.code == 2
    last = json.loads(ran.err.splitlines()[-1])
    assert last["event"] == "ended by an error"
    assert "--kubeconfig PATH" in last["error"]
    as_text = run_apart(*command, "--kubeconfig", tmp_path / "none", "--log-format", "text")
    assert as_text.err.splitlines()[-1].startswith("error: ")
