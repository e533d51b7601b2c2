"""The matrix of who reaches whom: computed here, probed by the lab, compared line by line.

In: a snapshot, and the ports to ask for.  Out: a :class:`Matrix`, whose JSON form is the same
whether it was computed or probed.
"""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Literal, NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, Version, address_version
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName
from calico_k8s.model.resources import (
    ICMP,
    PROTOCOL_NAMES,
    PROTOCOL_NUMBERS,
    PROTOCOLS_WITH_PORTS,
    WorkloadEndpoint,
)
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.ways import Ways, nodes_known
from calico_k8s.query.reach import NODE_PREFIX, Service, flows_between, source_ports

Word = Literal["allow", "deny"]


class MatrixPod(msgspec.Struct, frozen=True, order=True):
    """A pod of the matrix."""

    id: str
    node: str
    addresses: tuple[str, ...]


class Cell(msgspec.Struct, frozen=True):
    """One question of the matrix and its verdict; an ICMP echo has port 0."""

    src: str = msgspec.field(name="from")
    dst: str = msgspec.field(name="to")
    port: int
    protocol: str
    family: Version
    verdict: Word


class Matrix(msgspec.Struct, frozen=True):
    """All pods, and all cells sorted by from, to, protocol, port, family."""

    pods: tuple[MatrixPod, ...]
    probes: tuple[Cell, ...]


class CellChange(NamedTuple):
    """A cell whose verdict differs between two matrices; None where it is in one only."""

    before: Cell | None
    after: Cell | None


def parse_service(text: str) -> Service:
    """What ``--port`` says: ``80``, ``80/tcp``, ``53/udp``, ``icmp``.

    Raises:
        InputError: not of that form.
    """
    lowered = text.lower()
    if lowered == "icmp":
        return Service(ICMP, 0)
    number, _, name = lowered.partition("/")
    protocol = PROTOCOL_NUMBERS.get(name or "tcp")
    if not number.isdecimal() or not 0 < int(number) < 65536:
        raise InputError(f"port '{text}': give 1 to 65535, as in 80/tcp, or 'icmp'")
    if protocol not in PROTOCOLS_WITH_PORTS:
        raise InputError(f"port '{text}': the protocol is tcp, udp or sctp")
    return Service(protocol, int(number))


def default_services(snapshot: Snapshot) -> tuple[Service, ...]:
    """Every named container port; port 80/tcp where there is none.

    What a datastore can tell: manifests tell the ports without a name too.
    """
    declared = {
        Service(named.protocol, named.port)
        for endpoint in snapshot.endpoints.values()
        for named in endpoint.named_ports
    }
    return tuple(sorted(declared)) or (Service(PROTOCOL_NUMBERS["tcp"], 80),)


def compute_matrix(
    snapshot: Snapshot,
    services: Iterable[Service],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    with_hosts: bool = False,
    among: AbstractSet[EndpointId] | None = None,
) -> Matrix:
    """Judge every pair of pods for every service; ``progress`` gets the sources done, and all.

    With hosts, nodes are asked about as pods are, each by its first address of a family.  With
    ``among``, only pairs with one of these.

    Cost: 5 to 50 us a cell, by the number of rules.
    """
    wanted = tuple(services)
    rows = {endpoint.id.pod: endpoint for endpoint in snapshot.endpoints.values()}
    if with_hosts:
        rows = {node.id.pod: node for node in _node_rows(snapshot)} | rows
    pods = [row for _, row in sorted(rows.items())]
    ports = source_ports(snapshot)
    ways = Ways(snapshot)
    cells: list[Cell] = []
    for done, src in enumerate(pods, start=1):
        for dst in pods:
            if among is None or src.id in among or dst.id in among:
                cells.extend(_cells(ways, src, dst, wanted, ports))
        progress(done, len(pods))
    return make_matrix(pods, cells)


def make_matrix(pods: Iterable[WorkloadEndpoint], cells: Iterable[Cell]) -> Matrix:
    """Put pods and cells, computed or probed, into the matrix' order."""
    listed = sorted(MatrixPod(pod.id.pod, pod.id.node, pod.addresses) for pod in pods)
    return Matrix(tuple(listed), tuple(sorted(cells, key=cell_key)))


def cell_key(cell: Cell) -> tuple[str, str, str, int, int]:
    """What a cell is about, and its place in the matrix."""
    return (cell.src, cell.dst, cell.protocol, cell.port, cell.family)


def compare(before: Matrix, after: Matrix) -> tuple[CellChange, ...]:
    """The cells that differ, in the matrix' order."""
    olds = {cell_key(cell): cell for cell in before.probes}
    news = {cell_key(cell): cell for cell in after.probes}
    changes = (
        CellChange(olds.get(key), news.get(key)) for key in sorted(olds.keys() | news.keys())
    )
    return tuple(change for change in changes if change.before != change.after)


def address_pairs(
    src: WorkloadEndpoint, dst: WorkloadEndpoint
) -> Iterator[tuple[Version, Address, Address]]:
    """For each family that both have: the family and an address of each end."""
    versions: tuple[Version, ...] = (4, 6)
    for version in versions:
        src_address = next((a for a in src.addresses if address_version(a) == version), None)
        dst_address = next((a for a in dst.addresses if address_version(a) == version), None)
        if src_address and dst_address:
            yield version, src_address, dst_address


def node_row(name: NodeName) -> EndpointId:
    """A node in the place of a pod."""
    return EndpointId(name, NamespaceName(NODE_PREFIX.removesuffix("/")), name)


def _node_rows(snapshot: Snapshot) -> Iterator[WorkloadEndpoint]:
    for name, addresses in nodes_known(snapshot).items():
        yield WorkloadEndpoint(node_row(name), addresses)


def _cells(
    ways: Ways,
    src: WorkloadEndpoint,
    dst: WorkloadEndpoint,
    services: tuple[Service, ...],
    ports: tuple[int, ...],
) -> Iterator[Cell]:
    for version, src_address, dst_address in address_pairs(src, dst):
        for service in services:
            flows = flows_between(src_address, dst_address, service, ports)
            allowed = all(judged.allowed for flow in flows for judged in ways.judge(flow))
            yield Cell(
                src=src.id.pod,
                dst=dst.id.pod,
                port=service.port,
                protocol=PROTOCOL_NAMES[service.protocol],
                family=version,
                verdict="allow" if allowed else "deny",
            )
