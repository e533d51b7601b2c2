"""The truth table of NetworkPolicy, by the definition and with real packets.

``tests/golden/truth-table.txt`` prints every case with its policies; what stands there is what
Kubernetes' own words say, and both are held to it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.query.matrix import Cell, Matrix, cell_key, compute_matrix
from calico_k8s.query.reach import Service
from tests.nine_pods import PORTS, PROTOCOLS, World
from tests.truth_table import CASES, Case, expected, lines, text

GOLDEN = Path(__file__).parent.parent / "golden" / "truth-table.txt"
SERVICES = tuple(
    Service(PROTOCOL_NUMBERS[protocol], port) for protocol in PROTOCOLS for port in PORTS
)
IDS = [case.words for case in CASES]


def wrong(case: Case, found: Matrix) -> list[Cell]:
    """The cells that are not as the table says; empty where all are."""
    wanted = {cell_key(cell): cell.verdict for cell in expected(case)}
    assert len(found.probes) == len(wanted) == 9 * 9 * len(SERVICES) * len(case.families)
    return [cell for cell in found.probes if wanted[cell_key(cell)] != cell.verdict]


def test_the_table_is_printed_as_it_is(*, update_golden: bool) -> None:
    printed = "\n".join(lines()) + "\n"
    if update_golden:
        GOLDEN.write_text(printed, encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_definition_is_as_the_table_says(case: Case) -> None:
    world = World(text(case))
    assert world.codes == []
    assert wrong(case, compute_matrix(world.snapshot, SERVICES)) == []


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_up(World().cluster, LabOptions(services=SERVICES)) as up:
        yield up


@pytest.mark.kernel
@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_packets_go_as_the_table_says(lab: Lab, case: Case) -> None:
    lab.apply(World(text(case)).cluster)
    assert wrong(case, lab.matrix(SERVICES)) == []
