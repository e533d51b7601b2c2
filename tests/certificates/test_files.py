"""A key and its certificates on disk: whole at every instant, and their owner's alone."""

import stat
import threading
from pathlib import Path

import pytest

from calico_k8s.certificates import files
from calico_k8s.certificates.files import Material
from calico_k8s.errors import UnavailableError


def material(number: int) -> Material:
    return Material(b"ca %d" % number, b"cert %d" % number, b"key %d" % number)


def test_what_is_written_is_read_and_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "here"
    assert files.read(directory) is None
    for number in range(3):
        files.write(directory, material(number))
        assert files.read(directory) == material(number)
    assert len(list(directory.iterdir())) == 2, "the link, and what it leads to"


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    files.write(tmp_path / "own", material(1))
    tls = files.tls_files(tmp_path / "own")
    for path in (tls.ca, tls.cert, tls.key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (tmp_path / "own", tls.key.resolve().parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "folder").mkdir()
    for number in range(2):
        files.write(tmp_path, material(number))
    assert (tmp_path / "notes").read_text() == "mine"
    assert (tmp_path / "folder").is_dir()


def test_what_an_interrupted_write_left_does_not_matter(tmp_path: Path) -> None:
    files.write(tmp_path, material(1))
    (tmp_path / ".current").symlink_to("of-nothing")
    (tmp_path / "of-half").mkdir()
    (tmp_path / "of-half" / "key.pem").write_bytes(b"half")
    assert files.read(tmp_path) == material(1)
    files.write(tmp_path, material(2))
    assert files.read(tmp_path) == material(2)
    assert not (tmp_path / "of-half").exists()


def test_a_file_is_the_old_one_or_the_new_one_at_every_instant(tmp_path: Path) -> None:
    files.write(tmp_path, material(0))
    tls, is_over, seen = files.tls_files(tmp_path), threading.Event(), set[bytes]()

    def look() -> None:
        while not is_over.is_set():
            try:
                seen.add(tls.cert.read_bytes())
            except FileNotFoundError:  # the way was looked up before, the folder removed after
                continue

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(1, 50):
        files.write(tmp_path, material(number))
    is_over.set()
    thread.join()
    assert seen <= {material(number).certificate for number in range(50)}


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be kept in"):
        files.write(tmp_path / "file" / "below", material(1))
