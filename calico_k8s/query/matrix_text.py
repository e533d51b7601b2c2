"""A matrix as text: a block for each port, sources down, destinations across, by number.

In: a matrix, and one to compare with.  Out: lines, whose cells go through ``paint`` so that a
terminal can colour them.  A cell that differs from the compared matrix stands in brackets::

    80/tcp             1  2  3
     1 client/a        ✓ [✗] ✗
     2 client/b        ✓  ✓  ✗
     3 webapp/front    ✓  ✓  ✓
"""

from collections.abc import Callable, Iterator
from typing import Literal

from calico_k8s.query.matrix import Cell, Matrix, Word, cell_key

Paint = Callable[[str, Literal["allow", "deny", "heading"]], str]

_SIGNS: dict[Word, str] = {"allow": "✓", "deny": "✗"}
_CellKey = tuple[str, str, str, int, int]


def plain(text: str, _kind: str) -> str:
    """The paint that adds nothing."""
    return text


def matrix_lines(
    matrix: Matrix, before: Matrix | None = None, paint: Paint = plain
) -> Iterator[str]:
    """The blocks of a matrix; families whose verdicts are the same share one."""
    cells = {cell_key(cell): cell for cell in matrix.probes}
    olds = {cell_key(cell): cell for cell in before.probes} if before is not None else cells
    for title, protocol, port, family in _blocks(matrix):
        yield from _block(matrix, title, (protocol, port, family), (cells, olds), paint)


def _blocks(matrix: Matrix) -> Iterator[tuple[str, str, int, int]]:
    families = sorted({cell.family for cell in matrix.probes})
    by_service: dict[tuple[int, str], dict[int, dict[tuple[str, str], Word]]] = {}
    for cell in matrix.probes:
        service = (cell.port, cell.protocol)
        by_family = by_service.setdefault(service, {family: {} for family in families})
        by_family[cell.family][cell.src, cell.dst] = cell.verdict
    for (port, protocol), by_family in sorted(by_service.items()):
        name = protocol if protocol == "icmp" else f"{port}/{protocol}"
        if len(by_family) == 1:
            yield name, protocol, port, families[0]
        elif by_family[4] == by_family[6]:
            yield f"{name} IPv4 and IPv6", protocol, port, 4
        else:
            for family, verdicts in by_family.items():
                if verdicts:
                    yield f"{name} IPv{family}", protocol, port, family


def _block(
    matrix: Matrix,
    title: str,
    about: tuple[str, int, int],
    cells: tuple[dict[_CellKey, Cell], dict[_CellKey, Cell]],
    paint: Paint,
) -> Iterator[str]:
    pods = [pod.id for pod in matrix.pods]
    width = max([len(title) - 4, *map(len, pods)])
    heading = "".join(f"{number:^3}" for number in range(1, len(pods) + 1))
    yield paint(f"{title:<{width + 4}}{heading}".rstrip(), "heading")
    for number, src in enumerate(pods, start=1):
        row = "".join(_cell(cells, (src, dst, *about), paint) for dst in pods)
        yield f"{number:>3} {src:<{width}}{row}".rstrip()


def _cell(
    cells: tuple[dict[_CellKey, Cell], dict[_CellKey, Cell]], key: _CellKey, paint: Paint
) -> str:
    now, before = cells[0].get(key), cells[1].get(key)
    if now is None:
        return "   "
    sign = paint(_SIGNS[now.verdict], now.verdict)
    is_same = before is not None and before.verdict == now.verdict
    return f" {sign} " if is_same else f"[{sign}]"
