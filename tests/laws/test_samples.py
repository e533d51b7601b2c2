"""What public documents teach of policies does here what their prose promises.

The samples are in ``tests/samples``: each is held to the definition, to the matrix, to ``lint``,
which must not cry wolf, and to real packets, in one lab for all.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from calico_k8s.lab.plan import LabPlan, ListenPort, Place
from calico_k8s.lab.planning import lab_node
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import Probe
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.lint.rules import lint_manifests
from calico_k8s.model.resources import (
    PROTOCOL_NAMES,
    PROTOCOL_NUMBERS,
    PROTOCOLS_WITH_PORTS,
    Action,
)
from calico_k8s.query.matrix import compute_matrix
from calico_k8s.query.reach import Service
from tests.sample_policies import OUTSIDE, Question, Sample, Town, promised, samples, services

COLLECTIONS = ("recipes", "kubernetes", "calico", "cluster")
SAMPLES = [sample for collection in COLLECTIONS for sample in samples(collection)]
IDS = [sample.says for sample in SAMPLES]
SERVICES = tuple(sorted({service for sample in SAMPLES for service in services(sample)}))
PORTS = tuple(ListenPort(*each) for each in SERVICES if each.protocol in PROTOCOLS_WITH_PORTS)


def told(broken: list[Question]) -> list[str]:
    """The questions whose answers were not as promised, to be read."""
    return [
        f"{q.src} to {q.dst}, {PROTOCOL_NAMES[q.service.protocol]} {q.service.port}, IPv{q.family}"
        for q in broken
    ]


def test_no_sample_is_told_twice() -> None:
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_the_definition_keeps_what_the_prose_promises(sample: Sample) -> None:
    town = Town(sample.policies)
    wanted = promised(sample, town)
    assert told([each for each, allowed in wanted.items() if town.allows(each) != allowed]) == []
    names = {place: name for name, place in town.places.items()}
    for cell in compute_matrix(town.snapshot, services(sample)).probes:
        service = Service(PROTOCOL_NUMBERS[cell.protocol], cell.port)
        ends = names[Place(cell.src)], names[Place(cell.dst)]
        if cell.family in sample.families:
            assert wanted[Question(*ends, service, cell.family)] == (cell.verdict == "allow"), cell


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_lint_does_not_cry_wolf(sample: Sample) -> None:
    problems = lint_manifests(Town(sample.policies).manifests)
    assert tuple(problem.code for problem in problems) == sample.lint


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The town, whose machines outside listen and answer too, and enforce nothing."""
    town = Town()
    with ExitStack() as stack:
        up = stack.enter_context(lab_up(town.cluster, LabOptions(services=SERVICES)))
        machines = [node for node in town.cluster.nodes if node.metadata.name in OUTSIDE]
        nodes = tuple(lab_node(node, town.snapshot) for node in machines)
        listening = LabPlan(nodes=nodes, node_listen=PORTS)
        stack.enter_context(Prober(listening, up.cluster.places()))
        for name in OUTSIDE:
            up.kill_agent(name)
        yield up


@pytest.mark.kernel
@pytest.mark.timeout(60)
@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_packets_keep_what_the_prose_promises(lab: Lab, sample: Sample) -> None:
    town = Town(sample.policies)
    lab.apply(town.cluster)
    wanted = promised(sample, town)
    probes = [
        Probe(town.places[q.src], town.address(q.dst, q.family), q.service.port, q.service.protocol)
        for q in wanted
    ]
    answers = zip(wanted.items(), lab.prober.probe(probes), strict=True)
    assert told([q for (q, allowed), a in answers if (a.verdict is Action.ALLOW) != allowed]) == []
