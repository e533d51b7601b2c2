"""The matrix of who reaches whom, asked with real packets.

In: a snapshot, which says who is there, and a prober.  Out: a
:class:`~calico_k8s.query.matrix.Matrix` of the same cells, in the same order, as the computed one.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from calico_k8s.lab.plan import PodId, place_of
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import Probe
from calico_k8s.model.resources import PROTOCOL_NAMES, Action, PortRange, WorkloadEndpoint
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import Cell, Matrix, Word, address_pairs, make_matrix
from calico_k8s.query.reach import EPHEMERAL_PORTS, Service, source_ports

CHUNK = 4000
"""Questions between two calls of ``progress``; the denied ones of each cost a third of a second."""


Progress = Callable[[int, int], None]
"""Takes the questions that are answered, and how many there are."""


class Question(NamedTuple):
    """A packet to send, and the cell that it is for."""

    cell: Cell
    probe: Probe


def ask_matrix(
    prober: Prober,
    snapshot: Snapshot,
    services: Iterable[Service],
    progress: Progress = lambda _done, _total: None,
) -> Matrix:
    """Asks every pair of pods for every service.

    A cell with several source ports to ask from, as rules tell them apart, allows if all pass.
    """
    questions = list(matrix_questions(snapshot, services, prober.fresh_port))
    verdicts: dict[Cell, Word] = {}
    for start in range(0, len(questions), CHUNK):
        chunk = questions[start : start + CHUNK]
        answers = prober.probe([question.probe for question in chunk])
        for question, answer in zip(chunk, answers, strict=True):
            if verdicts.get(question.cell) != "deny":
                verdicts[question.cell] = "allow" if answer.verdict is Action.ALLOW else "deny"
        progress(start + len(chunk), len(questions))
    cells = (msgspec.structs.replace(cell, verdict=word) for cell, word in verdicts.items())
    return make_matrix(snapshot.endpoints.values(), cells)


def matrix_questions(
    snapshot: Snapshot, services: Iterable[Service], fresh_port: Callable[[PortRange], int]
) -> Iterator[Question]:
    """Every packet that the matrix takes, each cell's with the verdict still open (``deny``).

    Where rules tell source ports apart, ``fresh_port`` chooses one of each part.
    """
    pods = sorted(snapshot.endpoints.values(), key=lambda endpoint: endpoint.id.pod)
    wanted, parts = tuple(services), _port_parts(source_ports(snapshot))
    for source in pods:
        for target in pods:
            for cell, probe in _questions(snapshot, source, target, wanted):
                if len(parts) == 1 or not probe.port:
                    yield Question(cell, probe)
                    continue
                for part in parts:
                    yield Question(cell, probe._replace(src_port=fresh_port(part)))


def _questions(
    snapshot: Snapshot,
    source: WorkloadEndpoint,
    target: WorkloadEndpoint,
    services: tuple[Service, ...],
) -> Iterator[Question]:
    for version, own, other in address_pairs(source, target):
        # A packet with this source starts at the pod that owns the address.
        place = place_of(PodId(snapshot.owner_by_address[own].id.pod))
        for service in services:
            cell = Cell(
                src=source.id.pod,
                dst=target.id.pod,
                port=service.port,
                protocol=PROTOCOL_NAMES[service.protocol],
                family=version,
                verdict="deny",
            )
            yield Question(cell, Probe(place, other, service.port, service.protocol))


def _port_parts(starts: tuple[int, ...]) -> list[PortRange]:
    """The parts of the ephemeral ports that begin at these."""
    ends = [start - 1 for start in starts[1:]] + [EPHEMERAL_PORTS.high]
    return [PortRange(low, high) for low, high in zip(starts, ends, strict=True)]
