"""Links, addresses, routes and neighbours as ``ip`` made them."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from calico_k8s.model.addresses import Address, Net
from calico_k8s.netlink.routing import (
    BridgePort,
    Change,
    LinkAddress,
    Neighbour,
    Route,
    RoutingEvents,
    RoutingSocket,
)
from tests.namespaces import Namespace, ip, run

pytestmark = pytest.mark.kernel

MAIN = 254


@pytest.fixture
def socket(namespace: Namespace) -> Iterator[RoutingSocket]:
    ip("link add br0 type bridge")
    ip("link add v0 type veth peer name v1")
    ip("link set v0 master br0")
    for name in ("br0", "v0", "v1"):
        ip(f"link set {name} up")
    socket = RoutingSocket()
    yield socket
    socket.close()


def numbers(socket: RoutingSocket) -> dict[str, int]:
    return {link.name: link.number for link in socket.links()}


def test_links_have_their_kind_and_master(socket: RoutingSocket) -> None:
    links = {link.name: link for link in socket.links()}
    assert {name: link.kind for name, link in links.items()} == {
        "lo": "",
        "br0": "bridge",
        "v0": "veth",
        "v1": "veth",
    }
    assert links["v0"].master == links["br0"].number
    assert links["v1"].master == 0
    assert [link.name for link in links.values() if link.is_loopback] == ["lo"]
    assert len(links["v1"].mac) == 6


def test_addresses_are_the_machines_own(socket: RoutingSocket) -> None:
    ip("addr add 10.0.0.1/24 dev v1")
    ip("addr add 10.1.0.1 peer 10.1.0.2/32 dev v1")
    ip("-6 addr add fd00::1/64 dev v1 nodad")
    link = numbers(socket)["v1"]
    found = [a for a in socket.addresses() if a.link == link and not a.address.startswith("fe80")]
    assert sorted(found) == [
        LinkAddress(Address("10.0.0.1"), 24, link),
        LinkAddress(Address("10.1.0.1"), 32, link),
        LinkAddress(Address("fd00::1"), 64, link),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("10.9.0.1/32 dev v1", [("10.9.0.1/32", MAIN, False)]),
        ("default via 10.0.0.2 dev v1", [("0.0.0.0/0", MAIN, True)]),
        ("10.9.0.0/16 dev v1 table 1000", [("10.9.0.0/16", 1000, False)]),
        ("blackhole 10.9.0.0/16", []),
        ("local 10.9.0.0/16 dev v1", []),
        (
            "10.9.0.0/16 nexthop via 10.0.0.2 dev v1 nexthop dev v1",
            [("10.9.0.0/16", MAIN, True), ("10.9.0.0/16", MAIN, False)],
        ),
    ],
)
def test_a_route_is_each_of_its_ways(
    socket: RoutingSocket, words: str, expected: list[tuple[str, int, bool]]
) -> None:
    ip("addr add 10.0.0.1/24 dev v1 noprefixroute")
    ip("route add 10.0.0.2/32 dev v1")
    ip(f"route add {words}")
    link = numbers(socket)["v1"]
    found = [route for route in socket.routes(4) if route.net != "10.0.0.2/32"]
    assert [(route.net, route.table, route.has_gateway) for route in found] == expected
    assert {route.link for route in found} <= {link}


def test_ipv6_routes_are_their_own(socket: RoutingSocket) -> None:
    ip("-6 route add fd09::1/128 dev v1")
    link = numbers(socket)["v1"]
    assert Route(Net("fd09::1/128"), link, MAIN, has_gateway=False) in socket.routes(6)
    assert not any(":" in route.net for route in socket.routes(4))


def test_neighbours_that_did_not_answer_are_marked(socket: RoutingSocket) -> None:
    ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:01 dev v1")
    ip("neigh add 10.0.0.8 dev v1 nud failed")
    ip("neigh add fd00::7 lladdr 02:00:00:00:00:02 dev v1")
    link = numbers(socket)["v1"]
    found = {n.address: n for n in socket.neighbours() if n.link == link}
    mac = b"\2\0\0\0\0\1"
    assert found[Address("10.0.0.7")] == Neighbour(Address("10.0.0.7"), link, mac, is_failed=False)
    assert found[Address("10.0.0.8")].is_failed
    assert found[Address("fd00::7")].mac[-1] == 2


def test_what_a_bridge_learned_is_told_and_its_own_addresses_are_not(
    socket: RoutingSocket,
) -> None:
    ip("link set dev v1 address 02:00:00:00:00:09")
    # "replace": the kernel may have learned it already.
    run("bridge", "fdb", "replace", "02:00:00:00:00:09", "dev", "v0", "master", "dynamic")
    learned = socket.bridge_ports()
    assert BridgePort(b"\2\0\0\0\0\x09", numbers(socket)["v0"]) in learned
    own = {link.mac for link in socket.links() if link.name in ("br0", "v0")}
    # The pod's earlier address may have been learned, too: its kernel speaks of itself at once.
    assert own.isdisjoint(entry.mac for entry in learned)


def test_each_kind_of_change_is_told_once(socket: RoutingSocket) -> None:
    with closing(RoutingEvents()) as events:
        for words, expected in (
            ("link add br1 type bridge", Change.LINKS),
            ("addr add 10.5.0.1/32 dev br1", Change.ADDRESSES),
            ("route add 10.6.0.0/16 dev v1", Change.ROUTES),
            ("neigh add 10.0.0.9 lladdr 02:00:00:00:00:01 dev v1", Change.NEIGHBOURS),
        ):
            events.changes()
            ip(words)
            assert expected in events.changes()
            assert events.changes() is Change.NOTHING
