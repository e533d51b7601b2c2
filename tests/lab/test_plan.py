"""A plan that cannot be built says why, by name."""

import msgspec
import pytest

from calico_k8s.errors import InputError
from calico_k8s.lab.plan import (
    LabNode,
    LabPlan,
    LabPod,
    LabService,
    LabServicePort,
    ListenPort,
    PodId,
    bridge_gateway,
    check_plan,
)
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NodeName
from tests.lab.plans import TCP, node, plan, pod

ONE = LabPlan(nodes=(node(0),), pods=(pod(0, 0),))


def changed(**fields: object) -> LabPlan:
    return msgspec.structs.replace(ONE, **fields)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (changed(nodes=(node(0), node(0))), "two nodes have the same name"),
        (changed(pods=(pod(0, 0), pod(0, 0))), "two pods are named default/p0"),
        (changed(pods=(pod(0, 1),)), "on node 'node1', which does not exist"),
        (
            changed(pods=(LabPod(PodId("web"), NodeName("node0"), (Address("10.0.0.1"),)),)),
            "pod 'web' is not named namespace/name",
        ),
        (changed(pods=(LabPod(PodId("a/b"), NodeName("node0"), ()),)), "pod a/b has no address"),
        (
            changed(
                pods=(
                    LabPod(
                        PodId("a/b"), NodeName("node0"), (Address("10.0.0.1"), Address("10.0.0.2"))
                    ),
                )
            ),
            "pod a/b has more than one IPv4 address",
        ),
        (
            changed(nodes=(LabNode(NodeName("node0"), (Address("192.168.9.1"),)),)),
            "has an IPv6 address and its node node0 has none",
        ),
        (
            changed(pods=(pod(0, 0), LabPod(PodId("a/b"), NodeName("node0"), pod(0, 0).addresses))),
            "address 10.244.0.10 is given twice",
        ),
        (
            changed(services=(LabService((node(0).addresses[0],), ()),)),
            "address 192.168.9.1 is given twice",
        ),
        (
            changed(services=(LabService((), (LabServicePort(1, 80),)),)),
            "protocol icmp has no ports",
        ),
        (changed(listen=(ListenPort(TCP, 70000),)), "port 70000 is not between 1 and 65535"),
        (
            changed(
                nodes=(
                    node(0),
                    LabNode(
                        NodeName("other"), (Address("192.168.9.9"),), (Net("10.244.0.128/25"),)
                    ),
                )
            ),
            "pod nets 10.244.0.0/24 and 10.244.0.128/25 overlap",
        ),
    ],
)
def test_a_plan_that_cannot_be_built_says_why(wrong: LabPlan, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        check_plan(wrong)


def test_a_plan_that_can_be_built_passes() -> None:
    check_plan(plan(6, has_services=True))


@pytest.mark.parametrize(
    ("net", "taken", "gateway"),
    [
        ("10.0.0.0/24", [], "10.0.0.1"),
        ("10.0.0.0/24", ["10.0.0.1", "10.0.0.2"], "10.0.0.3"),
        ("10.0.0.7/32", [], "10.0.0.7"),
        ("fd00::/64", ["fd00::1"], "fd00::2"),
    ],
)
def test_a_bridge_has_the_first_address_that_no_pod_has(
    net: str, taken: list[str], gateway: str
) -> None:
    assert bridge_gateway(Net(net), [Address(each) for each in taken]) == gateway


def test_a_net_full_of_pods_leaves_no_bridge() -> None:
    with pytest.raises(InputError, match="give it a wider one"):
        bridge_gateway(Net("10.0.0.0/31"), [Address("10.0.0.0"), Address("10.0.0.1")])
