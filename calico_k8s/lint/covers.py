"""Whether one statement takes everything that another could.

In: two statements on the same pod.  Out: true only if no flow matches the second without matching
the first.  Careful, not complete: true is always right, false may mean it cannot be told.
"""

from calico_k8s.model.addresses import Net, NetRange, net_range
from grammar import (
    CidrMatch,
    LabelMatch,
    Match,
    NamespaceMatch,
    PortRange,
    PortsMatch,
    SelectorMatch,
    Statement,
)


def covers(first: Statement, second: Statement, namespace: str) -> bool:
    """Whether ``first`` matches every flow that ``second`` matches, on a pod of the namespace."""
    if first.protocol not in (None, second.protocol):
        return False
    if first.icmp_type is not None and first.icmp_type != second.icmp_type:
        return False
    if first.icmp_code is not None and first.icmp_code != second.icmp_code:
        return False
    return _clause_covers(first.src, second.src, namespace) and _clause_covers(
        first.dst, second.dst, namespace
    )


def _clause_covers(first: tuple[Match, ...], second: tuple[Match, ...], namespace: str) -> bool:
    """Whether every match of the first clause follows from the second."""
    asks_pods = any(isinstance(match, LabelMatch | SelectorMatch) for match in first)
    if asks_pods and _scope(first, namespace) != _scope(second, namespace):
        return False
    return all(_follows(match, second, namespace) for match in first)


def _follows(match: Match, clause: tuple[Match, ...], namespace: str) -> bool:
    match match:
        case NamespaceMatch(name):
            return _scope(clause, namespace) == name
        case LabelMatch() | SelectorMatch():
            return match in clause
        case CidrMatch(cidrs):
            given = next((m for m in clause if isinstance(m, CidrMatch)), None)
            return given is not None and all(_inside(cidr, cidrs) for cidr in given.cidrs)
        case PortsMatch(ports):
            asked = next((m for m in clause if isinstance(m, PortsMatch)), None)
            return asked is not None and all(_among(port, ports) for port in asked.ports)


def _scope(clause: tuple[Match, ...], namespace: str) -> str | None:
    """The namespace whose pods a clause speaks of; None if it speaks of no pods."""
    for match in clause:
        if isinstance(match, NamespaceMatch):
            return match.name
    if any(isinstance(match, LabelMatch | SelectorMatch) for match in clause):
        return namespace
    return None


def _inside(cidr: str, cidrs: tuple[str, ...]) -> bool:
    inner = net_range(Net(cidr))
    return any(_holds(net_range(Net(outer)), inner) for outer in cidrs)


def _holds(outer: NetRange, inner: NetRange) -> bool:
    same = outer.version == inner.version
    return same and outer.first <= inner.first and inner.last <= outer.last


def _among(port: PortRange | str, ports: tuple[PortRange | str, ...]) -> bool:
    if isinstance(port, str):
        return port in ports
    return any(
        not isinstance(wide, str) and wide.low <= port.low and port.high <= wide.high
        for wide in ports
    )
