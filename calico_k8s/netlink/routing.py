"""Links, addresses, routes, neighbours and bridge ports of a namespace; events when they change.

In: nothing.  Out: plain values, as whole lists.  An event says only that something of its kind
changed: whoever needs the new state reads it again, so nothing is lost when events are.

Source: ``linux/rtnetlink.h``, ``linux/if_link.h``, ``linux/neighbour.h``.
"""

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Flag, auto
from typing import Final, NamedTuple

from calico_k8s.errors import NetlinkError
from calico_k8s.model.addresses import Address, Net, Version, address_version
from calico_k8s.netlink.socket import NETLINK_ROUTE, NetlinkSocket
from calico_k8s.netlink.wire import (
    NLM_F_CREATE,
    U32,
    Request,
    attribute,
    attribute_map,
    attribute_text,
    nested,
    text_attribute,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
_EVENT_GROUPS: Final = (
    1,
    3,
    5,
    7,
    9,
    11,
)  # RTNLGRP_LINK NEIGH IPV4_IFADDR _ROUTE IPV6_IFADDR _ROUTE

_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTNEXTHOP = struct.Struct("=HBBi")
_NDMSG = struct.Struct("=BxHiHBB")

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_KIND = 1, 3, 10, 18, 1
IFLA_GROUP = 27
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 9, 15, 18
NDA_DST, NDA_LLADDR = 1, 2
RTN_UNICAST = 1
RT_TABLE_LOCAL = 255
IFF_LOOPBACK = 1 << 3
NUD_FAILED = 0x20
NUD_PERMANENT = 0x80
NTF_USE = 1 << 0
IFLA_INFO_DATA = 2
IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES = 36, 37


class Link(NamedTuple):
    """A network interface."""

    number: int
    name: str
    kind: str
    """``veth``, ``bridge``, ``dummy`` ...; empty for a device driver's own."""
    master: int
    """Index of the bridge (or bond, VRF) it is a port of; 0: none."""
    mac: bytes
    is_loopback: bool
    group: int = 0
    """The link group, as ``ip link set group`` writes it: 32 bits that any program may use."""
    is_filtered: bool = False
    """A bridge whose packets, of both families, are shown to iptables whatever the machine says."""


class LinkAddress(NamedTuple):
    """An address of this machine itself."""

    address: Address
    length: int
    link: int


class Route(NamedTuple):
    """One way of a unicast route, of any table but ``local``; a multipath route is several."""

    net: Net
    link: int
    table: int
    has_gateway: bool


class Neighbour(NamedTuple):
    """An address another machine or pod answered for on an interface."""

    address: Address
    link: int
    mac: bytes
    is_failed: bool


class BridgePort(NamedTuple):
    """A MAC address a bridge has learned behind one of its ports."""

    mac: bytes
    port: int


class Change(Flag):
    """Kinds of things that changed."""

    NOTHING = 0
    LINKS = auto()
    ADDRESSES = auto()
    ROUTES = auto()
    NEIGHBOURS = auto()
    EVERYTHING = LINKS | ADDRESSES | ROUTES | NEIGHBOURS


_CHANGES: Final = {
    RTM_NEWLINK: Change.LINKS,
    RTM_DELLINK: Change.LINKS,
    RTM_NEWADDR: Change.ADDRESSES,
    RTM_DELADDR: Change.ADDRESSES,
    RTM_NEWROUTE: Change.ROUTES,
    RTM_DELROUTE: Change.ROUTES,
    RTM_NEWNEIGH: Change.NEIGHBOURS,
    RTM_DELNEIGH: Change.NEIGHBOURS,
}


class RoutingSocket:
    """Reads the state of the namespace it was opened in.

    Raises:
        NetlinkError: from every method.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE)

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def links(self) -> list[Link]:
        """Every interface, in index order."""
        request = Request(RTM_GETLINK, 0, bytes(_IFINFOMSG.size))
        found = [_unpack_link(part.body) for part in self._socket.dump(request, "link list")]
        return sorted(found)

    def addresses(self) -> list[LinkAddress]:
        """The machine's own addresses of both families."""
        request = Request(RTM_GETADDR, 0, bytes(_IFADDRMSG.size))
        found: list[LinkAddress] = []
        for part in self._socket.dump(request, "address list"):
            family, length, _flags, _scope, link = _IFADDRMSG.unpack_from(part.body)
            attributes = attribute_map(part.body[_IFADDRMSG.size :])
            data = attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS))
            if data is not None and family in (socket.AF_INET, socket.AF_INET6):
                found.append(LinkAddress(_address(family, data), length, link))
        return found

    def routes(self, version: Version) -> list[Route]:
        """Unicast routes; those that reject lead nowhere and are left out."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        request = Request(RTM_GETROUTE, 0, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        found: list[Route] = []
        for part in self._socket.dump(request, "route list"):
            found += _unpack_routes(part.body, family)
        return found

    def neighbours(self) -> list[Neighbour]:
        """The ARP and neighbour discovery caches."""
        request = Request(RTM_GETNEIGH, 0, bytes(_NDMSG.size))
        found: list[Neighbour] = []
        for part in self._socket.dump(request, "neighbour list"):
            family, _pad, link, state, _flags, _kind = _NDMSG.unpack_from(part.body)
            attributes = attribute_map(part.body[_NDMSG.size :])
            if family not in (socket.AF_INET, socket.AF_INET6) or NDA_DST not in attributes:
                continue
            mac = bytes(attributes.get(NDA_LLADDR, b""))
            address = _address(family, attributes[NDA_DST])
            found.append(Neighbour(address, link, mac, not mac or bool(state & NUD_FAILED)))
        return found

    def bridge_ports(self) -> list[BridgePort]:
        """What the bridges have learned, the bridges' own addresses left out."""
        request = Request(RTM_GETNEIGH, 0, _IFINFOMSG.pack(socket.AF_BRIDGE, 0, 0, 0, 0))
        found: list[BridgePort] = []
        for part in self._socket.dump(request, "bridge forwarding list"):
            _family, _pad, link, state, _flags, _kind = _NDMSG.unpack_from(part.body)
            attributes = attribute_map(part.body[_NDMSG.size :])
            # A permanent entry is the port's own address, not one that spoke through it.
            if NDA_LLADDR in attributes and not state & NUD_PERMANENT:
                found.append(BridgePort(bytes(attributes[NDA_LLADDR]), link))
        return found

    def forget_neighbours(self, places: Sequence[tuple[Address, int]]) -> None:
        """Forget the MAC of each address on the interface of that index; one not known is fine."""
        requests: list[Request] = []
        for address, link in places:
            family = socket.AF_INET6 if address_version(address) == 6 else socket.AF_INET
            target = attribute(NDA_DST, socket.inet_pton(family, address))
            header = _NDMSG.pack(family, 0, link, 0, 0, 0)
            requests.append(Request(RTM_DELNEIGH, 0, header + target))
        self._socket.batch(requests)

    def solicit(self, places: Sequence[tuple[Address, int]]) -> None:
        """Have the kernel ask each address for its MAC on the interface of that index.

        The answers come as neighbour events.  One that cannot be asked is passed over.
        """
        requests: list[Request] = []
        for address, link in places:
            family = socket.AF_INET6 if address_version(address) == 6 else socket.AF_INET
            header = _NDMSG.pack(family, 0, link, 0, NTF_USE, 0)
            target = attribute(NDA_DST, socket.inet_pton(family, address))
            requests.append(Request(RTM_NEWNEIGH, NLM_F_CREATE, header + target))
        self._socket.batch(requests)

    def set_groups(self, groups: Sequence[tuple[int, int]]) -> None:
        """Give each interface, by its index, a group; one that has gone meanwhile is passed over."""
        self._socket.batch(
            [
                Request(
                    RTM_NEWLINK,
                    0,
                    _IFINFOMSG.pack(0, 0, link, 0, 0) + attribute(IFLA_GROUP, U32.pack(group)),
                )
                for link, group in groups
            ]
        )

    def filter_bridge(self, link: int) -> None:
        """Show the packets of one bridge to iptables, whatever the machine-wide setting says."""
        options = [
            attribute(kind, b"\1") for kind in (IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES)
        ]
        info = nested(
            IFLA_LINKINFO,
            text_attribute(IFLA_INFO_KIND, "bridge"),
            nested(IFLA_INFO_DATA, *options),
        )
        header = _IFINFOMSG.pack(0, 0, link, 0, 0)
        self._socket.request(Request(RTM_NEWLINK, 0, header + info), f"bridge {link} to iptables")


class RoutingEvents:
    """Tells that links, addresses, routes or neighbours changed; its ``fileno`` may be polled."""

    def __init__(self, on_lost: Callable[[], None] = lambda: None) -> None:
        self._socket = NetlinkSocket(NETLINK_ROUTE, _EVENT_GROUPS)
        self._on_lost = on_lost

    def fileno(self) -> int:
        """Readable when :meth:`changes` has something."""
        return self._socket.fileno()

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def changes(self) -> Change:
        """What changed since the last call; never blocks.  Lost events count as everything."""
        seen = Change.NOTHING
        try:
            for message in self._socket.events():
                seen |= _CHANGES.get(message.type, Change.NOTHING)
        except NetlinkError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._on_lost()
            return Change.EVERYTHING
        return seen


def _unpack_link(body: memoryview) -> Link:
    _family, _kind, index, flags, _change = _IFINFOMSG.unpack_from(body)
    attributes = attribute_map(body[_IFINFOMSG.size :])
    found = attributes.get(IFLA_LINKINFO)
    info = attribute_map(found) if found else {}
    kind = info.get(IFLA_INFO_KIND)
    master = attributes.get(IFLA_MASTER)
    group = attributes.get(IFLA_GROUP)
    return Link(
        number=index,
        name=attribute_text(attributes[IFLA_IFNAME]),
        kind=attribute_text(kind) if kind else "",
        master=U32.unpack(master)[0] if master else 0,
        mac=bytes(attributes.get(IFLA_ADDRESS, b"")),
        is_loopback=bool(flags & IFF_LOOPBACK),
        group=U32.unpack(group)[0] if group else 0,
        is_filtered=kind is not None and bytes(kind) == b"bridge\0" and _is_filtered(info),
    )


def _is_filtered(info: Mapping[int, memoryview]) -> bool:
    options = attribute_map(info.get(IFLA_INFO_DATA, memoryview(b"")))
    return all(
        any(options.get(kind, b""))
        for kind in (IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES)
    )


def _unpack_routes(body: memoryview, family: int) -> list[Route]:
    found_family, length, _src, _tos, table, _proto, _scope, kind, _flags = _RTMSG.unpack_from(body)
    attributes = attribute_map(body[_RTMSG.size :])
    if RTA_TABLE in attributes:
        (table,) = U32.unpack(attributes[RTA_TABLE])
    if found_family != family or kind != RTN_UNICAST or table == RT_TABLE_LOCAL:
        return []
    size = 4 if family == socket.AF_INET else 16
    address = _address(family, attributes.get(RTA_DST, memoryview(bytes(size))))
    net = Net(f"{address}/{length}")
    hops = list(_unpack_hops(attributes.get(RTA_MULTIPATH, memoryview(b""))))
    if RTA_OIF in attributes:
        hops.append((U32.unpack(attributes[RTA_OIF])[0], attributes))
    return [
        Route(net, link, table, RTA_GATEWAY in parts or RTA_VIA in parts) for link, parts in hops
    ]


def _unpack_hops(data: memoryview) -> Iterator[tuple[int, dict[int, memoryview]]]:
    """Interface and attributes of each ``struct rtnexthop``."""
    while len(data) >= _RTNEXTHOP.size:
        length, _flags, _weight, link = _RTNEXTHOP.unpack_from(data)
        if length < _RTNEXTHOP.size:
            return
        yield link, attribute_map(data[_RTNEXTHOP.size : length])
        data = data[(length + 3) & ~3 :]


def _address(family: int, data: memoryview) -> Address:
    text = socket.inet_ntop(family, data)
    if family == socket.AF_INET6 and "." in text:
        return Address(str(ipaddress.IPv6Address(text)))
    return Address(text)
