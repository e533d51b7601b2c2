"""House rules that a machine can check and no linter does, on every file that git tracks.

In comes the list of tracked files; out goes, for each rule, the places that break it.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.needs import requires

ROOT = Path(__file__).resolve().parent.parent

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
# A longer file states its reason in a comment of this form near its top.
LONG_FILE_REASON = re.compile(r"^# long: \S.+", re.MULTILINE)
LONG_FILE_REASON_WITHIN_LINES = 40

# Places that exist on one developer's machine only. In a class, so that this line is not one.
MACHINE_PATH = re.compile(r"(?<![\w./$}-])/(?:[w]ork|[r]oot|[h]ome/\w+)(?:/|\b)")

BROAD = {"Exception", "BaseException"}

CHANGE_NAME = re.compile(r"(README|\d+\.(feature|fix|change))\.md")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Every file that git tracks and the work tree holds, sorted."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    requires("a git checkout", found=listed.returncode == 0, install="git clone the repository")
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(sorted(path for path in paths if path.is_file()))


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def text_files() -> Iterator[tuple[Path, str]]:
    """Tracked files with their text; what is not UTF-8 is data, and no rule here is about data."""
    for path in tracked_files():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def report(rule: str, found: list[str]) -> str:
    """The rule and every place that breaks it; pytest alone would shorten the list."""
    return "\n".join([rule, *found])


def long_functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each function that is longer than a screen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX:
                yield node.lineno, node.name


def broad_handlers(tree: ast.AST) -> Iterator[int]:
    """Line of each handler that catches everything and does not raise it again."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        is_broad = any(
            kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in caught
        )
        last = node.body[-1]
        raises_again = isinstance(last, ast.Raise) and last.exc is None
        if is_broad and not raises_again:
            yield node.lineno


def test_no_file_is_longer_than_its_meaning() -> None:
    found = []
    for path in python_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        top = "\n".join(lines[:LONG_FILE_REASON_WITHIN_LINES])
        if len(lines) > FILE_LINES_MAX and not LONG_FILE_REASON.search(top):
            found.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
    assert not found, report(
        f"over {FILE_LINES_MAX} lines: split by meaning, or say why: `# long: ...`", found
    )


def test_no_function_is_longer_than_a_screen() -> None:
    found = [
        f"{place(path, line)} {name}"
        for path in python_files()
        for line, name in long_functions(tree_of(path))
    ]
    assert not found, report(f"over {FUNCTION_LINES_MAX} lines: split by meaning", found)


def test_nothing_catches_everything() -> None:
    found = [place(path, line) for path in python_files() for line in broad_handlers(tree_of(path))]
    assert not found, report("name the exceptions that are expected here", found)


def test_no_file_names_a_place_of_one_machine() -> None:
    found = [
        f"{place(path, number)} {line.strip()[:80]}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, report("use a path that every machine has, or one the caller gives", found)


def test_text_ends_with_a_newline_and_lines_end_clean() -> None:
    found = [
        place(path, number)
        for path, text in text_files()
        for number, line in enumerate(text.split("\n"), start=1)
        if line != line.rstrip(" \t\r")
    ]
    found += [
        f"{path.relative_to(ROOT)}: end"
        for path, text in text_files()
        if text and not text.endswith("\n")
    ]
    assert not found, report(
        "spaces at the end of a line, or no newline at the end of the file", found
    )


def test_changes_are_named_as_the_change_log_expects() -> None:
    found = [
        path.name
        for path in tracked_files()
        if path.parent.name == "changelog.d" and not CHANGE_NAME.fullmatch(path.name)
    ]
    assert not found, report("changelog.d/<n>.<feature|fix|change>.md", found)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file()],
    ids=lambda path: path.name,
)
def test_scripts_are_plain_sh_and_can_be_run(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    assert path.stat().st_mode & 0o111, "not executable"
    checked = subprocess.run(["sh", "-n", path], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


# The checks themselves, on text that breaks them: a rule that finds nothing must be able to.


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("cd /" + "work/main", True),
        ('path = "/' + 'root/.cache"', True),
        ("see /" + "home/alice/notes", True),
        ("https://example.org/" + "work/", False),
        ("the workload of a framework/" + "work", False),
        ("/var/lib/calico-k8s/state.db", False),
        ("$HOME/" + "work", False),
    ],
)
def test_a_place_of_one_machine_is_recognised(text: str, is_found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is is_found


@pytest.mark.parametrize(
    ("handler", "is_found"),
    [
        ("except:\n  pass", True),
        ("except Exception:\n  pass", True),
        ("except (ValueError, BaseException) as e:\n  log(e)", True),
        ("except BaseException:\n  clean()\n  raise", False),
        ("except ValueError:\n  pass", False),
    ],
)
def test_a_handler_that_catches_everything_is_recognised(handler: str, is_found: bool) -> None:
    assert bool(list(broad_handlers(ast.parse(f"try:\n  f()\n{handler}")))) is is_found


@pytest.mark.parametrize(("lines", "is_found"), [(60, False), (61, True)])
def test_a_function_longer_than_a_screen_is_recognised(lines: int, is_found: bool) -> None:
    code = "def f():\n" + "    x = 1\n" * (lines - 1)
    assert bool(list(long_functions(ast.parse(code)))) is is_found
