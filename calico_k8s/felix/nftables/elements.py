"""Sets and members as nftables has them.  Pure.

In: :class:`~calico_k8s.render.tables.KernelIpset` and members.  Out: the kind of set that answers
the same, and elements; and back.

===================  =====================================================================
hash:ip              address
hash:net             address, intervals
hash:ip,port         address . protocol . port
hash:net,iface       address . interface
with marks           a map: each entry's verdict jumps to the chain that sets its mark; marks of
                     nets are asked by nobody, and not kept
===================  =====================================================================
"""

import re
import socket
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final, NamedTuple

from calico_k8s.felix.expressions import interface_key
from calico_k8s.felix.nftables.disjoint import Bounds
from calico_k8s.model.addresses import ADDRESS_BITS, Version
from calico_k8s.model.resources import PROTOCOL_NAMES, PROTOCOL_NUMBERS
from calico_k8s.netlink.members import FAMILIES, format_address
from calico_k8s.netlink.nftables import ListedElement, SetKind
from calico_k8s.netlink.nftexpr import NFT_GOTO, NFT_JUMP, host32, verdict_data
from calico_k8s.netlink.nftwrite import INTERVAL, INTERVAL_END, MAP, SetElement
from calico_k8s.render.tables import (
    CHAIN_PREFIX,
    ChainName,
    IpsetName,
    IpsetType,
    KernelIpset,
    KernelMember,
    RuleText,
)
from calico_k8s.render.text import set_mark

_TYPE_BITS: Final = 6  # of each part of a concatenation's type
_INTEGER, _PROTOCOL, _PORT, _MARK, _IFNAME = 4, 12, 13, 19, 41  # nft's own datatypes
_ADDRESS: Final[dict[Version, int]] = {4: 7, 6: 8}
_LENGTHS: Final[dict[Version, int]] = {4: 4, 6: 16}

LEAF_MAP: Final = SetKind(_MARK, 4, MAP)
"""From a mark to the chain of its group."""
PORT_TYPE: Final = _PORT
_MARKER_PREFIX: Final = f"{CHAIN_PREFIX}m-"
_MARKER: Final = re.compile(rf"{_MARKER_PREFIX}([0-9a-f]+)-([0-9a-f]+)")


class Marker(NamedTuple):
    """A mark that entries of a map have."""

    value: int
    bits: int

    @property
    def chain(self) -> ChainName:
        """The chain that sets it."""
        return ChainName(f"{_MARKER_PREFIX}{self.value:x}-{self.bits:x}")

    @property
    def rule(self) -> RuleText:
        """That chain's one rule."""
        return RuleText(set_mark(self.value, self.bits))


def parse_marker(chain: str) -> Marker | None:
    """The mark that a chain sets; None for every other chain."""
    if not chain.startswith(_MARKER_PREFIX):
        return None
    found = _MARKER.fullmatch(chain)
    return Marker(int(found[1], 16), int(found[2], 16)) if found else None


def set_kind(ipset: KernelIpset) -> SetKind:
    """The set that answers as the ipset does."""
    address, length = _ADDRESS[ipset.version], _LENGTHS[ipset.version]
    flags = MAP if ipset.has_marks else 0
    match ipset.type:
        case "hash:ip":
            return SetKind(address, length, flags)
        case "hash:net":
            # Another number for those with marks, to know them again.
            return SetKind(_INTEGER if ipset.has_marks else address, length, INTERVAL)
        case "hash:ip,port":
            kind = (address << _TYPE_BITS | _PROTOCOL) << _TYPE_BITS | _PORT
            return SetKind(kind, length + 8, flags)
        case "hash:net,iface":
            return SetKind(address << _TYPE_BITS | _IFNAME, length + 16, flags)
        case "hash:net,net":
            return pair_kind(ipset.version)


def pair_kind(version: Version) -> SetKind:
    """A set of pairs of addresses."""
    address = _ADDRESS[version]
    return SetKind(address << _TYPE_BITS | address, 2 * _LENGTHS[version])


def flow_kind(version: Version) -> SetKind:
    """A set of source, destination and port."""
    pair = pair_kind(version)
    return SetKind(pair.key_type << _TYPE_BITS | _PORT, pair.key_length + 4)


def ipset_of(name: str, kind: SetKind, version: Version) -> KernelIpset | None:
    """The ipset that a listed set answers as; None where it is no kind of ours."""
    types: tuple[IpsetType, ...] = ("hash:ip", "hash:net", "hash:ip,port", "hash:net,iface")
    for each, has_marks in product(types, (False, True)):
        ipset = KernelIpset(IpsetName(name), each, version, has_marks)
        if set_kind(ipset) == kind:
            return ipset
    return None


def member_element(ipset: KernelIpset, member: KernelMember) -> SetElement:
    """A member of any set but one of nets."""
    data = b""
    if ipset.has_marks:
        chain = Marker(member.mark, member.mark_mask).chain
        data = verdict_data(NFT_JUMP, chain)
    return SetElement(member_key(ipset, member.text), data)


def member_key(ipset: KernelIpset, text: str) -> bytes:
    """The key of a member of any set but one of nets.  Cost: 1 to 2 us."""
    first, _, second = text.partition(",")
    key = pack_address(first, ipset.version)
    if ipset.type == "hash:ip,port":
        protocol, _, port = second.partition(":")
        number = PROTOCOL_NUMBERS[protocol]
        return key + bytes((number, 0, 0, 0)) + int(port).to_bytes(2, "big") + bytes(2)
    return key + interface_key(second) if ipset.type == "hash:net,iface" else key


def pair_element(address: str, version: Version) -> SetElement:
    """An address twice."""
    return SetElement(2 * pack_address(address, version))


def leaf_element(mark: int, chain: ChainName) -> SetElement:
    """What a tree says of one mark."""
    return SetElement(host32(mark), verdict_data(NFT_GOTO, chain))


def listed_member(ipset: KernelIpset, listed: ListedElement) -> KernelMember:
    """A listed element of any set but one of nets."""
    length = _LENGTHS[ipset.version]
    text = format_address(listed.key[:length], ipset.version)
    rest = listed.key[length:]
    if ipset.type == "hash:ip,port":
        protocol = PROTOCOL_NAMES.get(rest[0], str(rest[0]))
        text += f",{protocol}:{int.from_bytes(rest[4:6], 'big')}"
    elif ipset.type == "hash:net,iface":
        text += f",{rest.rstrip(bytes(1)).decode(errors='replace')}"
    marker = parse_marker(listed.chain or "")
    return KernelMember(text, *marker) if marker is not None else KernelMember(text)


def pack_address(text: str, version: Version) -> bytes:
    """An address as it stands in a header."""
    return socket.inet_pton(FAMILIES[version], text)


def net_bounds(text: str, version: Version) -> Bounds:
    """A net, or an address, by its bounds."""
    address, _, length = text.partition("/")
    first = int.from_bytes(pack_address(address, version), "big")
    return Bounds(first, int(length) if length else ADDRESS_BITS[version])


def bounds_text(net: Bounds, version: Version) -> str:
    """The inverse of :func:`net_bounds`: an address without its length."""
    address = format_address(net.first.to_bytes(_LENGTHS[version], "big"), version)
    return address if net.length == ADDRESS_BITS[version] else f"{address}/{net.length}"


def interval_elements(nets: Iterable[Bounds], version: Version) -> Iterator[SetElement]:
    """Each net's first address, and the one after its last unless there is none."""
    bits, length = ADDRESS_BITS[version], _LENGTHS[version]
    for net in nets:
        yield SetElement(net.first.to_bytes(length, "big"))
        end = net.first + (1 << bits - net.length)
        if end < 1 << bits:
            yield SetElement(end.to_bytes(length, "big"), flags=INTERVAL_END)


def listed_nets(listed: Iterable[ListedElement], version: Version) -> list[Bounds] | None:
    """The nets of a listed set; None where an interval is no net, so that it is none of ours."""
    bits = ADDRESS_BITS[version]
    nets: list[Bounds] = []
    # An interval may end where the next begins: its end comes first.
    ordered = sorted((each.key, not each.flags & INTERVAL_END) for each in listed)
    first: int | None = None
    for key, is_start in [*ordered, (None, False)]:
        number = int.from_bytes(key, "big") if key is not None else 1 << bits
        if not is_start and first is not None:
            size = number - first
            if size & size - 1 or first & size - 1:
                return None
            nets.append(Bounds(first, bits - (size.bit_length() - 1)))
            first = None
        elif is_start:
            if first is not None:
                return None
            first = number
    return nets
