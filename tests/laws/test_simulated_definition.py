"""The law that the product rests on: chains say what the definition says.

A random cluster goes through calc and render for each of its nodes; a flow then goes through the
simulated chains of the nodes it crosses.  It arrives exactly if
:func:`calico_k8s.policy.verdict.judge` allows it.
"""

from collections.abc import Mapping

from hypothesis import given

from calico_k8s.calc.deltas import LocalEndpoint
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.keys import Key
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import ICMP, ICMPV6, Direction, Node, Value
from calico_k8s.policy.host_verdict import failsafes_of
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import POD_TO_HOST_ACTION, judge
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.notes import Note
from calico_k8s.render.settings import RenderConfig
from tests.calc.summed import fresh
from tests.model_strategies import NODES, samples, states
from tests.render.kernels import UPLINK, VERSIONS, simulated
from tests.render.states import State, rendered
from tests.simulate import Kernel, Outcome
from tests.simulated_rules import Packet

OWN_LINKS = {Address("192.168.0.1"): "eth0", Address("fd00:1::1"): "eth1"}
"""Where a node's addresses are, for host endpoints without an interface's name."""


class SimulatedNode:
    """A node of a cluster: its kernel, and who is on it."""

    def __init__(
        self,
        name: NodeName,
        items: Mapping[Key, Value],
        *,
        tells: bool = False,
        with_hosts: bool = False,
        own_links: Mapping[Address, str] = OWN_LINKS,
    ) -> None:
        graph, summed = fresh(name, items)
        snapshot = Snapshot.from_items(items)
        self.graph = graph
        endpoints: dict[LocalEndpoint, Attachment | None] = {
            endpoint: Attachment(f"cali{number}")
            for number, endpoint in enumerate(summed.endpoints.values())
        }
        action = graph.settings.get(POD_TO_HOST_ACTION, "accept")
        state = State(
            says="",
            groups=tuple(summed.groups.values()),
            endpoints=endpoints,
            members={
                ipset: tuple(summed.members[identity]) for identity, ipset in summed.ipsets.items()
            },
            config=RenderConfig(
                pod_to_host_action=action,  # type: ignore[arg-type]  # of three
                tells=tells,
                failsafe_inbound=failsafes_of(snapshot, name, Direction.INGRESS),
                failsafe_outbound=failsafes_of(snapshot, name, Direction.EGRESS),
            ),
            hosts=tuple(summed.hosts.values()) if with_hosts else (),
            own=own_links,
        )
        self.notes: dict[str, Note] = {
            prefix: note
            for version in VERSIONS
            for made in rendered(state, version).values()
            for prefix, note in made.notes.items()
        }
        self.links = {
            address: place.interface
            for endpoint, place in endpoints.items()
            if place is not None
            for address in endpoint.addresses
        }
        own = next((v for v in items.values() if isinstance(v, Node) and v.name == name), None)
        self.own_addresses = frozenset(own.addresses if own is not None else ())
        self.kernel: Kernel = simulated(state)
        self.kernel.own_addresses = self.own_addresses

    def passes(self, flow: Flow) -> bool:
        """Whether this node lets the flow's first packet on; nodes off its way have no say."""
        outcome = self.outcome(flow)
        return outcome is None or outcome.is_accepted

    def outcome(self, flow: Flow) -> Outcome | None:
        """What becomes of the flow's first packet on this node; None where it is off its way."""
        src, dst = self.links.get(flow.src), self.links.get(flow.dst)
        packet = Packet(
            flow.src,
            flow.dst,
            flow.protocol,
            flow.src_port,
            flow.dst_port,
            flow.icmp,
            in_interface=src or UPLINK,
            out_interface=dst or UPLINK,
        )
        if flow.src in self.own_addresses:
            return self.kernel.from_host(packet)
        if flow.dst in self.own_addresses:
            return self.kernel.to_host(packet)
        if src is None and dst is None:
            return None
        return self.kernel.forward(packet)


def is_a_packet(flow: Flow) -> bool:
    """Whether a network can carry it: one family, and the ICMP of that family."""
    version = address_version(flow.src)
    foreign_icmp = ICMPV6 if version == 4 else ICMP
    return version == address_version(flow.dst) and flow.protocol != foreign_icmp


@given(states, samples)
def test_simulated_chains_let_through_what_the_definition_allows(
    state: Mapping[Key, Value], flows: tuple[Flow, ...]
) -> None:
    snapshot = Snapshot.from_items(state)
    nodes = [SimulatedNode(name, state) for name in NODES]
    for flow in filter(is_a_packet, flows):
        arrives = all(node.passes(flow) for node in nodes)
        assert arrives == judge(snapshot, flow).allowed, flow
