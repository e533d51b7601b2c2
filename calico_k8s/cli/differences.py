"""What ``felix drift`` and ``felix clean --verify`` print for people."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from calico_k8s.cli.present import paint

if TYPE_CHECKING:
    from calico_k8s.felix.differences import Difference
    from calico_k8s.felix.drift import Drift


def drift_lines(drift: "Drift") -> Iterator[str]:
    """Each finding, with ``-`` before what should be there and ``+`` before what should not."""
    for finding in drift.findings:
        yield from _lines(finding)
    for finding in drift.mended:
        yield f"{finding.place}: differed, and was mended meanwhile: {finding.problem}"
    where = f"{drift.node}, {drift.backend}, revision {drift.revision}"
    if drift.findings:
        yield f"{where}: {_count(len(drift.findings), 'difference')}"
    else:
        yield f"{where}: the kernel holds what it should"


def left_lines(findings: Sequence["Difference"]) -> Iterator[str]:
    """Each thing that is left."""
    for finding in findings:
        yield from _lines(finding)
    if findings:
        yield f"{_count(len(findings), 'thing')} of ours left"
    else:
        yield "nothing of ours is left"


def _lines(finding: "Difference") -> Iterator[str]:
    yield f"{finding.place}: {finding.problem}"
    for text in finding.wanted:
        yield paint(f"  - {text}", "deny")
    for text in finding.held:
        yield paint(f"  + {text}", "allow")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
