"""Manifests that change: read again, and a mistake while editing changes nothing."""

import threading
from pathlib import Path

import pytest

from calico_k8s.sources.follow import Follower, Watch

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\n"
WAIT_S = 60.0


def write(path: Path, *names: str) -> None:
    path.write_text("---\n".join(POD.replace("NAME", name) for name in names))


def names(follower: Follower) -> list[str]:
    return [each.value["metadata"]["name"] for each in follower.read().manifests]


def test_a_change_is_seen_however_soon_it_comes_after_the_last(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    follower = Follower([str(tmp_path)])
    for number in range(10):
        write(file, f"p{number}")
        assert names(follower) == [f"p{number}"]


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    threading.Event().wait(0.05)
    follower = Follower([str(tmp_path)])
    first = follower.read().manifests
    write(tmp_path / "b.yaml", "b")
    assert follower.read().manifests[0] is first[0]


BROKEN = {
    "YAML that is not": b"a: [",
    "not UTF-8": b"\xff\xfe\xfd",
    "emptied": b"",
    "a good object before a mistake": POD.encode() + b"---\na: [",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_breaks_counts_as_it_was(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "a.yaml", "a", "b")
    write(tmp_path / "c.yaml", "c")
    follower = Follower([str(tmp_path)])
    follower.read()
    (tmp_path / "a.yaml").write_bytes(content)
    write(tmp_path / "c.yaml", "d")
    for _ in range(2):
        followed = follower.read()
        assert [each.value["metadata"]["name"] for each in followed.manifests] == ["a", "b", "d"]
        assert [error.file for error in followed.errors] == [str(tmp_path / "a.yaml")]
        assert followed.is_whole
    write(tmp_path / "a.yaml", "e")
    assert names(follower) == ["e", "d"]
    assert not follower.read().errors


def test_what_never_could_be_read_is_told_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    followed = Follower([str(tmp_path)]).read()
    assert not followed.is_whole
    assert followed.errors


def test_a_deleted_file_is_gone(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "a")
    follower = Follower([str(tmp_path)])
    assert names(follower) == ["a"]
    (tmp_path / "a.yaml").unlink()
    assert names(follower) == []


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_write_is_told_whether_in_place_or_by_a_new_file(
    tmp_path: Path, *, is_folder: bool
) -> None:
    file = tmp_path / "a.yaml"
    write(file, "a")
    told = threading.Event()
    watch = Watch([str(tmp_path if is_folder else file)], told.set)
    try:
        assert told.wait(WAIT_S), "the watch has begun"
        told.clear()
        for number in range(2):
            write(file, f"b{number}")
            assert told.wait(WAIT_S)
            told.clear()
            new = tmp_path / ".new"
            write(new, f"c{number}")
            new.rename(file)
            assert told.wait(WAIT_S)
            threading.Event().wait(0.1)
            told.clear()
    finally:
        watch.close()
