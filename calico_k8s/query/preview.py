"""What a change would open and close: two computed matrices, compared and summarised.

In: the matrix as it is and as it would be.  Out: a :class:`Preview`, and its lines, in which pods
that change alike share a line::

    opens 12 connections
      client/a, client/b → web/front: 80/tcp, 443/tcp
    closes 1 connection
      client/a → db/main: 5432/tcp
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from calico_k8s.model.addresses import Version
from calico_k8s.query.matrix import Cell, CellChange, Matrix, Word, compare
from calico_k8s.query.matrix_text import Paint, plain

NAMES_MAX = 4
"""Pods that each end of a line names; the JSON form has all."""


class ChangedCell(msgspec.Struct, frozen=True):
    """A cell of the matrix that changes; a verdict is None where the pod is not there."""

    src: str = msgspec.field(name="from")
    dst: str = msgspec.field(name="to")
    port: int
    protocol: str
    family: Version
    before: Word | None
    after: Word | None


class Preview(msgspec.Struct, frozen=True):
    """``matrix --diff -o json``; each list sorted.

    ``opened`` cells are allowed after and were not before, ``closed`` ones the other way round; both
    hold those of pods that come or go.
    """

    added_pods: tuple[str, ...]
    removed_pods: tuple[str, ...]
    families: tuple[Version, ...]
    """Those that the matrices have cells of."""
    opened: tuple[ChangedCell, ...]
    closed: tuple[ChangedCell, ...]


class _Service(NamedTuple):
    """A port of a line; ``family`` is None where all families of the matrix change alike."""

    protocol: str
    port: int
    family: Version | None

    def __str__(self) -> str:
        name = f"{self.port}/{self.protocol}" if self.port else self.protocol
        return name if self.family is None else f"{name} over IPv{self.family}"


_Alike = tuple[_Service, ...]


class _Group(NamedTuple):
    """Connections of one line: from each of the sources to each of the destinations."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    services: _Alike


def preview(before: Matrix, after: Matrix) -> Preview:
    """What the change from one matrix to the other opens and closes."""
    olds, news = {pod.id for pod in before.pods}, {pod.id for pod in after.pods}
    changes = [_changed(change) for change in compare(before, after)]
    return Preview(
        added_pods=tuple(sorted(news - olds)),
        removed_pods=tuple(sorted(olds - news)),
        families=tuple(sorted({cell.family for cell in (*before.probes, *after.probes)})),
        opened=tuple(cell for cell in changes if cell.after == "allow"),
        closed=tuple(cell for cell in changes if cell.before == "allow"),
    )


def preview_lines(found: Preview, paint: Paint = plain) -> Iterator[str]:
    """The same for people."""
    for what, pods in (("new", found.added_pods), ("gone", found.removed_pods)):
        if pods:
            yield f"{what}: {_names(pods)}"
    if not found.opened and not found.closed:
        yield "opens nothing, closes nothing"
    if found.opened:
        yield paint(f"opens {_count(found.opened)}", "allow")
        yield from map(_line, _groups(found.opened, found.families))
    if found.closed:
        yield paint(f"closes {_count(found.closed)}", "deny")
        yield from map(_line, _groups(found.closed, found.families))


def _changed(change: CellChange) -> ChangedCell:
    cell = change.after or change.before
    assert cell is not None, "a change has one cell at least"
    return ChangedCell(
        src=cell.src,
        dst=cell.dst,
        port=cell.port,
        protocol=cell.protocol,
        family=cell.family,
        before=_verdict(change.before),
        after=_verdict(change.after),
    )


def _verdict(cell: Cell | None) -> Word | None:
    return None if cell is None else cell.verdict


def _groups(cells: Iterable[ChangedCell], every: tuple[Version, ...]) -> list[_Group]:
    """The cells as few groups: first by what changes for a pair, then by who has the same."""
    families: dict[tuple[str, str, str, int], set[Version]] = defaultdict(set)
    for cell in cells:
        families[cell.src, cell.dst, cell.protocol, cell.port].add(cell.family)
    services: dict[tuple[str, str], list[_Service]] = defaultdict(list)
    for (src, dst, protocol, port), changed in sorted(families.items()):
        named: list[Version | None] = [None] if changed == {*every} else [*sorted(changed)]
        services[src, dst] += (_Service(protocol, port, family) for family in named)
    reached: dict[_Alike, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for (src, dst), listed in services.items():
        reached[tuple(listed)][src].add(dst)
    return sorted(group for alike, by_src in reached.items() for group in _lines_of(alike, by_src))


def _lines_of(alike: _Alike, reached: dict[str, set[str]]) -> Iterator[_Group]:
    """Sources that reach the same.

    A pod reaches itself before and after: what is the same but for that shares a line too.
    """
    with_itself = Counter(frozenset({src, *dsts}) for src, dsts in reached.items())
    sources: dict[frozenset[str], list[str]] = defaultdict(list)
    for src, dsts in sorted(reached.items()):
        whole = frozenset({src, *dsts})
        sources[whole if with_itself[whole] > 1 else frozenset(dsts)].append(src)
    for destinations, who in sources.items():
        yield _Group(tuple(who), tuple(sorted(destinations)), alike)


def _line(group: _Group) -> str:
    services = ", ".join(map(str, group.services))
    return f"  {_names(group.sources)} → {_names(group.destinations)}: {services}"


def _names(pods: tuple[str, ...]) -> str:
    more = f" and {len(pods) - NAMES_MAX} more" if len(pods) > NAMES_MAX else ""
    return ", ".join(pods[:NAMES_MAX]) + more


def _count(cells: tuple[ChangedCell, ...]) -> str:
    return "1 connection" if len(cells) == 1 else f"{len(cells)} connections"
