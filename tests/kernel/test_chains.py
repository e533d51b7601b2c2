"""Rendered chains in a real kernel: datagrams of three hosts through a node, sent and received.

The node has two pods by routed veths, and the world behind an uplink.  Every backend, both
families; tests/render/test_static.py has the same cases and many more, simulated.
"""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from calico_k8s.model.addresses import Address, Version
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP
from tests.namespaces import Namespace, ip, new_namespace, run
from tests.render.kernels import VERSIONS, ipset_text, ipsets, restore_text, write_native
from tests.render.states import (
    BACKEND,
    BACKEND_ONLY,
    INGRESS,
    OPEN_OUT,
    UDP,
    State,
    allow,
    endpoint,
    group,
    nets,
    ports,
    profiles,
    tables,
)

pytestmark = pytest.mark.kernel

OPEN_PORT, CLOSED_PORT = 4001, 4002
WAIT_S = 0.25
SETTLE_TRIES = 40
ANY_SOURCE = {
    4: (socket.IPPROTO_IP, 19),  # IP_TRANSPARENT, linux/in.h
    6: (socket.IPPROTO_IPV6, 75),  # IPV6_TRANSPARENT, linux/in6.h
}

STATE = State(
    "Pod takes UDP on port 4001 from the client; its neighbour takes nothing.",
    (
        OPEN_OUT,
        group(
            "udp",
            INGRESS,
            profiles(allow(protocol=UDP, peer_ipset=BACKEND, dst_ports=ports(OPEN_PORT))),
        ),
        BACKEND_ONLY,
    ),
    {
        endpoint("pod", "10.65.0.1 fd65::1", "udp"): Attachment("cali1"),
        endpoint("neighbour", "10.65.0.2 fd65::2", "backend-only"): Attachment("cali2"),
    },
    {BACKEND: nets("10.65.0.9/32", "fd65::9/128")},
)
POD, NEIGHBOUR, UNKNOWN, CLIENT, STRANGER = "pod", "neighbour", "unknown", "client", "stranger"
NUMBERS = {POD: 1, NEIGHBOUR: 2, UNKNOWN: 3, CLIENT: 9, STRANGER: 8}
LINKS = {POD: "cali1", NEIGHBOUR: "cali2", UNKNOWN: "cali3", CLIENT: "eth0"}
GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}


class Node:
    """A node with its hosts, in one family."""

    def __init__(self, version: Version, hosts: dict[str, Namespace]) -> None:
        self.version = version
        self.hosts = hosts

    def address(self, host: str) -> Address:
        """A host's address; the node's own for ``node``."""
        if host == "node":
            return Address(NODE[self.version])
        prefix = {4: "10.65.0.", 6: "fd65::"}[self.version]
        return Address(f"{prefix}{NUMBERS[host]}")

    @contextlib.contextmanager
    def at(self, host: str) -> Iterator[None]:
        """Inside a host's namespace; the stranger lives where the client does."""
        place = self.hosts.get(CLIENT if host == STRANGER else host)
        with place if place is not None else contextlib.nullcontext():
            yield

    def socket(self, host: str, port: int, source: str | None = None) -> socket.socket:
        """A UDP socket at a host, bound to its address or to one that it claims."""
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[self.version]
        with self.at(host):
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.setsockopt(*ANY_SOURCE[self.version], 1)
            made.settimeout(WAIT_S)
            made.bind((self.address(source or host), port))
        return made

    def arrives(self, src: str, dst: str, port: int = OPEN_PORT, claims: str | None = None) -> bool:
        """Whether a datagram from one host reaches another."""
        with self.socket(dst, port) as receiver, self.socket(src, 0, claims) as sender:
            sender.sendto(b"?", (self.address(dst), port))
            return received(receiver)


def received(receiver: socket.socket) -> bool:
    """Whether something comes before the wait is over."""
    try:
        receiver.recv(16)
    except TimeoutError:
        return False
    return True


@pytest.fixture(params=VERSIONS, ids=["ipv4", "ipv6"])
def version(request: pytest.FixtureRequest) -> Version:
    return 4 if request.param == 4 else 6


@pytest.fixture(params=["legacy", "nft", "nftables"])
def node(request: pytest.FixtureRequest, namespace: Namespace, version: Version) -> Iterator[Node]:
    with contextlib.ExitStack() as stack:
        hosts = {name: stack.enter_context(new_namespace()) for name in LINKS}
        made = Node(version, hosts)
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for name, host in hosts.items():
            attach(made, name, host)
        bits = {4: 32, 6: 128}[version]
        ip(f"addr add {NODE[version]}/{bits} dev lo")
        stranger = made.address(STRANGER)
        ip(f"route add {stranger}/{bits} via {made.address(CLIENT)} dev eth0 onlink")
        with hosts[CLIENT]:
            ip(f"addr add {stranger}/{bits} dev lo")
        settle(made)
        write(request.param, version)
        yield made


def write(backend: str, version: Version) -> None:
    """Have the node enforce the state."""
    if backend == "nftables":
        write_native(STATE, version)
        return
    run("ipset", "restore", stdin=ipset_text(ipsets(STATE), version))
    program = {4: "iptables", 6: "ip6tables"}[version]
    for table in tables(STATE, version):
        run(f"{program}-{backend}-restore", "--noflush", stdin=restore_text(table))


def settle(node: Node) -> None:
    """Wait until every host reaches every other: what fails from here on, our rules deny."""
    hosts = (*LINKS, STRANGER, "node")
    waiting = [(src, dst) for src in hosts for dst in hosts if src != dst]
    for _ in range(SETTLE_TRIES):
        waiting = [pair for pair in waiting if not node.arrives(*pair)]
        if not waiting:
            return
    raise AssertionError(f"no way without rules: {waiting}")


def attach(node: Node, name: str, host: Namespace) -> None:
    """A veth between the node and a host, routed; a workload's unless it is the uplink."""
    link, address, gateway = LINKS[name], node.address(name), GATEWAYS[node.version]
    bits = {4: 32, 6: 128}[node.version]
    nodad = " nodad" if node.version == 6 else ""
    ip(f"link add {link} type veth peer name host netns {host.path}")
    ip(f"addr add {gateway}/{64 if node.version == 6 else 32} dev {link}{nodad}")
    ip(f"link set {link} up group {0 if name == CLIENT else WORKLOAD_LINK_GROUP}")
    ip(f"route add {address}/{bits} dev {link}")
    with host:
        ip(f"addr add {address}/{bits} dev host{nodad}")
        ip("link set host up")
        if node.version == 4:
            ip(f"route add {gateway} dev host")
        ip(f"-{node.version} route add default via {gateway} dev host")


def test_policy_holds(node: Node) -> None:
    assert node.arrives(CLIENT, POD)
    assert not node.arrives(CLIENT, POD, CLOSED_PORT)
    assert not node.arrives(STRANGER, POD)
    assert not node.arrives(CLIENT, NEIGHBOUR)
    assert not node.arrives(POD, NEIGHBOUR)
    assert node.arrives(POD, CLIENT)


def test_replies_pass_and_a_cut_flow_ends_both_ways(node: Node) -> None:
    cut = mark_layout(STATE.config.mark_mask).cut
    with node.socket(POD, 7000) as pod, node.socket(CLIENT, 7000) as client:
        to_client = (node.address(CLIENT), 7000)
        pod.sendto(b"?", to_client)
        assert received(client)
        client.sendto(b"!", (node.address(POD), 7000))
        assert received(pod)
        run("conntrack", "-U", "-s", node.address(POD), "-m", f"{cut:#x}")
        client.sendto(b"!", (node.address(POD), 7000))
        assert not received(pod)
        pod.sendto(b"?", to_client)
        assert not received(client)


def test_nobody_borrows_an_address(node: Node) -> None:
    assert not node.arrives(POD, CLIENT, claims=NEIGHBOUR)
    assert not node.arrives(NEIGHBOUR, POD, claims=CLIENT)
    assert not node.arrives(POD, CLIENT, claims=STRANGER)
    assert not node.arrives(CLIENT, NEIGHBOUR, claims=POD)
    assert not node.arrives(POD, "node", claims=CLIENT)


def test_a_pod_that_is_not_known_yet_is_closed_but_to_its_node(node: Node) -> None:
    assert not node.arrives(UNKNOWN, CLIENT)
    assert not node.arrives(CLIENT, UNKNOWN)
    assert not node.arrives(UNKNOWN, "node")
    with node.socket("node", 7000) as prober, node.socket(UNKNOWN, 7000) as pod:
        prober.sendto(b"?", (node.address(UNKNOWN), 7000))
        assert received(pod)
        pod.sendto(b"!", (node.address("node"), 7000))
        assert received(prober)


def test_a_node_and_its_pods_reach_each_other(node: Node) -> None:
    assert node.arrives("node", NEIGHBOUR)
    assert node.arrives(NEIGHBOUR, "node")


def test_a_pod_reaches_itself_by_a_service(node: Node) -> None:
    service = {4: "203.0.113.1", 6: "2001:db8:5::1"}[node.version]
    program = {4: "iptables-nft", 6: "ip6tables-nft"}[node.version]
    own = node.address(NEIGHBOUR)
    run(program, "-t", "nat", "-A", "PREROUTING", "-d", service, "-j", "DNAT", "--to", own)
    run(program, "-t", "nat", "-A", "POSTROUTING", "-s", own, "-d", own, "-j", "MASQUERADE")
    with node.socket(NEIGHBOUR, 7000) as receiver, node.socket(NEIGHBOUR, 7001) as sender:
        sender.sendto(b"?", (service, 7000))
        assert received(receiver)


def test_other_programs_policy_is_met_by_what_policy_allows(
    node: Node, request: pytest.FixtureRequest
) -> None:
    backend = request.node.callspec.params["node"]
    program = {4: "iptables", 6: "ip6tables"}[node.version]
    is_native = backend == "nftables"
    run(f"{program}-{'nft' if is_native else backend}", "-P", "FORWARD", "DROP")
    # An accept in one table of nftables ends nothing in another.
    assert node.arrives(CLIENT, POD) != is_native
    assert node.arrives(POD, CLIENT) != is_native
    assert not node.arrives(CLIENT, POD, CLOSED_PORT)
