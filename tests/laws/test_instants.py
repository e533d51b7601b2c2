"""At every instant of every batch a new flow gets its old verdict, its new one, or a denial.

Random states follow one another on one node: what the datastore says, and behind which interface
each pod is.  The agent's own calc, plans, order and ipset driver write a simulated kernel, one
member, and one table or all of them, at a time; after each, packets go through the chains as they
then stand.  Some batches are refused half way, some agents are killed there and started anew: the
verdicts of every state since the last that was reached may be met then, and no other.

In the end the kernel says what a fresh start's would, and nothing is left over.
"""
# long: one law, with the simulated kernel that only it needs

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.graph import Graph
from calico_k8s.errors import KernelError
from calico_k8s.felix.enforce import Enforcer
from calico_k8s.felix.groupbook import RETIRE_S
from calico_k8s.model.addresses import Address, Net, address_version
from calico_k8s.model.keys import HostEndpointKey, Key, ProfileRulesKey
from calico_k8s.model.names import ProfileId
from calico_k8s.model.resources import (
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    Origin,
    Protocol,
    Rule,
    Rules,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.policy.host_verdict import Passage, failsafes_of, judge_host
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import POD_TO_HOST_ACTION, decide
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP, IpsetName
from tests.fakes.kernel import FakeKernel
from tests.laws.test_simulated_definition import OWN_LINKS
from tests.render.kernels import UPLINK
from tests.simulate import Kernel
from tests.simulated_rules import Packet, SimulatedIpset
from tests.worlds import (
    CROSSING,
    LINKS,
    NAMED,
    NODE,
    OWN,
    TO_NODE,
    Case,
    Items,
    World,
    any_histories,
    cases,
    peer_histories,
)

SMALL_MASK = 0b1111
FITTING = 4
"""A mask of eight numbers, and how many of them are groups'."""


KERNELS = st.builds(FakeKernel, writes_together=st.booleans())
"""The families' tables written one after the other, or in one instant."""


def link_of(world: World, snapshot: Snapshot, address: Address) -> str | None:
    """The interface of the local pod that owns an address; None where no local pod does."""
    owner = snapshot.owner_by_address.get(address)
    return None if owner is None or owner.id.node != NODE else world.places.get(owner.id, "")


class Definition:
    """What one world says of a packet on its way through this node."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._snapshot = world.snapshot()

    def _local(self, address: Address) -> WorkloadEndpoint | None:
        owner = self._snapshot.owner_by_address.get(address)
        return owner if owner is not None and owner.id.node == NODE else None

    def allows(self, packet: Packet) -> bool:
        flow = Flow(
            packet.src, packet.dst, packet.protocol, packet.sport, packet.dport, packet.icmp
        )
        leaves = None if packet.dst in OWN else packet.out_interface
        passage = Passage(NODE, flow, packet.in_interface, leaves)
        return self._pods_allow(packet, flow) and (
            judge_host(self._snapshot, passage, OWN_LINKS).allowed
        )

    def _pods_allow(self, packet: Packet, flow: Flow) -> bool:
        src, dst = self._local(packet.src), self._local(packet.dst)
        comes_from = "" if src is None else self._world.places.get(src.id, "")
        if src is None and packet.in_interface in LINKS:
            return False
        if src is not None and packet.in_interface != comes_from:
            return False
        if src is not None and dst is not None and src.id == dst.id:
            return True
        if src is not None and not self._passes(src, Direction.EGRESS, flow):
            return False
        if packet.dst in OWN:
            action = self._snapshot.setting(NODE, POD_TO_HOST_ACTION, "accept")
            return src is None or action != "drop"
        if dst is None:
            return packet.out_interface not in LINKS
        return self._passes(dst, Direction.INGRESS, flow)

    def _passes(self, endpoint: WorkloadEndpoint, direction: Direction, flow: Flow) -> bool:
        return decide(self._snapshot, endpoint, direction, flow).action is Action.ALLOW


class Asked(Mapping[IpsetName, SimulatedIpset]):
    """The sets of a kernel, and which of them a walk has asked."""

    def __init__(self, ipsets: Mapping[IpsetName, SimulatedIpset]) -> None:
        self._ipsets = ipsets
        self.names: set[IpsetName] = set()

    def __getitem__(self, name: IpsetName) -> SimulatedIpset:
        self.names.add(name)
        return self._ipsets[name]

    def __iter__(self) -> Iterator[IpsetName]:
        return iter(self._ipsets)

    def __len__(self) -> int:
        return len(self._ipsets)


def walk(kernel: FakeKernel, packet: Packet) -> tuple[bool, set[IpsetName]]:
    """What the simulated chains say of a packet as they stand, and the sets that they asked."""
    asked = Asked(kernel.ipsets)
    simulated = Kernel(
        tables=tuple(t for (version, _), t in kernel.tables.items() if version == packet.version),
        ipsets=asked,
        link_groups=dict.fromkeys(LINKS, WORKLOAD_LINK_GROUP),
        own_addresses=OWN,
    )
    way = simulated.to_host if packet.dst in OWN else simulated.forward
    return way(packet).is_accepted, asked.names


def packets(flows: Iterable[Flow], worlds: Iterable[World]) -> list[Packet]:
    """Each flow from wherever one of the worlds has its source, to wherever one has its end."""
    made: list[Packet] = []
    looked = [(world, world.snapshot()) for world in worlds]
    for flow in flows:
        if flow.src in OWN or (flow.protocol == 58) == (address_version(flow.src) == 4):
            continue
        ends = [
            {link_of(world, snapshot, address) or UPLINK for world, snapshot in looked}
            for address in (flow.src, flow.dst)
        ]
        for came, goes in product(*map(sorted, ends)):
            if (came, goes) != (UPLINK, UPLINK):
                made.append(
                    Packet(
                        flow.src,
                        flow.dst,
                        flow.protocol,
                        flow.src_port,
                        flow.dst_port,
                        flow.icmp,
                        in_interface=came,
                        out_interface=goes,
                    )
                )
    return made


@dataclass
class Agent:
    """The agent's enforcing part, over a kernel that is watched."""

    kernel: FakeKernel = field(default_factory=FakeKernel)
    config: RenderConfig = field(default_factory=RenderConfig)
    graph: Graph = field(default_factory=lambda: Graph(NODE))
    enforcer: Enforcer = field(init=False)
    world: World = field(default_factory=lambda: World({}, {}))
    fed: dict[Key, Value] = field(default_factory=dict)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self.enforcer = self.kernel.enforcer(self.graph, self.config)

    def restart(self) -> None:
        """Another process, on the same kernel."""
        self.graph, self.fed = Graph(NODE), {}
        self.enforcer = self.kernel.enforcer(self.graph, self.config)

    def feed(self, items: Items) -> None:
        """The differences to what the graph was told."""
        for key in self.fed.keys() - items.keys():
            self.graph.update(key, None)
        for key, value in items.items():
            if self.fed.get(key) != value:
                self.graph.update(key, value)
        self.fed = dict(items)

    def go(self, world: World) -> int:
        """Bring the kernel to a world; how many changes that took."""
        before = self.kernel.changes
        self.world = world
        self.feed(world.items)
        settings_changed = self.enforcer.flush()
        action = self.graph.settings.get(POD_TO_HOST_ACTION, "accept")
        config = RenderConfig(
            mark_mask=self.config.mark_mask,
            pod_to_host_action=action,  # type: ignore[arg-type]  # of three
            failsafe_inbound=failsafes_of(world.snapshot(), NODE, Direction.INGRESS),
        )
        if not self.enforcer.has_begun:
            self.enforcer.begin(config, self.now_s)
        elif settings_changed:
            self.enforcer.configure(config)
        self.enforcer.carry_out(self.attachments(), self.now_s, OWN_LINKS)
        return self.kernel.changes - before

    def attachments(self) -> dict[Address, Attachment]:
        return {
            address: Attachment(self.world.places[endpoint.id])
            for endpoint in self.graph.endpoints.values()
            if endpoint.id in self.world.places
            for address in endpoint.addresses
        }

    def rest(self) -> None:
        """Until everything retired is collected."""
        for _ in range(2):
            self.now_s += RETIRE_S + 1
            self.enforcer.collect(self.now_s)


class Watch:
    """Looks at every instant of a kernel, and holds it to the worlds that may be met."""

    def __init__(self, node: Agent, flows: Iterable[Flow]) -> None:
        self._kernel = node.kernel
        self._flows = tuple(flows)
        self._asked_by_denied: dict[Packet, set[IpsetName]] = {}

    def between(self, *worlds: World) -> None:
        """From now on the verdicts of these may be met, and denials."""
        definitions = [Definition(world) for world in worlds]
        denied = [
            packet
            for packet in packets(self._flows, worlds)
            if not any(definition.allows(packet) for definition in definitions)
        ]
        self._asked_by_denied = {packet: set() for packet in denied}
        self._kernel.on_change = self._look
        self._look(None)

    def _look(self, changed: IpsetName | None) -> None:
        for packet, asked in self._asked_by_denied.items():
            # A first install starts open.
            is_ours = (packet.version, "mangle") in self._kernel.tables
            if is_ours and (changed is None or changed in asked):
                is_accepted, self._asked_by_denied[packet] = walk(self._kernel, packet)
                assert not is_accepted, packet

    def settled(self, world: World) -> None:
        """Everything is as the world says, allowed and denied."""
        definition = Definition(world)
        for packet in packets(self._flows, (world,)):
            assert walk(self._kernel, packet)[0] == definition.allows(packet), packet


@given(cases, KERNELS)
def test_every_instant_gives_the_old_verdict_the_new_one_or_a_denial(
    case: Case, kernel: FakeKernel
) -> None:
    (history, flows), node = case, Agent(kernel)
    watch = Watch(node, flows)
    for old, new in zip([node.world, *history], history, strict=False):
        watch.between(old, new)
        node.now_s += 3.0
        node.go(new)
        watch.settled(new)


@given(cases, KERNELS, st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_a_batch_that_is_refused_half_way_is_mended_without_a_wrong_instant(
    case: Case, kernel: FakeKernel, faults: list[int]
) -> None:
    (history, flows), node = case, Agent(kernel)
    watch = Watch(node, flows)
    met = [node.world]
    left = iter(faults)
    for new in history:
        met.append(new)
        watch.between(*met)
        node.kernel.fail_at = node.kernel.changes + next(left, 10_000)
        node.now_s += 3.0
        if reaches(node, new):
            watch.settled(new)
            met = [new]
    node.kernel.fail_at = None
    node.go(node.world)
    watch.settled(node.world)


@given(cases, st.lists(st.integers(0, 40), max_size=4))
def test_with_transactions_there_is_no_instant_between_whatever_is_refused(
    case: Case, faults: list[int]
) -> None:
    (history, flows), node = case, Agent(FakeKernel(has_transactions=True))
    watch = Watch(node, flows)
    left = iter(faults)
    for old, new in zip([node.world, *history], history, strict=False):
        watch.between(old, new)
        node.kernel.fail_at = node.kernel.changes + next(left, 10_000)
        node.now_s += 3.0
        node.go(new)
        node.kernel.fail_at = None
        watch.settled(new)


def reaches(node: Agent, world: World) -> bool:
    """Whether the kernel was brought to the world; else it refused on the way."""
    try:
        node.go(world)
    except KernelError:
        return False
    return True


@given(cases, KERNELS, st.lists(st.integers(0, 40), max_size=4))
def test_an_agent_that_is_killed_half_way_is_followed_by_one_that_makes_no_wrong_instant(
    case: Case, kernel: FakeKernel, kills: list[int]
) -> None:
    (history, flows), node = case, Agent(kernel)
    watch = Watch(node, flows)
    met = [node.world]
    left = iter(kills)
    for new in history:
        met.append(new)
        watch.between(*met)
        node.kernel.fail_at = node.kernel.changes + next(left, 10_000)
        node.now_s += 3.0
        if reaches(node, new):
            watch.settled(new)
            met = [new]
        node.kernel.fail_at = None
        node.restart()
    node.go(node.world)
    watch.settled(node.world)


@given(st.one_of(any_histories(), peer_histories()))
def test_a_restart_with_nothing_to_change_changes_nothing(history: list[World]) -> None:
    node = Agent()
    for world in history:
        node.now_s += 3.0
        node.go(world)
        node.rest()
        node.restart()
        assert node.go(world) == 0


@given(st.one_of(any_histories(), peer_histories()))
def test_in_the_end_nothing_is_left_over(history: list[World]) -> None:
    node, fresh = Agent(), Agent()
    for world in history:
        node.now_s += 3.0
        node.go(world)
    node.rest()
    fresh.go(history[-1])
    assert held(node.kernel) == held(fresh.kernel)
    assert chains(node.kernel) == chains(fresh.kernel)


def test_a_host_endpoint_that_goes_takes_the_sets_of_its_rules_nets_with_it() -> None:
    host, profile = HostEndpointKey(NODE, "hb"), ProfileId("pa")
    match = EntityMatch(nets=(Net("10.0.0.1/32"),), not_nets=(Net("10.0.0.0/16"),))
    rule = Rule(Action.ALLOW, Origin(kind="Profile"), protocol=Protocol(6), dst=match)
    items: Items = {
        host: HostEndpoint(NODE, "hb", interface="eth0", profiles=(profile,)),
        ProfileRulesKey(profile): Rules(egress=(rule,)),
    }
    node, fresh = Agent(), Agent()
    node.go(World(items, {}))
    assert any(name.startswith("cali4-n-") for name in held(node.kernel))
    node.go(World({}, {}))
    node.rest()
    fresh.go(World({}, {}))
    assert held(node.kernel) == held(fresh.kernel)


def held(kernel: FakeKernel) -> dict[str, set[str]]:
    """The sets and their members, whatever number each group has."""
    return {name: set(ipset.members) for name, ipset in kernel.ipsets.items()}


def chains(kernel: FakeKernel) -> dict[str, set[str]]:
    """The chains that are not of the trees, whose shape depends on the numbers.

    A table that has nothing of ours is as one that never had.
    """
    return {
        f"{version} {table}": {name for name in held.chains if not name.startswith("cali-t")}
        for (version, table), held in kernel.tables.items()
        if held.chains or any(held.first.values()) or any(held.last.values())
    }


@given(cases)
def test_where_the_mask_has_no_room_some_are_closed_and_told_and_the_others_as_they_should_be(
    case: Case,
) -> None:
    (history, flows), node = case, Agent(config=RenderConfig(mark_mask=SMALL_MASK))
    watch = Watch(node, flows)
    for old, new in zip([node.world, *history], history, strict=False):
        watch.between(old, new)
        node.now_s += 3.0
        node.go(new)
        if not node.enforcer.problems:
            watch.settled(new)
    for _ in range(8):  # retired groups go, their numbers rest, groups without one get them
        node.rest()
    if node.enforcer.group_count <= FITTING:
        assert not node.enforcer.problems
        watch.settled(node.world)


@pytest.mark.parametrize("is_back", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("name", NAMED)
def test_a_named_change_has_no_wrong_instant_wherever_it_is_refused_or_killed(
    name: str, *, is_back: bool
) -> None:
    old, new = reversed(NAMED[name]) if is_back else NAMED[name]
    for fault, is_killed in product(range(100), (False, True)):
        node = Agent()
        watch = Watch(node, (*CROSSING, *TO_NODE))
        node.go(old)
        watch.between(old, new)
        node.kernel.fail_at = node.kernel.changes + fault
        if reaches(node, new):
            watch.settled(new)
            return
        if is_killed:
            node.restart()
        node.go(new)
        watch.settled(new)
    raise AssertionError("a hundred changes are not enough to get there")
