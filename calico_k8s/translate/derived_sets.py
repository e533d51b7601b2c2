"""Network sets that follow from other objects: what services lead to, the addresses of nodes.

In: endpoint slices and nodes as they are, and which services and nodes policies name as peers.
Out: network sets that rules find by name and no selector finds.  What nobody names is only kept as
it came.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import grammar
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, address_net
from calico_k8s.model.names import NetsetName
from calico_k8s.model.resources import NetworkSet, Node, Value
from calico_k8s.translate.calico_rules import ServicePort, service_netset
from calico_k8s.translate.cluster_network_policies import nodes_netset
from calico_k8s.translate.findings import Name
from calico_k8s.translate.objects import EndpointSlice, protocol_number
from calico_k8s.translate.services import SERVICE_NAME_LABEL, read_slice

Items = dict[keys.Key, Value | None]


class _Backends(NamedTuple):
    """What a slice says of its service."""

    addresses: frozenset[Address]
    ports: frozenset[ServicePort]


class DerivedSets:
    """Network sets by what they follow from.

    Cost: a slice of a service that a policy names is O(the service's endpoints); a node is O(the
    nodes) for each selector of nodes that a policy names; all others are O(their own size).
    """

    def __init__(self) -> None:
        self._slices: dict[Name, EndpointSlice] = {}
        self._slices_by_service: dict[Name, set[Name]] = {}
        self._services: Counter[Name] = Counter()
        self._sets_by_service: dict[Name, Mapping[keys.Key, Value]] = {}
        self._nodes: dict[str, Node] = {}
        self._node_selectors: Counter[str] = Counter()

    def has_service(self, service: Name) -> bool:
        """Whether anything is known of what the service leads to."""
        return service in self._slices_by_service

    def ports_of(self, service: Name) -> tuple[ServicePort, ...]:
        """The ports that the service's endpoints have, sorted; none where it is not there."""
        return tuple(sorted(self._ports_of(service)))

    def use(self, services: Iterable[Name], node_selectors: Iterable[str]) -> Items:
        """A policy names these as peers, once more; the sets that begin with that."""
        items: Items = {}
        for service in services:
            self._services[service] += 1
            if self._services[service] == 1:
                items |= self._refresh_service(service)
        for selector in node_selectors:
            self._node_selectors[selector] += 1
            if self._node_selectors[selector] == 1:
                items |= self._of_nodes(selector)
        return items

    def release(self, services: Iterable[Name], node_selectors: Iterable[str]) -> Items:
        """A policy names these no more; the sets that end with that."""
        items: Items = {}
        for service in services:
            self._services[service] -= 1
            if not self._services[service]:
                del self._services[service]
                items |= dict.fromkeys(self._sets_by_service.pop(service))
        for selector in node_selectors:
            self._node_selectors[selector] -= 1
            if not self._node_selectors[selector]:
                del self._node_selectors[selector]
                items[keys.NetsetKey(nodes_netset(selector))] = None
        return items

    def set_slice(self, name: Name, value: EndpointSlice | None) -> tuple[set[Name], Items]:
        """A slice as it is now; the named services that have other ports, and the sets."""
        concerned: set[Name] = set()
        before = self._slices.pop(name, None)
        if before is not None:
            service = _service_of(name, before)
            concerned.add(service)
            self._slices_by_service[service].discard(name)
        if value is not None and (value.metadata.labels or {}).get(SERVICE_NAME_LABEL):
            service = _service_of(name, value)
            concerned.add(service)
            self._slices[name] = value
            self._slices_by_service.setdefault(service, set()).add(name)
        items: Items = {}
        for service in concerned:
            if not self._slices_by_service[service]:
                del self._slices_by_service[service]
            if service in self._services:
                items |= self._refresh_service(service)
        return concerned & self._services.keys(), items

    def set_node(self, name: str, value: Node | None) -> Items:
        """A node as it is now; the sets that may be others."""
        if value is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = value
        items: Items = {}
        for selector in self._node_selectors:
            items |= self._of_nodes(selector)
        return items

    def _refresh_service(self, service: Name) -> Items:
        backends = [self._backends(name) for name in self._slices_by_service.get(service, ())]
        named = {service_netset(service): {a for found in backends for a in found.addresses}}
        for port in self._ports_of(service):
            named[service_netset(service, port)] = {
                a for found in backends if port in found.ports for a in found.addresses
            }
        sets: dict[keys.Key, Value] = {
            keys.NetsetKey(name): _netset(name, addresses) for name, addresses in named.items()
        }
        gone = self._sets_by_service.get(service, {}).keys() - sets.keys()
        self._sets_by_service[service] = sets
        return {**dict.fromkeys(gone), **sets}

    def _ports_of(self, service: Name) -> set[ServicePort]:
        slices = self._slices_by_service.get(service, ())
        return {port for name in slices for port in self._backends(name).ports}

    def _backends(self, name: Name) -> _Backends:
        value = self._slices[name]
        reading = read_slice(value)
        ports = (
            ServicePort(protocol_number(port.protocol), port.port)
            for port in value.ports or ()
            if port.port is not None
        )
        addresses = reading.addresses if reading is not None else frozenset()
        return _Backends(addresses, frozenset(ports))

    def _of_nodes(self, selector: str) -> Items:
        parsed = grammar.parse_selector(selector)
        addresses = {
            address
            for node in self._nodes.values()
            if grammar.evaluate(parsed, node.labels)
            for address in node.addresses
        }
        name = nodes_netset(selector)
        return {keys.NetsetKey(name): _netset(name, addresses)}


def _netset(name: NetsetName, addresses: Iterable[Address]) -> NetworkSet:
    return NetworkSet(name, None, tuple(sorted(map(address_net, addresses))))


def _service_of(name: Name, value: EndpointSlice) -> Name:
    return Name(name.namespace, (value.metadata.labels or {})[SERVICE_NAME_LABEL])
