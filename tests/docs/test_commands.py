"""Every command that README and docs show runs, and prints what is shown under it.

A command is a line ``$ ...`` of a ``console`` block; the lines after it, if any, are its output.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

CLUSTER_COMMANDS = (
    "docker build -f manifests/Dockerfile -t registry.example.org/calico-k8s:0.1.0 .",
    "kubectl label node node-1 node-2 node-3 calico-k8s.io/etcd=",
    "kubectl label node node-4 node-5 calico-k8s.io/etcd-proxy=",
    "$EDITOR manifests/policy-only/kustomization.yaml",
    "kubectl apply -k manifests/policy-only",
    "kubectl apply -k manifests/clean",
    "kubectl delete -k manifests/policy-only --ignore-not-found",
    *(
        f"kubectl -n calico-k8s {words}"
        for words in (
            "rollout status deployment/calico-k8s-signer",
            "rollout status daemonset/calico-k8s-felix",
            "rollout status daemonset/calico-k8s-clean",
            "exec deployment/calico-k8s-controller -c controller -- calico-k8s status",
            "exec daemonset/calico-k8s-felix -c felix -- calico-k8s felix drift",
            "delete daemonset calico-k8s-felix",
            "delete statefulset calico-k8s-etcd",
            "delete secret calico-k8s-ca",
            "rollout restart deployment/calico-k8s-signer",
            "rollout restart statefulset/calico-k8s-etcd",
            "rollout restart deployment/calico-k8s-controller daemonset/calico-k8s-felix",
        )
    ),
)
"""What wants a whole cluster; that test does what each of them leads to, a kubelet without images."""

COVERED = {
    "kubectl apply -k manifests/crds": "tests/cluster/test_definitions.py",
    "kubectl delete -k manifests/crds": "tests/cluster/test_definitions.py",
    "scripts/demo": "tests/lab/test_demo.py",
    "scripts/test": "tests/test_run.py",
    "calico-k8s standalone /etc/calico-k8s/manifests": "tests/cli/test_standalone.py",
    "calico-k8s felix clean": "tests/lab/test_agents_life.py",
    "calico-k8s felix clean --verify": "tests/felix/test_leftovers.py",
    "calico-k8s felix drift --node worker-1 --datastore etcd://127.0.0.1:2379": (
        "tests/felix/test_drift.py"
    ),
    "calico-k8s lint --kubeconfig": "tests/cluster/test_source.py",
    **dict.fromkeys(CLUSTER_COMMANDS, "tests/cluster/test_installation.py"),
}
"""What cannot run as it is written here: it would be this very run, or would not end, or would
change the machine.  Each with the test that runs it as it can be."""

COVERED_PAGES = {
    "first-five-minutes.md": "tests/cluster/test_first_five_minutes.py",
    "tiers.md": "tests/cluster/test_tiers.py",
}
"""Pages whose commands need a cluster, each with the test that follows it."""

ANSWERS_NO = re.compile(r"^calico-k8s (lint|can|explain) ")
"""Commands whose exit code 1 is an answer, no error."""

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Shown(NamedTuple):
    """A command as a page shows it, without its comment, and the output under it."""

    page: str
    command: str
    output: str


def shown_commands() -> Iterator[Shown]:
    for page in PAGES:
        if page.name not in COVERED_PAGES:
            yield from shown_on(page)


def shown_on(page: Path) -> Iterator[Shown]:
    """The commands of one page, in their order."""
    for block in _BLOCK.findall(page.read_text()):
        command: str | None = None
        output: list[str] = []
        for line in [*block.splitlines(), "$ "]:
            if not line.startswith("$ "):
                output.append(line)
                continue
            if command is not None:
                yield Shown(page.name, command, "\n".join(output).strip())
            command = re.sub(r"\s{2,}#.*", "", line.removeprefix("$ ")).strip()
            output = []


def needs_kernel(shown: Shown) -> bool:
    return shown.command.startswith(("calico-k8s lab", "calico-k8s demo"))


def cases(*, kernel: bool) -> list[Shown]:
    return [
        shown
        for shown in shown_commands()
        if shown.command not in COVERED and needs_kernel(shown) is kernel
    ]


def run(shown: Shown) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", shown.command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode in ((0, 1) if ANSWERS_NO.match(shown.command) else (0,)), done.stderr
    assert "Traceback" not in done.stderr
    if shown.output:
        assert done.stdout.strip() == shown.output


@pytest.mark.parametrize("shown", cases(kernel=False), ids=lambda shown: shown.command)
def test_a_shown_command_runs(shown: Shown) -> None:
    run(shown)


@pytest.mark.kernel
@pytest.mark.parametrize("shown", cases(kernel=True), ids=lambda shown: shown.command)
def test_a_shown_lab_command_runs(shown: Shown) -> None:
    run(shown)


@pytest.mark.parametrize("command", sorted(COVERED))
def test_what_cannot_run_here_is_shown_and_run_by_another_test(command: str) -> None:
    assert command in {shown.command for shown in shown_commands()}
    assert (ROOT / COVERED[command]).exists()


@pytest.mark.parametrize("page", sorted(COVERED_PAGES))
def test_a_page_that_needs_a_cluster_is_followed_by_another_test(page: str) -> None:
    assert list(shown_on(ROOT / "docs" / page))
    assert (ROOT / COVERED_PAGES[page]).exists()
