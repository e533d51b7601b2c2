"""Where each pod is: tables of small networks, then the kernel's own answers."""

import select
import time
from collections.abc import Callable, Iterator

import pytest

from calico_k8s.felix.interfaces import (
    HostState,
    InterfaceWatcher,
    Wanted,
    find_interfaces,
    is_workload_name,
)
from calico_k8s.model.addresses import Address, Net
from calico_k8s.netlink.routing import BridgePort, Change, Link, LinkAddress, Neighbour, Route
from tests.namespaces import Namespace, ip, new_namespace, run

LO, ETH, V1, V2, BRIDGE, P1, P2, VXLAN = range(1, 9)
MAC1, MAC2 = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"

LINKS = (
    Link(LO, "lo", "", 0, b"", True),
    Link(ETH, "eth0", "", 0, b"", False),
    Link(V1, "cali1", "veth", 0, b"", False),
    Link(V2, "cali2", "veth", 0, b"", False),
    Link(BRIDGE, "cni0", "bridge", 0, b"", False),
    Link(P1, "veth1", "veth", BRIDGE, b"", False),
    Link(P2, "veth2", "veth", BRIDGE, b"", False),
    Link(VXLAN, "vx0", "vxlan", BRIDGE, b"", False),
)


def route(net: str, link: int, *, has_gateway: bool = False) -> Route:
    return Route(Net(net), link, 254, has_gateway)


ROUTES = (
    route("0.0.0.0/0", ETH, has_gateway=True),
    route("192.0.2.0/24", ETH),
    route("10.1.0.1/32", V1),
    route("fd01::1/128", V1),
    route("10.1.0.2/32", V2),
    route("10.2.0.0/24", BRIDGE),
    route("fd02::/64", BRIDGE),
    route("10.3.0.0/24", ETH, has_gateway=True),
)


def addresses(*texts: str) -> frozenset[Address]:
    return frozenset(map(Address, texts))


def state(
    neighbours: tuple[Neighbour, ...] = (), bridge_ports: tuple[BridgePort, ...] = ()
) -> HostState:
    own = (
        LinkAddress(Address("10.2.0.254"), 24, BRIDGE),
        LinkAddress(Address("192.0.2.1"), 24, ETH),
    )
    return HostState(LINKS, own, ROUTES, neighbours, bridge_ports)


def neighbour(address: str, mac: bytes, *, is_failed: bool = False) -> Neighbour:
    return Neighbour(Address(address), BRIDGE, mac, is_failed)


def test_a_routed_pod_is_behind_its_veth_in_both_families() -> None:
    found = find_interfaces(state(), Wanted(addresses("10.1.0.1", "fd01::1", "10.1.0.2")))
    assert found.by_address == {"10.1.0.1": "cali1", "fd01::1": "cali1", "10.1.0.2": "cali2"}
    assert found.missing == frozenset()
    assert found.bridges == frozenset()


def test_a_veth_with_a_host_route_is_a_workloads_before_its_pod_is_known() -> None:
    assert find_interfaces(state(), Wanted()).workload == {"cali1", "cali2"}


def test_a_veth_that_leads_to_a_gateway_is_an_uplink() -> None:
    routes = (*ROUTES, route("10.9.0.0/16", V2, has_gateway=True))
    found = find_interfaces(HostState(LINKS, (), routes), Wanted(addresses("10.1.0.2")))
    assert found.workload == {"cali1"}
    assert found.missing == {"10.1.0.2"}


def test_an_endpoint_no_interface_leads_to_is_missing() -> None:
    found = find_interfaces(state(), Wanted(addresses("10.3.0.9", "192.0.2.9")))
    assert found.missing == {"10.3.0.9", "192.0.2.9"}
    assert found.by_address == {}


def test_a_pod_on_a_bridge_is_behind_the_bridge_and_at_the_port_that_learned_its_mac() -> None:
    found = find_interfaces(
        state((neighbour("10.2.0.1", MAC1),), (BridgePort(MAC1, P1),)),
        Wanted(addresses("10.2.0.1", "10.2.0.2")),
    )
    assert found.by_address == {"10.2.0.1": "cni0", "10.2.0.2": "cni0"}
    assert found.ports_by_address == {"10.2.0.1": "veth1"}
    assert found.unsettled == {"10.2.0.2": "cni0"}
    assert found.workload == {"cali1", "cali2", "cni0"}
    assert found.workload_ports == {"veth1", "veth2"}
    assert found.own_addresses == {"10.2.0.254"}


def test_an_address_stays_at_its_first_port_while_that_is_there() -> None:
    wanted = Wanted(addresses("10.2.0.1"))
    first = find_interfaces(state((neighbour("10.2.0.1", MAC1),), (BridgePort(MAC1, P1),)), wanted)
    claimed = state((neighbour("10.2.0.1", MAC2),), (BridgePort(MAC2, P2), BridgePort(MAC1, P1)))
    again = find_interfaces(claimed, wanted, first)
    assert again.ports_by_address == {"10.2.0.1": "veth1"}
    gone = HostState(
        tuple(link for link in LINKS if link.number != P1),
        (),
        ROUTES,
        claimed.neighbours,
        claimed.bridge_ports,
    )
    assert find_interfaces(gone, wanted, again).ports_by_address == {"10.2.0.1": "veth2"}
    assert find_interfaces(claimed, Wanted(), again).ports_by_address == {}


@pytest.mark.parametrize(
    "mac_at",
    [
        pytest.param((neighbour("10.2.0.1", b"", is_failed=True),), id="nobody answered"),
        pytest.param((neighbour("10.2.0.1", MAC2),), id="its MAC is learned nowhere"),
    ],
)
def test_a_pod_that_has_not_spoken_is_unsettled(mac_at: tuple[Neighbour, ...]) -> None:
    found = find_interfaces(state(mac_at, (BridgePort(MAC1, P1),)), Wanted(addresses("10.2.0.1")))
    assert found.unsettled == {"10.2.0.1": "cni0"}


def test_a_mac_behind_a_port_that_leads_away_settles_nothing() -> None:
    found = find_interfaces(
        state((neighbour("10.2.0.1", MAC1),), (BridgePort(MAC1, VXLAN),)),
        Wanted(addresses("10.2.0.1")),
    )
    assert found.ports_by_address == {}


def test_a_bridge_is_the_pods_before_its_first_pod_where_it_has_a_pod_net() -> None:
    assert find_interfaces(state(), Wanted()).bridges == frozenset()
    nets = Wanted(pod_nets=(Net("10.2.0.0/16"),))
    assert find_interfaces(state(), nets).bridges == {"cni0"}
    assert find_interfaces(state(), Wanted(pod_nets=(Net("fd02::/65"),))).bridges == frozenset()


@pytest.mark.parametrize(
    ("pod_net", "subnet"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.128/25", "192.0.2.0/24"),
        ("192.0.0.0/16", "192.0.2.0/24"),
        ("10.2.0.0/16", None),
        ("10.3.0.0/24", None),
        ("fd02::/64", None),
    ],
)
def test_a_pod_net_of_the_nodes_own_subnet_is_told_and_not_used(
    pod_net: str, subnet: str | None
) -> None:
    also = route("192.0.2.192/26", BRIDGE)  # a bridge inside it: would be taken for the pods'
    with_bridge = HostState(LINKS, (), (*ROUTES, also))
    found = find_interfaces(with_bridge, Wanted(pod_nets=(Net(pod_net),)))
    assert dict(found.overlaps) == ({Net(pod_net): Net(subnet)} if subnet else {})
    assert (found.bridges == {"cni0"}) == (pod_net in ("10.2.0.0/16", "fd02::/64"))


def test_patterns_say_which_interfaces_are_workloads_and_no_other_is() -> None:
    wanted = Wanted(addresses("10.1.0.1", "10.2.0.1"), patterns=("cni*", "other"))
    found = find_interfaces(state(), wanted)
    assert found.workload == {"cni0"}
    assert found.by_address == {"10.2.0.1": "cni0"}
    assert found.missing == {"10.1.0.1"}
    only = find_interfaces(state(), Wanted(addresses("10.1.0.1"), patterns=("cali1",)))
    assert only.workload == {"cali1"}


@pytest.mark.parametrize(
    ("name", "patterns", "expected"),
    [
        ("cali1", (), True),
        ("cali1", ("cali*",), True),
        ("Cali1", ("cali*",), False),
        ("cali1", ("eth*", "cali?"), True),
        ("cali12", ("cali?",), False),
    ],
)
def test_a_pattern_is_a_glob(name: str, patterns: tuple[str, ...], expected: bool) -> None:
    assert is_workload_name(name, patterns) is expected


@pytest.fixture
def watcher(namespace: Namespace) -> Iterator[InterfaceWatcher]:
    watcher = InterfaceWatcher()
    yield watcher
    watcher.close()


def until(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in time: a new pod's IPv6 is silent for some 2 s (DAD)."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.kernel
def test_the_kernels_routed_pods_are_found_and_their_going_is_told(
    watcher: InterfaceWatcher,
) -> None:
    ip("link add cali1 type veth peer name eth0")
    ip("link set cali1 up")
    ip("link set eth0 up")
    ip("route add 10.1.0.1/32 dev cali1")
    ip("-6 route add fd01::1/128 dev cali1")
    assert select.select([watcher], [], [], 1)[0]
    assert Change.LINKS | Change.ROUTES in watcher.changes()
    assert watcher.changes() is Change.NOTHING
    wanted = Wanted(addresses("10.1.0.1", "fd01::1"))
    found = find_interfaces(watcher.read(), wanted)
    assert found.by_address == {"10.1.0.1": "cali1", "fd01::1": "cali1"}
    ip("link del cali1")
    assert Change.LINKS in watcher.changes()
    assert find_interfaces(watcher.read(), wanted).missing == wanted.endpoints


@pytest.mark.kernel
def test_a_multipath_route_makes_uplinks_of_its_interfaces(watcher: InterfaceWatcher) -> None:
    for number in (1, 2):
        ip(f"link add v{number} type veth peer name w{number}")
        ip(f"addr add 10.0.{number}.1/24 dev v{number}")
        ip(f"link set v{number} up")
        ip(f"link set w{number} up")
        ip(f"route add 10.1.0.{number}/32 dev v{number}")
    ip("route add 10.9.0.0/16 nexthop via 10.0.1.2 dev v1 nexthop via 10.0.2.2 dev v2")
    assert find_interfaces(watcher.read(), Wanted()).workload == frozenset()


@pytest.mark.kernel
def test_the_kernel_is_asked_for_the_ports_of_pods_on_a_bridge(watcher: InterfaceWatcher) -> None:
    with new_namespace() as one, new_namespace() as two:
        ip("link add cni0 type bridge")
        ip("addr add 10.2.0.254/24 dev cni0")
        ip("-6 addr add fd02::fe/64 dev cni0 nodad")
        ip("link set cni0 up")
        for number, pod in ((1, one), (2, two)):
            ip(f"link add veth{number} type veth peer name eth0 netns {pod.path}")
            ip(f"link set veth{number} master cni0 up")
            with pod:
                ip(f"addr add 10.2.0.{number}/24 dev eth0")
                ip(f"-6 addr add fd02::{number}/64 dev eth0 nodad")
                ip("link set eth0 up")
        wanted = Wanted(addresses("10.2.0.1", "10.2.0.2", "fd02::1", "fd02::2", "10.2.0.3"))
        found = find_interfaces(watcher.read(), wanted)
        assert found.bridges == {"cni0"}
        assert found.own_addresses >= {"10.2.0.254", "fd02::fe"}

        def settled() -> bool:
            nonlocal found
            found = find_interfaces(watcher.read(), wanted, found)
            return len(found.ports_by_address) == 4

        watcher.changes()
        watcher.solicit(found.unsettled)
        assert until(settled)
        assert Change.NEIGHBOURS in watcher.changes()
        assert found.ports_by_address == {
            "10.2.0.1": "veth1",
            "10.2.0.2": "veth2",
            "fd02::1": "veth1",
            "fd02::2": "veth2",
        }
        assert found.unsettled == {"10.2.0.3": "cni0"}


@pytest.mark.kernel
def test_an_address_that_another_pod_had_is_found_at_its_new_pod(
    watcher: InterfaceWatcher,
) -> None:
    ip("link add cni0 type bridge")
    ip("addr add 10.2.0.254/24 dev cni0")
    ip("link set cni0 up")
    wanted = Wanted(addresses("10.2.0.1"))
    with new_namespace() as pod:
        ip(f"link add veth1 type veth peer name eth0 netns {pod.path}")
        ip("link set veth1 master cni0 up")
        with pod:
            ip("addr add 10.2.0.1/24 dev eth0")
            ip("link set eth0 up")
        ip("neigh add 10.2.0.1 dev cni0 lladdr 02:00:00:00:00:99 nud reachable")
        found = find_interfaces(watcher.read(), wanted)
        assert found.unsettled == {"10.2.0.1": "cni0"}
        watcher.solicit(found.unsettled)
        assert until(lambda: not find_interfaces(watcher.read(), wanted).unsettled)


@pytest.mark.kernel
def test_only_the_named_bridge_is_shown_to_iptables(watcher: InterfaceWatcher) -> None:
    for name in ("cni0", "other0"):
        ip(f"link add {name} type bridge")
    watcher.filter_bridges({"cni0", "absent"})
    assert "nf_call_iptables 1 nf_call_ip6tables 1" in run("ip", "-d", "link", "show", "cni0")
    assert "nf_call_iptables 0 nf_call_ip6tables 0" in run("ip", "-d", "link", "show", "other0")
