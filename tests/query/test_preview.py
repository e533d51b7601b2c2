"""What a change opens and closes, cell by cell and summarised."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.addresses import Version
from calico_k8s.query.matrix import Cell, Matrix, MatrixPod, Word, make_matrix
from calico_k8s.query.preview import preview, preview_lines

PODS = ("a/1", "a/2", "b/1")
VERSIONS: tuple[Version, ...] = (4, 6)


def matrix(text: str) -> Matrix:
    """``a/1 > b/1 80 allow`` a line; ``80v6`` is IPv6."""
    cells = []
    for line in text.strip().splitlines():
        src, _, dst, port, verdict = line.split()
        number, _, version = port.partition("v")
        word: Word = "allow" if verdict == "allow" else "deny"
        cells.append(Cell(src, dst, int(number), "tcp", 6 if version == "6" else 4, word))
    pods = {end for cell in cells for end in (cell.src, cell.dst)}
    return Matrix(
        tuple(sorted(MatrixPod(pod, "n1", ()) for pod in pods)), make_matrix((), cells).probes
    )


def lines(before: str, after: str) -> list[str]:
    return list(preview_lines(preview(matrix(before), matrix(after))))


def test_nothing_changed_is_said() -> None:
    same = "a/1 > b/1 80 allow"
    assert lines(same, same) == ["opens nothing, closes nothing"]


def test_pods_that_change_alike_share_a_line() -> None:
    before = "\n".join(
        f"a/{n} > b/{m} {port} deny" for n in (1, 2) for m in (1, 2) for port in (80, 443)
    )
    after = before.replace("deny", "allow")
    assert lines(before, after) == [
        "opens 8 connections",
        "  a/1, a/2 → b/1, b/2: 80/tcp, 443/tcp",
    ]
    assert lines(after, before)[0] == "closes 8 connections"


def test_pods_that_reach_each_other_share_a_line_with_who_reaches_them() -> None:
    before = "a/1 > a/2 80 deny\na/2 > a/1 80 deny\nb/1 > a/1 80 deny\nb/1 > a/2 80 deny"
    assert lines(before, before.replace("deny", "allow")) == [
        "opens 4 connections",
        "  a/1, a/2, b/1 → a/1, a/2: 80/tcp",
    ]


def test_a_pod_that_comes_is_named_and_what_it_reaches_is_opened() -> None:
    before = "b/1 > b/1 80 allow"
    after = "b/1 > b/1 80 allow\na/1 > b/1 80 allow\nb/1 > a/1 80 deny"
    assert lines(before, after) == ["new: a/1", "opens 1 connection", "  a/1 → b/1: 80/tcp"]
    assert lines(after, before) == ["gone: a/1", "closes 1 connection", "  a/1 → b/1: 80/tcp"]
    (cell,) = preview(matrix(before), matrix(after)).opened
    assert (cell.before, cell.after) == (None, "allow")


def test_a_change_of_one_family_says_which() -> None:
    before = "a/1 > b/1 80 deny\na/1 > b/1 80v6 deny\na/2 > b/1 80 deny\na/2 > b/1 80v6 deny"
    after = before.replace("a/1 > b/1 80v6 deny", "a/1 > b/1 80v6 allow").replace(
        "a/2 > b/1 80 deny\na/2 > b/1 80v6 deny", "a/2 > b/1 80 allow\na/2 > b/1 80v6 allow"
    )
    assert lines(before, after) == [
        "opens 3 connections",
        "  a/1 → b/1: 80/tcp over IPv6",
        "  a/2 → b/1: 80/tcp",
    ]


def test_a_single_family_that_changes_alone_is_named_too() -> None:
    before = "a/1 > b/1 80 deny\na/1 > b/1 80v6 deny"
    after = before.replace("80v6 deny", "80v6 allow")
    assert lines(before, after)[1:] == ["  a/1 → b/1: 80/tcp over IPv6"]


def test_many_pods_are_counted_in_text() -> None:
    before = "\n".join(f"a/{n} > b/1 80 deny" for n in range(7))
    shown = lines(before, before.replace("deny", "allow"))
    assert shown[1] == "  a/0, a/1, a/2, a/3 and 3 more → b/1: 80/tcp"


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    pods = draw(st.sets(st.sampled_from(PODS), min_size=1))
    words: st.SearchStrategy[Any] = st.sampled_from(("allow", "deny"))
    cells = [
        Cell(src, dst, port, "tcp", version, draw(words))
        for src in pods
        for dst in pods
        for port in (80, 443)
        for version in VERSIONS
    ]
    listed = tuple(sorted(MatrixPod(pod, "n1", ()) for pod in pods))
    return Matrix(listed, make_matrix((), cells).probes)


@given(matrices(), matrices())
def test_opened_and_closed_make_the_one_matrix_of_the_other(before: Matrix, after: Matrix) -> None:
    def allowed(of: Matrix) -> set[tuple[str, str, int, Version]]:
        return {(c.src, c.dst, c.port, c.family) for c in of.probes if c.verdict == "allow"}

    found = preview(before, after)
    opened = {(c.src, c.dst, c.port, c.family) for c in found.opened}
    closed = {(c.src, c.dst, c.port, c.family) for c in found.closed}
    assert (allowed(before) - closed) | opened == allowed(after)
    assert not opened & closed
    assert opened.isdisjoint(allowed(before))


@given(matrices(), matrices())
def test_the_lines_cover_every_connection_and_no_other_but_of_pods_to_themselves(
    before: Matrix, after: Matrix
) -> None:
    found = preview(before, after)
    covered = set()
    is_opened = False
    for line in preview_lines(found):
        is_opened = line.startswith("opens ") or (is_opened and line.startswith("  "))
        if is_opened and line.startswith("  "):
            ends, services = line.strip().rsplit(": ", 1)
            pairs = itertools.product(*(each.split(", ") for each in ends.split(" → ")))
            for (src, dst), service in itertools.product(pairs, services.split(", ")):
                port, _, version = service.partition("/tcp over IPv")
                named = [int(version)] if version else found.families
                covered |= {(src, dst, int(port.removesuffix("/tcp")), each) for each in named}
    opened = {(c.src, c.dst, c.port, c.family) for c in found.opened}
    assert opened <= covered
    assert all(src == dst for src, dst, *_ in covered - opened)
