"""Domains on a real kernel: a real DNS server answers, and the first connection works."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest

from calico_k8s.felix.agent import JUDGE_AGAIN_S, Agent
from calico_k8s.felix.drift import DriftFinder
from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import Native
from calico_k8s.felix.names.book import NAMES_MAX
from calico_k8s.felix.names.journal import names_path
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
from calico_k8s.netlink.nfqueue import NfqueueSocket
from calico_k8s.render.names import NFQUEUE_NUMBER
from tests.felix.names.servers import dns_server, look_up
from tests.felix.nodes import (
    NODE,
    PATIENCE_S,
    PORT,
    READY,
    Machine,
    PodSite,
    connects,
    machine_up,
    rules,
    setting,
    until,
)
from tests.namespaces import Namespace, ip, new_namespace, run

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
        run("sysctl", "-qw", "net.ipv6.conf.up0.accept_dad=0")
        ip("link set up0 up")
        ip("addr add 192.168.9.1/24 dev up0")
        ip("-6 addr add fd00:9::1/64 dev up0 nodad")
        with site:
            run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
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


def start(
    machine: Machine, client: PodSite, server: PodSite, *domains: str, denials: str = "off"
) -> Agent:
    """An agent under which the client may reach these domains; the server answers DNS."""
    agent = machine.start(denials=denials)
    machine.settle(allowed_to(client, server, *domains) | setting("dns-extra-ttl-s", "0"))
    return agent


def allowed_to(client: PodSite, server: PodSite, *domains: str) -> dict[Key, Value | None]:
    items = READY | rules("open") | client.stored("open") | server.stored("open")
    items |= rules("open", Rule(Action.ALLOW, Origin("Namespace", name="ns")))
    return items | limited(*domains, servers=server.addresses)


def is_listening() -> bool:
    return any(thread.name == "dns-answers" for thread in threading.enumerate())


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


@pytest.mark.parametrize(
    ("records", "how"),
    [
        (["host-record=api.example.com,198.51.100.7,0"], {}),
        (["host-record=api.example.com,2001:db8::7,60"], {"family": 6}),
        (["host-record=api.example.com,198.51.100.7,60"], {"over_tcp": True}),
        (
            [
                "host-record=edge.cdn.test,198.51.100.7,60",
                "cname=mid.cdn.test,edge.cdn.test,60",
                "cname=api.example.com,mid.cdn.test,0",
            ],
            {},
        ),
    ],
    ids=["TTL 0", "AAAA", "TCP", "CNAMEs"],
)
def test_whatever_the_answer_its_first_connection_works_and_no_other(
    machine: Machine,
    client: PodSite,
    server: PodSite,
    outside: Namespace,
    records: list[str],
    how: dict[str, int],
) -> None:
    start(machine, client, server, "api.example.com")
    records = [*records, "host-record=other.test,198.51.100.8,60"]
    with dns_server(server.namespace, server.addresses[0], *records):
        (address,) = look_up(client.namespace, server.addresses[0], "api.example.com", **how)
        assert connects(client.namespace, Address(address), wait_s=2)
        (other,) = look_up(client.namespace, server.addresses[0], "other.test")
        assert not connects(client.namespace, Address(other))


@pytest.mark.parametrize("over_tcp", [False, True], ids=["UDP", "TCP"])
def test_an_answer_through_a_service_is_learnt_from(
    machine: Machine, client: PodSite, server: PodSite, outside: Namespace, over_tcp: bool
) -> None:
    start(machine, client, server, "api.example.com")
    cluster_ip = Address("10.96.0.10")
    for protocol in ("udp", "tcp"):
        rule = f"-d {cluster_ip} -p {protocol} --dport 53 -j DNAT --to {server.addresses[0]}:53"
        run("iptables-nft", "-t", "nat", "-A", "PREROUTING", *rule.split())
    record = "host-record=api.example.com,198.51.100.7,60"
    with dns_server(server.namespace, server.addresses[0], record):
        (address,) = look_up(client.namespace, cluster_ip, "api.example.com", over_tcp=over_tcp)
        assert connects(client.namespace, Address(address))


def test_a_server_that_is_not_trusted_is_not_believed(
    machine: Machine, client: PodSite, server: PodSite, outside: Namespace
) -> None:
    start(machine, client, server, "api.example.com")
    liar = machine.pod("liar", 12)
    lie = "host-record=api.example.com,198.51.100.8,60"
    with dns_server(liar.namespace, liar.addresses[0], lie):
        machine.settle(liar.stored("open"))
        assert look_up(client.namespace, liar.addresses[0], "api.example.com") == [OUTSIDE[1]]
        assert not connects(client.namespace, OUTSIDE[1])


def test_a_denied_packet_is_told_by_the_name_that_its_pod_asked_for(
    machine: Machine, client: PodSite, server: PodSite, outside: Namespace
) -> None:
    agent = start(machine, client, server, "api.example.com", denials="on")
    with dns_server(
        server.namespace, server.addresses[0], "host-record=other.test,198.51.100.8,60"
    ):
        look_up(client.namespace, server.addresses[0], "other.test")
        assert not connects(client.namespace, OUTSIDE[1])
    assert until(lambda: bool(agent.denials.records))
    told = {(each.dst_name, each.dst, each.why) for each in agent.denials.records}
    assert told == {("other.test", OUTSIDE[1], "end of tier default")}


def test_a_name_that_moves_is_followed_and_what_is_open_stays_open(
    machine: Machine, client: PodSite, server: PodSite, outside: Namespace
) -> None:
    start(machine, client, server, "api.example.com")
    old, new = OUTSIDE[:2]
    with outside:
        listener = socket.create_server((old, 8080))
    with listener, client.namespace, socket.socket() as live:
        with dns_server(
            server.namespace, server.addresses[0], f"host-record=api.example.com,{old},2"
        ):
            assert look_up(client.namespace, server.addresses[0], "api.example.com") == [old]
            live.settimeout(PATIENCE_S)
            live.connect((old, 8080))
        with dns_server(
            server.namespace, server.addresses[0], f"host-record=api.example.com,{new},60"
        ):
            assert look_up(client.namespace, server.addresses[0], "api.example.com") == [new]
            assert connects(client.namespace, new)
        assert until(lambda: not connects(client.namespace, old))
        accepted, _ = listener.accept()
        with accepted:
            end_s = time.monotonic() + 2 * JUDGE_AGAIN_S
            machine.settle(client.stored("open", created=1.0))  # its flows are judged again
            while time.monotonic() < end_s:
                accepted.sendall(b"still here")
                assert live.recv(99)
            assert connects(client.namespace, new)
            machine.settle(limited("other.test", servers=server.addresses))
            live.settimeout(0.3)
            assert until(lambda: not exchanges(accepted, live))


def exchanges(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether a word comes over in time."""
    with contextlib.suppress(TimeoutError):
        sender.sendall(b"x")
        return bool(receiver.recv(99))
    return False


def test_what_was_learnt_outlives_an_agent_that_is_killed(
    machine: Machine, client: PodSite, server: PodSite, outside: Namespace
) -> None:
    record = "host-record=api.example.com,198.51.100.7,600"
    with dns_server(server.namespace, server.addresses[0], record, "log-queries"):
        with machine.process() as process:
            machine.settle(allowed_to(client, server, "api.example.com"))
            assert look_up(client.namespace, server.addresses[0], "api.example.com") == [OUTSIDE[0]]
            process.kill()
            process.wait()
        assert connects(client.namespace, OUTSIDE[0])
        # Nobody reads: answers go by, and what is new is closed.
        assert look_up(client.namespace, server.addresses[0], "api.example.com") == [OUTSIDE[0]]
        finder = DriftFinder(
            NODE, (), machine.store, machine.backend, names_path(machine.state_path)
        )
        assert finder.find().findings == ()
        before = machine.held()
        agent = machine.start()
        assert until(lambda: agent.is_enforcing)
        assert machine.held() == before
        assert connects(client.namespace, OUTSIDE[0])


def test_a_flood_of_names_is_bounded_and_others_go_on(
    machine: Machine, client: PodSite, server: PodSite, outside: Namespace
) -> None:
    agent = start(machine, client, server, "*.flood.test", "api.example.com")
    records = ("address=/flood.test/198.51.100.9", "host-record=api.example.com,198.51.100.7,60")
    with dns_server(server.namespace, server.addresses[0], *records, "dns-forward-max=2000"):
        with client.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.connect((server.addresses[0], DNS_PORT))
            for number in range(2 * NAMES_MAX):
                flood.send(dns.message.make_query(f"n{number}.flood.test", "A").to_wire())
        found = look_up(client.namespace, server.addresses[0], "api.example.com")
        assert found == [OUTSIDE[0]]
        assert until(lambda: connects(client.namespace, OUTSIDE[0]))
    names, addresses = agent.learning.sizes
    assert names > 100  # it was a flood
    assert names <= NAMES_MAX + 1
    assert addresses <= NAMES_MAX + 1


def test_without_domains_there_is_no_rule_and_no_thread(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    start(machine, client, server)
    assert not is_listening()
    assert "NFQUEUE" not in str(machine.held())
    machine.settle(limited("api.example.com", servers=server.addresses))
    assert is_listening()
    assert "NFQUEUE" in str(machine.held())
    machine.settle(limited(servers=server.addresses))
    assert until(lambda: not is_listening())
    assert until(lambda: "NFQUEUE" not in str(machine.held()))


def test_a_queue_that_another_program_reads_is_told(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    with contextlib.closing(NfqueueSocket(NFQUEUE_NUMBER)):
        start(machine, client, server, "api.example.com")
        assert until(lambda: "no DNS answer is read" in str(machine.status()))
