"""Plans of virtual clusters for tests: dual stack, addresses that say node and pod."""

from calico_k8s.lab.plan import (
    Backend,
    LabNode,
    LabPlan,
    LabPod,
    LabService,
    LabServicePort,
    ListenPort,
    PodId,
)
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import PROTOCOL_NUMBERS

TCP, UDP, SCTP = (PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp"))

TCP_PORT, UDP_PORT, SCTP_PORT = ListenPort(TCP, 80), ListenPort(UDP, 53), ListenPort(SCTP, 9899)
SERVICE_IPS = (Address("10.96.0.10"), Address("fd00:96::10"))
EMPTY_SERVICE_IPS = (Address("10.96.0.11"), Address("fd00:96::11"))


def node(number: int) -> LabNode:
    return LabNode(
        name=NodeName(f"node{number}"),
        addresses=(Address(f"192.168.9.{number + 1}"), Address(f"fd00:9::{number + 1}")),
        pod_cidrs=(Net(f"10.244.{number}.0/24"), Net(f"fd00:244:{number}::/64")),
    )


def pod(number: int, on: int) -> LabPod:
    """Pod `default/p<number>` on node `on`."""
    last = number + 10
    return LabPod(
        id=PodId(f"default/p{number}"),
        node=NodeName(f"node{on}"),
        addresses=(Address(f"10.244.{on}.{last}"), Address(f"fd00:244:{on}::{last}")),
    )


def plan(pods: int, nodes: int = 2, *, has_services: bool = False) -> LabPlan:
    """So many pods, one node after another; with services, one leads to every pod."""
    made = tuple(pod(number, number % nodes) for number in range(pods))
    ports = (TCP_PORT, UDP_PORT, SCTP_PORT)
    services = (
        service(SERVICE_IPS, ports, made),
        service(EMPTY_SERVICE_IPS, ports, ()),
    )
    return LabPlan(
        nodes=tuple(node(number) for number in range(nodes)),
        pods=made,
        services=services if has_services else (),
        listen=ports,
    )


def service(
    ips: tuple[Address, ...], ports: tuple[ListenPort, ...], pods: tuple[LabPod, ...]
) -> LabService:
    """A service whose ports lead to the same ports of all these pods."""
    return LabService(
        cluster_ips=ips,
        ports=tuple(
            LabServicePort(
                protocol=listen.protocol,
                port=listen.port,
                backends=tuple(
                    Backend(address, listen.port) for each in pods for address in each.addresses
                ),
            )
            for listen in ports
        ),
    )
