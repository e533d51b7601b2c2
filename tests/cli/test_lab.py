"""The lab as users meet it: matrices that agree, expectations, changes while it runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from calico_k8s.lab.cluster import RUN_DIRECTORY
from calico_k8s.lab.netns import NETNS_DIRECTORY
from tests.cli.program import ROOT, Ran, run_apart

pytestmark = pytest.mark.kernel

APPS = [
    ("tests/apps/guestbook.yaml",),
    ("tests/apps/dual-stack.yaml",),
    ("tests/apps/voting.yaml",),
    ("tests/apps/shop", "--port", "7070/tcp", "--port", "icmp"),
]
GUESTBOOK = ROOT / "tests/apps/guestbook.yaml"


def lab(*words: object) -> Ran:
    return run_apart("lab", *words, cwd=ROOT)


@pytest.mark.parametrize("network", ["ptp", "bridge"])
@pytest.mark.parametrize("words", APPS, ids=lambda words: Path(words[0]).stem)
def test_the_probed_matrix_is_the_computed_one_to_the_letter(
    words: tuple[str, ...], network: str
) -> None:
    probed = lab("matrix", *words, "-o", "json", "--pod-network", network)
    computed = run_apart("matrix", *words, "-o", "json", cwd=ROOT)
    assert probed.code == computed.code == 0, probed.err
    assert probed.out == computed.out


def test_expectations_that_hold_are_fine_and_others_are_not(tmp_path: Path) -> None:
    expected = tmp_path / "expected.yaml"
    report = tmp_path / "report.xml"
    holds = "- {from: default/frontend-*, to: default/store-leader-0, port: 6379, verdict: allow}\n"
    expected.write_text(holds)
    assert lab("test", GUESTBOOK, "--expect", expected).code == 0
    expected.write_text(holds + holds.replace("allow", "deny"))
    ran = lab("test", GUESTBOOK, "--expect", expected, "--junit", report)
    assert ran.code == 1
    assert ran.out.splitlines()[-1] == "1 as expected, 1 not"
    assert 'failures="1"' in report.read_text()


WRONG_USE = [
    (["matrix"], 2, "give manifests"),
    (["matrix", "no-such.yaml"], 2, "no-such.yaml: no such file or folder"),
    (["matrix", GUESTBOOK, "--port", "70000"], 2, "port '70000'"),
    (["test", GUESTBOOK, "--expect", "no-such.yaml"], 2, "no-such.yaml: cannot be read"),
    (["agent", "node-1", "kill", "--run", "none"], 3, "no lab 'none' runs here"),
    (["exec", "web/a"], 2, "give the program after --"),
    (["run", GUESTBOOK, "--", "no-such-program"], 3, "no-such-program cannot be run"),
]


@pytest.mark.parametrize(("words", "code", "message"), WRONG_USE)
def test_wrong_use_is_told_in_a_sentence(words: list[object], code: int, message: str) -> None:
    ran = lab(*words)
    assert ran.code == code, ran
    assert message in ran.err
    assert "Traceback" not in ran.err


class Running:
    """A lab that stays, and what it says."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self.process = process
        self._said = said

    @property
    def run(self) -> str:
        """Its name."""
        (directory,) = RUN_DIRECTORY.glob(f"{self.process.pid}.*")
        return directory.name

    def wait_for(self, words: str, times: int = 1) -> None:
        """Returns when it has said the words so many times."""
        deadline_s = time.monotonic() + 60
        while self._said.read_text().count(words) < times:
            assert self.process.poll() is None, self._said.read_text()
            assert time.monotonic() < deadline_s, self._said.read_text()
            time.sleep(0.02)


@contextmanager
def running(tmp_path: Path, *words: object) -> Iterator[Running]:
    said = tmp_path / "said"
    with said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "calico_k8s", "lab", "run", *map(str, words)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
        )
    try:
        up = Running(process, said)
        up.wait_for("policy in force")
        yield up
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    assert code == 130
    assert list(RUN_DIRECTORY.glob(f"{process.pid}.*")) == []
    assert list(NETNS_DIRECTORY.glob(f"clab-{process.pid}.*")) == []


POD = """\
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: web, annotations: {policy: "POLICY"}}
spec: {nodeName: node-1, containers: [{name: c, ports: [{containerPort: 80}]}]}
---
"""
ASK = (
    "import socket,sys; s = socket.create_connection((sys.argv[1], 80), 1);"
    "s.sendall(b'id\\n'); print(s.recv(100).decode())"
)


@pytest.mark.timeout(300)
def test_a_running_lab_follows_its_manifests_and_is_played_with(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    open_text = POD.replace("NAME", "a") + POD.replace("NAME", "b")
    file.write_text(open_text.replace("POLICY", "allow"))

    with running(tmp_path, file, "--nodes", "2") as up:
        state = msgspec.json.decode((RUN_DIRECTORY / up.run / "lab.json").read_bytes())
        assert set(state["spots"]) == {"node-1", "node-2", "web/a", "web/b"}

        def ask(address: str) -> Ran:
            words = ["exec", "--run", up.run, "web/a", "--", sys.executable, "-c", ASK, address]
            return lab(*words)

        shown = lab("exec", "--run", up.run, "web/b", "--", "ip", "-br", "-4", "address")
        address = shown.out.split()[-1].partition("/")[0]
        assert ask(address).out.strip() == "web/b"

        file.write_text(open_text.replace("POLICY", "deny"))
        up.wait_for("changed, and in force")
        assert ask(address).code != 0

        file.write_text("a: [")
        up.wait_for("what was there before stands")
        assert ask(address).code != 0

        assert lab("agent", "--run", up.run, "node-1", "kill").code == 0
        refused = lab("agent", "--run", up.run, "node-1", "kill")
        assert "the agent of node node-1 does not run" in refused.err
        assert "there is no node 'node-9'" in lab("agent", "--run", up.run, "node-9", "kill").err
        assert ask(address).code != 0
        assert lab("agent", "--run", up.run, "node-1", "start").code == 0

        three = open_text + POD.replace("NAME", "c")
        file.write_text(three.replace("POLICY", "allow"))
        up.wait_for("changed, and in force: 3 pods")
        assert ask(address).out.strip() == "web/b"
        assert "no pod or node 'web/x'" in lab("exec", "--run", up.run, "web/x", "--", "true").err


def test_a_command_beside_the_lab_has_its_datastore_and_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f'{sys.executable} -m calico_k8s status > {out}; test -n "$CALICO_K8S_RUN"; exit 7'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "calico_k8s", "lab", "run", GUESTBOOK, "--", "sh", "-c", script],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 7
    assert out.read_text().count("in-sync") == 2
