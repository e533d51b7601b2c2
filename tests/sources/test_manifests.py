"""Files, folders and standard input."""

import errno
import io
import os
from pathlib import Path
from typing import NoReturn

import pytest

from calico_k8s.errors import InputError
from calico_k8s.sources.manifests import read_manifests

POD = "kind: Pod\nmetadata: {name: a}\n"


def test_a_folder_is_read_with_all_below_it_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a/x.yml", "c.json", ".hidden.yaml", ".git/x.yaml", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"kind": "Pod"}' if name.endswith("json") else POD)
    found = read_manifests([str(tmp_path)])
    names = [Path(manifest.file).relative_to(tmp_path).as_posix() for manifest in found.manifests]
    assert names == ["a/x.yml", "b.yaml", "c.json"]


def test_links_that_lead_round_in_a_circle_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pod.yaml").write_text(POD)
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(read_manifests([str(tmp_path)]).manifests) == 1


def test_a_file_that_is_named_may_have_any_suffix(tmp_path: Path) -> None:
    path = tmp_path / "pod.txt"
    path.write_text(POD)
    assert len(read_manifests([str(path)]).manifests) == 1


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(POD.encode())

    monkeypatch.setattr("sys.stdin", Input())
    (manifest,) = read_manifests(["-"]).manifests
    assert str(manifest.place()) == "-:1:1"


def test_a_broken_file_takes_nothing_from_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: b: c")
    (tmp_path / "b.yaml").write_text(POD)
    (tmp_path / "c.yaml").write_bytes(b"ok: 1\nkind: \xff\n")
    found = read_manifests([str(tmp_path), str(tmp_path / "none.yaml")])
    assert len(found.manifests) == 1
    problems = [str(error).removeprefix(f"{tmp_path}/") for error in found.errors]
    assert problems == [
        "a.yaml:1:5: not YAML: mapping values are not allowed in this context",
        "c.yaml:2: not UTF-8 text",
        "none.yaml: no such file or folder",
    ]
    with pytest.raises(InputError, match="not YAML"):
        found.checked()


def test_what_a_folder_has_beside_files_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be read for ever."""
    (tmp_path / "a.yaml").write_text(POD)
    os.mkfifo(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").symlink_to("nowhere")
    found = read_manifests([str(tmp_path)])
    assert len(found.manifests) == 1
    assert [str(error).removeprefix(f"{tmp_path}/") for error in found.errors] == [
        "b.yaml: is a pipe, socket or device: a folder's manifests are files",
        "c.yaml: cannot be read: No such file or directory",
    ]


def test_a_folder_that_may_not_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path) -> NoReturn:  # root, who runs the tests, may read every folder
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "in").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    found = read_manifests([str(tmp_path)])
    assert [str(error) for error in found.errors] == [
        f"{tmp_path}: cannot be read: Permission denied"
    ]
    assert not found.notes


def test_an_empty_folder_is_noted(tmp_path: Path) -> None:
    found = read_manifests([str(tmp_path)])
    assert found.notes == (f"{tmp_path}: no manifests in this folder (.yaml, .yml or .json)",)
