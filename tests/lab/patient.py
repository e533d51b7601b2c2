"""A lab's matrix on a machine that has other things to do.

In: a lab, and what is wrong with a matrix.  Out: the cells that are wrong.  A probe that a busy
machine loses looks denied, also one of a pod to itself, which meets no rule: so where cells are
wrong only by being denied, everything is asked again.  One that passed and must not is told at once.
"""

from collections.abc import Callable, Sequence

from calico_k8s.lab.run import Lab
from calico_k8s.query.matrix import Cell, Matrix, compare
from calico_k8s.query.reach import Service

LOOKS = 3


def lasting(
    lab: Lab, services: tuple[Service, ...], wrong: Callable[[Matrix], Sequence[Cell]]
) -> Sequence[Cell]:
    """The wrong cells of a matrix of real packets, empty where none stays wrong."""
    found: Sequence[Cell] = ()
    for _ in range(LOOKS):
        found = wrong(lab.matrix(services))
        if not found or any(cell.verdict == "allow" for cell in found):
            break
    return found


def differing(computed: Matrix) -> Callable[[Matrix], Sequence[Cell]]:
    """The cells of a matrix that are not as they were computed."""

    def cells(probed: Matrix) -> Sequence[Cell]:
        changes = compare(computed, probed)
        return [cell for change in changes if (cell := change.after or change.before) is not None]

    return cells
