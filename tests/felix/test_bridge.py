"""The bridge's own table: what one pod of a bridge can make another, or the node, believe."""

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from calico_k8s.errors import KernelError
from calico_k8s.felix.bridge import BridgeDriver, bridge_elements, clean_bridges
from calico_k8s.felix.interfaces import NO_INTERFACES, Interfaces
from calico_k8s.model.addresses import Address
from tests.namespaces import Namespace, ip, new_namespace, run
from tests.needs import require_program

MARKER = b"calico-k8s bridge test"
IPV4, ARP, IPV6, VLAN = 0x0800, 0x0806, 0x86DD, 0x8100


class Bridge:
    """Two pods on the bridge ``cni0`` of the test's own namespace, each with a raw socket."""

    def __init__(self, pods: list[Namespace], ends: contextlib.ExitStack) -> None:
        self.macs = {"cni0": mac_of("cni0")}
        self.sockets = {"cni0": ends.enter_context(raw_socket("cni0"))}
        for number, pod in enumerate(pods, 1):
            with pod:
                self.macs[f"veth{number}"] = mac_of("eth0")
                self.sockets[f"veth{number}"] = ends.enter_context(raw_socket("eth0"))

    def arrives(self, target: str, kind: int, body: bytes) -> bool:
        """Whether a frame from pod 1 to a port's pod, or to the node (``cni0``), gets there."""
        receiver = self.sockets[target]
        while True:
            with contextlib.suppress(BlockingIOError):
                receiver.recv(2048, socket.MSG_DONTWAIT)
                continue
            break
        header = self.macs[target] + self.macs["veth1"] + struct.pack(">H", kind)
        self.sockets["veth1"].send(header + body)
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                if receiver.recv(2048, socket.MSG_DONTWAIT)[14:].startswith(body):
                    return True
        return False


def mac_of(name: str) -> bytes:
    link = run("ip", "-o", "link", "show", name)
    return bytes.fromhex(link.split("link/ether ")[1].split()[0].replace(":", ""))


def raw_socket(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    made.bind((name, 0))
    return made


@pytest.fixture
def bridge(namespace: Namespace) -> Iterator[Bridge]:
    require_program("nft", package="nftables")
    with new_namespace() as one, new_namespace() as two, contextlib.ExitStack() as ends:
        ip("link add cni0 type bridge mcast_snooping 0")
        ip("addr add 10.2.0.254/24 dev cni0")
        ip("link set cni0 up")
        for number, pod in enumerate((one, two), 1):
            ip(f"link add veth{number} type veth peer name eth0 netns {pod.path}")
            ip(f"link set veth{number} master cni0 up")
            with pod:
                ip(f"addr add 10.2.0.{number}/24 dev eth0")
                ip("link set eth0 up")
        yield Bridge([one, two], ends)


INTERFACES = Interfaces(
    ports_by_address={
        Address("10.2.0.1"): "veth1",
        Address("10.2.0.2"): "veth2",
        Address("fd02::1"): "veth1",
        Address("fd02::2"): "veth2",
    },
    workload_ports=frozenset({"veth1", "veth2"}),
    bridges=frozenset({"cni0"}),
    own_addresses=frozenset({Address("10.2.0.254"), Address("fd02::fe")}),
)


@pytest.fixture
def driver(bridge: Bridge) -> Iterator[BridgeDriver]:
    driver = BridgeDriver()
    driver.set_desired(INTERFACES)
    assert driver.apply() == 17
    yield driver
    driver.close()


def udp(source: str) -> bytes:
    """IPv4 or IPv6 with a UDP header and the marker."""
    data = struct.pack(">HHHH", 1000, 1001, 8 + len(MARKER), 0) + MARKER
    address = ipaddress.ip_address(source)
    if address.version == 6:
        target = ipaddress.ip_address("fd02::2").packed
        return struct.pack(">IHBB", 6 << 28, len(data), 17, 64) + address.packed + target + data
    target = ipaddress.ip_address("10.2.0.2").packed
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, 17, 0)
    header += address.packed + target
    words = sum(struct.unpack(">10H", header))
    checksum = ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF
    return header[:10] + struct.pack(">H", checksum) + header[12:] + data


def arp(sender: str) -> bytes:
    """An answer that says: the sender is at pod 1's MAC."""
    packed = ipaddress.ip_address(sender).packed
    return struct.pack(">HHBBH", 1, IPV4, 6, 4, 2) + b"\2\0\0\0\0\1" + packed + bytes(10)


def icmp6(source: str, kind: int, target: str) -> bytes:
    """Neighbour discovery of one type about a target, with a right length and no checksum."""
    data = struct.pack(">BBHI", kind, 0, 0, 0) + ipaddress.ip_address(target).packed + MARKER
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address("fd02::2").packed
    return struct.pack(">IHBB", 6 << 28, len(data), 58, 255) + addresses + data


FRAMES = [
    # what it is, the frame, reaches pod 2, reaches the node
    ("its own address", IPV4, udp("10.2.0.1"), True, True),
    ("pod 2's address", IPV4, udp("10.2.0.2"), False, False),
    ("the node's address", IPV4, udp("10.2.0.254"), False, False),
    ("an address nobody has: iptables judges it at the node", IPV4, udp("192.0.2.1"), False, True),
    ("its own IPv6 address", IPV6, udp("fd02::1"), True, True),
    ("pod 2's IPv6 address", IPV6, udp("fd02::2"), False, False),
    ("an IPv6 address nobody has", IPV6, udp("fd02::9"), False, True),
    ("ARP for itself", ARP, arp("10.2.0.1"), True, True),
    ("ARP for pod 2", ARP, arp("10.2.0.2"), False, False),
    ("ARP for the node", ARP, arp("10.2.0.254"), False, False),
    ("ARP for an address without a port yet", ARP, arp("10.2.0.3"), True, True),
    ("ARP probe", ARP, arp("0.0.0.0"), True, True),
    ("an advertisement of itself", IPV6, icmp6("fd02::1", 136, "fd02::1"), True, True),
    ("an advertisement of pod 2", IPV6, icmp6("fd02::1", 136, "fd02::2"), False, False),
    ("an advertisement of pod 2 in its name", IPV6, icmp6("fd02::2", 136, "fd02::2"), False, False),
    ("an advertisement of the node", IPV6, icmp6("fe80::1", 136, "fd02::fe"), False, False),
    ("an advertisement of a new address", IPV6, icmp6("fe80::1", 136, "fd02::3"), True, True),
    ("a solicitation", IPV6, icmp6("fe80::1", 135, "fd02::2"), True, True),
    ("duplicate address detection", IPV6, icmp6("::", 135, "fd02::3"), True, True),
    ("a solicitation in pod 2's name", IPV6, icmp6("fd02::2", 135, "fd02::1"), False, False),
    ("a router advertisement", IPV6, icmp6("fe80::1", 134, "fd02::1"), False, False),
    ("a router advertisement from its own", IPV6, icmp6("fd02::1", 134, "::"), False, False),
    ("a redirect", IPV6, icmp6("fd02::1", 137, "fd02::2"), False, False),
    ("a listener report", IPV6, icmp6("fe80::1", 143, "fd02::1"), True, True),
    ("an echo from a link-local address", IPV6, icmp6("fe80::1", 128, "::"), False, True),
    ("a VLAN tag around pod 2's address", VLAN, b"\0\5\x08\0" + udp("10.2.0.2"), False, False),
    ("another protocol", 0x88CC, MARKER, False, False),
]


@pytest.mark.kernel
def test_a_pod_speaks_for_its_own_address_only(bridge: Bridge, driver: BridgeDriver) -> None:
    wrong = [
        f"{name}: {'reaches' if not expected else 'does not reach'} {target}"
        for name, kind, body, to_pod, to_node in FRAMES
        for target, expected in (("veth2", to_pod), ("cni0", to_node))
        if bridge.arrives(target, kind, body) != expected
    ]
    assert wrong == []


@pytest.mark.kernel
def test_without_the_table_every_frame_passes(bridge: Bridge) -> None:
    lost = [
        name for name, kind, body, _, _ in FRAMES[:20] if not bridge.arrives("veth2", kind, body)
    ]
    assert lost == []


@pytest.mark.kernel
def test_a_pod_that_moves_takes_its_address_with_it(bridge: Bridge, driver: BridgeDriver) -> None:
    moved = Interfaces(
        ports_by_address={Address("10.2.0.2"): "veth1"},
        workload_ports=INTERFACES.workload_ports,
    )
    driver.set_desired(moved)
    assert driver.apply() == 15
    assert bridge.arrives("veth2", IPV4, udp("10.2.0.2"))
    assert not bridge.arrives("veth2", IPV4, udp("10.2.0.1"))
    assert driver.resync() == 0


@pytest.mark.kernel
def test_a_restart_writes_nothing_where_nothing_differs(driver: BridgeDriver) -> None:
    restarted = BridgeDriver()
    restarted.set_desired(INTERFACES)
    assert restarted.apply() == 0


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("damage", "drifted", "written"),
    [
        ("delete table bridge calico_k8s", 18, 17),
        ('delete element bridge calico_k8s ports { "veth1" }', 1, 1),
        ("add element bridge calico_k8s bound4 { veth1 . 10.9.9.9 }", 1, 1),
        ("flush chain bridge calico_k8s forward", 1, 17),
        ("insert rule bridge calico_k8s forward accept", 1, 17),
    ],
)
def test_what_another_program_changed_is_counted_and_mended(
    bridge: Bridge, driver: BridgeDriver, damage: str, drifted: int, written: int
) -> None:
    run("nft", *damage.split())
    assert driver.resync() == drifted
    assert driver.apply() == written
    assert driver.resync() == 0
    assert not bridge.arrives("veth2", IPV4, udp("10.2.0.2"))


@pytest.mark.kernel
@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "flush table bridge calico_k8s",
        "delete table bridge calico_k8s",
        "flush chain bridge calico_k8s input",
        "insert rule bridge calico_k8s forward accept",
    ],
)
def test_a_look_that_costs_little_finds_rules_that_are_lost(
    bridge: Bridge, driver: BridgeDriver, damage: str
) -> None:
    assert not driver.has_lost_rules()
    run("nft", "add table bridge others")
    assert not driver.has_lost_rules()
    run("nft", damage)
    assert driver.has_lost_rules()
    assert driver.resync() > 0
    assert driver.apply() > 0
    assert not driver.has_lost_rules()
    assert not bridge.arrives("veth2", IPV4, udp("10.2.0.2"))


@pytest.mark.kernel
def test_others_tables_stay_and_ours_goes_with_the_last_port(
    bridge: Bridge, driver: BridgeDriver
) -> None:
    run("nft", "add table bridge others")
    driver.set_desired(NO_INTERFACES)
    assert driver.apply() == 17
    assert driver.apply() == 0
    assert run("nft", "list", "tables") == "table bridge others\n"
    clean_bridges()


@pytest.mark.kernel
def test_clean_removes_the_table(driver: BridgeDriver) -> None:
    clean_bridges()
    assert run("nft", "list", "tables") == ""


def test_clean_without_nft_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    clean_bridges()
    with pytest.raises(KernelError, match="nft was not found"):
        BridgeDriver().resync()


def test_a_node_without_pods_on_bridges_has_no_elements() -> None:
    assert (
        bridge_elements(Interfaces(own_addresses=frozenset({Address("10.0.0.1")}))) == frozenset()
    )


@pytest.mark.parametrize("name", ['a"b', "veth*", "a b", ""])
def test_a_name_that_nft_would_misread_is_refused(name: str) -> None:
    with pytest.raises(KernelError, match="rename it"):
        bridge_elements(Interfaces(workload_ports=frozenset({name})))


@pytest.mark.kernel
def test_a_refused_change_is_an_error_and_the_next_apply_starts_from_the_kernel(
    bridge: Bridge, driver: BridgeDriver
) -> None:
    run("nft", "delete table bridge calico_k8s")
    driver.set_desired(Interfaces(workload_ports=frozenset({"veth1"})))
    with pytest.raises(KernelError, match="nft -f -"):
        driver.apply()
    assert driver.apply() == 1
