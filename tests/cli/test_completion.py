"""Words completed by a real bash, and as kubectl asks for them."""

import subprocess
import sys
from pathlib import Path

import pytest

from calico_k8s.cli.completion import kubectl_completions
from tests.cli.program import run
from tests.needs import require_program

PROGRAMS = Path(sys.executable).parent


def completed_by_bash(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    script = run("completion", "bash").out
    asked = f"""
{script}
COMP_WORDS=({" ".join(map(repr, words))})
COMP_CWORD={len(words) - 1}
_calico_k8s_completion calico-k8s
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    bash = require_program("bash", package="bash")
    done = subprocess.run(
        [bash, "--norc"],
        input=asked,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{PROGRAMS}:/usr/bin:/bin"},
        timeout=60,
    )
    return done.stdout.split()


def test_bash_completes_commands_and_options() -> None:
    assert completed_by_bash("calico-k8s", "ma") == ["matrix"]
    assert {"--kubeconfig", "--format"} <= set(completed_by_bash("calico-k8s", "lint", "--"))
    assert completed_by_bash("calico-k8s", "lint", "--format", "s") == ["sarif"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ma"], ["matrix"]),
        (["get", "prof"], ["profiles"]),
        (["lint", "--format", "gi"], ["github"]),
        (["felix", "cl"], ["clean"]),
        (["no-such-command", "x"], []),
    ],
)
def test_kubectl_is_told_what_may_follow(words: list[str], expected: list[str]) -> None:
    *found, directive = kubectl_completions(words)
    assert [line.partition("\t")[0] for line in found] == expected
    assert directive == ":4"


def test_kubectl_is_told_what_an_option_means() -> None:
    lines = list(kubectl_completions(["can", "--po"]))
    assert any(line.startswith("--port\t") for line in lines)


def test_a_word_that_is_a_file_is_left_to_kubectl() -> None:
    assert list(kubectl_completions(["felix", "--state-file", ""]))[-1] in (":0", ":4")
    assert list(kubectl_completions(["standalone", ""]))[-1] == ":0"
