"""The program as a whole: help, examples, exit codes, completion."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from calico_k8s.cli.main import COMMANDS, program
from calico_k8s.controller.reconcile import Reconciler
from calico_k8s.datastore.factory import open_store
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import expand
from calico_k8s.translate.cluster import translate_all
from tests.cli.manifests import TWO_TIERS
from tests.cli.program import CODE, ROOT, run, run_apart

EXAMPLE = re.compile(r"^ +(?:sudo )?calico-k8s (.+)$", re.MULTILINE)
ANSWERING = ("affected", "can", "explain", "fmt", "lint", "matrix")
"""Commands whose examples need nothing but manifests and a store."""


def below(name: str) -> list[tuple[str, ...]]:
    """A command, and every command of it."""
    command = program.get_command(click.Context(program), name)
    found = list(command.commands) if isinstance(command, click.Group) else []
    return [(name,), *((name, each) for each in found)]


def examples() -> list[str]:
    """What the help texts of the answering commands say to type, where it needs no live cluster."""
    found = [each for name in ANSWERING for each in EXAMPLE.findall(run(name, "--help").out)]
    return [example for example in found if "--kubeconfig" not in example]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which every example makes sense."""
    texts = {
        "manifests": TWO_TIERS.replace("allow", "ALLOW"),
        "changed": TWO_TIERS.replace("=a", "=c"),
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.yaml").write_text(text)
    store = open_store(f"sqlite://{tmp_path / 'state.db'}")
    cluster = expand(read_text(TWO_TIERS, "app.yaml").manifests)
    Reconciler(store).sync(translate_all(cluster.objects()).items)
    store.close()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    commands = below(name)
    for command in commands:
        asked = run(*command, "--help")
        assert asked.code == 0
        assert "\\b" not in asked.out, "click shows the mark of examples as it is"
        has_example = EXAMPLE.search(asked.out) is not None
        assert has_example or (len(commands) > 1 and command == (name,))


def test_every_answering_command_has_an_example() -> None:
    assert {example.split()[0] for example in examples()} == set(ANSWERING)


@pytest.mark.parametrize("example", examples())
def test_every_example_runs(folder: Path, example: str) -> None:
    ran = run(*(word.replace("sqlite:///", f"sqlite://{folder}/") for word in shlex.split(example)))
    assert ran.code in (0, 1)
    assert ran.out + ran.err
    assert not ran.err.startswith("error")


def test_the_program_lists_its_commands() -> None:
    listed = run("--help").out
    assert all(re.search(rf"^  {name} ", listed, re.MULTILINE) for name in COMMANDS)
    assert run("no-such-command").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(shell: str) -> None:
    assert "calico-k8s" in run("completion", shell).out


def test_a_reader_that_goes_away_ends_the_program_quietly(folder: Path) -> None:
    """As in ``calico-k8s matrix ... | head -1``."""
    many = "".join(TWO_TIERS.replace("web", f"w{n}").replace("db", f"d{n}") for n in range(30))
    (folder / "many.yaml").write_text(many)
    with subprocess.Popen(
        [sys.executable, "-c", CODE, "matrix", "many.yaml"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_an_error_is_one_line_without_a_traceback(folder: Path) -> None:
    asked = run_apart("matrix", "none.yaml", cwd=folder)
    assert asked == (2, "", "error: none.yaml: no such file or folder\n")
