"""Which DNS servers are trusted to say what a name's addresses are, as a setting has them.

In: text.  Out: servers, or an ``InputError``::

    k8s-service:kube-dns                 the service kube-dns of kube-system, at its port 53
    k8s-service:dns/coredns:5353         the service coredns of the namespace dns, at its port 5353
    10.0.0.2   10.0.0.2:5353   [fd00::2]:53

Source: Calico's ``dnsTrustedServers``.
"""

from typing import NamedTuple

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, parse_address

DNS_PORT = 53
PORT_MAX = 65535
SERVICE = "k8s-service:"
SYSTEM_NAMESPACE = "kube-system"
DEFAULT_SERVERS = f"{SERVICE}kube-dns"


class ServerAddress(NamedTuple):
    """A server that is always at one address."""

    address: Address
    port: int


class ServerService(NamedTuple):
    """A server that is wherever a service leads, and at the service's own addresses."""

    namespace: str
    name: str
    port: int
    """The service's own; its pods may have another."""


DnsServer = ServerAddress | ServerService
DnsServers = tuple[DnsServer, ...]


def parse_dns_servers(text: str) -> DnsServers:
    """The servers of a list with commas between; ``none`` trusts nobody.

    Raises:
        InputError: one is neither an address nor a service.
    """
    if text.strip().lower() in ("", "none"):
        return ()
    return tuple(_server(part.strip()) for part in text.split(",") if part.strip())


def _server(text: str) -> DnsServer:
    if text.startswith(SERVICE):
        where, _, port = text.removeprefix(SERVICE).partition(":")
        namespace, slash, name = where.rpartition("/")
        if not name or (slash and not namespace):
            raise InputError(f"'{text}' names no service: give {SERVICE}NAMESPACE/NAME")
        return ServerService(namespace or SYSTEM_NAMESPACE, name, _port(port, text))
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return ServerAddress(parse_address(address), _port(port.removeprefix(":"), text))
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return ServerAddress(parse_address(address), _port(port, text))
    return ServerAddress(parse_address(text), DNS_PORT)


def _port(text: str, whole: str) -> int:
    if not text:
        return DNS_PORT
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= PORT_MAX):
        raise InputError(f"'{whole}' has no port after its colon: give 1 to {PORT_MAX}")
    return int(text)
