"""A real kube-proxy beside Felix, in every way the two can write: services lead where policy lets.

The whole cluster of `live.py` with kube-proxies on its nodes, and a client on a machine that is no
node.  What `docs/design/kube-proxy.md` says of the two is tried here.
"""

import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from calico_k8s.datastore.store import Delete, Put
from calico_k8s.lab.beats import SETTLE_S
from calico_k8s.lab.kubeproxy import FelixBackend
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import PodId, PodNetwork
from calico_k8s.lab.question import Outcome
from calico_k8s.lab.stream import StreamKind
from calico_k8s.model import codec
from calico_k8s.model.keys import (
    HostEndpointKey,
    Key,
    PolicyKey,
    ProfileRulesKey,
    SettingKey,
    key_path,
)
from calico_k8s.model.names import PolicyId, ProfileId, SelectorText
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
    Rules,
    Setting,
    Value,
)
from calico_k8s.translate.tiers import DEFAULT_TIER
from tests.cluster.controllers import wait_for
from tests.cluster.live import NODE_1, NODE_2, NODES
from tests.cluster.objects import pod_path
from tests.cluster.proxied import ADDRESSES, PODS, SERVICES, ProxiedCluster, proxied_cluster
from tests.cluster.proxies import SYNC_S, ProxyKind
from tests.lab.plans import TCP
from tests.lab.walls import held

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.timeout(180)]

KINDS: tuple[tuple[ProxyKind, PodNetwork, FelixBackend], ...] = (
    (ProxyKind("iptables", "nft"), PodNetwork.PTP, "nft"),
    (ProxyKind("iptables", "legacy"), PodNetwork.BRIDGE, "legacy"),
    (ProxyKind("nftables", "nft"), PodNetwork.BRIDGE, "nft"),
    (ProxyKind("nftables", "nft"), PodNetwork.PTP, "nftables"),
)
"""How kube-proxy writes, how pods are joined, and how Felix writes."""

BEAT_S = 0.04
SERVICE_S = 30.0
"""In which a kube-proxy that was just started has written its rules; mostly in 0.5 s."""
CHANGE_S = 10.0
"""In which a change has ended live connections; mostly in one second."""
RESYNC_S = 1
"""How often Felix compares everything and judges every live flow; its default is 90."""


@pytest.fixture(
    params=KINDS, ids=lambda kind: f"{'-'.join(kind[0])}-{kind[1]}-{kind[2]}", scope="module"
)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxiedCluster]:
    kind, network, backend = request.param
    folder = tmp_path_factory.mktemp("kube-proxy")
    felix = ("--resync-interval-s", str(RESYNC_S))
    with proxied_cluster(kind, network, folder, felix, backend) as up:
        yield up


@pytest.fixture
def proxied(cluster: ProxiedCluster) -> ProxiedCluster:
    """Kube-proxies run and have written their rules."""
    for node in NODES:
        if not cluster.proxies.is_running(node.name):
            cluster.proxies.start(node.name)
    wait_for_services(cluster)
    return cluster


def wait_for_services(cluster: ProxiedCluster) -> float:
    """Returns, with how long it took, when both nodes lead to services in both families."""
    begin_s = time.monotonic()
    probes = [
        cluster.via_cluster_ip(src, "ops/both", version)
        for src in ("ops/near", "ops/far")
        for version in (4, 6)
    ]
    logs = lambda: "".join(cluster.proxies.log(node.name) for node in NODES)  # noqa: E731
    wait_for(lambda: all(cluster.answered_by(probes)), logs)
    return time.monotonic() - begin_s


DIRECT = (
    ("shop/plain", "shop/web", 80, Action.ALLOW),
    ("ops/near", "ops/far", 80, Action.ALLOW),
    ("ops/near", "ops/noted", 4001, Action.ALLOW),
    ("ops/far", "shop/shown", 4001, Action.ALLOW),
    ("ops/near", "shop/web", 80, Action.DENY),
    ("ops/far", "shop/web", 80, Action.DENY),
    ("ops/near", "ops/noted", 80, Action.DENY),
    ("ops/far", "ops/noted", 4001, Action.DENY),
    ("ops/far", "shop/shown", 80, Action.DENY),
)
"""Whatever a kube-proxy does, these are so."""

BY_CLUSTER_IP = {
    "within a closed namespace, to the other node": ("shop/plain", "shop/web", "shop/web"),
    "a pod through its own service": ("shop/web", "shop/web", "shop/web"),
    "a pod that takes nothing, through its own service": (
        "ops/sealed",
        "ops/sealed",
        "ops/sealed",
    ),
    "into a closed namespace, on one node": ("ops/near", "shop/web", ""),
    "into a closed namespace, from the other node": ("ops/far", "shop/web", ""),
    "an exposed service": ("ops/near", "shop/shown", "shop/shown"),
    "the same pod by another service": ("ops/near", "shop/hidden", ""),
    "the annotation's port is the pod's": ("ops/near", "ops/noted", "ops/noted"),
    "and not the service's": ("ops/near", "ops/swapped", ""),
    "a label that the annotation does not name": ("ops/far", "ops/noted", ""),
    "a pod that takes nothing": ("ops/far", "ops/sealed", ""),
    "a node to its own pod": ("node-1", "shop/web", "shop/web"),
    "a node to another's pod": ("node-2", "shop/web", ""),
    "a node that the annotation names": ("node-1", "ops/nodes", "ops/nodes"),
}

OUT = "outside"
BY_NODE_PORT = {
    "Local: the client is itself": (OUT, "node-2", "ops/client-local", "ops/client"),
    "Local: another client": (OUT, "node-2", "ops/nodes-local", ""),
    "Local: no pod on that node": (OUT, "node-1", "ops/client-local", ""),
    "Cluster: the client is the node it came by": (OUT, "node-1", "ops/client", ""),
    "Cluster: the annotation may name the node": (OUT, "node-1", "ops/nodes", "ops/nodes"),
    "Cluster: at the pod's own node it is itself": (OUT, "node-2", "ops/client", "ops/client"),
    "Cluster: and not the node": (OUT, "node-2", "ops/nodes", ""),
    "an exposed service": (OUT, "node-1", "shop/shown", "shop/shown"),
    "the same, at the pod's node": (OUT, "node-2", "shop/shown", "shop/shown"),
    "a closed namespace": (OUT, "node-1", "shop/web", ""),
    "a closed namespace, through another node": (OUT, "node-2", "shop/web", ""),
    "the annotation's port is the pod's": (OUT, "node-1", "ops/swapped", ""),
    "a pod by its own node is itself": ("ops/near", "node-1", "ops/noted", "ops/noted"),
    "a pod by another node is that node": ("ops/near", "node-2", "ops/noted", ""),
    "a pod to an exposed service": ("ops/near", "node-2", "shop/shown", "shop/shown"),
    "a pod through its own service": ("ops/sealed", "node-2", "ops/sealed", "ops/sealed"),
}


def test_services_lead_where_policy_lets(proxied: ProxiedCluster) -> None:
    asked = {
        (what, version): (proxied.via_cluster_ip(src, service, version), by)
        for what, (src, service, by) in BY_CLUSTER_IP.items()
        for version in (4, 6)
    } | {
        (f"node port: {what}", version): (proxied.via_node(src, node, service, version), by)
        for what, (src, node, service, by) in BY_NODE_PORT.items()
        for version in (4, 6)
    }
    answers = proxied.answered_by([probe for probe, _ in asked.values()])
    expected = {what: by for what, (_, by) in asked.items()}
    assert dict(zip(asked, answers, strict=True)) == expected


@contextmanager
def watching(cluster: ProxiedCluster, *, services: bool) -> Iterator[None]:
    """What the block does changes no verdict of a new connection: not one passes, not one is lost."""
    expected = [
        (cluster.direct(src, dst, port, version), verdict)
        for src, dst, port, verdict in DIRECT
        for version in (4, 6)
    ]
    by_cluster_ip = [
        (cluster.via_cluster_ip(src, service, 4), by) for src, service, by in BY_CLUSTER_IP.values()
    ]
    by_node_port = [
        (cluster.via_node(src, node, service, 4), by)
        for src, node, service, by in BY_NODE_PORT.values()
    ]
    expected += [
        (probe, Action.ALLOW if by else Action.DENY)
        for probe, by in (*by_cluster_ip, *by_node_port)
        if services or not by
    ]
    with held(cluster.live.prober, expected, BEAT_S):
        yield


def test_a_kube_proxy_that_comes_after_felix_and_goes_changes_no_verdict(
    cluster: ProxiedCluster,
) -> None:
    for node in NODES:
        cluster.proxies.clean(node.name)
    before = cluster.rules()
    with watching(cluster, services=False):
        for node in NODES:
            cluster.proxies.start(node.name)
        assert wait_for_services(cluster) < SERVICE_S
        for node in NODES:
            cluster.proxies.clean(node.name)
    assert cluster.rules() == before


def test_a_kube_proxy_that_dies_and_returns_beside_felix_loses_no_connection(
    proxied: ProxiedCluster,
) -> None:
    before, drift = proxied.rules(), proxied.drift()
    with watching(proxied, services=True):
        for node in NODES:
            proxied.proxies.end(node.name, signal.SIGKILL)
        time.sleep(0.3)
        for node in NODES:
            proxied.proxies.start(node.name)
        time.sleep(2.5 * SYNC_S)
    assert proxied.rules() == before
    assert proxied.drift() == drift, "neither mends what the other does"


def test_felix_that_dies_and_returns_beside_a_kube_proxy_loses_no_connection(
    proxied: ProxiedCluster,
) -> None:
    before = proxied.rules()
    with watching(proxied, services=True):
        for node in NODES:
            proxied.live.agents.kill(node.name)
        time.sleep(0.3)
        for node in NODES:
            proxied.live.agents.start(node.name)
        proxied.live.wait_in_force()
        time.sleep(0.5)
    assert proxied.rules() == before


def test_felix_that_comes_after_a_kube_proxy_finds_its_place(proxied: ProxiedCluster) -> None:
    before = proxied.rules()
    proxied.live.agents.stop(NODE_2)
    proxied.on_node(NODE_2, sys.executable, "-m", "calico_k8s", "felix", "clean")
    assert proxied.answered_by([proxied.via_cluster_ip("ops/near", "ops/sealed", 4)]) != [""]
    proxied.live.agents.start(NODE_2)
    proxied.live.wait_in_force()
    assert proxied.rules()[NODE_1] == before[NODE_1]
    for program in ("iptables", "ip6tables") if proxied.backend != "nftables" else ():
        command = (f"{program}-{proxied.proxies.kind.flavour}", "-t")
        forward = proxied.on_node(NODE_2, *command, "mangle", "-S", "FORWARD").splitlines()
        assert forward[1] == "-A FORWARD -j cali-FORWARD"
        forward = proxied.on_node(NODE_2, *command, "filter", "-S", "FORWARD").splitlines()
        assert forward[-1] == "-A FORWARD -j cali-accept"
    test_services_lead_where_policy_lets(proxied)


def test_a_service_without_pods_refuses_at_once(proxied: ProxiedCluster) -> None:
    """By UDP: TCP hears of a refusal only when its call is over."""
    probes = [
        probe
        for version in (4, 6)
        for probe in (
            proxied.via_cluster_ip("ops/near", "ops/none", version),
            proxied.via_cluster_ip("shop/plain", "ops/none", version),
            proxied.via_cluster_ip("node-1", "ops/none", version),
            proxied.via_node("outside", "node-1", "ops/none", version),
        )
    ]
    outcomes = [answer.outcome for answer in proxied.live.prober.probe(probes)]
    assert outcomes == [Outcome.REFUSED] * len(probes)


def test_a_client_stays_with_its_pod_whatever_felix_does(proxied: ProxiedCluster) -> None:
    probes = [
        proxied.via_cluster_ip(src, "ops/both", version)
        for src in ("ops/near", "ops/far", "shop/plain")
        for version in (4, 6)
    ]
    before = proxied.answered_by(probes)
    assert all(before)
    proxied.live.agents.kill(NODE_1)
    assert proxied.answered_by(probes * 5) == before * 5
    proxied.live.agents.start(NODE_1)
    proxied.live.wait_in_force()
    assert proxied.answered_by(probes * 5) == before * 5


def test_live_connections_through_services_end_when_policy_denies_them_and_only_those(
    proxied: ProxiedCluster,
) -> None:
    """Both nodes judge every live flow each second besides."""
    kept = [
        proxied.via_cluster_ip("ops/sealed", "ops/sealed", 4),
        proxied.via_cluster_ip("shop/plain", "shop/web", 4),
        proxied.via_node("outside", "node-2", "ops/client-local", 4),
        proxied.via_node("outside", "node-2", "ops/client", 6),
        proxied.via_node("outside", "node-1", "shop/shown", 4),
    ]
    ended = [
        proxied.via_cluster_ip("ops/near", "ops/noted", 4),
        proxied.via_cluster_ip("node-1", "ops/nodes", 6),
        proxied.via_node("outside", "node-1", "ops/nodes", 4),
    ]
    prober, api = proxied.live.prober, proxied.live.objects
    streams = [prober.stream(each, StreamKind.CLIENT, BEAT_S) for each in (*kept, *ended)]
    policies = {name: PODS[name].policy for name in ("ops/noted", "ops/nodes")}
    try:
        time.sleep(0.3)
        for name in policies:
            api.change(pod_path(*name.split("/")), annotations={"policy": "deny"})
        changed_s = time.monotonic()
        for stream in streams[len(kept) :]:
            stream.wait_for(Action.DENY, since_s=changed_s, within_s=CHANGE_S)
        now_s = time.monotonic()
        time.sleep(1.5 * RESYNC_S + SETTLE_S)
        late = {stream.probe: {b.verdict for b in stream.beats(now_s)} for stream in streams}
    finally:
        for stream in streams:
            prober.stop(stream)
        for name, policy in policies.items():
            api.change(pod_path(*name.split("/")), annotations={"policy": policy})
    for stream in streams[: len(kept)]:
        assert {beat.verdict for beat in stream.beats()} == {Action.ALLOW}, stream.probe
    assert [late[probe] for probe in ended] == [{Action.DENY}] * len(ended)
    wait_for(lambda: all(proxied.answered_by(ended)))


HOST_NODE_PORT, POD_PORT = SERVICES["shop/shown"].node_port, SERVICES["shop/shown"].target
ORIGIN = Origin("GlobalNetworkPolicy", name="hosts")
OPEN = ProfileId("profile.hosts")


def of_hosts(hook: HostHook, port: int) -> dict[Key, Value]:
    """A policy of every host endpoint: everybody but for one port of TCP."""
    identity = PolicyId("GlobalNetworkPolicy", "", "hosts")
    dst = EntityMatch(ports=(PortRange(port, port),))
    denied = Rule(Action.DENY, ORIGIN, protocol=TCP, dst=dst)
    selector, types = SelectorText('role == "host"'), (Direction.INGRESS,)
    ingress = (denied, Rule(Action.PASS, ORIGIN))
    policy = Policy(identity, DEFAULT_TIER, selector, types, None, ingress, host_hook=hook)
    return {PolicyKey(DEFAULT_TIER, identity): policy}


def test_node_ports_are_judged_before_dnat_and_what_they_lead_to_after(
    proxied: ProxiedCluster,
) -> None:
    """At the uplink of the pod's node: a port that is meant there, or the pod's that it becomes."""
    store = proxied.live.store.store
    everything = (Rule(Action.ALLOW, ORIGIN),)
    uplink = HostEndpoint(NODE_2, "uplink", "eth0", (), {"role": "host"}, profiles=(OPEN,))
    stored: dict[Key, Value] = {
        ProfileRulesKey(OPEN): Rules(everything, everything),
        HostEndpointKey(NODE_2, "uplink"): uplink,
    }
    ways = [proxied.via_node("outside", "node-2", "shop/shown", version) for version in (4, 6)] + [
        proxied.via_node("outside", "node-1", "shop/shown", 4),
        proxied.via_cluster_ip("ops/near", "shop/shown", 4),
        proxied.via_cluster_ip("ops/far", "shop/shown", 4),
        proxied.via_node("outside", "node-2", "ops/client-local", 4),
    ]
    shown, client = "shop/shown", "ops/client"
    phases: list[tuple[dict[Key, Value], list[str]]] = [
        ({}, [shown, shown, shown, shown, shown, client]),
        (of_hosts(HostHook.PRE_DNAT, HOST_NODE_PORT), ["", "", shown, shown, shown, client]),
        (of_hosts(HostHook.FORWARDED, POD_PORT), ["", "", "", "", shown, client]),
        (of_hosts(HostHook.FORWARDED, HOST_NODE_PORT), [shown] * 5 + [client]),
    ]
    try:
        for policy, wanted in phases:
            stored |= policy
            store.transact([Put(key_path(k), codec.encode(v)) for k, v in stored.items()])
            wait_for(
                lambda wanted=wanted: proxied.answered_by(ways) == wanted,  # type: ignore[misc]
                lambda: f"{proxied.answered_by(ways)}\n{proxied.rules()[NODE_2]}",
            )
    finally:
        store.transact([Delete(key_path(key)) for key in stored])
        proxied.live.wait_in_force()
    wait_for(lambda: "cali-host-in" not in proxied.rules()[NODE_2])


SYN_FIN = 0x03
"""Flags that conntrack calls invalid together."""


def test_what_a_kube_proxy_drops_as_invalid_is_left_to_it(proxied: ProxiedCluster) -> None:
    """In iptables mode it does; otherwise, and by default, Felix drops such packets itself."""
    store, path = proxied.live.store.store, key_path(SettingKey(None, "invalid-action"))
    assert not arrives(proxied, "ops/near", "ops/far", SYN_FIN)
    store.transact([Put(path, codec.encode(Setting("allow")))])
    try:
        wait_for(lambda: "INVALID,RELATED" not in proxied.rules()[NODE_2])
        wait_for(lambda: "INVALID,RELATED" not in proxied.rules()[NODE_1])
        is_dropped = proxied.proxies.kind.mode == "iptables"
        assert arrives(proxied, "ops/near", "ops/far", SYN_FIN) is not is_dropped
    finally:
        store.transact([Delete(path)])
        proxied.live.wait_in_force()


def arrives(cluster: ProxiedCluster, src: str, dst: str, flags: int) -> bool:
    """Whether a TCP packet of these flags gets from a pod to another."""
    pods, to = cluster.live.network.pods, ADDRESSES[dst][1]
    raw = (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with entered(pods[PodId(dst)].namespace):
        hearing = socket.socket(*raw)
    with entered(pods[PodId(src)].namespace):
        speaking = socket.socket(*raw)
    with closing(hearing), closing(speaking):
        # The kernel writes the checksum, at byte 16.
        speaking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 16)
        sequence = time.monotonic_ns() & 0xFFFFFFFF
        packet = struct.pack(">HHIIBBHHH", 40000, 80, sequence, 0, 5 << 4, flags, 1024, 0, 0)
        speaking.sendto(packet, (to, 0))
        hearing.settimeout(0.3)
        deadline_s = time.monotonic() + 0.3
        while time.monotonic() < deadline_s:
            try:
                if struct.pack(">I", sequence) in hearing.recv(65536):
                    return True
            except TimeoutError:
                break
    return False


def test_only_the_pods_bridge_shows_its_packets_to_iptables(proxied: ProxiedCluster) -> None:
    if proxied.network is not PodNetwork.BRIDGE:
        return
    told = proxied.on_node(NODE_1, "ip", "-d", "link", "show", "cbr0")
    assert "nf_call_iptables 1 nf_call_ip6tables 1" in told
    for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
        assert proxied.on_node(NODE_1, "cat", f"/proc/sys/net/bridge/{name}").strip() == "0"
