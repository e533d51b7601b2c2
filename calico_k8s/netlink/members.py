"""A member of an ipset: its text to the kernel's attributes and back.  Pure.

In: members as ``ipset`` prints them (``10.0.0.0/8``, ``10.0.0.1,tcp:80``, ``10.0.0.1,eth0``).
Out: the attributes of one element.  What the kernel cannot hold never gets this far: a net of
length zero in a ``hash:net`` is written as its two halves, see :func:`split_zero_net`.

Source: ``linux/netfilter/ipset/ip_set.h``.
"""

import ipaddress
import socket
from functools import lru_cache
from typing import Final

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.netlink.wire import (
    BE16,
    BE32,
    BE64,
    NLA_F_NET_BYTEORDER,
    attribute,
    attribute_map,
    attribute_text,
    nested,
    text_attribute,
)
from calico_k8s.render.tables import IpsetType, KernelMember

IPSET_ATTR_IP = 1
IPSET_ATTR_CIDR = 3
IPSET_ATTR_PORT = 4
IPSET_ATTR_PROTO = 7
IPSET_ATTR_CADT_FLAGS = 8
IPSET_ATTR_IP2 = 20
IPSET_ATTR_CIDR2 = 21
IPSET_ATTR_IFACE = 23
IPSET_ATTR_SKBMARK = 27

IPSET_FLAG_NOMATCH = 1 << 2

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
HOST_BITS: Final = {4: 32, 6: 128}
PORT_PROTOCOLS: Final = {name: PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp", "udplite")}
"""Those a ``hash:ip,port`` holds by port; the types and codes of ICMP are not ports."""
_PROTOCOL_NAMES: Final = {number: name for name, number in PORT_PROTOCOLS.items()}

ZERO_NET_HALVES: Final = {
    "0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"),
    "::/0": ("::/1", "8000::/1"),
}


def split_zero_net(text: str) -> tuple[str, ...]:
    """The nets that say in a ``hash:net`` what ``text`` does: the set type takes no length zero."""
    return ZERO_NET_HALVES.get(text, (text,))


def canonical_member(text: str, kind: IpsetType, version: Version) -> str:
    """The text the kernel's answer is read as: a whole-length net is its address."""
    if "/" not in text or kind in ("hash:ip", "hash:ip,port"):
        return text
    suffix = f"/{HOST_BITS[version]}"
    return ",".join(part.removesuffix(suffix) for part in text.split(","))


def pack_member(member: KernelMember, kind: IpsetType, version: Version) -> bytes:
    """The attributes of one element.  Cost: 1 us for an address or net.

    Raises:
        InputError: the text is not a member of such a set.
    """
    try:
        packed = _pack_key(member.text, kind, version)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"'{member.text}' is not a member of an IPv{version} {kind} set"
        ) from error
    if member.mark_mask:
        packed += attribute(
            IPSET_ATTR_SKBMARK | NLA_F_NET_BYTEORDER,
            BE64.pack(member.mark << 32 | member.mark_mask),
        )
    if member.nomatch:
        packed += _be32(IPSET_ATTR_CADT_FLAGS, IPSET_FLAG_NOMATCH)
    return packed


def _pack_key(text: str, kind: IpsetType, version: Version) -> bytes:
    if kind == "hash:ip":
        return _pack_address(IPSET_ATTR_IP, text, version)
    if kind == "hash:net":
        return _pack_net(IPSET_ATTR_IP, IPSET_ATTR_CIDR, text, version)
    first, _, second = text.partition(",")
    if not second:
        raise ValueError(text)
    if kind == "hash:net,net":
        return _pack_net(IPSET_ATTR_IP, IPSET_ATTR_CIDR, first, version) + _pack_net(
            IPSET_ATTR_IP2, IPSET_ATTR_CIDR2, second, version
        )
    if kind == "hash:net,iface":
        net = _pack_net(IPSET_ATTR_IP, IPSET_ATTR_CIDR, first, version)
        return net + text_attribute(IPSET_ATTR_IFACE, second)
    protocol, _, port = second.partition(":")
    return (
        _pack_address(IPSET_ATTR_IP, first, version)
        + attribute(IPSET_ATTR_PORT | NLA_F_NET_BYTEORDER, _port_bytes(port))
        + attribute(IPSET_ATTR_PROTO, bytes((PORT_PROTOCOLS[protocol],)))
    )


def _port_bytes(text: str) -> bytes:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return BE16.pack(port)


def _pack_address(kind: int, text: str, version: Version) -> bytes:
    return _address_headers(kind, version) + socket.inet_pton(FAMILIES[version], text)


@lru_cache(maxsize=16)
def _address_headers(kind: int, version: Version) -> bytes:
    """What stands before an address, whose size is that of its family and needs no padding."""
    size = HOST_BITS[version] // 8
    inner = 1 if version == 4 else 2  # IPSET_ATTR_IPADDR_IPV4, _IPV6
    whole = nested(kind, attribute(inner | NLA_F_NET_BYTEORDER, bytes(size)))
    return whole[:-size]


def _pack_net(kind: int, length_kind: int, text: str, version: Version) -> bytes:
    address, slash, length_text = text.partition("/")
    length = int(length_text) if slash else HOST_BITS[version]
    if not 0 <= length <= HOST_BITS[version]:
        raise ValueError(text)
    return _pack_address(kind, address, version) + _length_attribute(length_kind, length)


@lru_cache(maxsize=512)
def _length_attribute(kind: int, length: int) -> bytes:
    return attribute(kind, bytes((length,)))


def unpack_member(data: memoryview, kind: IpsetType, version: Version) -> KernelMember:
    """One element as the kernel lists it.  Cost: some 5 us."""
    attributes = attribute_map(data)
    text = _unpack_address(attributes[IPSET_ATTR_IP], version)
    if kind not in ("hash:ip", "hash:ip,port"):
        text += _unpack_length(attributes.get(IPSET_ATTR_CIDR), version)
    if kind == "hash:ip,port":
        (port,) = BE16.unpack(attributes[IPSET_ATTR_PORT])
        number = attributes[IPSET_ATTR_PROTO][0]
        text += f",{_PROTOCOL_NAMES.get(number, number)}:{port}"
    elif kind == "hash:net,iface":
        text += f",{attribute_text(attributes[IPSET_ATTR_IFACE])}"
    elif kind == "hash:net,net":
        second = _unpack_address(attributes[IPSET_ATTR_IP2], version)
        text += f",{second}{_unpack_length(attributes.get(IPSET_ATTR_CIDR2), version)}"
    mark = attributes.get(IPSET_ATTR_SKBMARK)
    both = BE64.unpack(mark)[0] if mark else 0
    flags = attributes.get(IPSET_ATTR_CADT_FLAGS)
    nomatch = bool(flags and BE32.unpack(flags)[0] & IPSET_FLAG_NOMATCH)
    return KernelMember(text, both >> 32, both & 0xFFFFFFFF, nomatch)


def _unpack_address(data: memoryview, version: Version) -> str:
    return format_address(data[4 : 8 if version == 4 else 20], version)


def format_address(data: bytes | memoryview, version: Version) -> str:
    """An address from its bytes, in the canonical spelling."""
    text = socket.inet_ntop(FAMILIES[version], data)
    if version == 6 and "." in text:  # ::7f00:1 as ::127.0.0.1, which model.addresses never prints
        return str(ipaddress.IPv6Address(text))
    return text


def _unpack_length(data: memoryview | None, version: Version) -> str:
    if data is None or data[0] == HOST_BITS[version]:
        return ""
    return f"/{data[0]}"


def _be32(kind: int, number: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, BE32.pack(number))
