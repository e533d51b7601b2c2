"""The four forms: exact text, JSON as documented, SARIF's constraints, GitHub's escapes."""

import json

import jsonschema
import pytest

from calico_k8s.lint.problems import CODES, Problem
from calico_k8s.lint.report import FORMATS, to_github, to_json, to_sarif, to_text
from calico_k8s.translate.findings import Severity

BROKEN = Problem(
    severity=Severity.ERROR,
    code="annotation-syntax",
    message="expected 'from', found 'frm'; did you mean 'from'?",
    file="apps/back end.yaml",
    line=7,
    column=17,
    object="Deployment/prod/backend",
    excerpt="line 1, column 11: expected\n  allow tcp frm x\n            ^^^\ndid you mean 'from'?",
)
LIVE = Problem(
    severity=Severity.WARNING,
    code="flag-conflict",
    message="100% odd:\nlook",
    file="",
    line=0,
    column=0,
    object="Namespace/prod",
)


NOTE = Problem(
    severity=Severity.NOTE,
    code="namespace-closed",
    message="closed",
    file="",
    line=0,
    column=0,
    object="Namespace/prod",
)


def test_notes_are_told_apart_from_mistakes() -> None:
    assert to_text([NOTE]).splitlines() == [
        "note: closed (Namespace/prod) [namespace-closed]",
        "0 errors, 0 warnings, 1 note",
    ]
    assert to_github([NOTE]) == "::notice title=namespace-closed::Namespace/prod: closed\n"


def test_text_gives_place_message_and_the_words_that_are_wrong() -> None:
    about = "(Deployment/prod/backend) [annotation-syntax]"
    assert to_text([BROKEN, LIVE]).splitlines() == [
        f"apps/back end.yaml:7:17: error: {BROKEN.message} {about}",
        "    allow tcp frm x",
        "              ^^^",
        "warning: 100% odd:",
        "look (Namespace/prod) [flag-conflict]",
        "1 error, 1 warning",
    ]


def test_json_has_the_documented_fields() -> None:
    assert json.loads(to_json([BROKEN])) == [
        {
            "severity": "error",
            "code": "annotation-syntax",
            "message": "expected 'from', found 'frm'; did you mean 'from'?",
            "file": "apps/back end.yaml",
            "line": 7,
            "column": 17,
            "object": "Deployment/prod/backend",
        }
    ]


def test_github_commands_are_escaped() -> None:
    properties = "file=apps/back end.yaml,line=7,col=17,title=annotation-syntax"
    assert to_github([BROKEN, LIVE]).splitlines() == [
        f"::error {properties}::Deployment/prod/backend: {BROKEN.message}",
        "::warning title=flag-conflict::Namespace/prod: 100%25 odd:%0Alook",
    ]


POSITIVE = {"type": "integer", "minimum": 1}
URI = {"type": "string", "format": "uri-reference", "pattern": r"^[^ \\]+$"}
# The parts of the SARIF 2.1.0 schema that speak of what we write, with its required fields.
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"enum": ["2.1.0"]},
        "runs": {
            "type": "array",
            "items": {
                "required": ["tool"],
                "additionalProperties": False,
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "required": ["id"],
                                            "properties": {
                                                "shortDescription": {"required": ["text"]},
                                                "helpUri": URI,
                                                "defaultConfiguration": {
                                                    "properties": {
                                                        "level": {
                                                            "enum": ["error", "warning", "note"]
                                                        }
                                                    }
                                                },
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "required": ["message"],
                            "properties": {
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "message": {"required": ["text"]},
                                "locations": {
                                    "items": {
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation"],
                                                "properties": {
                                                    "artifactLocation": {
                                                        "properties": {"uri": URI}
                                                    },
                                                    "region": {
                                                        "properties": {
                                                            "startLine": POSITIVE,
                                                            "startColumn": POSITIVE,
                                                        }
                                                    },
                                                },
                                            }
                                        }
                                    }
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


@pytest.mark.parametrize("problems", [[], [BROKEN], [LIVE], [BROKEN, LIVE, NOTE]], ids=len)
def test_sarif_holds_to_the_schema_and_names_its_rules(problems: list[Problem]) -> None:
    log = json.loads(to_sarif(problems))
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CODES)
    for problem, result in zip(problems, run["results"], strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == problem.code


def test_sarif_gives_the_place_of_a_problem() -> None:
    (result,) = json.loads(to_sarif([BROKEN]))["runs"][0]["results"]
    assert result["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "apps/back%20end.yaml"},
                "region": {"startLine": 7, "startColumn": 17},
            },
            "logicalLocations": [{"fullyQualifiedName": "Deployment/prod/backend"}],
        }
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_every_form_takes_no_problems_too(name: str) -> None:
    assert FORMATS[name]([]).count("\n") in (0, 1) or name == "sarif"
