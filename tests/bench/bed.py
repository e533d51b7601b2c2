"""A node to measure on: namespaces joined by veths, and a real Felix process in the middle one.

In: how many pods this node has, a datastore.  Out: a pod that listens, one outside that sends, and
what the process costs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from calico_k8s.datastore.store import Delete, Put, Store, transact_in_order
from calico_k8s.model import codec, keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import Key
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Value
from calico_k8s.model.status import StoredStatus, status_path
from tests.bench.costs import processor_s, resident_mb
from tests.bench.stamped import StampedFlow
from tests.namespaces import Namespace, ip, new_namespace, run

NODE = NodeName("here")
UPLINK = Address("192.168.0.254")
OWN = Address("192.168.0.1")


def local_address(number: int) -> Address:
    """The nth pod's of this node."""
    return Address(f"10.1.{number // 250}.{number % 250 + 1}")


def remote_address(number: int) -> Address:
    """The nth pod's of another node."""
    return Address(f"10.{2 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}")


class Bed:
    """A node: an uplink, pods behind veths, who listens at some of them, and one outside that sends.

    ``listening`` are the pods that :attr:`flow` hears; the second pod has a namespace of its own
    unless it is one of them, and of the others the far ends stay on the node.
    """

    def __init__(self, stack: ExitStack, local: int, listening: range = range(1)) -> None:
        self.node = stack.enter_context(new_namespace())
        self.outside = stack.enter_context(new_namespace())
        self.server = stack.enter_context(new_namespace())
        self.joiner = stack.enter_context(new_namespace())
        with self.node:
            self._wire(local, {1: self.joiner} | dict.fromkeys(listening, self.server))
        with self.server:
            run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
            addresses = map(local_address, listening)
            self.flow = stack.enter_context(closing(StampedFlow(*addresses)))

    def _wire(self, local: int, homes: Mapping[int, Namespace]) -> None:
        ip(f"link add eth0 type veth peer name eth0 netns {self.outside.path}")
        ip(f"addr add {OWN}/24 dev eth0")
        ip("link set eth0 up")
        with self.outside:
            ip(f"addr add {UPLINK}/24 dev eth0")
            ip("link set eth0 up")
            ip(f"addr add {remote_address(0)}/32 dev lo")
            ip(f"route add default via {OWN}")
        ip(f"route add default via {UPLINK}")
        for number in range(local):
            self._attach(number, homes.get(number))
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")

    def _attach(self, number: int, home: Namespace | None) -> None:
        link, address, far = f"cali{number}", local_address(number), f"far{number}"
        inside = f"name {far} netns {home.path}" if home is not None else f"name {far}"
        ip(f"link add {link} type veth peer {inside}")
        ip(f"link set {link} up")
        ip(f"addr add 169.254.1.1/32 dev {link}")
        if home is not None:
            with home:
                ip(f"addr add {address}/32 dev {far}")
                ip(f"link set {far} up")
                ip(f"route replace 169.254.1.1 dev {far}")
                ip(f"route replace default via 169.254.1.1 dev {far}")
        ip(f"route add {address}/32 dev {link}")

    def replug(self, number: int) -> None:
        """Take a pod's veth away, one of the server's, and give it another of the same name."""
        with self.node:
            ip(f"link del cali{number}")
            self._attach(number, self.server)


def write(store: Store, items: Mapping[Key, Value | None]) -> int:
    """Store items, None: gone; nanoseconds of the monotonic clock when the write had returned."""
    transact_in_order(store, operations_of(items))
    return time.monotonic_ns()


def operations_of(items: Mapping[Key, Value | None]) -> list[Put | Delete]:
    """What stores items; None: gone."""
    operations: list[Put | Delete] = []
    for key, value in items.items():
        path = keys.key_path(key)
        operations.append(Delete(path) if value is None else Put(path, codec.encode(value)))
    return operations


class Felix:
    """A real agent process on the bed's node."""

    def __init__(self, bed: Bed, url: str, backend: str, folder: Path) -> None:
        self._bed, self._url, self._backend, self._folder = bed, url, backend, folder
        self._commands = folder / "commands"
        self.lock = folder / "lock"
        """What programs of iptables-legacy lock here."""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Nanoseconds of the monotonic clock just before the process began."""
        options = ("--datastore", self._url, "--iptables-backend", self._backend)
        state = ("--state-file", str(self._folder / "state"))
        environment = self._environment()
        with (self._folder / "log").open("ab") as log, self._bed.node:
            start_ns = time.monotonic_ns()
            self._process = subprocess.Popen(
                (sys.executable, "-m", "calico_k8s", "felix", "--node", NODE, *options, *state),
                env=environment,
                stderr=log,
            )
        return start_ns

    def _environment(self) -> dict[str, str]:
        return dict(
            os.environ,
            XTABLES_LOCKFILE=str(self.lock),
            PATH=f"{self._wrappers()}:{os.environ['PATH']}",
            PYTHONPATH=str(Path.cwd()),
        )

    def stop(self) -> None:
        """End the process; the kernel keeps its state."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def clean(self) -> None:
        """Take all that the agent made from the node, and what it would know again."""
        command = (sys.executable, "-m", "calico_k8s", "felix", "clean")
        with self._bed.node:
            subprocess.run(command, env=self._environment(), check=True, capture_output=True)
        (self._folder / "state").unlink(missing_ok=True)

    def wait_in_sync(self, store: Store) -> int:
        """Nanoseconds when this process had told that everything is enforced."""
        end_s = time.monotonic() + 30
        while time.monotonic() < end_s:
            entry = store.get(status_path(NODE))
            if entry is not None and self._process is not None:
                told = msgspec.json.decode(entry.value, type=StoredStatus)
                if told.state == "in-sync" and told.pid == self._process.pid:
                    return time.monotonic_ns()
            time.sleep(0.002)
        raise SystemExit((self._folder / "log").read_text())

    @property
    def pid(self) -> int:
        """Of the process, which runs."""
        assert self._process is not None
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU of the process so far."""
        return processor_s(self.pid)

    def resident_mb(self, field: str = "VmRSS") -> float:
        """Memory of the process; ``VmHWM`` is the most that it has had."""
        return resident_mb(self.pid, field)

    def descriptors(self) -> int:
        """Open files of the process."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def commands(self) -> int:
        """How many programs of iptables, ipset and nft it has started."""
        return len(self._commands.read_text().splitlines()) if self._commands.exists() else 0

    def _wrappers(self) -> Path:
        """Programs of the same names that write a line and become the real ones."""
        folder = self._folder / "bin"
        if not folder.exists():
            folder.mkdir()
            for real in Path("/usr/sbin").iterdir():
                if real.name.startswith(("iptables", "ip6tables", "xtables", "ipset", "nft")):
                    wrapper = folder / real.name
                    wrapper.write_text(f'#!/bin/sh\necho x >>{self._commands}\nexec {real} "$@"\n')
                    wrapper.chmod(0o755)
        return folder
