"""Host endpoints on a real kernel: what a node takes, sends and passes on, packet by packet.

The node has two pods by routed veths, and the world behind an uplink ``eth0``; the client is
another machine there.  Every connection is a real one, both backends, both families.
"""

import array
import contextlib
import fcntl
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
import pytest

from calico_k8s.felix.agent import Agent
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import Native
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import Key
from calico_k8s.model.names import PolicyId, ProfileId, SelectorText, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    HostHook,
    Origin,
    Policy,
    PortRange,
    Rule,
    StagedAction,
    Tier,
    Value,
)
from calico_k8s.netlink.conntrack import ConntrackSocket
from calico_k8s.render.settings import HOST_STAGES_MAX
from tests.felix.nodes import (
    NODE,
    NODE_ADDRESS,
    PORT,
    READY,
    Machine,
    allow,
    connects,
    machine_up,
    rules,
    setting,
    until,
)
from tests.namespaces import Namespace, ip, new_namespace, run

pytestmark = pytest.mark.kernel

TCP = 6
SSH, API, WEB, SPARE = 22, 6443, 8080, 8081
PORTS = (SSH, API, WEB, SPARE)
NODE6 = Address("fd00:9::1")
CLIENT, CLIENT6 = Address("192.168.0.9"), Address("fd00:9::9")
TIER = TierName("default")
ORIGIN = Origin("GlobalNetworkPolicy", name="p")
DENY_ALL, ALLOW_ALL = Rule(Action.DENY, ORIGIN), Rule(Action.ALLOW, ORIGIN)
SIOCOUTQ = 0x5411  # linux/sockios.h
DENIED_S = 0.3
"""Who has no answer by then is denied."""
BOTH = (Direction.INGRESS, Direction.EGRESS)


class World:
    """The node, and a client beyond its uplink; both listen on :data:`PORTS`."""

    def __init__(self, machine: Machine, ends: contextlib.ExitStack) -> None:
        self.machine = machine
        self.client = ends.enter_context(new_namespace())
        ip(f"link add eth0 type veth peer name eth0 netns {self.client.path}")
        _configure(NODE_ADDRESS, NODE6)
        ip(f"route add default via {CLIENT} dev eth0")  # an uplink is where the way out is
        with self.client:
            _configure(CLIENT, CLIENT6)
            ip(f"route add 10.1.0.0/24 via {NODE_ADDRESS} dev eth0")
        self.pod = machine.pod("pod", 10)
        self.neighbour = machine.pod("neighbour", 11)
        self._listen(ends, (NODE_ADDRESS, NODE6))
        with self.client:
            self._listen(ends, (CLIENT, CLIENT6))

    def _listen(self, ends: contextlib.ExitStack, addresses: tuple[Address, ...]) -> None:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for port in PORTS:
                made = socket.create_server((address, port), family=family, backlog=64)
                ends.enter_context(made)

    def settle(self, *items: Mapping[Key, Value | None]) -> None:
        """Store items and wait until they are enforced."""
        self.machine.settle({key: value for some in items for key, value in some.items()})

    def reaches_node(self) -> set[int]:
        """The node's ports that the client reaches."""
        return opened(self.client, NODE_ADDRESS, NODE6)

    def reached_by_node(self) -> set[int]:
        """The client's ports that the node reaches."""
        return opened(self.machine.namespace, CLIENT, CLIENT6)

    def pods_are_as_ever(self) -> bool:
        """Whether pods speak to each other, to and from the client, and the node to its pods."""
        return (
            connects(self.pod.namespace, self.neighbour.addresses[0])
            and connects(self.client, self.pod.addresses[0])
            and connects(self.pod.namespace, CLIENT, WEB)
            and connects(self.machine.namespace, self.pod.addresses[0])
            and connects(self.pod.namespace, NODE_ADDRESS, WEB)
        )


def opened(source: Namespace, *addresses: Address) -> set[int]:
    """The ports that are reached at every address; negative, where only at some.

    All are asked at once: who is denied is waited for.
    """
    with contextlib.ExitStack() as ends, source:
        waiting: dict[int, tuple[int, socket.socket]] = {}
        for address, port in product(addresses, PORTS):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = ends.enter_context(socket.socket(family, socket.SOCK_STREAM))
            made.setblocking(False)
            made.connect_ex((address, port))
            waiting[made.fileno()] = (port, made)
        reached = Counter(_connected(waiting))
    return {port if count == len(addresses) else -port for port, count in reached.items()}


def _connected(waiting: dict[int, tuple[int, socket.socket]]) -> Iterator[int]:
    end_s = time.monotonic() + DENIED_S
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLOUT)
    while waiting and (left_s := end_s - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(1000 * left_s):
            port, made = waiting.pop(descriptor)
            poll.unregister(descriptor)
            if not made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                yield port


def _configure(own: Address, own6: Address) -> None:
    run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
    ip("link set eth0 up")
    ip(f"addr add {own}/24 dev eth0")
    ip(f"-6 addr add {own6}/64 dev eth0 nodad")


def become(probe: Callable[[], set[int]], wanted: set[int]) -> None:
    """Ask until it is so: a packet may be late on a busy machine."""
    assert until(lambda: probe() == wanted), probe()


@pytest.fixture(params=[*Backend, Native.NFTABLES], ids=str)
def world(namespace: Namespace, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with machine_up(namespace, tmp_path, request.param) as machine, contextlib.ExitStack() as ends:
        made = World(machine, ends)
        machine.start()
        made.settle(READY, rules("open", allow()), {keys.TierKey(TIER): Tier(TIER, 1.0)})
        made.settle(made.pod.stored("open"), made.neighbour.stored("open"))
        assert until(lambda: made.reaches_node() == made.reached_by_node() == set(PORTS))
        assert until(made.pods_are_as_ever)
        yield made


def host(
    name: str = "uplink",
    interface: str = "eth0",
    expected: tuple[Address, ...] = (),
    profiles: tuple[str, ...] = (),
    role: str = "host",
) -> dict[Key, Value | None]:
    """A host endpoint of the node."""
    endpoint = HostEndpoint(
        NODE,
        name,
        interface,
        expected,
        labels={"role": role},
        profiles=tuple(map(ProfileId, profiles)),
    )
    return {keys.HostEndpointKey(NODE, name): endpoint}


def policy(
    *ingress: Rule,
    name: str = "p",
    egress: tuple[Rule, ...] = (),
    hook: HostHook = HostHook.LOCAL,
    types: tuple[Direction, ...] = BOTH,
) -> dict[Key, Value | None]:
    """A policy for every host endpoint."""
    identity = PolicyId("GlobalNetworkPolicy", "", name)
    text = SelectorText('role == "host"')
    made = Policy(identity, TIER, text, types, 1.0, ingress, egress, host_hook=hook)
    return {keys.PolicyKey(TIER, identity): made}


def to_port(port: int, action: Action = Action.ALLOW) -> Rule:
    """A rule for one port of TCP."""
    dst = EntityMatch(ports=(PortRange(port, port),))
    return Rule(action, ORIGIN, protocol=TCP, dst=dst)


def gone(items: Mapping[Key, Value | None]) -> dict[Key, Value | None]:
    """The deletion of items."""
    return dict.fromkeys(items)


def test_an_interface_is_judged_and_nothing_else_is(world: World) -> None:
    before = world.machine.held()
    world.settle(host())
    become(world.reaches_node, {SSH, API})
    become(world.reached_by_node, {API})
    assert until(world.pods_are_as_ever)
    allowing = policy(to_port(WEB), egress=(to_port(SPARE),))
    world.settle(allowing)
    become(world.reaches_node, {SSH, API, WEB})
    become(world.reached_by_node, {API, SPARE})
    world.settle(policy(to_port(WEB, Action.DENY), ALLOW_ALL, types=(Direction.INGRESS,)))
    become(world.reaches_node, {SSH, API, SPARE})
    become(world.reached_by_node, {API})
    assert until(world.pods_are_as_ever)
    world.settle(gone(host()))
    become(world.reaches_node, set(PORTS))
    become(world.reached_by_node, set(PORTS))
    assert world.machine.held() == before, "without a host endpoint nothing of it is left"


def test_no_policy_locks_an_operator_out(world: World) -> None:
    with world.client, socket.create_connection((NODE_ADDRESS, SSH), 2) as session:
        session.settimeout(2)
        everything = policy(
            DENY_ALL, egress=(DENY_ALL,), hook=HostHook.FORWARDED, name="lock"
        ) | policy(DENY_ALL, hook=HostHook.PRE_DNAT, types=(Direction.INGRESS,), name="early")
        for step in (host(), everything, host("every", "*"), gone(host())):
            world.settle(step)
            session.sendall(b"echo")  # acknowledged, or it would be sent again
            assert until(lambda: _unsent(session) == 0)
            assert until(lambda: connects(world.client, NODE_ADDRESS, SSH))
            assert until(lambda: connects(world.client, NODE6, SSH))
            assert not connects(world.client, NODE_ADDRESS, WEB)
        world.machine.stop()
        assert until(lambda: connects(world.client, NODE_ADDRESS, SSH)), (
            "nor while the agent is away"
        )
        assert not connects(world.client, NODE_ADDRESS, WEB)


@pytest.mark.parametrize(
    ("world", "hook"),
    [(Backend.NFT, HostHook.FORWARDED), (Native.NFTABLES, HostHook.UNTRACKED)],
    indirect=["world"],
    ids=str,
)
def test_a_host_endpoint_in_too_many_tiers_is_closed_alone_but_for_who_is_in(
    world: World, hook: HostHook
) -> None:
    world.settle(host(), host("aside", world.neighbour.link), policy(to_port(WEB)))
    with world.client:
        session = socket.create_connection((NODE_ADDRESS, WEB), 2)
    with session:
        world.settle(host(role="deep"), tiers(HOST_STAGES_MAX + 2, hook))
        told = f"uplink: in {HOST_STAGES_MAX + 3} tiers and profiles"
        assert until(lambda: told in " ".join(errors(world))), errors(world)
        become(world.reaches_node, {SSH, API})
        become(world.reached_by_node, {API})
        assert not connects(world.client, world.pod.addresses[0])
        session.sendall(b"echo")
        assert until(lambda: _unsent(session) == 0), "who is in goes on"
        world.settle(policy(to_port(SPARE)))
        become(lambda: opened(world.neighbour.namespace, NODE_ADDRESS), {SSH, API, SPARE})
        world.settle(gone(tiers(4, hook)))
        become(world.reaches_node, {SSH, API, SPARE})
    assert until(lambda: not errors(world))


def tiers(count: int, hook: HostHook) -> dict[Key, Value | None]:
    """Tiers that let one port of whoever is in many in, and TCP out, and pass on the rest."""
    items: dict[Key, Value | None] = {}
    for number in range(count):
        name, identity = TierName(f"t{number}"), PolicyId("GlobalNetworkPolicy", "", f"t{number}")
        items[keys.TierKey(name)] = Tier(name, number, Action.PASS)
        items[keys.PolicyKey(name, identity)] = Policy(
            identity,
            name,
            SelectorText('role == "deep"'),
            BOTH,
            ingress=(to_port(SPARE),),
            egress=(Rule(Action.ALLOW, ORIGIN, protocol=TCP),),
            host_hook=hook,
        )
    return items


def _unsent(session: socket.socket) -> int:
    """Bytes that the other side has not acknowledged."""
    held = array.array("i", [0])
    fcntl.ioctl(session, SIOCOUTQ, held)
    return held[0]


def test_what_passes_through_is_judged_where_a_policy_says_so(world: World) -> None:
    pod = world.pod.addresses[0]
    world.settle(host(), policy(to_port(WEB)))
    assert until(lambda: connects(world.client, pod)), (
        "a policy of the node's own traffic is not about pods"
    )
    passing = partial(policy, hook=HostHook.FORWARDED, name="passing")
    world.settle(passing(to_port(WEB), types=(Direction.INGRESS,)))
    assert not connects(world.client, pod)
    assert until(lambda: connects(world.pod.namespace, CLIENT, WEB))
    become(world.reaches_node, {SSH, API, WEB})
    world.settle(passing(to_port(PORT), egress=(to_port(SPARE),)))
    assert until(lambda: connects(world.client, pod))
    become(lambda: opened(world.pod.namespace, CLIENT), {SPARE})
    assert until(lambda: connects(world.pod.namespace, world.neighbour.addresses[0]))
    assert until(lambda: connects(world.machine.namespace, pod))


def test_a_host_endpoint_of_every_interface_is_about_pods_interfaces_too(world: World) -> None:
    world.settle(host("every", "*"), policy(to_port(SPARE)))
    become(world.reaches_node, {SSH, API, SPARE})
    become(lambda: opened(world.pod.namespace, NODE_ADDRESS), {SSH, API, SPARE})
    assert until(lambda: connects(world.machine.namespace, world.pod.addresses[0])), (
        "its own pods: always"
    )
    assert until(lambda: connects(world.machine.namespace, NODE_ADDRESS, WEB)), "and itself"
    named = host("aaa", "eth0", profiles=("open",))
    world.settle(rules("open", ALLOW_ALL), named, gone(policy()))
    become(world.reaches_node, set(PORTS))
    become(lambda: opened(world.pod.namespace, NODE_ADDRESS), {SSH, API})


def test_an_interface_is_found_by_an_address_and_told_where_it_is_not(world: World) -> None:
    world.settle(host("by-address", "", (NODE_ADDRESS,)))
    become(world.reaches_node, {SSH, API})
    world.settle(host("by-address", "", (Address("192.168.0.77"),)), host("typo", "eth7"))
    assert until(lambda: len(errors(world)) == 2), errors(world)
    by_address, typo = errors(world)
    assert (
        "by-address: no interface of this node has an address that it expects (192.168"
        in by_address
    )
    assert "typo: this node has no interface eth7 (it has cali10, cali11, eth0" in typo
    become(world.reaches_node, set(PORTS))
    ip("addr add 192.168.0.77/32 dev eth0")
    become(world.reaches_node, {SSH, API})
    world.settle(gone(host("typo")))
    assert until(lambda: errors(world) == ())


def errors(world: World) -> tuple[str, ...]:
    """What the node's status says is wrong."""
    status = world.machine.status()
    assert status is not None
    return status.errors


def test_a_restart_changes_nothing_of_host_endpoints(world: World) -> None:
    everything = policy(to_port(WEB), egress=(ALLOW_ALL,), hook=HostHook.FORWARDED)
    world.settle(host(), host("every", "*"), everything)
    before = world.machine.held()
    world.machine.stop()
    assert world.machine.held() == before
    become(world.reaches_node, {SSH, API, WEB})
    agent = world.machine.start()
    assert until(lambda: agent.is_enforcing)
    assert world.machine.held() == before
    become(world.reaches_node, {SSH, API, WEB})


def test_what_arrives_is_judged_before_dnat(world: World) -> None:
    redirect = f"-t nat -A PREROUTING -p tcp --dport {SPARE} -j REDIRECT --to-ports {WEB}"
    run(f"iptables-{world.machine.iptables}", *redirect.split())
    early = partial(policy, hook=HostHook.PRE_DNAT, name="early", types=(Direction.INGRESS,))
    world.settle(host(), policy(to_port(WEB)))
    become(lambda: opened(world.client, NODE_ADDRESS), {SSH, API, WEB, SPARE})
    world.settle(early(to_port(SPARE, Action.DENY)))
    become(lambda: opened(world.client, NODE_ADDRESS), {SSH, API, WEB})
    world.settle(early(to_port(SPARE)), gone(policy()))
    become(lambda: opened(world.client, NODE_ADDRESS), {SSH, API, SPARE})
    world.settle(early(DENY_ALL))
    become(lambda: opened(world.client, NODE_ADDRESS), {SSH, API})
    assert not connects(world.client, world.pod.addresses[0]), "whatever it is for"


def test_untracked_policy_goes_round_conntrack(world: World) -> None:
    before = chains(world)
    answers = Rule(
        Action.ALLOW, ORIGIN, protocol=TCP, src=EntityMatch(ports=(PortRange(WEB, WEB),))
    )
    untracked = partial(policy, hook=HostHook.UNTRACKED, name="raw")
    world.settle(host(), untracked(to_port(WEB), egress=(answers,)))
    known = tracked(WEB), tracked(API)
    become(world.reaches_node, {SSH, API, WEB})
    assert tracked(WEB) <= known[0]
    assert tracked(API) > known[1], "ports that stay open are tracked"
    world.settle(untracked(to_port(WEB, Action.DENY)), policy(ALLOW_ALL))
    become(world.reaches_node, {SSH, API, SPARE})
    world.settle(gone(untracked()), gone(policy()), gone(host()))
    become(world.reaches_node, set(PORTS))
    assert chains(world) == before, "an empty table stays, and nothing in it"


def chains(world: World) -> list[str]:
    """Every line of ours in the tables."""
    held = world.machine.held()
    texts = [held[family] for family in "46" if family in held]
    texts += [text for text in held.values() if text.startswith("chain ")]
    return sorted(line for text in texts for line in text.splitlines() if "cali" in line)


def tracked(port: int) -> int:
    """How many connections to a port of the node conntrack knows."""
    with contextlib.closing(ConntrackSocket()) as entries:
        flows = [flow for version in (4, 6) for flow in entries.dump(version)]
    return sum(flow.original.dport == port for flow in flows)


def test_what_a_host_endpoint_denies_is_told_at_every_hook(world: World) -> None:
    untracked = partial(policy, hook=HostHook.UNTRACKED, name="raw", egress=(ALLOW_ALL,))
    world.settle(host(), policy(egress=(ALLOW_ALL,)), setting("denials", "on"))
    become(world.reaches_node, {SSH, API})
    assert until(lambda: (WEB, "end of tier default") in told(world)), told(world)
    world.settle(untracked(to_port(SPARE, Action.DENY), ALLOW_ALL))
    become(world.reaches_node, {SSH, API, WEB})
    assert until(lambda: (SPARE, "end of GlobalNetworkPolicy p") in told(world)), told(world)


@pytest.mark.parametrize("world", [Backend.NFT], indirect=True, ids=str)
def test_what_a_staged_policy_would_do_is_told_and_every_packet_goes_on(world: World) -> None:
    """Of the node's own traffic, and of what passes through."""
    agent = world.machine.agent
    assert agent is not None
    identity = PolicyId("StagedGlobalNetworkPolicy", "", "wall")
    rule = msgspec.structs.replace(to_port(WEB), origin=Origin(*identity, index=0))
    (made,) = policy(rule, hook=HostHook.FORWARDED, types=(Direction.INGRESS,)).values()
    assert isinstance(made, Policy)
    wall = msgspec.structs.replace(made, id=identity, staged=StagedAction.SET)
    everything = rules("open", ALLOW_ALL) | host(profiles=("open",)) | setting("denials", "on")
    world.settle(everything, {keys.PolicyKey(TIER, identity): wall})
    become(world.reaches_node, set(PORTS))
    assert until(world.pods_are_as_ever)
    end, pod = "end of StagedGlobalNetworkPolicy wall", world.pod.addresses[0]
    wanted = {
        ("would-allow", NODE_ADDRESS, WEB, "StagedGlobalNetworkPolicy wall, rule 1"),
        ("would-deny", NODE_ADDRESS, SPARE, end),
        ("would-deny", pod, PORT, end),
    }
    # A kernel speaks of multicast on its own, too.
    ours = (NODE_ADDRESS, pod)
    assert until(lambda: {each for each in rehearsed(agent) if each[1] in ours} == wanted)
    world.settle(setting("denials", "off"))
    held = world.machine.held()["4"]
    assert "cali-host-in" in held
    assert "cali-host-fwd" not in held, "where nobody hears of it, nothing is asked"
    assert "cali-hI0" not in held


def rehearsed(agent: Agent) -> set[tuple[str, str, int, str]]:
    """What staged policies would do, with whom and why."""
    return {(each.action, each.dst, each.port, each.why) for each in agent.denials.rehearsed}


def told(world: World) -> set[tuple[int, str]]:
    """The port that was meant, and what denied it."""
    agent = world.machine.agent
    assert agent is not None
    return {(each.port, each.why) for each in agent.denials.records}
