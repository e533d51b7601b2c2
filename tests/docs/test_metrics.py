"""The page of metrics names every metric of every daemon, and no other."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from calico_k8s.certificates import metrics as signer
from calico_k8s.controller import metrics as controller
from calico_k8s.felix import metrics as felix

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def named(section: str) -> set[tuple[str, str]]:
    """Each name in a section's table, with its kind."""
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \| (\w+)", text, re.MULTILINE)
    return {(name, kind) for cell, kind in rows for name in re.findall(r"`(\w+)`", cell)}


def made(registry: CollectorRegistry, prefix: str) -> set[tuple[str, str]]:
    """Each metric of ours, with its kind."""
    return {
        (
            metric.name.removeprefix(f"{prefix}_") + ("_total" * (metric.type == "counter")),
            metric.type,
        )
        for metric in registry.collect()
        if metric.name.startswith(prefix)
    }


@pytest.mark.parametrize(
    ("section", "registry", "prefix"),
    [
        ("Felix", felix.Metrics().registry, felix.PREFIX),
        ("Controller", controller.Metrics().registry, controller.PREFIX),
        ("Signer", signer.Metrics().registry, signer.PREFIX),
    ],
)
def test_the_page_has_what_there_is(section: str, registry: CollectorRegistry, prefix: str) -> None:
    assert named(section) == made(registry, prefix)
