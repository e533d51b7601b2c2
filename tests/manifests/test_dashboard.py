"""The dashboard asks for what the daemons tell, in words that Grafana knows.

Grafana's own schema is read by its generated types: what they do not know is lost on the way there
and back, and found.  How it looks is not tested.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.manifests.promql import result_labels

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "dashboard"
FILE = FOLDER / "calico-k8s.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())  # Any: what JSON can say
Panel = dict[str, Any]
PANELS: list[Panel] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]
COLUMNS = 24
VALUES = {"$__rate_interval": "5m", "$instance": ".*", "$quantile": "0.9"}
"""What Grafana puts for its variables before it asks Prometheus."""


def filled(expr: str) -> str:
    for variable, value in VALUES.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr, f"no such variable: {expr}"
    return expr


def lost(before: object, after: object, place: str = "") -> Iterator[str]:
    """Where something of the one is not in the other."""
    match before, after:
        case dict(), dict():
            for key, value in before.items():
                yield from lost(value, after.get(key), f"{place}.{key}")
        case list(), list() if len(before) == len(after):
            for number, pair in enumerate(zip(before, after, strict=True)):
                yield from lost(*pair, f"{place}[{number}]")
        case _ if before != after:
            yield f"{place}: {before!r} is {after!r}"


@pytest.mark.parametrize(
    ("panel", "target"),
    TARGETS,
    ids=[f"{panel['title']} {target['refId']}" for panel, target in TARGETS],
)
def test_a_panel_asks_for_metrics_and_labels_that_there_are(
    panel: Panel, target: dict[str, str]
) -> None:
    found = result_labels(filled(target["expr"]))
    assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) <= found
    many = found - {"le"}
    assert target.get("legendFormat") or not many or panel["type"] == "table", "lines need names"


def test_grafana_knows_every_word_of_it() -> None:
    register_default_plugins()
    read_back = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert not list(lost(DASHBOARD, read_back))
    misspelt = {**DASHBOARD, "panels": [{**PANELS[0], "titel": "x"}]}
    read_back = json.loads(JSONEncoder().encode(Dashboard.from_json(misspelt)))
    assert list(lost(misspelt, read_back)) == [".panels[0].titel: 'x' is None"]


def test_no_panel_lies_on_another_and_each_has_its_name_and_number() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        for row in range(place["y"], place["y"] + place["h"]):
            for column in range(place["x"], place["x"] + place["w"]):
                assert taken.setdefault((row, column), panel["title"]) == panel["title"]
    for what in ("id", "title"):
        names = [panel[what] for panel in DASHBOARD["panels"]]
        assert len(set(names)) == len(names)


def test_every_part_of_a_changes_way_is_shown() -> None:
    shown = " ".join(target["expr"] for _, target in TARGETS)
    for part in ("write", "delivery", "calculation", "kernel", "apply", "end_to_end"):
        assert f"_{part}_latency_seconds" in shown


def test_its_variables_are_those_that_are_used() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", FILE.read_text()))
    assert defined == used
    (nodes,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "instance")
    metric, label = re.findall(r"label_values\((\w+), (\w+)\)", nodes["query"]["query"])[0]
    assert label in result_labels(metric)


def test_its_component_makes_the_config_map_that_grafanas_sidecar_looks_for() -> None:
    component = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (made,) = component["configMapGenerator"]
    assert made["options"]["labels"]["grafana_dashboard"] == "1"
    assert made["files"] == [FILE.name]
    assert FILE.stat().st_size < 1 << 20, "no ConfigMap holds more"
