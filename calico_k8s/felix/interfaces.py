"""Which interface of this node each local pod is behind, and which interfaces are workloads'.

In: links, routes, neighbours and bridge tables, as the kernel has them; the addresses of the
node's endpoints.  Out: one :class:`Interfaces` value.  Pure but for :class:`InterfaceWatcher`,
which reads the kernel and tells when to read it again.

=====================  ===================================  =====================================
a pod is attached by   found by                             iptables sees it behind
=====================  ===================================  =====================================
a veth pair            its /32 or /128 route, no gateway    the veth
a port of a bridge     the bridge's net; the neighbour      the bridge; the port only in the
                       entry's MAC behind a port            bridge's own table (``felix.bridge``)
something else         nothing                              nothing: 'not enforceable'
=====================  ===================================  =====================================

An address on a bridge belongs to the port it was first seen behind, until that port, the
endpoint, or the address's place on the bridge is gone: answering for it from another port changes nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from calico_k8s.model.addresses import Address, Net, net_contains, net_range
from calico_k8s.netlink.routing import (
    BridgePort,
    Change,
    Link,
    LinkAddress,
    Neighbour,
    Route,
    RoutingEvents,
    RoutingSocket,
)

PORT_KINDS = frozenset({"veth", "tun", "macvtap"})
"""Kinds of bridge ports that lead to a pod; others (a NIC, VXLAN, a VLAN) lead away from the node."""

DEFAULT_NETS = frozenset({Net("0.0.0.0/0"), Net("::/0")})


class HostState(msgspec.Struct, frozen=True):
    """What the kernel knows of this node's network, at one moment."""

    links: Sequence[Link]
    addresses: Sequence[LinkAddress] = ()
    routes: Sequence[Route] = ()
    neighbours: Sequence[Neighbour] = ()
    bridge_ports: Sequence[BridgePort] = ()


class Wanted(msgspec.Struct, frozen=True):
    """What is asked: the node's endpoints, and what is known of its interfaces beforehand."""

    endpoints: frozenset[Address] = frozenset()
    patterns: tuple[str, ...] = ()
    """Globs (``cali*``, ``cni0``) of the interfaces that are workloads' (``--workload-interfaces``),
    as iptables sees them: veths of routed pods, bridges of others.  Where there are any, no other
    interface is a workload's.  Empty: what is found."""
    pod_nets: tuple[Net, ...] = ()
    """This node's own pod nets: a bridge that has one is a pods' bridge before its first pod."""


class Interfaces(msgspec.Struct, frozen=True):
    """The answer; names are sorted wherever they are printed."""

    by_address: Mapping[Address, str] = {}
    """The interface that iptables sees, of each endpoint that was found."""
    workload: frozenset[str] = frozenset()
    """Every interface that leads to pods, known or not: what comes from it is checked."""
    ports_by_address: Mapping[Address, str] = {}
    """The bridge port of each endpoint on a bridge whose place is settled."""
    unsettled: Mapping[Address, str] = {}
    """Endpoints on a bridge that nobody has seen speak: ask them (:meth:`InterfaceWatcher.solicit`)."""
    workload_ports: frozenset[str] = frozenset()
    """Every port of the pods' bridges that leads to a pod."""
    bridges: frozenset[str] = frozenset()
    own_addresses: frozenset[Address] = frozenset()
    """The node's addresses on those bridges: no pod may speak for them."""
    pod_nets: tuple[Net, ...] = ()
    """Those of the nets asked for in which there is nobody but this node's pods."""
    overlaps: Mapping[Net, Net] = {}
    """Pod nets that share addresses with the node's own subnet, with it: they are not used."""
    node_addresses: Mapping[Address, str] = {}
    """Every address of the node itself, and the interface that has it."""
    names: frozenset[str] = frozenset()
    """Every interface of the node."""
    missing: frozenset[Address] = frozenset()
    """Endpoints that no interface of the node leads to: not enforceable."""


NO_INTERFACES = Interfaces()


def find_interfaces(
    state: HostState, wanted: Wanted, before: Interfaces = NO_INTERFACES
) -> Interfaces:
    """Where each endpoint is.  Cost: O(routes + neighbours + endpoints).

    ``before`` is the last answer: what keeps an address at its first port.
    """
    links = {link.number: link for link in state.links}
    uplinks = {route.link for route in state.routes if route.has_gateway}
    routed = _routed_links(state.routes, links, uplinks, wanted.patterns)
    bridged_routes = _bridged_routes(state.routes, links, uplinks, wanted.patterns)
    by_address: dict[Address, str] = {}
    bridge_of: dict[Address, Link] = {}
    for address in wanted.endpoints:
        if address in routed:
            by_address[address] = routed[address].name
        elif (bridge := _bridge_of(address, bridged_routes)) is not None:
            by_address[address] = bridge.name
            bridge_of[address] = bridge
    bridges = {bridge.number: bridge for bridge in bridge_of.values()}
    overlaps = _overlaps(state.routes, uplinks, wanted.pod_nets)
    pod_nets = tuple(net for net in wanted.pod_nets if net not in overlaps)
    bridges |= _expected_bridges(bridged_routes, wanted.patterns, pod_nets)
    settled = _settle(bridge_of, state, links, before.ports_by_address)
    ports = [link for link in state.links if link.master in bridges and link.kind in PORT_KINDS]
    return Interfaces(
        by_address=by_address,
        workload=frozenset(link.name for link in (*routed.values(), *bridges.values())),
        ports_by_address=settled,
        unsettled={a: bridge.name for a, bridge in bridge_of.items() if a not in settled},
        workload_ports=frozenset(link.name for link in ports),
        bridges=frozenset(link.name for link in bridges.values()),
        pod_nets=pod_nets,
        overlaps=overlaps,
        own_addresses=frozenset(own.address for own in state.addresses if own.link in bridges),
        node_addresses={
            own.address: links[own.link].name for own in state.addresses if own.link in links
        },
        names=frozenset(link.name for link in state.links),
        missing=wanted.endpoints - by_address.keys(),
    )


def is_workload_name(name: str, patterns: Iterable[str]) -> bool:
    """Whether the patterns allow the interface; none allow every one."""
    patterns = tuple(patterns)
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _routed_links(
    routes: Iterable[Route],
    links: Mapping[int, Link],
    uplinks: Collection[int],
    patterns: tuple[str, ...],
) -> dict[Address, Link]:
    """The interface of each address with a host route of its own.

    Without patterns only veths count: a host route over a NIC or a tunnel leads to another machine,
    and so does one over an interface that has a gateway behind it.
    """
    found: dict[Address, Link] = {}
    for route in routes:
        link = links.get(route.link)
        if link is None or route.has_gateway or route.link in uplinks or link.kind == "bridge":
            continue
        if not (_is_single(route.net) and is_workload_name(link.name, patterns)):
            continue
        if patterns or link.kind == "veth":
            found[Address(route.net.partition("/")[0])] = link
    return found


def _bridged_routes(
    routes: Iterable[Route],
    links: Mapping[int, Link],
    uplinks: Collection[int],
    patterns: tuple[str, ...],
) -> list[tuple[Net, Link]]:
    """On-link nets of bridges, the longest first."""
    found = [
        (route.net, links[route.link])
        for route in routes
        if route.link in links
        and links[route.link].kind == "bridge"
        and not route.has_gateway
        and route.link not in uplinks
        and is_workload_name(links[route.link].name, patterns)
    ]
    return sorted(found, key=lambda pair: -int(pair[0].partition("/")[2]))


def _bridge_of(address: Address, bridged: Sequence[tuple[Net, Link]]) -> Link | None:
    for net, bridge in bridged:
        if net_contains(net, address):
            return bridge
    return None


def _overlaps(
    routes: Iterable[Route], uplinks: Collection[int], pod_nets: Iterable[Net]
) -> dict[Net, Net]:
    """The pod nets that overlap what is on-link where the node's way out is.

    Clouds that give pods addresses of the machines' own subnet have them: who is in it may be a
    pod or another machine.
    """
    on_link = (route.net for route in routes if route.link in uplinks and not route.has_gateway)
    subnets = [net for net in on_link if not (_is_single(net) or net in DEFAULT_NETS)]
    return {
        net: subnet
        for net in pod_nets
        for subnet in subnets
        if _is_inside(net, subnet) or _is_inside(subnet, net)
    }


def _expected_bridges(
    bridged: Sequence[tuple[Net, Link]], patterns: tuple[str, ...], pod_nets: Sequence[Net]
) -> dict[int, Link]:
    """Bridges that are pods' without a known pod: named by a pattern, or with a pod net."""
    return {
        bridge.number: bridge
        for net, bridge in bridged
        if patterns or any(_is_inside(net, pod_net) for pod_net in pod_nets)
    }


def _is_single(net: Net) -> bool:
    bounds = net_range(net)
    return bounds.first == bounds.last


def _is_inside(net: Net, outer: Net) -> bool:
    inner_range, outer_range = net_range(net), net_range(outer)
    return (
        inner_range.version == outer_range.version
        and outer_range.first <= inner_range.first
        and inner_range.last <= outer_range.last
    )


def _settle(
    bridge_of: Mapping[Address, Link],
    state: HostState,
    links: Mapping[int, Link],
    before: Mapping[Address, str],
) -> dict[Address, str]:
    """The port of each address on a bridge: its earlier one, else where its MAC was learned."""
    ports = {(link.master, link.name): link for link in state.links if link.kind in PORT_KINDS}
    learned = {
        (links[entry.port].master, entry.mac): links[entry.port].name
        for entry in state.bridge_ports
        if entry.port in links and links[entry.port].kind in PORT_KINDS
    }
    macs = {
        (neighbour.address, neighbour.link): neighbour.mac
        for neighbour in state.neighbours
        if not neighbour.is_failed
    }
    settled: dict[Address, str] = {}
    for address, bridge in bridge_of.items():
        port = before.get(address)
        if port is None or (bridge.number, port) not in ports:
            mac = macs.get((address, bridge.number), b"")
            port = learned.get((bridge.number, mac))
        if port is not None:
            settled[address] = port
    return settled


class InterfaceWatcher:
    """Reads the network of the namespace it was made in; ``fileno`` is readable on a change.

    Raises:
        NetlinkError: from every method.
    """

    def __init__(self, on_lost: Callable[[], None] = lambda: None) -> None:
        self._events = RoutingEvents(on_lost)
        self._socket = RoutingSocket()

    def fileno(self) -> int:
        """For the loop's poll: something of :meth:`changes` waits."""
        return self._events.fileno()

    def close(self) -> None:
        """Release the sockets."""
        self._events.close()
        self._socket.close()

    def changes(self) -> Change:
        """What changed since the last call; never blocks.

        Where the kernel had no room for events, that is told, and everything counts as changed.
        """
        return self._events.changes()

    def read(self) -> HostState:
        """Everything anew.  Cost: 1 ms, and 5 us for each route and neighbour."""
        return HostState(
            links=self._socket.links(),
            addresses=self._socket.addresses(),
            routes=[*self._socket.routes(4), *self._socket.routes(6)],
            neighbours=self._socket.neighbours(),
            bridge_ports=self._socket.bridge_ports(),
        )

    def solicit(self, unsettled: Mapping[Address, str]) -> None:
        """Ask addresses on bridges to answer, so that their ports are learned.

        A MAC that an address had and that is behind no port is forgotten first: the kernel would
        go on asking that one, a pod's that is gone, and hear nothing for half a minute.
        """
        numbers = {link.name: link.number for link in self._socket.links()}
        asked = [
            (a, numbers[bridge]) for a, bridge in sorted(unsettled.items()) if bridge in numbers
        ]
        known = {(n.address, n.link) for n in self._socket.neighbours() if not n.is_failed}
        self._socket.forget_neighbours([place for place in asked if place in known])
        self._socket.solicit(asked)

    def mark_workloads(self, state: HostState, names: Collection[str], bit: int) -> None:
        """Set the bit in the link group of these interfaces, and clear it in others'."""
        wrong = [
            (link.number, link.group ^ bit)
            for link in state.links
            if bool(link.group & bit) != (link.name in names)
        ]
        if wrong:
            self._socket.set_groups(wrong)

    def filter_bridges(self, names: Collection[str]) -> None:
        """Show the packets of these bridges to iptables; other bridges stay as they are."""
        for link in self._socket.links():
            if link.name in names and link.kind == "bridge":
                self._socket.filter_bridge(link.number)
