"""The alerts speak of metrics that there are, with labels that they have."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.promql import result_labels

FILE = Path(__file__).resolve().parents[2] / "manifests" / "alerts.yaml"
Rule = dict[str, Any]  # Any: what YAML can say


def rules() -> list[Rule]:
    return [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_about_a_metric_that_there_is(rule: Rule) -> None:
    found = result_labels(rule["expr"])
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= found


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_and_what_to_do(rule: Rule) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["alert"].startswith("CalicoK8s")
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}


def test_no_two_alerts_share_a_name() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
