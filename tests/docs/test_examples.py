"""Every example of a policy does what is promised beside it, computed and with real packets.

``docs/examples/policies`` has an application, policies each in a file of its own, and beside each
the expectations that ``lab test`` takes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_k8s.lab.expectations import Expectation, asked_services, check, parse_expectations
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.lint.rules import lint_manifests
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import Cell, Matrix, compute_matrix
from calico_k8s.sources.expand import ClusterObjects, expand
from calico_k8s.sources.manifests import read_manifests
from calico_k8s.translate.cluster import translate_all

FOLDER = Path(__file__).parents[2] / "docs" / "examples" / "policies"
APP = FOLDER / "app.yaml"
NAMES = sorted(path.stem for path in FOLDER.glob("*.expect"))


def cluster(name: str) -> ClusterObjects:
    return expand(read_manifests([str(APP), str(FOLDER / f"{name}.yaml")]).checked().manifests)


def expectations(name: str) -> tuple[Expectation, ...]:
    file = FOLDER / f"{name}.expect"
    return parse_expectations(file.read_text(encoding="utf-8"), file.name)


SERVICES = tuple(sorted({s for name in NAMES for s in asked_services(expectations(name))}))


def surprises(name: str, matrix: Matrix) -> list[Cell]:
    outcomes = check(expectations(name), matrix, f"{name}.expect")
    return [cell for outcome in outcomes for cell in outcome.surprises]


def test_every_example_has_its_promise() -> None:
    assert NAMES
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NAMES, "app"}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_does_by_the_definition_what_it_promises(name: str) -> None:
    snapshot = Snapshot.from_items(translate_all(cluster(name).objects()).items)
    assert surprises(name, compute_matrix(snapshot, SERVICES)) == []


@pytest.mark.parametrize("name", NAMES)
def test_lint_finds_nothing_in_an_example(name: str) -> None:
    paths = [str(APP), str(FOLDER / f"{name}.yaml")]
    assert lint_manifests(read_manifests(paths).checked().manifests) == ()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(cluster(NAMES[0]), LabOptions(services=SERVICES)) as up:
        yield up


@pytest.mark.kernel
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_an_example_does_with_packets_what_it_promises(lab: Lab, name: str) -> None:
    lab.apply(cluster(name))
    assert surprises(name, lab.matrix(SERVICES)) == []
