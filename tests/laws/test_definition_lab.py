"""The law that the product rests on, with real packets: nodes pass what the definition allows.

One lab of each kind runs; random clusters replace each other in it, so that every case is also a
change from the case before.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from calico_k8s.lab.plan import PodNetwork
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.model.resources import ICMP
from calico_k8s.query.matrix import compare, compute_matrix
from calico_k8s.query.reach import Service
from tests.lab.clusters import TCP_PORTS, UDP_PORT, Object, clusters, expanded
from tests.lab.plans import TCP, UDP
from tests.needs import require_program

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

SERVICES = (*(Service(TCP, port) for port in TCP_PORTS), Service(UDP, UDP_PORT), Service(ICMP, 0))
KINDS = {
    "ptp-nft": LabOptions(PodNetwork.PTP, "nft", services=SERVICES),
    "bridge-nft": LabOptions(PodNetwork.BRIDGE, "nft", services=SERVICES),
    "ptp-legacy": LabOptions(PodNetwork.PTP, "legacy", services=SERVICES),
    "bridge-legacy": LabOptions(PodNetwork.BRIDGE, "legacy", services=SERVICES),
    "ptp-nftables": LabOptions(PodNetwork.PTP, "nftables", services=SERVICES),
    "bridge-nftables": LabOptions(PodNetwork.BRIDGE, "nftables", services=SERVICES),
    "ptp-nft-etcd": LabOptions(PodNetwork.PTP, "nft", "etcd", services=SERVICES),
}
CASES = 20
"""Of each kind; with ``thorough``, more: some 0.6 s each."""


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS), scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    options: LabOptions = request.param
    if options.store == "etcd":
        require_program("etcd", package="etcd-server")
    with lab_up(expanded([]), options) as up:
        yield up


# Not shrunk: a case's trouble may lie in the change from the case before.
@settings(
    max_examples=CASES * max(1, settings().max_examples // 1000),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
@given(objects=clusters())
def test_packets_pass_as_the_definition_says(lab: Lab, objects: list[Object]) -> None:
    lab.apply(expanded(objects, before=lab.objects))
    computed = compute_matrix(lab.snapshot, SERVICES)
    assert compare(computed, lab.matrix(SERVICES)) == ()


@pytest.mark.parametrize("lab", [KINDS["ptp-legacy"]], ids=["ptp-legacy"], indirect=True)
@pytest.mark.parametrize("action", ["Allow", "Deny"])
def test_after_a_small_change_a_negated_protocol_leaves_out_that_protocol_alone(
    lab: Lab, action: str
) -> None:
    """python-iptables left out a flag of IPv6, so that all but UDP was UDP too."""
    pods: list[Object] = [
        {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"nodeName": node}}
        for name, node in (("near", "node-1"), ("far", "node-2"))
    ]
    last: Object = {"action": "Deny" if action == "Allow" else "Allow"}
    for rule in ({"action": action, "protocol": "UDP"}, {"action": action, "notProtocol": "UDP"}):
        policy: Object = {
            "apiVersion": "projectcalico.org/v3",
            "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "negated"},
            "spec": {"selector": "all()", "types": ["Ingress"], "ingress": [rule, last]},
        }
        lab.apply(expanded([*pods, policy], before=lab.objects))
        computed = compute_matrix(lab.snapshot, SERVICES)
        assert len({cell.verdict for cell in computed.probes if cell.src != cell.dst}) == 2
        assert compare(computed, lab.matrix(SERVICES)) == ()
