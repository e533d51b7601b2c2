"""The DNS servers that are trusted, as network sets: where nodes learn what a name's addresses are.

In: which are trusted, their services and slices as they are, and whether any policy is about names.
Out: a network set for each protocol and port; none while no policy is about names.

A server is known by the addresses of its pods, with their ports, which is what a node sees of its
answers, and by its service's own, which is what it sees where IPVS or another program translates.
"""

from collections.abc import Iterable, Iterator

from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, address_net, parse_address
from calico_k8s.model.dns_servers import DnsServers, ServerAddress, ServerService
from calico_k8s.model.domains import servers_netset
from calico_k8s.model.resources import PROTOCOL_NUMBERS, NetworkSet, Protocol, Value
from calico_k8s.translate.findings import Name
from calico_k8s.translate.objects import EndpointSlice, Service, protocol_number
from calico_k8s.translate.services import SERVICE_NAME_LABEL, read_slice

Items = dict[keys.Key, Value | None]
_Place = tuple[Protocol, int]

PROTOCOLS = (PROTOCOL_NUMBERS["udp"], PROTOCOL_NUMBERS["tcp"])


class TrustedServers:
    """The trusted servers.  Cost: of a service or slice that is none of theirs, O(1)."""

    def __init__(self, trusted: DnsServers) -> None:
        self._trusted = trusted
        self._names = {Name(s.namespace, s.name) for s in trusted if isinstance(s, ServerService)}
        self._services: dict[Name, Service] = {}
        self._slices: dict[Name, EndpointSlice] = {}
        self._asking = 0
        self._emitted: dict[keys.Key, Value] = {}

    @property
    def is_known(self) -> bool:
        """Whether any trusted server has an address now."""
        return any(self._places())

    @property
    def words(self) -> str:
        """Who is trusted."""
        return ", ".join(map(_words, self._trusted)) or "none"

    def ask(self, count: int) -> Items:
        """So many more objects are about names."""
        self._asking += count
        return self._changes()

    def set_service(self, name: Name, value: Service | None) -> Items:
        """A service as it is now; None: it is not there."""
        if name not in self._names:
            return {}
        self._services.pop(name, None)
        if value is not None:
            self._services[name] = value
        return self._changes()

    def set_slice(self, name: Name, value: EndpointSlice | None) -> Items:
        """A slice as it is now; None: it is not there."""
        before = self._slices.pop(name, None)
        if value is not None and _service_of(name, value) in self._names:
            self._slices[name] = value
        return self._changes() if before is not None or name in self._slices else {}

    def _changes(self) -> Items:
        sets: dict[keys.Key, Value] = {}
        if self._asking:
            addresses: dict[_Place, set[Address]] = {}
            for place, address in self._places():
                addresses.setdefault(place, set()).add(address)
            for (protocol, port), held in addresses.items():
                name = servers_netset(protocol, port)
                nets = tuple(sorted(map(address_net, held)))
                sets[keys.NetsetKey(name)] = NetworkSet(name, None, nets)
        gone = self._emitted.keys() - sets.keys()
        new = {key: value for key, value in sets.items() if self._emitted.get(key) != value}
        self._emitted = sets
        return {**dict.fromkeys(gone), **new}

    def _places(self) -> Iterator[tuple[_Place, Address]]:
        for server in self._trusted:
            if isinstance(server, ServerAddress):
                for protocol in PROTOCOLS:
                    yield (protocol, server.port), server.address
            else:
                yield from self._of_service(server)

    def _of_service(self, server: ServerService) -> Iterator[tuple[_Place, Address]]:
        name = Name(server.namespace, server.name)
        service = self._services.get(name)
        spec = service.spec if service is not None else None
        if spec is None:
            return
        slices = [each for at, each in self._slices.items() if _service_of(at, each) == name]
        for port in spec.ports or ():
            protocol = protocol_number(port.protocol)
            if port.port != server.port or protocol not in PROTOCOLS:
                continue
            for address in _addresses((spec.cluster_ip or "", *(spec.cluster_ips or ()))):
                yield (protocol, port.port), address
            for each in slices:
                reading = read_slice(each)
                for own in each.ports or ():
                    is_same = (own.name or "") == (port.name or "")
                    if is_same and own.port and protocol_number(own.protocol) == protocol:
                        for address in reading.addresses if reading is not None else ():
                            yield (protocol, own.port), address


def _service_of(name: Name, value: EndpointSlice) -> Name:
    return Name(name.namespace, (value.metadata.labels or {}).get(SERVICE_NAME_LABEL, ""))


def _addresses(texts: Iterable[str]) -> Iterator[Address]:
    for text in texts:
        try:
            yield parse_address(text)
        except InputError:
            continue  # None, or empty: headless


def _words(server: ServerAddress | ServerService) -> str:
    if isinstance(server, ServerAddress):
        return f"{server.address} port {server.port}"
    return f"the service {server.namespace}/{server.name} port {server.port}"
