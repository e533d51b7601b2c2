"""Where every link, address and route of the virtual cluster goes.  Pure.

In: a plan's nodes and pods, and descriptors of namespaces.  Out: netlink requests and settings for
each namespace.

::

                                  fabric                          ctl
                 n0 169.254.0.1, fe80::1    n1 ...       m0 198.18.0.1   m1 ...
                 |                          |            |               |
      node A     eth0 node address          |            mgmt 198.18.1.1 |
                 vethXXXXXXXX (ptp: proxy ARP, fe80::ecee:eeff:feee:eeee)|
                 cbr0 (bridge: the first address of its pods' net)       |
                 |                          node B eth0                  mgmt
      pod        eth0

The fabric routes as a cloud does: each node's address and pod net to its link, and nothing else.
Nothing is forwarded over the management links, and no packet to elsewhere takes their addresses.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from calico_k8s.errors import InputError
from calico_k8s.lab import links
from calico_k8s.lab.plan import (
    LabNode,
    LabPod,
    PodId,
    PodNetwork,
    bridge_gateway,
    is_inside,
    of_version,
    versions,
)
from calico_k8s.model.addresses import Address, Net, Version, address_net, address_version
from calico_k8s.model.names import NodeName
from calico_k8s.netlink.wire import Request

CONTROL_ADDRESS = Address("198.18.0.1")
"""Of the control plane, on every management link.  Source: RFC 2544, kept for tests of networks."""

UPLINK_INDEX, MANAGEMENT_INDEX, BRIDGE_INDEX, FIRST_POD_INDEX = 2, 3, 4, 5
"""Indexes in a node; the uplink is the lowest, so masquerading finds its address first."""
POD_INDEX = 2
BRIDGE_NAME = "cbr0"

FABRIC_GATEWAYS: Mapping[Version, Address] = {4: Address("169.254.0.1"), 6: Address("fe80::1")}
"""The next hop of nodes."""
PTP_GATEWAYS: Mapping[Version, Address] = {
    4: Address("169.254.1.1"),
    6: Address("fe80::ecee:eeff:feee:eeee"),  # link-local address of the MAC below
}
"""The next hop of pods on routed veths, as with Calico."""
BRIDGE_GATEWAYS: Mapping[Version, Address] = {4: Address("169.254.1.1"), 6: Address("fe80::1")}
"""The next hop of pods on a bridge whose address is in none of the node's nets."""
UPLINK_LINK_LOCAL = Address("fe80::2")
"""Of a node towards the fabric.  Link-local addresses that neighbour discovery needs are given,
not left to the kernel: its own come with the carrier, too late for the first packet, which then
waits a second."""
PTP_MAC = b"\xee" * 6

NEIGHBOURS_MAX = 600
"""Pairs of pods on bridges that may learn each other.  The kernel keeps 1,024 neighbours
(``gc_thresh3``) over all namespaces together; a setting of the machine, so not ours to raise."""

QUIET = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/ping_group_range": "0 0",
}
"""Every namespace: no kernel check drops a spoofed source before Felix sees it, and the kernel
keeps each echo apart (a socket an echo) for root's group."""
QUIET_6 = {
    f"net/ipv6/conf/{scope}/{name}": "0"
    for name in ("disable_ipv6", "accept_dad", "accept_ra", "router_solicitations")
    for scope in ("all", "default")
}
ROUTER = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/icmp_ratelimit": "0",
}
ROUTER_6 = {"net/ipv6/conf/all/forwarding": "1", "net/ipv6/icmp/ratelimit": "0"}
BRIDGED = {
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
}
"""Off for the node: the pod bridge alone has it, by its own attribute."""
PROXY_ARP = {"net/ipv4/conf/default/proxy_arp": "1"}


class NodeSlot(NamedTuple):
    """A node and its place among the nodes of the cluster, counted from 0."""

    node: LabNode
    number: int

    @property
    def management_address(self) -> Address:
        """Its address on its management link."""
        return Address(f"198.18.{1 + self.number // 250}.{1 + self.number % 250}")


def host_interface(pod: PodId) -> str:
    """The name of a pod's interface on its node, as CNI plugins name theirs."""
    return "veth" + sha256(pod.encode()).hexdigest()[:8]


def host_settings(interface: str) -> dict[str, str]:
    """What a routed veth needs: an answer by proxy comes at once, not after up to 0.8 s."""
    return {f"net/ipv4/neigh/{interface}/proxy_delay": "0"}


def mac_of(name: PodId | NodeName) -> bytes:
    """The hardware address of a pod or of a node's bridge: its own, the same in every run."""
    return b"\x02" + sha256(name.encode()).digest()[:5]


def fabric_links(slots: Sequence[NodeSlot], descriptors: Sequence[int]) -> Iterator[Request]:
    """In the fabric: the link and the routes to every node; ``descriptors`` are the nodes'."""
    yield links.set_up(links.LOOPBACK_INDEX)
    for (node, number), descriptor in zip(slots, descriptors, strict=True):
        index = 2 + number
        near = links.Side(f"n{number}", index)
        yield links.new_veth(near, links.Side("eth0", UPLINK_INDEX), descriptor)
        yield links.set_up(index)
        for version in sorted(versions(node.addresses)):
            yield _link_address(index, FABRIC_GATEWAYS[version])
        for address in node.addresses:
            yield links.add_route(address_net(address), index)
        for net in node.pod_cidrs:
            yield from _fabric_route(node, number, net)


def fabric_pod_routes(slot: NodeSlot, pod: LabPod) -> Iterator[Request]:
    """In the fabric: routes to a pod's addresses that its node's nets do not cover."""
    for address in _uncovered(slot.node, pod):
        yield from _fabric_route(slot.node, slot.number, address_net(address))


def drop_fabric_pod_routes(slot: NodeSlot, pod: LabPod) -> Iterator[Request]:
    """The reverse of :func:`fabric_pod_routes`."""
    for address in _uncovered(slot.node, pod):
        yield links.delete_route(address_net(address), 2 + slot.number)


def control_links(slots: Sequence[NodeSlot], descriptors: Sequence[int]) -> Iterator[Request]:
    """In the control plane: a management link to every node."""
    yield links.set_up(links.LOOPBACK_INDEX)
    for slot, descriptor in zip(slots, descriptors, strict=True):
        index = 2 + slot.number
        near, far = links.Side(f"m{slot.number}", index), links.Side("mgmt", MANAGEMENT_INDEX)
        yield links.new_veth(near, far, descriptor)
        yield links.set_up(index)
        yield links.add_address(index, CONTROL_ADDRESS, 32, is_local_only=True)
        yield links.add_route(address_net(slot.management_address), index)


def node_links(slot: NodeSlot) -> Iterator[Request]:
    """In a node: its addresses and its routes to the fabric and to the control plane."""
    for index in (links.LOOPBACK_INDEX, UPLINK_INDEX, MANAGEMENT_INDEX):
        yield links.set_up(index)
    if 6 in versions(slot.node.addresses):
        yield _link_address(UPLINK_INDEX, UPLINK_LINK_LOCAL)
    for address in slot.node.addresses:
        yield links.add_address(UPLINK_INDEX, address, 128 if ":" in address else 32)
        gateway = FABRIC_GATEWAYS[address_version(address)]
        yield links.add_route(links.default_net(address), UPLINK_INDEX, gateway)
    yield links.add_address(MANAGEMENT_INDEX, slot.management_address, 32, is_local_only=True)
    yield links.add_route(address_net(CONTROL_ADDRESS), MANAGEMENT_INDEX)


class Attachment:
    """How the pods of one node are attached: its bridge, or its routed veths.

    ``taken`` are addresses that the bridge must leave to pods.
    """

    def __init__(self, node: LabNode, network: PodNetwork, taken: Iterable[Address]) -> None:
        self._node = node
        self._network = network
        pods = tuple(taken)
        is_bridge = network is PodNetwork.BRIDGE
        self._gateways = {
            net: bridge_gateway(net, pods) for net in (node.pod_cidrs if is_bridge else ())
        }

    def node_links(self) -> Iterator[Request]:
        """In the node, before any pod."""
        if self._network is PodNetwork.PTP:
            for net in self._node.pod_cidrs:
                yield links.add_blackhole(net)
            return
        # A bridge without an address of its own changes it with its ports, and pods lose it.
        mac = mac_of(self._node.name)
        yield links.new_bridge(links.Side(BRIDGE_NAME, BRIDGE_INDEX, mac))
        yield links.set_up(BRIDGE_INDEX)
        for version in sorted(versions(self._node.addresses)):
            yield _link_address(BRIDGE_INDEX, BRIDGE_GATEWAYS[version])
        for net, address in self._gateways.items():
            yield links.add_address(BRIDGE_INDEX, address, _length(net))

    def attach(self, pod: LabPod, index: int, descriptor: int) -> Iterator[Request]:
        """In the node: a pod's interface and routes; ``descriptor`` is the pod's namespace."""
        far = links.Side("eth0", POD_INDEX, mac_of(pod.id))
        name = host_interface(pod.id)
        if self._network is PodNetwork.PTP:
            yield links.new_veth(links.Side(name, index, PTP_MAC), far, descriptor)
            yield links.set_up(index)
            if 6 in versions(pod.addresses):
                yield _link_address(index, PTP_GATEWAYS[6])
            for address in pod.addresses:
                yield links.add_route(address_net(address), index)
            return
        yield links.new_veth(links.Side(name, index), far, descriptor, BRIDGE_INDEX)
        yield links.set_up(index)
        yield links.set_hairpin(index)
        for address in _uncovered(self._node, pod):
            yield links.add_route(address_net(address), BRIDGE_INDEX)

    def detach(self, pod: LabPod, index: int) -> Iterator[Request]:
        """The reverse of :meth:`attach`."""
        if self._network is PodNetwork.BRIDGE:
            for address in _uncovered(self._node, pod):
                yield links.delete_route(address_net(address), BRIDGE_INDEX)
        yield links.delete_link(index)

    def check(self, pod: LabPod) -> None:
        """Makes sure that a pod has an address of its own.

        Raises:
            InputError: its address is the bridge's.
        """
        for address in pod.addresses:
            if address == self._way_out(address)[1]:
                raise InputError(f"address {address} of pod {pod.id} is its node's bridge")

    def pod_links(self, pod: LabPod) -> Iterator[Request]:
        """In the pod: its addresses and its way out."""
        yield links.set_up(links.LOOPBACK_INDEX)
        yield links.set_up(POD_INDEX)
        for address in pod.addresses:
            length, gateway = self._way_out(address)
            yield links.add_address(POD_INDEX, address, length)
            yield links.add_route(links.default_net(address), POD_INDEX, gateway)

    def _way_out(self, address: Address) -> tuple[int, Address]:
        """The length of the pod's own net, and its gateway."""
        for net, gateway in self._gateways.items():
            if is_inside(address, [net]):
                return _length(net), gateway
        is_ptp = self._network is PodNetwork.PTP
        gateways = PTP_GATEWAYS if is_ptp else BRIDGE_GATEWAYS
        return (128 if ":" in address else 32), gateways[address_version(address)]


def bridge_neighbours(pod: LabPod, others: Iterable[LabPod]) -> Iterator[Request]:
    """In a pod on a bridge: the pods beside it, known without asking."""
    for other in others:
        for address in other.addresses:
            if other.id != pod.id and address_version(address) in versions(pod.addresses):
                yield links.add_neighbour(POD_INDEX, address, mac_of(other.id))


def _link_address(index: int, address: Address) -> Request:
    return links.add_address(index, address, 64 if ":" in address else 32, is_local_only=True)


def _fabric_route(node: LabNode, number: int, net: Net) -> Iterator[Request]:
    gateway = of_version(node.addresses, address_version(net))
    if gateway:
        yield links.add_route(net, 2 + number, gateway)


def _uncovered(node: LabNode, pod: LabPod) -> list[Address]:
    return [address for address in pod.addresses if not is_inside(address, node.pod_cidrs)]


def _length(net: Net) -> int:
    return int(net.partition("/")[2])
