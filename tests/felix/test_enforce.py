"""What the enforcer does when nothing is new."""

from calico_k8s.calc.graph import Graph
from calico_k8s.model.names import NodeName
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import IpsetName, KernelIpset
from tests.fakes.kernel import FakeKernel
from tests.simulated_rules import SimulatedIpset

OF_BEFORE = IpsetName("cali6-s-before")


def test_a_set_that_is_let_go_late_goes_without_waiting_for_a_change() -> None:
    kernel = FakeKernel(lets_go=False)
    kernel.ipsets[OF_BEFORE] = SimulatedIpset(KernelIpset(OF_BEFORE, "hash:net", 6))
    enforcer = kernel.enforcer(Graph(NodeName("n1")), RenderConfig())
    enforcer.begin(RenderConfig(), 0.0)
    enforcer.carry_out({}, 0.0)
    enforcer.collect(5.0)
    assert OF_BEFORE in kernel.ipsets
    kernel.lets_go = True
    enforcer.collect(10.0)
    assert OF_BEFORE not in kernel.ipsets
