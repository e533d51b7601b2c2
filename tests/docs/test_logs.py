"""The page of logs has every event that the code logs, with its keys, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from calico_k8s.controller.process import Phase

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "logs.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "critical"}
BY_STRUCTLOG = {"exc_info": "exception"}
PHASES = {phase.name.lower() for phase in Phase}
"""The events whose name is what the controller waits in."""


def logged() -> Iterator[tuple[str, set[str]]]:
    """Each event's name and keys, from every call of a logger."""
    for path in sorted((ROOT / "calico_k8s").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args and is_logger(node.func)):
                continue
            keys = {BY_STRUCTLOG.get(word.arg or "", word.arg or "") for word in node.keywords}
            if isinstance(event := node.args[0], ast.Constant):
                yield str(event.value), keys
            else:
                yield from ((phase, keys) for phase in PHASES)


def is_logger(called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id == "emit"
    if not (isinstance(called, ast.Attribute) and called.attr in LEVELS):
        return False
    return ast.unparse(called.value) in ("log", "self._log", "structlog.get_logger()")


def documented() -> dict[str, set[str]]:
    """Each event of the table, with its keys."""
    found: dict[str, set[str]] = {}
    for cell, keys in re.findall(r"^\| (`.*?) \|[^|]*\|([^|]*)\|", PAGE, re.MULTILINE):
        for event in re.findall(r"`([^`]+)`", cell):
            found.setdefault(event, set()).update(re.findall(r"\w+", keys))
    return found


def test_the_page_has_what_is_logged() -> None:
    found: dict[str, set[str]] = {}
    for event, keys in logged():
        found.setdefault(event, set()).update(keys)
    assert documented() == found
