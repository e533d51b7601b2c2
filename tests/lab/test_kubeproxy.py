"""Services lead where they say, from pods and nodes, and change while packets pass."""

import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from calico_k8s.lab.beats import verdict_runs
from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.kubeproxy import IptablesFlavour, KubeProxy, render_services
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import LabPlan, ListenPort, Place, PodNetwork
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import Outcome, Probe
from calico_k8s.lab.stream import StreamKind
from calico_k8s.model.resources import Action
from tests.lab.plans import (
    EMPTY_SERVICE_IPS,
    SERVICE_IPS,
    TCP,
    TCP_PORT,
    UDP,
    UDP_PORT,
    plan,
    pod,
    service,
)

PLAN = plan(4, has_services=True)
PODS = {pod.id for pod in PLAN.pods}


class Lab(msgspec.Struct, frozen=True):
    cluster: Cluster
    proxy: KubeProxy
    prober: Prober


@pytest.fixture(
    params=[(network, flavour) for network in PodNetwork for flavour in ("legacy", "nft")],
    ids=lambda param: f"{param[0]}-{param[1]}",
    scope="module",
)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    flavour: IptablesFlavour
    network, flavour = request.param
    with cluster_up(PLAN, network) as cluster, Prober(PLAN, cluster.places()) as prober:
        proxy = KubeProxy(cluster.nodes, flavour)
        proxy.apply(PLAN.services)
        yield Lab(cluster, proxy, prober)


@pytest.mark.kernel
@pytest.mark.parametrize("port", PLAN.listen, ids=lambda port: str(port.protocol))
def test_a_cluster_ip_leads_to_every_backend_and_to_the_pod_itself(
    lab: Lab, port: ListenPort
) -> None:
    protocol, number = port
    for address in SERVICE_IPS:
        probes = [
            Probe(Place(source), address, number, protocol)
            for source in ("default/p0", "default/p1", "node0")
            for _ in range(60)
        ]
        answers = lab.prober.probe(probes)
        assert {answer.outcome for answer in answers} == {Outcome.ANSWERED}
        # The chance that a backend of four is missed by 60 is below one in ten million.
        for start in (0, 60, 120):
            assert {answer.answered_by for answer in answers[start : start + 60]} == PODS


@pytest.mark.kernel
def test_a_service_without_backends_refuses(lab: Lab) -> None:
    probes = [
        Probe(Place(source), address, number, protocol)
        for source in ("default/p0", "node1")
        for address in EMPTY_SERVICE_IPS
        for protocol, number in (TCP_PORT, UDP_PORT)
    ]
    answers = lab.prober.probe(probes)
    assert {answer.verdict for answer in answers} == {Action.DENY}
    # A connection that is refused while its call is still under way does not hear of it; tcp(7).
    heard = {
        answer.outcome
        for probe, answer in zip(probes, answers, strict=True)
        if probe.protocol == UDP
    }
    assert heard == {Outcome.REFUSED}


@pytest.mark.kernel
def test_a_change_takes_the_place_of_what_was_at_once(lab: Lab) -> None:
    first, second = (service(SERVICE_IPS, PLAN.listen, (pod(n, n % 2),)) for n in (1, 2))
    lab.proxy.apply([first])
    watched = Probe(Place("default/p0"), SERVICE_IPS[0], 80, TCP)
    assert lab.prober.probe([watched])[0].answered_by == "default/p1"
    stream = lab.prober.stream(watched, StreamKind.NEW, 0.002)
    for _ in range(5):
        for each in (second, first):
            lab.proxy.apply([each])
    lab.prober.stop(stream)
    assert lab.prober.probe([watched])[0].answered_by == "default/p1"
    assert [run.verdict for run in verdict_runs(stream.beats())] == [Action.ALLOW]
    rules = rules_of(lab.cluster)
    assert rules.count("-A PREROUTING -j LAB-SERVICES") == 1
    lab.proxy.apply(PLAN.services)


def rules_of(cluster: Cluster) -> str:
    with entered(cluster.nodes[PLAN.nodes[0].name].namespace):
        return "".join(
            subprocess.run(
                [f"iptables-{each}-save"], check=True, capture_output=True, text=True
            ).stdout
            for each in ("legacy", "nft")
        )


@pytest.mark.kernel
def test_a_udp_flow_leaves_a_backend_that_is_gone(lab: Lab) -> None:
    lab.proxy.apply([service(SERVICE_IPS, PLAN.listen, (pod(1, 1),))])
    watched = Probe(Place("default/p0"), SERVICE_IPS[0], 53, UDP)
    stream = lab.prober.stream(watched, StreamKind.CLIENT, 0.005)
    lab.proxy.apply([service(SERVICE_IPS, PLAN.listen, (pod(2, 0),))])
    with entered(lab.cluster.nodes[PLAN.nodes[0].name].namespace):
        flows = subprocess.run(
            ["conntrack", "-L", "-p", "udp", "--orig-dst", SERVICE_IPS[0]],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    lab.prober.stop(stream)
    assert f"src={pod(1, 1).addresses[0]}" not in flows
    lab.proxy.apply(PLAN.services)


def test_each_backend_is_as_likely_as_the_others() -> None:
    text = render_services([service(SERVICE_IPS, (TCP_PORT,), PLAN.pods)], 4)
    chances = [
        line.split("--probability ")[1].split()[0] for line in text.splitlines() if "--prob" in line
    ]
    assert chances == ["0.2500000000", "0.3333333333", "0.5000000000"]
    assert text.count("-j DNAT") == 4
    assert "[fd00" not in text


def test_no_services_are_empty_chains() -> None:
    assert "-A" not in render_services(LabPlan(nodes=()).services, 6)
