"""Outputs that cannot be written as they are: the answer is printed otherwise, or it is said why not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.manifests import TWO_TIERS
from tests.cli.program import CODE, ROOT


@pytest.fixture
def app(tmp_path: Path) -> Path:
    file = tmp_path / "app.yaml"
    file.write_text(TWO_TIERS)
    return file


def shell(redirection: str, *arguments: str, encoding: str = "utf-8") -> tuple[int, str, str]:
    """Run the program as a shell does that redirects it so."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", CODE, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(encoding), done.stderr.decode()


def test_a_disk_that_is_full_is_no_answer(app: Path) -> None:
    """Exit code 1 would say that something is denied or wrong."""
    told = "error: the output cannot be written: No space left on device\n"
    assert shell(">/dev/full", "matrix", str(app)) == (3, "", told)


def test_closed_streams_are_no_error(app: Path) -> None:
    assert shell(">&- 2>&-", "matrix", str(app)) == (0, "", "")
    assert shell("<&-", "fmt", "-") == (0, "", "")


def test_no_file_is_taken_for_a_closed_output(tmp_path: Path, app: Path) -> None:
    """A file that is opened takes the lowest number that is free, as standard output's would be."""
    store = tmp_path / "state.db"
    code = "from calico_k8s.datastore.factory import open_store as o; import sys; o(sys.argv[1]).close()"
    url = f"sqlite://{store}"
    subprocess.run([sys.executable, "-c", code, url], cwd=ROOT, timeout=60, check=True)
    before = store.read_bytes()
    assert shell(">&-", "matrix", "--datastore", url)[0] == 0
    assert store.read_bytes() == before


def test_what_an_encoding_does_not_have_is_told_apart(app: Path) -> None:
    code, out, _ = shell("", "matrix", str(app), encoding="latin-1")
    assert code == 0
    assert "\\u2713" in out
    assert "\\u2717" in out
