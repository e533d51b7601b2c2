"""What a flood of denied packets costs the agent, and whether each of them is counted.

A real Felix process on a node of two pods, one of which sends the other what its annotation denies:
50,000 datagrams a second for some seconds, as one flow and as thousands.  Beside it the same flood
with denials off: what the kernel's own work is.

Needs root and gcc.  Arguments: ``--seconds N``, ``--rate N``, then backends; all unless given.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from calico_k8s.errors import UnavailableError
from calico_k8s.felix.denials import RECORDS_MAX
from calico_k8s.felix.kernel import AnyBackend, parse_backend
from calico_k8s.felix.local_socket import ask
from calico_k8s.model.denial import Denials
from tests.felix.nodes import READY, Machine, allow, machine_up, rules, setting, until
from tests.namespaces import new_namespace

SOURCE = Path(__file__).with_name("flood.c")
SETTLE_S = 12.0
"""Until what was not told is counted: two readings of the kernel's counters, and the rest."""


class Figure(NamedTuple):
    """What one flood came to."""

    name: str
    sent: int
    seconds: float
    cpu_s: float
    counted: int | None
    """None where not every flow is told."""
    records: int


class Bed:
    """The node, its two pods, and the agent's process."""

    def __init__(self, machine: Machine, pid: int, program: Path) -> None:
        self._machine = machine
        self._program = program
        self._pid = pid
        self._tells = False
        self._client = machine.pod("client", 10)
        self._server = machine.pod("server", 11)

    def set_up(self, *, tells: bool) -> None:
        """The server takes TCP alone."""
        self._tells = tells
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
                (str(self._program), *words), capture_output=True, text=True, check=True
            )
        sent, took_s = int(done.stdout), time.monotonic() - start_s
        is_comparable = self._tells and ports < RECORDS_MAX
        if is_comparable:
            until(lambda: sum(self._counted().values()) - sum(before.values()) == sent, SETTLE_S)
        used_s = self._cpu_s() - cpu_s
        after = self._counted()
        counted = sum(after.values()) - sum(before.values()) if is_comparable else None
        return Figure(name, sent, took_s, used_s, counted, len(after))

    def _counted(self) -> dict[int, int]:
        try:
            told = msgspec.json.decode(ask(self._machine.folder / "denials"), type=Denials)
        except UnavailableError:
            return {}
        return {each.port: each.packets for each in told.denials if each.protocol == "udp"}

    def _cpu_s(self) -> float:
        """Processor time of the process and of the programs that it ran, user and system."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / 100


@contextmanager
def bed(backend: AnyBackend, folder: Path) -> Iterator[Bed]:
    program = folder / "flood"
    subprocess.run(["gcc", "-O2", "-o", program, SOURCE], check=True)
    with ExitStack() as ends:
        machine = ends.enter_context(machine_up(new_here(ends), folder, backend))
        process = ends.enter_context(machine.process())
        yield Bed(machine, process.pid, program)


def new_here(ends: ExitStack):  # type: ignore[no-untyped-def]
    namespace = ends.enter_context(new_namespace())
    ends.enter_context(namespace)
    return namespace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("backends", nargs="*", default=["legacy", "nft", "nftables"])
    asked = parser.parse_args()
    for name in asked.backends:
        with (
            tempfile.TemporaryDirectory() as folder,
            bed(parse_backend(name), Path(folder)) as made,
        ):
            made.set_up(tells=False)
            show(name, made.flood("off", asked.rate, asked.seconds, 1))
            made.set_up(tells=True)
            show(name, made.flood("one flow", asked.rate, asked.seconds, 1))
            show(name, made.flood("200 flows", asked.rate, asked.seconds, 200))
            show(name, made.flood("5,000 flows", asked.rate, asked.seconds, 5000))


def show(backend: str, figure: Figure) -> None:
    share = 100 * figure.cpu_s / figure.seconds
    counted = "" if figure.counted is None else f"  counted {figure.counted} of {figure.sent}"
    print(
        f"{backend:8} {figure.name:12} {figure.sent / figure.seconds:8.0f} packets/s"
        f"  agent {share:5.1f} % of a core{counted}"
        f"  in {figure.records} records",
        flush=True,
    )


if __name__ == "__main__":
    main()
