"""Domains on a real kernel: a real DNS server answers, and the first connection works."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import Native
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.domains import parse_domain, servers_netset
from calico_k8s.model.keys import Key, NetsetKey, PolicyKey, TierKey
from calico_k8s.model.names import PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    EntityMatch,
    NetworkSet,
    Origin,
    Policy,
    PortRange,
    Rule,
    Tier,
    Value,
)
from tests.felix.names.servers import dns_server, look_up
from tests.felix.nodes import PORT, READY, Machine, PodSite, connects, machine_up, rules
from tests.namespaces import Namespace, ip, new_namespace

pytestmark = pytest.mark.kernel

OUTSIDE = tuple(map(Address, ("198.51.100.7", "198.51.100.8", "198.51.100.9", "2001:db8::7")))
UDP, TCP, DNS_PORT = 17, 6, 53

every_backend = pytest.mark.parametrize(
    "machine", [*Backend, Native.NFTABLES], indirect=True, ids=str
)


@pytest.fixture
def machine(
    namespace: Namespace, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    backend = getattr(request, "param", Backend.NFT)
    with machine_up(namespace, tmp_path, backend) as machine:
        yield machine


@pytest.fixture
def outside(machine: Machine) -> Iterator[Namespace]:
    """A host elsewhere, with every address of :data:`OUTSIDE` and a listener on each."""
    with contextlib.ExitStack() as ends:
        site = ends.enter_context(new_namespace())
        ip(f"link add up0 type veth peer name eth0 netns {site.path}")
        ip("link set up0 up")
        ip("addr add 192.168.9.1/24 dev up0")
        ip("-6 addr add fd00:9::1/64 dev up0 nodad")
        with site:
            ip("link set eth0 up")
            ip("addr add 192.168.9.2/24 dev eth0")
            ip("-6 addr add fd00:9::2/64 dev eth0 nodad")
            ip("route add default via 192.168.9.1")
            ip("-6 route add default via fd00:9::1")
            for address in OUTSIDE:
                nodad = " nodad" if ":" in address else ""
                ip(f"addr add {address}/{128 if nodad else 32} dev lo{nodad}")
                family = socket.AF_INET6 if nodad else socket.AF_INET
                ends.enter_context(socket.create_server((address, PORT), family=family, backlog=64))
        ip("route add 198.51.100.0/24 via 192.168.9.2")
        ip("-6 route add 2001:db8::/64 via fd00:9::2")
        yield site


def limited(*domains: str, servers: tuple[Address, ...] = ()) -> dict[Key, Value | None]:
    """Everybody may ask any DNS server, and reach these domains."""
    dns = EntityMatch(ports=(PortRange(DNS_PORT, DNS_PORT),))
    named = EntityMatch(domains=tuple(map(parse_domain, domains)))
    policy = Policy(
        PolicyId("GlobalNetworkPolicy", "", "limited"),
        TierName("default"),
        SelectorText("all()"),
        (Direction.EGRESS,),
        egress=(
            Rule(Action.ALLOW, Origin("P", "", "p", 0), protocol=UDP, dst=dns),
            Rule(Action.ALLOW, Origin("P", "", "p", 1), protocol=TCP, dst=dns),
            *([Rule(Action.ALLOW, Origin("P", "", "p", 2), dst=named)] if domains else []),
        ),
    )
    items: dict[Key, Value | None] = {
        TierKey(policy.tier): Tier(policy.tier),
        PolicyKey(policy.tier, policy.id): policy,
    }
    for protocol in (UDP, TCP):
        name = servers_netset(protocol, DNS_PORT)
        nets = tuple(Net(f"{address}/{128 if ':' in address else 32}") for address in servers)
        items[NetsetKey(name)] = NetworkSet(name, None, nets)
    return items


def start(machine: Machine, client: PodSite, server: PodSite, *domains: str) -> None:
    """An agent under which the client may reach these domains; the server answers DNS."""
    machine.start(dns_extra_ttl_s="0")
    items = READY | rules("open") | client.stored("open") | server.stored("open")
    items |= rules("open", Rule(Action.ALLOW, Origin("Namespace", name="ns")))
    machine.settle(items | limited(*domains, servers=server.addresses))


@every_backend
def test_the_first_connection_after_a_lookup_works(
    machine: Machine, client: PodSite, server: PodSite, outside: Namespace
) -> None:
    start(machine, client, server, "*.example.com")
    names = [f"n{number}.example.com" for number in range(30)]
    records = [f"host-record={name},198.51.100.{100 + i},60" for i, name in enumerate(names)]
    with outside:
        for i, _ in enumerate(names):
            ip(f"addr add 198.51.100.{100 + i}/32 dev lo")
    with (
        dns_server(server.namespace, server.addresses[0], *records),
        outside,
        socket.create_server(("0.0.0.0", 8080), backlog=256),
    ):
        for name in names:
            (address,) = look_up(client.namespace, server.addresses[0], name)
            assert connects(client.namespace, Address(address), 8080), name
    assert not connects(client.namespace, OUTSIDE[1])
