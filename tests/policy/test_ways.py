"""Which interfaces a flow may pass, as far as a snapshot tells, and what decides on each way."""

import pytest

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    HostEndpoint,
    HostHook,
    Node,
    Origin,
    Policy,
    Rule,
)
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.ways import (
    ANY_INTERFACE,
    ANY_OTHER_INTERFACE,
    POD_LINK,
    Judged,
    Via,
    Ways,
    nodes_known,
)
from tests.states import State, both, pod, profile, rule, tier

N1, N2 = NodeName("n1"), NodeName("n2")
NODE1, NODE1_PUBLIC, NODE2 = Address("192.168.0.1"), Address("203.0.113.1"), Address("192.168.0.2")
A, B, OUTSIDE = Address("10.0.1.1"), Address("10.0.2.1"), Address("198.51.100.7")
WITH_PUBLIC = f"the interface with {NODE1_PUBLIC}"

PODS = both(
    {keys.NodeKey(N1): Node(N1, (NODE1,)), keys.NodeKey(N2): Node(N2, (NODE2,))},
    pod("a", A, node="n1"),
    pod("b", B, node="n2"),
    profile("namespace.prod", rule(Action.ALLOW), origin=Origin("Namespace", name="prod")),
    tier("default", 1.0),
)


def host(name: str, interface: str, *expected: Address, node: NodeName = N1) -> State:
    endpoint = HostEndpoint(node, name, interface, expected)
    return {keys.HostEndpointKey(node, name): endpoint}


def links(state: State, src: Address, dst: Address, via: Via | None = None) -> list[str]:
    """Each way, as the interfaces that are passed."""
    ways = Ways(Snapshot.from_items(state))
    judged = ways.judge(Flow(src, dst, 6, 40000, 80), via or Via())
    return [
        " ".join(f"{p.node}:{p.arrives or '-'}>{p.leaves or '-'}" for p in each.way)
        for each in judged
    ]


ETH0, ETH1 = host("eth0", "eth0", NODE1), host("eth1", "eth1")
EVERY, PUBLIC = host("every", "*"), host("public", "", NODE1_PUBLIC)
CASES = [
    # host endpoints, from, to, the ways
    ("no host endpoint", {}, A, B, [""]),
    ("from outside", ETH0, OUTSIDE, A, [f"n1:eth0>{POD_LINK}"]),
    ("to outside", ETH0, A, OUTSIDE, [f"n1:{POD_LINK}>eth0"]),
    (
        "from outside, by any",
        both(ETH0, ETH1),
        OUTSIDE,
        A,
        [f"n1:eth0>{POD_LINK}", f"n1:eth1>{POD_LINK}"],
    ),
    ("from the cluster, by the node's own", both(ETH0, ETH1), B, A, [f"n1:eth0>{POD_LINK}"]),
    ("to the address that is told", both(ETH0, ETH1), OUTSIDE, NODE1, ["n1:eth0>-"]),
    ("to one that no host endpoint tells", ETH1, OUTSIDE, NODE1, ["n1:eth1>-"]),
    ("to one that only a host endpoint tells", PUBLIC, OUTSIDE, NODE1_PUBLIC, [f"n1:{WITH_PUBLIC}>-"]),
    ("by every interface", EVERY, OUTSIDE, NODE1, [f"n1:{ANY_INTERFACE}>-"]),
    (
        "by a named one and every other",
        both(ETH1, EVERY),
        OUTSIDE,
        NODE1,
        ["n1:eth1>-", f"n1:{ANY_OTHER_INTERFACE}>-"],
    ),
    ("from the node", ETH0, NODE1, B, ["n1:->eth0"]),
    ("to another's pod, past both", both(ETH0, host("h", "eth0", node=N2)), NODE1, B, [f"n1:->eth0 n2:eth0>{POD_LINK}"]),
    ("a pod to its node", EVERY, A, NODE1, [f"n1:{POD_LINK}>-"]),
    ("the node to its pod", EVERY, NODE1, A, [f"n1:->{POD_LINK}"]),
    ("the node to itself", EVERY, NODE1, NODE1, [""]),
    ("a pod to itself", EVERY, A, A, [""]),
    ("a pod whose address is expected at an interface", both(host("h", "eth1", A), ETH0), B, A, [f"n1:eth0>{POD_LINK}"]),
    ("a node without one", ETH0, OUTSIDE, B, [""]),
    ("outside alone", ETH0, OUTSIDE, Address("198.51.100.8"), [""]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("hosts", "src", "dst", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_flow_passes_each_interface_that_it_may(
    hosts: State, src: Address, dst: Address, expected: list[str]
) -> None:
    assert links(both(PODS, hosts), src, dst) == expected


def test_an_interface_that_is_asked_about_is_the_only_one() -> None:
    state = both(PODS, ETH0, EVERY)
    assert links(state, OUTSIDE, NODE1, Via(dst="eth7")) == ["n1:eth7>-"]
    assert links(state, NODE1, OUTSIDE, Via(src="eth7")) == ["n1:->eth7"]


def test_two_host_endpoints_of_one_address_are_at_one_interface() -> None:
    state = both(PODS, host("a", "", NODE1), host("b", "eth0", NODE1))
    assert links(state, OUTSIDE, NODE1) == ["n1:eth0>-"]


def test_every_node_that_is_named_is_known_by_every_address() -> None:
    state = both(PODS, PUBLIC, host("h", "eth0", node=NodeName("n3")))
    known = nodes_known(Snapshot.from_items(state))
    assert known == {N1: (NODE1, NODE1_PUBLIC), N2: (NODE2,), NodeName("n3"): ()}


def policy(action: Action, hook: HostHook) -> State:
    name = PolicyId("GlobalNetworkPolicy", "", str(hook))
    made = Policy(
        name,
        TierName("default"),
        SelectorText("!has(projectcalico.org/namespace)"),
        (Direction.INGRESS,),
        ingress=(Rule(action, Origin("GlobalNetworkPolicy", name=str(hook), index=0)),),
        host_hook=hook,
    )
    return {keys.PolicyKey(made.tier, name): made}


def only(state: State, src: Address, dst: Address, port: int = 80) -> Judged:
    (judged,) = Ways(Snapshot.from_items(state)).judge(Flow(src, dst, 6, 40000, port))
    return judged


def test_what_denies_settles_it_then_pods_then_hosts() -> None:
    denied = only(both(PODS, ETH0, policy(Action.DENY, HostHook.PRE_DNAT)), OUTSIDE, A)
    assert not denied.allowed
    assert denied.verdict.allowed
    assert denied.deciding is not None
    assert (denied.deciding.deciding.name, denied.deciding.hook) == ("pre-dnat", HostHook.PRE_DNAT)
    allowed = only(both(PODS, ETH0, policy(Action.ALLOW, HostHook.PRE_DNAT)), OUTSIDE, A)
    assert allowed.allowed
    assert allowed.deciding == allowed.verdict.deciding
    of_node = only(both(PODS, ETH0, policy(Action.ALLOW, HostHook.LOCAL)), OUTSIDE, NODE1)
    assert of_node.allowed
    assert of_node.deciding_step is of_node.steps[-1]


def test_a_port_that_stays_open_is_told_where_it_passed() -> None:
    judged = only(both(PODS, ETH0), OUTSIDE, NODE1, 22)
    assert judged.allowed
    assert judged.deciding is None
    assert judged.failsafe_step is judged.steps[-1]
    assert not only(both(PODS, ETH0), OUTSIDE, NODE1, 80).allowed


def test_what_pods_policy_denies_no_host_endpoint_is_asked() -> None:
    closed = both(
        PODS, ETH0, profile("namespace.prod", rule(Action.DENY), origin=Origin("Namespace"))
    )
    assert only(closed, OUTSIDE, A).steps == ()
