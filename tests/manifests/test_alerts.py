"""The alerts speak of metrics that there are, with labels that they have."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from calico_k8s.certificates.metrics import Metrics as SignerMetrics
from calico_k8s.controller.metrics import Metrics as ControllerMetrics
from calico_k8s.felix.metrics import Metrics as FelixMetrics

FILE = Path(__file__).resolve().parents[2] / "manifests" / "alerts.yaml"
Rule = dict[str, Any]  # Any: what YAML can say

_METRIC = re.compile(r"\b(calico_k8s_\w+)(?:\{([^}]*)\})?")
_BY = re.compile(r"\bby \(([^)]*)\) \((?:max by \([^)]*\) \()?(calico_k8s_\w+)")


def rules() -> list[Rule]:
    return [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]


def labels_by_metric() -> dict[str, set[str]]:
    """Every series of ours, with its labels."""
    registries: Iterator[CollectorRegistry] = iter(
        (ControllerMetrics().registry, FelixMetrics().registry, SignerMetrics().registry)
    )
    return {
        name: set(getattr(collector, "_labelnames", ()))
        for registry in registries
        for collector, names in registry._collector_to_names.items()
        for name in names
    }


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_about_a_metric_that_there_is(rule: Rule) -> None:
    known = labels_by_metric()
    found = _METRIC.findall(rule["expr"])
    assert found
    for name, selectors in found:
        assert name in known
        used = set(re.findall(r"(\w+)(?:!?=~?)", selectors))
        assert used <= known[name]
    for by, name in _BY.findall(rule["expr"]):
        assert {label.strip() for label in by.split(",")} <= known[name]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_and_what_to_do(rule: Rule) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["alert"].startswith("CalicoK8s")
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}
    for opening, closing in ("()", "{}", "[]"):
        assert rule["expr"].count(opening) == rule["expr"].count(closing)


def test_no_two_alerts_share_a_name() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
