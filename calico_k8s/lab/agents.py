"""One real Felix for each node, as a process in the node's namespace.

In: nodes that are up, and a datastore.  Out: processes that can be killed and started while the
cluster runs, and what each has told of itself.  A node's log is ``NODE.log`` in the run's
directory, its state file ``NODE.state``.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

import calico_k8s
from calico_k8s.datastore.store import Revision, Store
from calico_k8s.errors import InputError, KernelError, StoreUnavailable
from calico_k8s.lab.cluster import NodeSite
from calico_k8s.lab.netns import entered
from calico_k8s.model.names import NodeName
from calico_k8s.model.status import StoredStatus, status_path

STOP_TIMEOUT_S = 5.0
POLL_S = 0.003
LOG_LINES_SHOWN = 8
_ROOT = Path(calico_k8s.__file__).parents[1]


class Goal(NamedTuple):
    """What agents are to reach: a revision, and how many endpoints each node is to enforce."""

    revision: Revision
    endpoints: Mapping[NodeName, int]

    def is_reached(self, node: NodeName, told: StoredStatus | None) -> bool:
        """Whether a node has, by what its agent told last."""
        return (
            told is not None
            and told.state == "in-sync"
            and told.revision >= self.revision
            and told.enforced >= self.endpoints.get(node, 0)
        )


class Agents:
    """The agents of some nodes; ``arguments`` are those that all have in common."""

    def __init__(
        self, nodes: Mapping[NodeName, NodeSite], directory: Path, arguments: Iterable[str]
    ) -> None:
        self._nodes = nodes
        self._directory = directory
        self._arguments = tuple(arguments)
        self._processes: dict[NodeName, subprocess.Popen[bytes]] = {}

    @property
    def running(self) -> frozenset[NodeName]:
        """The nodes whose agent was started and has not been stopped or killed."""
        return frozenset(self._processes)

    @property
    def pids(self) -> frozenset[int]:
        """The processes of the agents that run."""
        return frozenset(process.pid for process in self._processes.values())

    def log_path(self, node: NodeName) -> Path:
        """What the node's agents wrote to standard error, all runs in one file."""
        return self._directory / f"{node}.log"

    def state_path(self, node: NodeName) -> Path:
        """What the node's agent would start from after a reboot."""
        return self._directory / f"{node}.state"

    def start(self, node: NodeName, *more: str) -> None:
        """Starts a node's agent; it may take a second until it enforces anything.

        Of arguments that are given twice, those of ``more`` hold.

        Raises:
            InputError: there is no such node, or its agent runs.
        """
        site = self._site(node)
        if node in self._processes:
            raise InputError(f"the agent of node {node} runs already")
        command = [sys.executable, "-m", "calico_k8s", "felix", "--node", node]
        command += ["--state-file", str(self.state_path(node))]
        command += [
            "--denials-socket",
            str(denials_path(self._directory, node)),
            *self._arguments,
            *more,
        ]
        environment = os.environ | {
            "XTABLES_LOCKFILE": str(site.xtables_lockfile),
            # The very code that runs here, whatever directory it was started in.
            "PYTHONPATH": str(_ROOT),
        }
        with self.log_path(node).open("ab") as log, entered(site.namespace):
            self._processes[node] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C is for the lab, which then stops its agents.
                start_new_session=True,
            )

    def kill(self, node: NodeName) -> None:
        """Ends a node's agent as a crash would.

        Raises:
            InputError: there is no such node, or its agent does not run.
        """
        self._end(node, signal.SIGKILL)

    def stop(self, node: NodeName) -> None:
        """Ends a node's agent as its service manager would.

        Raises:
            InputError: there is no such node, or its agent does not run.
        """
        self._end(node, signal.SIGTERM)

    def close(self) -> None:
        """Ends all; twice is fine."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            _reap(process)
        self._processes.clear()

    def wait_for(self, store: Store, goal: "Goal", timeout_s: float) -> None:
        """Returns when every agent that runs has told that its node has reached the goal.

        Raises:
            KernelError: one ended, or has not told it in time; with the end of its log.
        """
        deadline_s = time.monotonic() + timeout_s
        waiting: Collection[NodeName] = self.running
        while waiting := self._behind(store, waiting, goal):
            for node in waiting:
                if self._processes[node].poll() is not None:
                    raise KernelError(self._failure(node, "ended"))
            if time.monotonic() > deadline_s:
                node = min(waiting)
                raise KernelError(
                    self._failure(
                        node, f"does not enforce revision {goal.revision} in {timeout_s} s"
                    )
                )
            time.sleep(POLL_S)

    def status(self, store: Store, node: NodeName) -> StoredStatus | None:
        """What the agent that runs now has told; None if nothing yet."""
        try:
            entry = store.get(status_path(node))
        except StoreUnavailable:
            return None
        if entry is None:
            return None
        told = msgspec.json.decode(entry.value, type=StoredStatus)
        process = self._processes.get(node)
        return told if process is not None and told.pid == process.pid else None

    def _behind(self, store: Store, nodes: Collection[NodeName], goal: "Goal") -> list[NodeName]:
        return [node for node in nodes if not goal.is_reached(node, self.status(store, node))]

    def _end(self, node: NodeName, number: signal.Signals) -> None:
        self._site(node)
        process = self._processes.pop(node, None)
        if process is None:
            raise InputError(f"the agent of node {node} does not run")
        process.send_signal(number)
        _reap(process)

    def _site(self, node: NodeName) -> NodeSite:
        site = self._nodes.get(node)
        if site is None:
            known = ", ".join(sorted(self._nodes))
            raise InputError(f"there is no node '{node}' in the lab: it has {known}")
        return site

    def _failure(self, node: NodeName, what: str) -> str:
        lines = self.log_path(node).read_text(encoding="utf-8", errors="replace").splitlines()
        told = "\n  ".join(lines[-LOG_LINES_SHOWN:])
        return f"the agent of node {node} {what}; its log ends with\n  {told}"


def denials_path(directory: Path, node: NodeName) -> Path:
    """Where a node's agent is asked for its denials."""
    return directory / f"{node}.denials"


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
