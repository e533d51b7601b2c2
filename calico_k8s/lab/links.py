"""Interfaces, addresses and routes as messages of rtnetlink.  Pure.

In: names, numbers and addresses.  Out: :class:`~calico_k8s.netlink.wire.Request` values, which one
send carries out together.  Indexes of interfaces are chosen by the caller, who owns the namespace:
so nothing has to be read back between the steps.

Source: ``linux/rtnetlink.h``, ``linux/if_link.h``, ``linux/veth.h``.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from calico_k8s.model.addresses import Address, Net
from calico_k8s.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    U32,
    Message,
    Request,
    attribute,
    attribute_map,
    attribute_text,
    nested,
    text_attribute,
)

INTERFACE_NAME_MAX = 15  # IFNAMSIZ - 1
LOOPBACK_INDEX = 1
"""The kernel's, in every namespace."""

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 17, 18, 20, 24
_RTM_SETLINK, _RTM_DELROUTE, _RTM_NEWNEIGH = 19, 25, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO = 1, 3, 10, 12, 18
_IFLA_OPERSTATE, _IFLA_NET_NS_FD = 16, 28
_READY_STATES = (0, 6)  # IF_OPER_UNKNOWN (a loopback), IF_OPER_UP
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_BR_NF_CALL_IPTABLES, _IFLA_BR_NF_CALL_IP6TABLES = 36, 37
_IFLA_BRPORT_MODE = 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NDA_DST, _NDA_LLADDR = 1, 2
_IFF_UP = 1
_IFA_F_NODAD = 0x02
_RTNH_F_ONLINK = 4
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST, _RTN_BLACKHOLE = 254, 4, 1, 6
_NUD_PERMANENT = 0x80
_SCOPE_GLOBAL, _SCOPE_LINK = 0, 253
_SCOPE_ANY = 255  # RT_SCOPE_NOWHERE: a route of any scope is meant

_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxHiHBB")
_NEW: Final = NLM_F_CREATE | NLM_F_EXCL
_REPLACE: Final = NLM_F_CREATE | 0x100  # NLM_F_REPLACE


class Side(NamedTuple):
    """One end of a veth."""

    name: str
    number: int
    """Its index."""
    mac: bytes = b""
    """Empty: the kernel chooses one."""


def set_up(index: int) -> Request:
    """Turns an interface on."""
    return Request(_RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, _IFF_UP, _IFF_UP))


def list_links() -> Request:
    """Asks for every interface."""
    return Request(_RTM_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0))


def delete_link(index: int) -> Request:
    """Removes an interface, and the other end of a veth."""
    return Request(_RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0))


def new_veth(near: Side, far: Side, far_descriptor: int, master: int = 0) -> Request:
    """A veth, both ends down: neither can be turned on while the other is in the making.

    The far end is in the namespace of that descriptor.  ``master`` is the bridge that the near end
    is a port of; 0: none.
    """
    peer = attribute(
        _VETH_INFO_PEER,
        _link_body(far) + attribute(_IFLA_NET_NS_FD, U32.pack(far_descriptor)),
    )
    body = _link_body(near) + _kind("veth", peer)
    if master:
        body += attribute(_IFLA_MASTER, U32.pack(master))
    return Request(_RTM_NEWLINK, _NEW, body)


def new_bridge(side: Side) -> Request:
    """A bridge, down, whose bridged packets go through iptables whatever the other bridges do."""
    data = attribute(_IFLA_BR_NF_CALL_IPTABLES, b"\1") + attribute(
        _IFLA_BR_NF_CALL_IP6TABLES, b"\1"
    )
    return Request(_RTM_NEWLINK, _NEW, _link_body(side) + _kind("bridge", data))


def set_hairpin(port: int) -> Request:
    """Lets a bridge send a packet back out of the port it came from."""
    body = _IFINFOMSG.pack(socket.AF_BRIDGE, 0, port, 0, 0)
    body += nested(_IFLA_PROTINFO, attribute(_IFLA_BRPORT_MODE, b"\1"))
    return Request(_RTM_SETLINK, 0, body)


def add_address(
    index: int, address: Address, length: int, *, is_local_only: bool = False
) -> Request:
    """An address of an interface, at once usable: no duplicate address detection.

    ``is_local_only`` gives it link scope, so that no packet to elsewhere takes it as its source;
    it may be one that the kernel has made already.
    """
    family, packed = _packed(address)
    scope = _SCOPE_LINK if is_local_only else _SCOPE_GLOBAL
    body = _IFADDRMSG.pack(family, length, 0, scope, index)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    body += attribute(_IFA_FLAGS, U32.pack(_IFA_F_NODAD))
    flags = _REPLACE if is_local_only else _NEW
    return Request(_RTM_NEWADDR, flags, body)


def add_route(net: Net, index: int, gateway: Address | None = None) -> Request:
    """A route over an interface; the gateway is taken as reachable there."""
    return Request(_RTM_NEWROUTE, _NEW, _route_body(net, index, gateway))


def add_blackhole(net: Net) -> Request:
    """Packets to a net that no longer prefix covers end here."""
    return Request(_RTM_NEWROUTE, _NEW, _route_body(net, 0, None))


def delete_route(net: Net, index: int) -> Request:
    """Takes a route over an interface away."""
    return Request(_RTM_DELROUTE, 0, _route_body(net, index, None, _SCOPE_ANY))


def add_neighbour(index: int, address: Address, mac: bytes) -> Request:
    """A permanent neighbour: never asked for, never forgotten."""
    family, packed = _packed(address)
    body = _NDMSG.pack(family, 0, index, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, packed) + attribute(_NDA_LLADDR, mac)
    return Request(_RTM_NEWNEIGH, NLM_F_CREATE, body)


def default_net(address: Address) -> Net:
    """The net of every address of an address's family."""
    return Net("::/0" if ":" in address else "0.0.0.0/0")


def unready_links(dump: Iterable[Message]) -> list[str]:
    """Of a dump of links, the names of those that are on and carry nothing yet."""
    found: list[str] = []
    for message in dump:
        _family, _kind, _index, flags, _change = _IFINFOMSG.unpack_from(message.body)
        attributes = attribute_map(message.body[_IFINFOMSG.size :])
        state = attributes.get(_IFLA_OPERSTATE)
        if flags & _IFF_UP and state is not None and state[0] not in _READY_STATES:
            found.append(attribute_text(attributes[_IFLA_IFNAME]))
    return sorted(found)


def _link_body(side: Side) -> bytes:
    body = _IFINFOMSG.pack(0, 0, side.number, 0, 0)
    body += text_attribute(_IFLA_IFNAME, side.name)
    return body + attribute(_IFLA_ADDRESS, side.mac) if side.mac else body


def _kind(kind: str, data: bytes) -> bytes:
    return nested(
        _IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, kind.encode()), nested(_IFLA_INFO_DATA, data)
    )


def _route_body(net: Net, index: int, gateway: Address | None, scope: int | None = None) -> bytes:
    parsed = ipaddress.ip_network(net)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    if scope is None:
        scope = _SCOPE_GLOBAL if gateway or not index or parsed.version == 6 else _SCOPE_LINK
    flags = _RTNH_F_ONLINK if gateway else 0
    kind = _RTN_UNICAST if index else _RTN_BLACKHOLE
    length = parsed.prefixlen
    body = _RTMSG.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, kind, flags)
    if length:
        body += attribute(_RTA_DST, parsed.network_address.packed)
    if index:
        body += attribute(_RTA_OIF, U32.pack(index))
    return body + attribute(_RTA_GATEWAY, _packed(gateway)[1]) if gateway else body


def _packed(address: Address) -> tuple[int, bytes]:
    parsed = ipaddress.ip_address(address)
    return socket.AF_INET if parsed.version == 4 else socket.AF_INET6, parsed.packed
