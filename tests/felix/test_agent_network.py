"""Pods that are attached as no other is: what the agent says of them, and what is true."""

import socket
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.felix.kernel import AnyBackend, Native
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import EndpointKey
from calico_k8s.model.names import EndpointId, NamespaceName, ProfileId
from calico_k8s.model.resources import WorkloadEndpoint
from tests.felix.nodes import (
    NODE,
    PORT,
    READY,
    allow,
    connecting,
    connects,
    machine_up,
    reaches,
    rules,
    until,
    walled,
)
from tests.namespaces import Namespace, ip, new_namespace, run
from tests.needs import require_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.paced]

POD = Address("192.0.2.30")
MACVLAN = EndpointId(NODE, NamespaceName("ns"), "macvlan")


def test_a_pod_that_goes_round_the_node_is_not_enforceable_and_that_is_said(
    namespace: Namespace, tmp_path: Path
) -> None:
    """A macvlan of the uplink: the network's machines reach it, and the node's stack sees nothing."""
    with (
        machine_up(namespace, tmp_path, Backend.NFT) as machine,
        new_namespace() as lan,
        new_namespace() as pod,
    ):
        ip(f"link add eth0 type veth peer name eth0 netns {lan.path}")
        ip("addr add 192.0.2.1/24 dev eth0")
        ip("link set eth0 up")
        with lan:
            ip("addr add 192.0.2.2/24 dev eth0")
            ip("link set eth0 up")
            run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
            ip("route add 10.1.0.0/24 via 192.0.2.1")
        # By the network's router, as to any machine: a macvlan's parent cannot reach it.
        ip(f"route add {POD}/32 via 192.0.2.2")
        require_kernel("macvlan", found=attach(pod))
        beside = machine.pod("beside", 10)
        machine.start()
        endpoint = WorkloadEndpoint(MACVLAN, (POD,), profiles=(ProfileId("open"),))
        machine.settle(
            READY
            | rules("open", allow())
            | beside.stored("open")
            | {EndpointKey(MACVLAN): endpoint}
        )
        told = machine.status_of(MACVLAN)
        assert told is not None
        assert told.state == "no-interface"
        assert f"no interface of this node leads to {POD}: not enforceable" in told.reason
        with pod:
            server = socket.create_server((POD, PORT))
        with closing(server):
            assert until(lambda: connects(lan, POD)), "what goes round the node is not seen"
            assert not connects(beside.namespace, POD), "what passes it is denied"
            machine.settle({EndpointKey(MACVLAN): None})
            assert until(lambda: connects(beside.namespace, POD)), "by that endpoint alone"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Backend.LEGACY, Backend.NFT),
        (Backend.NFT, Backend.LEGACY),
        (Backend.LEGACY, Native.NFTABLES),
        (Native.NFTABLES, Backend.NFT),
    ],
)
def test_an_agent_that_changes_its_backend_leaves_nothing_in_the_other_and_opens_nothing(
    namespace: Namespace, tmp_path: Path, first: AnyBackend, then: AnyBackend
) -> None:
    with machine_up(namespace, tmp_path, first) as machine:
        client, server, other = (machine.pod(f"pod-{n}", n) for n in (10, 11, 12))
        machine.start()
        machine.settle(walled(client, server, other))
        machine.stop()
        tool = machine.iptables
        run(f"iptables-{tool}", "-A", "INPUT", "-s", "192.0.2.1", "-j", "ACCEPT")
        machine.backend = then
        with connecting(other, server) as opened:
            agent = machine.start()
            assert until(lambda: agent.is_enforcing)
            assert until(lambda: not holds_ours(first))
        assert not any(opened)
        assert reaches(client, server)
        assert "-s 192.0.2.1/32" in save(tool, 4), "what is not ours stays"
        assert bool(run("ipset", "save")) != (then is Native.NFTABLES)


def holds_ours(backend: AnyBackend) -> bool:
    """Whether anything of ours is there."""
    if backend is Native.NFTABLES:
        return "table ip calico_k8s" in run("nft", "list", "tables")
    return "cali" in save(Backend(backend), 4) + save(Backend(backend), 6)


def attach(pod: Namespace) -> bool:
    """Whether the kernel can: the pod gets its interface and address."""
    try:
        ip("link add mac0 link eth0 type macvlan mode bridge")
    except AssertionError:
        return False
    ip(f"link set mac0 netns {pod.path}")
    with pod:
        ip(f"addr add {POD}/24 dev mac0")
        ip("link set mac0 up")
        ip("route add default via 192.0.2.2")
    return True
