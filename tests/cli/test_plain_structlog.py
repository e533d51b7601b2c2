"""What a daemon imports before it does anything: no more than it uses."""

import subprocess
import sys

import pytest

from tests.cli.program import ROOT


@pytest.mark.parametrize("command", ["node", "controller"])
def test_a_daemons_command_takes_neither_rich_nor_yaml_along(command: str) -> None:
    script = f"""
import sys
import calico_k8s.cli.{command}
assert not {{"rich", "yaml"}} & sys.modules.keys(), "imported"
import rich.progress
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
