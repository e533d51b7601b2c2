"""The law for host endpoints: chains say what the definition says, at every interface of a node.

A random cluster goes through calc and render for one node; flows then arrive at, leave and pass
that node by its interfaces, some of them translated by DNAT.  Its simulated chains let one through
exactly if :func:`~calico_k8s.policy.host_verdict.judge_host` does, and the node's pods' policy.
"""

from collections.abc import Iterator, Mapping

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.judge import judge_local
from calico_k8s.model.addresses import address_version
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import HostEndpoint, Value
from calico_k8s.policy.host_verdict import Passage, judge_host
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from tests.laws.test_simulated_definition import OWN_LINKS, SimulatedNode, is_a_packet
from tests.model_strategies import NODE_ADDRESSES, NODES, samples, states
from tests.simulate import Outcome
from tests.simulated_rules import Packet

NODE = NODES[0]
LINKS = ("eth0", "eth1", "eth2")
"""The last has no host endpoint of its own."""
LOOPBACK = "lo"
MEANT_PORT = 53


def passages(node: SimulatedNode, flow: Flow, turn: int) -> Iterator[Passage]:
    """The ways a flow can take past the node; ``turn`` chooses among its interfaces."""
    arrives, leaves = LINKS[turn % 3], LINKS[(turn + turn // 3) % 3]
    own = node.own_addresses
    src, dst = node.links.get(flow.src), node.links.get(flow.dst)
    if flow.src in own and flow.dst in own:
        yield Passage(NODE, flow, None, LOOPBACK)
        yield Passage(NODE, flow, LOOPBACK, None)
    elif flow.src in own:
        yield Passage(NODE, flow, None, dst or leaves, is_to_pod=dst is not None)
    elif flow.dst in own:
        yield Passage(NODE, flow, src or arrives, None, before_dnat=meant(flow, turn))
    else:
        yield Passage(NODE, flow, src or arrives, dst or leaves, before_dnat=meant(flow, turn))


def meant(flow: Flow, turn: int) -> Flow | None:
    """What the sender meant, in each fourth turn something else than what it gets."""
    if turn % 4 or not flow.dst_port:
        return None
    address = next(
        a for a in NODE_ADDRESSES[NODE] if address_version(a) == address_version(flow.dst)
    )
    return flow._replace(dst=address, dst_port=MEANT_PORT)


def packet(passage: Passage) -> Packet:
    """The first packet of a flow on its way."""
    flow, before = passage.flow, passage.before_dnat
    return Packet(
        flow.src,
        flow.dst,
        flow.protocol,
        flow.src_port,
        flow.dst_port,
        flow.icmp,
        in_interface=passage.arrives or "",
        out_interface=passage.leaves or "",
        meant=None if before is None else (before.dst, before.dst_port),
    )


def outcome_of(node: SimulatedNode, passage: Passage) -> Outcome:
    """What becomes of the flow's first packet in the node's chains."""
    if passage.arrives is None:
        return node.kernel.from_host(packet(passage))
    if passage.leaves is None:
        return node.kernel.to_host(packet(passage))
    return node.kernel.forward(packet(passage))


def passes(node: SimulatedNode, passage: Passage) -> bool:
    """Whether the node's chains let it on."""
    return outcome_of(node, passage).is_accepted


@given(states, samples, st.integers(0, 11))
def test_simulated_chains_of_host_endpoints_say_what_the_definition_says(
    state: Mapping[Key, Value], flows: tuple[Flow, ...], start: int
) -> None:
    snapshot = Snapshot.from_items(state)
    node = SimulatedNode(NODE, state, with_hosts=True)
    for turn, flow in enumerate(filter(is_a_packet, flows), start):
        is_between_pods = flow.src in node.links and flow.src == flow.dst
        if is_between_pods:
            continue  # never leaves the pod
        for passage in passages(node, flow, turn):
            said = judge_host(snapshot, passage, OWN_LINKS).allowed
            wanted = said and pods_allow(node, passage)
            assert passes(node, passage) == wanted, passage


def pods_allow(node: SimulatedNode, passage: Passage) -> bool:
    """What the node's pods' policy says, where the way is theirs."""
    is_ours = passage.flow.src in node.links or passage.flow.dst in node.links
    return not is_ours or judge_local(node.graph, passage.flow).is_allowed


@given(states)
def test_without_a_host_endpoint_the_tables_are_those_of_pods_alone(
    state: Mapping[Key, Value],
) -> None:
    kept = {key: value for key, value in state.items() if not isinstance(value, HostEndpoint)}
    with_hosts, without = (
        SimulatedNode(NODE, kept, with_hosts=with_hosts).kernel for with_hosts in (True, False)
    )
    assert [*with_hosts.tables] == [*without.tables]
