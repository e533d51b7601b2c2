"""The translation written for reading: everything is looked up by going through everything.

In: the objects of a cluster.  Out: what the datastore holds of it.  What a single object says is
taken from the package; what objects say together is written anew, as the contract has it.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, address_net
from calico_k8s.model.dns_servers import ServerAddress, ServerService
from calico_k8s.model.domains import servers_netset
from calico_k8s.model.names import NetsetName, ProfileId
from calico_k8s.model.resources import PROTOCOL_NUMBERS, Labels, NetworkSet, Value
from calico_k8s.translate import objects
from calico_k8s.translate.calico_policies import (
    read_calico_policy,
    read_network_set,
    read_profile,
    read_tier,
)
from calico_k8s.translate.calico_rules import ServicePort, service_netset
from calico_k8s.translate.cluster_network_policies import (
    nodes_netset,
    read_cluster_network_policy,
)
from calico_k8s.translate.findings import Name, ObjectRef
from calico_k8s.translate.host_endpoints import (
    ALLOW_ALL_PROFILE,
    allow_all_rules,
    auto_host_endpoint,
    read_host_endpoint,
)
from calico_k8s.translate.labels import SERVICE_ACCOUNT_PREFIX, inherited_labels
from calico_k8s.translate.namespaces import TranslateSettings, read_namespace, unknown_namespace
from calico_k8s.translate.network_policies import read_network_policy
from calico_k8s.translate.objects import KubeObject
from calico_k8s.translate.reading import Reading
from calico_k8s.translate.services import read_service, read_slice
from calico_k8s.translate.staged_policies import read_staged_policy
from calico_k8s.translate.tiers import BUILT_IN_TIERS
from calico_k8s.translate.workloads import Workload, read_node, read_pod
from grammar import evaluate, parse_selector

State = Mapping[ObjectRef, KubeObject]
Items = dict[keys.Key, Value]

_Object = TypeVar("_Object", bound=KubeObject)


def translate(state: State, settings: TranslateSettings) -> Items:
    """What the datastore holds of these objects."""
    readings = (read_pod(pod, settings).workload for pod in _all(state, objects.Pod).values())
    workloads = [workload for workload in readings if workload is not None]
    items: Items = {keys.ProfileRulesKey(ALLOW_ALL_PROFILE): allow_all_rules()}
    for node in _all(state, objects.Node).values():
        record, _findings = read_node(node)
        items[keys.NodeKey(record.name)] = record
        if settings.auto_host_endpoints:
            made = auto_host_endpoint(record)
            items[keys.HostEndpointKey(made.node, made.name)] = made
    for workload in workloads:
        services = [ProfileId(f"service.{name}") for name in _services_of(state, workload)]
        profiles = (workload.first_profile, *sorted(services), *workload.last_profiles)
        endpoint = msgspec.structs.replace(workload.endpoint, profiles=profiles)
        items[keys.EndpointKey(endpoint.id)] = endpoint
        for own in workload.own_profiles.values():
            items.update(own)
    items |= _of_services(state) | _of_names(state, settings, workloads) | _of_policies(state)
    return items | _of_servers(state, settings)


def _all(state: State, kind: type[_Object]) -> dict[ObjectRef, _Object]:
    return {ref: value for ref, value in state.items() if isinstance(value, kind)}


def _of_services(state: State) -> Items:
    """Every open service has a profile, whether it exposes a pod or not."""
    items: Items = {}
    for ref, service in _all(state, objects.Service).items():
        exposure = read_service(service).exposure
        if exposure is not None:
            profile = ProfileId(f"service.{ref.namespace}.{ref.name}")
            items[keys.ProfileRulesKey(profile)] = exposure.rules
    return items


def _of_names(state: State, settings: TranslateSettings, workloads: list[Workload]) -> Items:
    """Namespaces that are there or have pods, and the service accounts that pods run as."""
    items: Items = {}
    known = {
        namespace.metadata.name: read_namespace(namespace, settings)
        for namespace in _all(state, objects.Namespace).values()
    }
    for name in known.keys() | {w.endpoint.id.namespace for w in workloads}:
        reading = known.get(name) or unknown_namespace(name)
        inherited = ProfileId(f"namespace-labels.{name}")
        items[keys.ProfileLabelsKey(inherited)] = reading.labels
        items[keys.ProfileTagsKey(inherited)] = reading.tags
        by_flag = ProfileId(f"namespace.{name}")
        if name in known or any(w.first_profile == by_flag for w in workloads):
            items[keys.ProfileRulesKey(by_flag)] = reading.rules
    for workload in workloads:
        namespace, name = workload.endpoint.id.namespace, workload.service_account
        account = state.get(ObjectRef("ServiceAccount", namespace, name))
        labels = (account.metadata.labels if account else None) or {}
        profile = ProfileId(f"serviceaccount.{namespace}.{name}")
        inherited_from = inherited_labels(SERVICE_ACCOUNT_PREFIX, name, labels)
        items[keys.ProfileLabelsKey(profile)] = Labels(inherited_from)
    return items


def _of_policies(state: State) -> Items:
    """Tiers, policies and network sets, and the sets that policies ask for by name."""
    items: Items = {keys.TierKey(name): tier for name, tier in BUILT_IN_TIERS.items()}
    for value in state.values():
        reading = _reading(state, value)
        if reading is None:
            continue
        items.update(reading.items)
        for name in reading.services:
            leads = _leads_to(state, name)
            for port in _ports_of(state, name):
                of_port = {a for addresses, ports in leads if port in ports for a in addresses}
                items.update(_netset(service_netset(name, port), of_port))
            items.update(_netset(service_netset(name), {a for some, _ in leads for a in some}))
        for selector in reading.node_selectors:
            nodes = [read_node(node)[0] for node in _all(state, objects.Node).values()]
            chosen = [n for n in nodes if evaluate(parse_selector(selector), n.labels)]
            items.update(_netset(nodes_netset(selector), {a for n in chosen for a in n.addresses}))
    return items


def _of_servers(state: State, settings: TranslateSettings) -> Items:
    """The DNS servers that are trusted, while anything is about names."""
    readings = (_reading(state, value) for value in state.values())
    if not any(reading is not None and reading.asks_domains for reading in readings):
        return {}
    places: dict[tuple[int, int], set[Address]] = {}
    for server in settings.dns_servers:
        for protocol in (PROTOCOL_NUMBERS["udp"], PROTOCOL_NUMBERS["tcp"]):
            if isinstance(server, ServerAddress):
                places.setdefault((protocol, server.port), set()).add(server.address)
                continue
            for own, addresses in _of_server(state, server, protocol):
                places.setdefault((protocol, own), set()).update(addresses)
    items: Items = {}
    for place, held in places.items():
        items |= _netset(servers_netset(*place), held)
    return items


def _of_server(
    state: State, server: ServerService, protocol: int
) -> Iterator[tuple[int, set[Address]]]:
    """The ports of a server's pods, each with their addresses; no service here has an own one."""
    service = _all(state, objects.Service).get(ObjectRef("Service", server.namespace, server.name))
    spec = service.spec if service is not None else None
    asked = [
        (port.port, objects.protocol_number(port.protocol)) for port in (spec and spec.ports) or ()
    ]
    if (server.port, protocol) in asked:
        for addresses, ports in _leads_to(state, Name(server.namespace, server.name)):
            yield from (
                (own.port, addresses) for own in ports if own.protocol == protocol and addresses
            )


def _reading(state: State, value: KubeObject) -> Reading | None:
    match value:
        case objects.NetworkPolicy():
            return read_network_policy(value)
        case objects.ClusterNetworkPolicy():
            return read_cluster_network_policy(value)
        case objects.GlobalNetworkPolicy() | objects.CalicoNetworkPolicy():
            return read_calico_policy(value, lambda name: _ports_of(state, name))
        case (
            objects.StagedGlobalNetworkPolicy()
            | objects.StagedNetworkPolicy()
            | objects.StagedKubernetesNetworkPolicy()
        ):
            return read_staged_policy(value, lambda name: _ports_of(state, name))
        case objects.CalicoTier():
            return read_tier(value)
        case objects.CalicoProfile():
            return read_profile(value, lambda name: _ports_of(state, name))
        case objects.CalicoHostEndpoint():
            return read_host_endpoint(value)
        case objects.GlobalNetworkSet() | objects.CalicoNetworkSet():
            namespace = state.get(ObjectRef("Namespace", "", value.metadata.namespace or ""))
            labels = namespace.metadata.labels if namespace is not None else None
            return read_network_set(value, labels or {})
        case _:
            return None


def _netset(name: NetsetName, addresses: set[Address]) -> Items:
    nets = tuple(sorted(map(address_net, addresses)))
    return {keys.NetsetKey(name): NetworkSet(name, None, nets)}


def _ports_of(state: State, name: Name) -> list[ServicePort]:
    return sorted({port for _, ports in _leads_to(state, name) for port in ports})


def _leads_to(state: State, name: Name) -> list[tuple[set[Address], set[ServicePort]]]:
    """The addresses and the ports of each of a service's slices."""
    found = []
    for ref, value in _all(state, objects.EndpointSlice).items():
        reading = read_slice(value)
        if reading is not None and (ref.namespace, reading.service) == name:
            ports = {
                ServicePort(objects.protocol_number(port.protocol), port.port)
                for port in value.ports or ()
                if port.port is not None
            }
            found.append((set(reading.addresses), ports))
    return found


def _services_of(state: State, workload: Workload) -> list[str]:
    """The open services of the pod's namespace that select it, or whose slices hold its address."""
    namespace = workload.endpoint.id.namespace
    found = []
    for ref, service in _all(state, objects.Service).items():
        exposure = read_service(service).exposure
        if exposure is None or ref.namespace != namespace:
            continue
        if exposure.selector:
            is_exposed = exposure.selector.items() <= workload.pod_labels.items()
        else:
            is_exposed = _is_in_slices(state, ref, workload)
        if is_exposed:
            found.append(f"{namespace}.{ref.name}")
    return found


def _is_in_slices(state: State, service: ObjectRef, workload: Workload) -> bool:
    for ref, endpoint_slice in _all(state, objects.EndpointSlice).items():
        reading = read_slice(endpoint_slice)
        if reading is None or (ref.namespace, reading.service) != service[1:]:
            continue
        if reading.addresses & set(workload.endpoint.addresses):
            return True
    return False
