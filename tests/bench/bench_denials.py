"""What a flood of denied packets costs the agent, and whether each of them is counted.

A real Felix process on a node of two pods, one of which sends the other what its annotation denies:
50,000 datagrams a second for some seconds, as one flow and as thousands.  Beside it the same flood
with denials off: what the kernel's own work is.

Needs root.  Arguments: ``--seconds N``, ``--rate N``, then backends (legacy, nft); both unless given.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from calico_k8s.errors import UnavailableError
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.local_socket import ask
from calico_k8s.model.denial import Denials
from tests.felix.nodes import READY, Machine, allow, machine_up, rules, setting, until
from tests.namespaces import new_namespace

SETTLE_S = 12.0
"""Until what was not told is counted: two readings of the kernel's counters, and the rest."""

FLOOD = """
import socket, sys, time
address, rate, seconds, ports = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start = time.monotonic()
sent = 0
while (now := time.monotonic()) < start + seconds:
    for _ in range(min(2000, int((now - start) * rate) - sent)):
        sender.sendto(b"x", (address, 2000 + sent % ports))
        sent += 1
    time.sleep(0.001)
print(sent)
"""


class Figure(NamedTuple):
    """What one flood came to."""

    name: str
    sent: int
    seconds: float
    cpu_s: float
    counted: int
    records: int


class Bed:
    """The node, its two pods, and the agent's process."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self._machine = machine
        self._pid = pid
        self._client = machine.pod("client", 10)
        self._server = machine.pod("server", 11)

    def set_up(self, *, tells: bool) -> None:
        """The server takes TCP alone."""
        self._machine.settle(
            READY
            | rules("closed", allow())
            | rules("open", allow())
            | self._client.stored("open")
            | self._server.stored("closed")
            | setting("denials", "on" if tells else "off")
        )

    def flood(self, name: str, rate: int, seconds: float, ports: int) -> Figure:
        """Send, and wait until everything is counted."""
        before, cpu_s = self._counted(), self._cpu_s()
        start_s = time.monotonic()
        words = (self._server.addresses[0], str(rate), str(seconds), str(ports))
        with self._client.namespace:
            done = subprocess.run(
                (sys.executable, "-c", FLOOD, *words), capture_output=True, text=True, check=True
            )
        sent, took_s = int(done.stdout), time.monotonic() - start_s
        used_s = self._cpu_s() - cpu_s
        until(lambda: sum(self._counted().values()) - sum(before.values()) == sent, SETTLE_S)
        after = self._counted()
        counted = sum(after.values()) - sum(before.values())
        return Figure(name, sent, took_s, used_s, counted, len(after))

    def _counted(self) -> dict[int, int]:
        try:
            told = msgspec.json.decode(ask(self._machine.folder / "denials"), type=Denials)
        except UnavailableError:
            return {}
        return {each.port: each.packets for each in told.denials if each.protocol == "udp"}

    def _cpu_s(self) -> float:
        """Processor time of the process, user and system."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def bed(backend: Backend, folder: Path) -> Iterator[Bed]:
    with ExitStack() as ends:
        machine = ends.enter_context(machine_up(new_here(ends), folder, backend))
        process = ends.enter_context(machine.process())
        yield Bed(machine, process.pid)


def new_here(ends: ExitStack):  # type: ignore[no-untyped-def]
    namespace = ends.enter_context(new_namespace())
    ends.enter_context(namespace)
    return namespace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("backends", nargs="*", default=["legacy", "nft"])
    asked = parser.parse_args()
    for name in asked.backends:
        with tempfile.TemporaryDirectory() as folder, bed(Backend(name), Path(folder)) as made:
            made.set_up(tells=False)
            show(name, made.flood("off", asked.rate, asked.seconds, 1))
            made.set_up(tells=True)
            show(name, made.flood("one flow", asked.rate, asked.seconds, 1))
            show(name, made.flood("200 flows", asked.rate, asked.seconds, 200))
            show(name, made.flood("5,000 flows", asked.rate, asked.seconds, 5000))


def show(backend: str, figure: Figure) -> None:
    share = 100 * figure.cpu_s / figure.seconds
    print(
        f"{backend:7} {figure.name:12} {figure.sent / figure.seconds:8.0f} packets/s"
        f"  agent {share:5.1f} % of a core  counted {figure.counted} of {figure.sent}"
        f"  in {figure.records} records",
        flush=True,
    )


if __name__ == "__main__":
    main()
