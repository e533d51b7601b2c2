"""The steps of the Dockerfile that need no image builder, run in a folder.

Not run: the base image, and the packages that apt-get installs in it; that Debian's packages of
those names give the programs that Felix calls is asked of this machine's.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.needs import require_program

ROOT = Path(__file__).resolve().parents[2]
STEPS = re.findall(
    r"^([A-Z]+) (.+)$", (ROOT / "manifests" / "Dockerfile").read_text(), re.MULTILINE
)
CALLED = ("iptables", "iptables-legacy-restore", "ip6tables-nft-save", "nft")


def copied() -> Iterator[tuple[list[str], str]]:
    """What the build takes from the repository, and where to."""
    for step, rest in STEPS:
        if step == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            yield sources, target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install /source` makes of the files that are copied, and of no others."""
    folder = tmp_path_factory.mktemp("image")
    for sources, target in copied():
        place = folder / target.lstrip("/")
        for source in sources:
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, ignore=skip)
            else:
                place.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, folder, folder / "source"], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


def test_the_image_holds_the_whole_program(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    modules = {
        str(path.relative_to(ROOT))
        for package in ("calico_k8s", "grammar")
        for path in (ROOT / package).rglob("*.py")
    }
    assert modules <= held
    assert {"calico_k8s/py.typed", "grammar/py.typed"} <= held


def test_its_program_starts_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", target, wheel], check=True, capture_output=True)
    said = subprocess.run(
        [sys.executable, "-P", target / "bin" / "calico-k8s", "--version"],
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.startswith("calico-k8s, version ")


def test_what_is_copied_is_not_ignored() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    taken = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert taken == {source for sources, _ in copied() for source in sources}
    assert any(fnmatch("secret.key", rule) for rule in rules), "all else is left out"


def test_its_packages_give_the_programs_that_felix_calls() -> None:
    require_program("dpkg", package="dpkg")
    (command,) = (rest for step, rest in STEPS if step == "RUN" and "iptables" in rest)
    packages = set(command.partition("--no-install-recommends")[2].partition("&&")[0].split())
    for program in CALLED:
        path = require_program(program, package="iptables").resolve()
        usr_merged = [path, Path("/") / path.relative_to("/usr")] if "usr" in path.parts else [path]
        told = subprocess.run(
            ["dpkg", "-S", *usr_merged], check=False, capture_output=True, text=True
        )
        assert told.stdout.partition(":")[0] in packages, program


def test_every_program_that_felix_calls_is_looked_for_here() -> None:
    named = {program.split("-")[0] for program in CALLED}
    source = "".join(path.read_text() for path in (ROOT / "calico_k8s" / "felix").rglob("*.py"))
    called = set(re.findall(r'subprocess\.run\(\s*\(?"?\(?"(\w+)"', source))
    assert called <= named
