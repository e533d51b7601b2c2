"""Every code is documented, and every example gives its code and no other."""

import re
from pathlib import Path

import pytest

from calico_k8s.lint.problems import CODES, LintCode
from calico_k8s.lint.rules import lint_manifests
from calico_k8s.sources.documents import read_text
from calico_k8s.translate.findings import Severity

PAGE = (Path(__file__).parent.parent.parent / "docs" / "lint.md").read_text(encoding="utf-8")
SECTIONS = {
    found[1]: found[2]
    for found in re.finditer(r"^## ([a-z-]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
ROWS = re.findall(r"^\| \[`([a-z-]+)`\]\(#([a-z-]+)\) \| (\w+) \| (.*) \|$", PAGE, re.MULTILINE)


def test_the_table_is_what_the_code_says() -> None:
    assert [(code, code, str(info.severity), info.summary) for code, info in CODES.items()] == ROWS


def test_every_code_has_its_section_in_order() -> None:
    assert list(SECTIONS) == list(CODES)


@pytest.mark.parametrize("code", CODES)
def test_the_example_of_a_code_gives_that_code_and_no_other(code: str) -> None:
    example = re.search(r"```yaml\n(.*?)```", SECTIONS[code], re.DOTALL)
    assert example is not None
    assert "\nRemedy: " in SECTIONS[code]
    reading = read_text(example[1], "example.yaml")
    is_effect = CODES[code].severity is Severity.NOTE
    if is_effect:
        assert lint_manifests(reading.manifests, reading.errors) == (), "it is no mistake"
    problems = lint_manifests(reading.manifests, reading.errors, notes=is_effect)
    if code == LintCode.SERVICE_OPENS:  # which is said only beside what closes
        problems = tuple(p for p in problems if p.code != LintCode.ANNOTATION_GOVERNS)
    assert {(p.code, p.severity) for p in problems} == {(code, CODES[code].severity)}
    assert all(problem.line for problem in problems)
