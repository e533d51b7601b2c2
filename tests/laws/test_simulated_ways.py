"""The law for queries: chains on the whole way of a flow say what ``can`` and ``matrix`` answer.

A random cluster goes through calc and render for both of its nodes.  Each way that
:class:`~calico_k8s.policy.ways.Ways` names is then taken: the chains of every node on it let the
flow's first packet on exactly if it is said to arrive.
"""

from collections.abc import Mapping

from hypothesis import given

from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import Key
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import HostEndpoint, Value
from calico_k8s.policy.host_verdict import Passage
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.ways import POD_LINK, Ways
from tests.laws.test_simulated_definition import SimulatedNode, is_a_packet
from tests.laws.test_simulated_hosts import passes
from tests.model_strategies import NODES, samples, states

UNNAMED = "eth9"
"""What nobody names."""


def links(ways: Ways, node: NodeName) -> Mapping[Address, str]:
    """The node's addresses and their interfaces, by names that an interface can have."""
    names: dict[str, str] = {}
    for called in ways.own(node).values():
        names.setdefault(called, called if " " not in called else f"eth{5 + len(names)}")
    return {address: names[called] for address, called in ways.own(node).items()}


def real(passage: Passage, node: SimulatedNode, names: Mapping[str, str]) -> Passage:
    """The passage by the interfaces of a simulated node."""

    def link(called: str | None, end: Address) -> str | None:
        if called is None:
            return None
        return node.links[end] if called == POD_LINK else names.get(called, called)

    arrives = link(passage.arrives, passage.flow.src)
    leaves = link(passage.leaves, passage.flow.dst)
    return passage._replace(arrives=arrives, leaves=leaves)


def is_told(state: Mapping[Key, Value], flow: Flow) -> bool:
    """Whether no end is an address of a node that only a host endpoint knows."""
    snapshot = Snapshot.from_items(state)
    own = {address for node in snapshot.nodes.values() for address in node.addresses}
    expected = {a for host in snapshot.host_endpoints.values() for a in host.expected_ips}
    return not {flow.src, flow.dst} & (expected - own - snapshot.owner_by_address.keys())


@given(states, samples)
def test_simulated_chains_on_the_whole_way_say_what_queries_answer(
    state: Mapping[Key, Value], flows: tuple[Flow, ...]
) -> None:
    snapshot = Snapshot.from_items(state)
    ways, owners = Ways(snapshot), snapshot.owner_by_address
    nodes = {
        name: SimulatedNode(name, state, with_hosts=True, own_links=links(ways, name))
        for name in NODES
    }
    for flow in filter(is_a_packet, flows):
        to_itself = flow.src == flow.dst or owners.get(flow.src, 1) is owners.get(flow.dst, 2)
        if to_itself or not is_told(state, flow):
            continue  # the first never leaves who sends it
        for judged in ways.judge(flow):
            passed = {passage.node for passage in judged.way}
            let_on = [node.passes(flow) for name, node in nodes.items() if name not in passed]
            for passage in judged.way:
                node, own = nodes[passage.node], links(ways, passage.node)
                names = {called: own[a] for a, called in ways.own(passage.node).items()}
                others = {called: UNNAMED for called in (passage.arrives, passage.leaves) if called}
                unnamed = {
                    called: link for called, link in others.items() if called.startswith("any ")
                }
                let_on.append(passes(node, real(passage, node, names | unnamed)))
            assert all(let_on) == judged.allowed, judged


@given(states, samples)
def test_without_host_endpoints_there_is_one_way_and_pods_alone_decide(
    state: Mapping[Key, Value], flows: tuple[Flow, ...]
) -> None:
    kept = {key: value for key, value in state.items() if not isinstance(value, HostEndpoint)}
    ways = Ways(Snapshot.from_items(kept))
    for flow in flows:
        (judged,) = ways.judge(flow)
        assert (judged.way, judged.steps) == ((), ())
        assert judged.allowed == judged.verdict.allowed
