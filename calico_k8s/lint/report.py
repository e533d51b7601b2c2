"""Problems as text for people, and in the forms that other programs read.

In: problems in order.  Out: text, ending in a line end unless it is empty.

``text``    ``file:line:column: severity: message [code]``, the line with a caret below
``json``    a list of problems, the stable interface
``sarif``   SARIF 2.1.0, for code scanning.  Source: OASIS sarif-v2.1.0
``github``  workflow commands that GitHub shows in a pull request
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from calico_k8s.lint.problems import CODES, Problem
from calico_k8s.translate.findings import Severity

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
DOCUMENTATION = "docs/lint.md"

_STANDARD_INPUT = "-"

Json = dict[str, Any]  # Any: what JSON can say


class JsonProblem(msgspec.Struct, frozen=True):
    """One entry of ``lint --format json``."""

    severity: str
    code: str
    message: str
    file: str
    line: int
    column: int
    object: str


def to_text(problems: Sequence[Problem]) -> str:
    """For people: a line for each problem, the place in the policy text below it, and a count."""
    if not problems:
        return ""
    lines = [line for problem in problems for line in _text_lines(problem)]
    counts = Counter(problem.severity for problem in problems)
    told = [severity for severity in Severity if counts[severity] or severity is not Severity.NOTE]
    last = ", ".join(_count(counts[severity], severity) for severity in told)
    return "\n".join([*lines, last, ""])


def to_json(problems: Sequence[Problem]) -> str:
    """The stable interface."""
    entries = [
        JsonProblem(p.severity, p.code, p.message, p.file, p.line, p.column, p.object)
        for p in problems
    ]
    return msgspec.json.format(msgspec.json.encode(entries), indent=2).decode() + "\n"


def to_sarif(problems: Sequence[Problem]) -> str:
    """SARIF 2.1.0: one run, with every rule there is."""
    rules = list(CODES)
    driver: Json = {
        "name": "calico-k8s",
        "rules": [
            {
                "id": code,
                "shortDescription": {"text": info.summary},
                "helpUri": f"{DOCUMENTATION}#{code}",
                "defaultConfiguration": {"level": str(info.severity)},
            }
            for code, info in CODES.items()
        ],
    }
    run: Json = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_sarif_result(problem, rules.index(problem.code)) for problem in problems],
    }
    log: Json = {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}
    return msgspec.json.format(msgspec.json.encode(log), indent=2).decode() + "\n"


def to_github(problems: Iterable[Problem]) -> str:
    """A workflow command for each problem.

    Source: GitHub, workflow commands for GitHub Actions; escapes as in actions/toolkit.
    """
    return "".join(f"{_github_command(problem)}\n" for problem in problems)


FORMATS: Mapping[str, Callable[[Sequence[Problem]], str]] = {
    "text": to_text,
    "json": to_json,
    "sarif": to_sarif,
    "github": to_github,
}
"""Every form, by the name that ``--format`` takes."""


def _text_lines(problem: Problem) -> list[str]:
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    where = ": ".join(part for part in (place, str(problem.severity)) if part)
    about = (
        f" ({problem.object})" if problem.object and problem.object not in problem.message else ""
    )
    first = f"{where}: {problem.message}{about} [{problem.code}]"
    # The excerpt's own first line says the place inside the annotation, and the message again.
    return [first, *(f"  {line}" for line in problem.excerpt.splitlines()[1:3])]


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _sarif_result(problem: Problem, rule_index: int) -> Json:
    location: Json = {}
    if problem.file:
        physical: Json = {"artifactLocation": {"uri": _uri(problem.file)}}
        if problem.line:
            region: Json = {"startLine": problem.line}
            if problem.column:
                region["startColumn"] = problem.column
            physical["region"] = region
        location["physicalLocation"] = physical
    if problem.object:
        location["logicalLocations"] = [{"fullyQualifiedName": problem.object}]
    return {
        "ruleId": problem.code,
        "ruleIndex": rule_index,
        "level": str(problem.severity),
        "message": {"text": problem.message},
        "locations": [location] if location else [],
    }


def _uri(file: str) -> str:
    if file == _STANDARD_INPUT:
        return "stdin"
    return f"file://{quote(file)}" if file.startswith("/") else quote(file)


def _github_command(problem: Problem) -> str:
    properties = {"file": problem.file} if problem.file else {}
    if problem.line:
        properties |= {"line": str(problem.line), "col": str(problem.column or 1)}
    properties["title"] = problem.code
    listed = ",".join(f"{name}={_github_property(value)}" for name, value in properties.items())
    about = f"{problem.object}: " if problem.object else ""
    command = "notice" if problem.severity is Severity.NOTE else problem.severity
    return f"::{command} {listed}::{_github_data(about + problem.message)}"


def _github_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _github_property(text: str) -> str:
    return _github_data(text).replace(":", "%3A").replace(",", "%2C")
