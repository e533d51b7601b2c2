"""Real controllers as processes, and what they have written.

In come an API server and a datastore's URL, out go processes that can be killed, stopped and
started, and the datastore as values.  They end with this process however it ends.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec

from calico_k8s.controller.fence import Writer
from calico_k8s.controller.stored import read_items
from calico_k8s.datastore.store import Store
from calico_k8s.model import keys
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, ProfileId
from calico_k8s.model.resources import Node, Rules, Tags, Value, WorkloadEndpoint
from tests.etcd.servers import HERE, Host, free_ports

TIMEOUT_S = 60.0


class ControllerProcess:
    """One process; its log goes on while it comes and goes."""

    def __init__(self, command: list[str], log: Path, host: Host = HERE) -> None:
        self._command = command
        self._log = log
        self._host = host
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """All that it has said."""
        return self._log.read_text()

    def start(self) -> None:
        """Starts it."""
        with self._log.open("ab") as log, self._host.inside():
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, *self._command],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()},  # noqa: PTH109 - text
            )

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; a stop has happened when this returns."""
        assert self.process is not None
        self.process.send_signal(number)
        if number is signal.SIGSTOP:
            os.waitpid(self.process.pid, os.WUNTRACED)

    def wait(self) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(TIMEOUT_S)

    def kill(self) -> None:
        """Ends it as a crash would; fine if it has ended."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class CommandController(ControllerProcess):
    """``calico-k8s controller`` with everything it serves."""

    def __init__(
        self, kubeconfig: Path, url: str, folder: Path, *more: str, host: Host = HERE
    ) -> None:
        (self.port,) = free_ports(1, host)
        command = ["-m", "calico_k8s", "controller", "--kubeconfig", str(kubeconfig)]
        command += ["--datastore", url, "--metrics-port", str(self.port), *more]
        super().__init__(command, folder / "controller.log", host)

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages; 0 where it does not listen."""
        return page(f"http://127.0.0.1:{self.port}{path}", self._host)

    def metric(self, name: str) -> float:
        """The value of a metric; labels are part of the name."""
        text = self.ask("/metrics")[1]
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        return float(line.split()[1])

    def wait_until_ready(self) -> None:
        """Returns when it says so.

        Raises: AssertionError with its log when it does not.
        """
        wait_for(lambda: self.ask("/readyz")[0] == 200, lambda: self.log[-3000:])


class Candidate(ControllerProcess):
    """A controller with a short Lease."""

    LEASE_S = 2

    def __init__(
        self, kubeconfig: Path, url: str, name: str, lease: str, folder: Path, lease_s: int
    ) -> None:
        self.name = name
        command = ["-m", "tests.cluster.candidate", str(kubeconfig), url, name, lease]
        super().__init__([*command, str(lease_s)], folder / f"{name}.log")


class Stored:
    """What a datastore holds, by the names that tests use."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def items(self) -> dict[keys.Key, Value]:
        """Everything."""
        return read_items(self._store).items

    def writer(self) -> Writer | None:
        """Who writes."""
        entry = self._store.get(keys.LEADER_PATH)
        return msgspec.json.decode(entry.value, type=Writer) if entry else None

    def pods(self) -> dict[str, NodeName]:
        """The node of each ``namespace/name`` that has an endpoint."""
        ids = (key.id for key in self.items() if isinstance(key, keys.EndpointKey))
        return {endpoint.pod: endpoint.node for endpoint in ids}

    def endpoint(self, namespace: str, name: str, node: str = "node-1") -> WorkloadEndpoint | None:
        """A pod's endpoint."""
        endpoint = EndpointId(NodeName(node), NamespaceName(namespace), name)
        value = self.items().get(keys.EndpointKey(endpoint))
        assert value is None or isinstance(value, WorkloadEndpoint)
        return value

    def rules(self, profile: str) -> Rules | None:
        """A profile's rules."""
        value = self.items().get(keys.ProfileRulesKey(ProfileId(profile)))
        assert value is None or isinstance(value, Rules)
        return value

    def tags(self, namespace: str, name: str) -> set[str]:
        """All tags of a pod's endpoint; none where there is no endpoint."""
        items = self.items()
        found: set[str] = set()
        endpoint = self.endpoint(namespace, name)
        for profile in endpoint.profiles if endpoint else ():
            tags = items.get(keys.ProfileTagsKey(profile))
            found |= set(tags.tags) if isinstance(tags, Tags) else set()
        return found

    def node(self, name: str) -> Node | None:
        """A node's record."""
        value = self.items().get(keys.NodeKey(NodeName(name)))
        assert value is None or isinstance(value, Node)
        return value


def page(url: str, host: Host = HERE) -> tuple[int, str]:
    """Status and text of a page; 0 where nobody listens."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with host.inside(), opener.open(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_for(
    condition: Callable[[], object],
    say: Callable[[], str] = lambda: "",
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Returns when it holds.

    Raises: AssertionError with what there is to say when it does not in time.
    """
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"it did not come to that\n{say()}"
        time.sleep(0.02)
