"""The demo holds what it tells, fits a terminal, and leaves nothing, however it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calico_k8s.lab.cluster import RUN_DIRECTORY
from calico_k8s.lab.demo import Score, Stage, run_demo
from calico_k8s.lab.netns import NETNS_DIRECTORY
from calico_k8s.query.matrix import Cell, Matrix

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
COLUMNS = 100


def test_every_act_holds_what_it_tells() -> None:
    lines: list[str] = []
    score = run_demo(Stage(lambda text: lines.extend(text.splitlines() or [""])))
    assert score.surprises == []
    assert score.expected > 400
    acts = [line.split(".")[0] for line in lines if line.startswith("── ")]
    assert acts == [f"── {number}" for number in range(1, 8)]
    assert max(map(len, lines)) <= COLUMNS
    assert sum("[" in line for line in lines) > 10, "changed cells are marked"
    assert lines[-1].startswith(f"{score.expected} probes as expected, 0 not")


def left_by(pid: int) -> list[Path]:
    """What there is of a process's labs."""
    spaces = NETNS_DIRECTORY.glob(f"clab-{pid}.*")
    return [*spaces, *RUN_DIRECTORY.glob(f"{pid}.*")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "calico_k8s", "demo"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 60
    # Both agents have logged, so the lab is up and an act goes on.
    while len(list(RUN_DIRECTORY.glob(f"{process.pid}.*/*.state"))) < 2:
        agents = list(RUN_DIRECTORY.glob(f"{process.pid}.*/*.log"))
        if len([log for log in agents if "kernel written" in log.read_text()]) == 2:
            break
        assert time.monotonic() < deadline_s, "the demo does not start"
        time.sleep(0.02)
    children = children_of(process.pid)
    assert children, "its agents are its children"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode != 0
    assert left_by(process.pid) == []
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def children_of(pid: int) -> list[int]:
    """The processes that a process started."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def test_a_verdict_that_is_otherwise_is_a_surprise() -> None:
    def matrix(verdict: str) -> Matrix:
        cell = Cell(src="a/a", dst="a/b", port=80, protocol="tcp", family=4, verdict="allow")
        return Matrix((), (cell if verdict == "allow" else flipped(cell),))

    score = Score()
    score.count(matrix("allow"), matrix("deny"))
    assert score.expected == 0
    assert len(score.surprises) == 1


def flipped(cell: Cell) -> Cell:
    """The other verdict."""
    return Cell(cell.src, cell.dst, cell.port, cell.protocol, cell.family, "deny")
