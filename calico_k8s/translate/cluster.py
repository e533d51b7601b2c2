"""A whole cluster's objects to everything the datastore holds of it, kept up to date.

In: Kubernetes objects as they are now, in any order, and the names of those that are gone.  Out:
differences to what was handed out before, and findings.  Nothing waits for another object: what
refers to one that is missing is closed until it comes.

::

    Pod ──────────► Workload ──┬─► endpoint ◄── services that expose it ◄─┐
                               └─► profiles held by it                    │
    Namespace ────► profiles namespace.NS, namespace-labels.NS            │
    ServiceAccount► profile serviceaccount.NS.NAME                        │
    Service ──────► profile service.NS.NAME ──────────────────────────────┤
    EndpointSlice ► addresses of a service without a selector ────────────┘
    Node ─────────► node record
    policy objects► policies, tiers, network sets (policy_book)

Law: after any history the sum of the differences is what a fresh translation of the final objects
gives.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple, assert_never

import msgspec

from calico_k8s.model import keys
from calico_k8s.model.names import NodeName, ProfileId
from calico_k8s.model.resources import Labels, Node, Value
from calico_k8s.translate import objects
from calico_k8s.translate.exposure import ExposureIndex
from calico_k8s.translate.findings import Finding, Name, ObjectRef
from calico_k8s.translate.host_endpoints import auto_host_endpoint
from calico_k8s.translate.labels import SERVICE_ACCOUNT_PREFIX, inherited_labels
from calico_k8s.translate.namespaces import (
    NamespaceReading,
    TranslateSettings,
    namespace_labels_profile,
    namespace_profile,
    read_namespace,
    unknown_namespace,
)
from calico_k8s.translate.objects import ClusterObject, KubeObject, PolicyObject, object_ref
from calico_k8s.translate.policy_book import PolicyBook, Standing
from calico_k8s.translate.profiles import ProfileBook, profile_keys
from calico_k8s.translate.references import account_things, endpoint_things
from calico_k8s.translate.services import (
    Exposure,
    read_service,
    read_slice,
    service_profile,
)
from calico_k8s.translate.workloads import (
    ProfileItems,
    Workload,
    read_node,
    read_pod,
    service_account_profile,
    with_services,
)


class Changes(msgspec.Struct):
    """Differences since the last flush; ``findings`` has every object whose findings changed.

    No key is in both ``puts`` and ``deletes``.  An object that is fine again, or gone, has an
    empty tuple of findings.
    """

    puts: dict[keys.Key, Value] = msgspec.field(default_factory=dict)
    deletes: set[keys.Key] = msgspec.field(default_factory=set)
    findings: dict[ObjectRef, tuple[Finding, ...]] = msgspec.field(default_factory=dict)
    policies: set[ObjectRef] = msgspec.field(default_factory=set)
    """Policy objects whose :class:`~.policy_book.Standing` may be another, or that are gone."""

    def is_empty(self) -> bool:
        """Whether nothing changed."""
        return not (self.puts or self.deletes or self.findings)


class Translation(NamedTuple):
    """Everything a set of objects becomes, and what was found on the way."""

    items: Mapping[keys.Key, Value]
    findings: tuple[Finding, ...]


class Translator:
    """Keeps the translation of a changing cluster.

    Cost: a pod's change is O(its labels and services), a namespace's or service account's O(1), a
    service's O(the pods it exposes).  ``sees_all`` is for who sees a whole cluster: what policies name
    and is not there is told then.
    """

    def __init__(self, settings: TranslateSettings, *, sees_all: bool = False) -> None:
        self._settings = settings
        self._book = ProfileBook()
        self._index = ExposureIndex()
        self._policies = PolicyBook(sees_all=sees_all, dns_servers=settings.dns_servers)
        self._accounts: set[Name] = set()
        self._workloads: dict[Name, Workload] = {}
        self._open_services: set[Name] = set()
        self._known_namespaces: set[str] = set()
        self._dirty_pods: set[Name] = set()
        self._endpoint_keys: dict[Name, keys.EndpointKey] = {}
        self._endpoints_by_node: Counter[NodeName] = Counter()
        self._pending: dict[keys.Key, Value | None] = {}
        self._emitted: dict[keys.Key, Value] = {}
        self._findings: dict[ObjectRef, tuple[Finding, ...]] = {}
        self._changed_findings: set[ObjectRef] = set()

    def update(self, value: KubeObject) -> None:
        """An object as it is now."""
        if isinstance(value, PolicyObject):
            self._policies.update(value)
        else:
            self._set_findings(object_ref(value), self._update(value))

    def _update(self, value: ClusterObject) -> tuple[Finding, ...]:
        match value:
            case objects.Pod():
                return self._update_pod(value)
            case objects.Namespace():
                return self._update_namespace(value)
            case objects.ServiceAccount():
                return self._update_service_account(value)
            case objects.Service():
                return self._update_service(value)
            case objects.EndpointSlice():
                return self._update_slice(value)
            case objects.Node():
                return self._update_node(value)
            case _:
                assert_never(value)

    def remove(self, ref: ObjectRef) -> None:
        """An object that is gone, or cannot be used; nothing if it never was."""
        name = Name(ref.namespace, ref.name)
        match ref.kind:
            case "Pod":
                self._remove_pod(name)
            case "Namespace":
                self._remove_namespace(name)
            case "ServiceAccount":
                self._book.undefine(service_account_profile(*name))
                if name in self._accounts:
                    self._accounts.remove(name)
                    self._policies.bring(account_things(name), -1)
            case "Service":
                self._set_service(name, None)
                self._policies.set_service(name, None)
            case "EndpointSlice":
                self._dirty_pods |= self._index.set_slice(name, None)
                self._policies.set_slice(name, None)
            case "Node":
                self._pending[keys.NodeKey(NodeName(name.name))] = None
                self._policies.set_node(name.name, None)
                made = auto_host_endpoint(Node(NodeName(name.name)))
                self._pending[keys.HostEndpointKey(made.node, made.name)] = None
            case _:
                self._policies.remove(ref)
        self._set_findings(ref, ())

    def report(self, ref: ObjectRef, findings: tuple[Finding, ...]) -> None:
        """Findings about an object that could not be decoded; it counts as absent."""
        self.remove(ref)
        self._set_findings(ref, findings)

    def flush(self) -> Changes:
        """What changed since the last flush."""
        for pod in self._dirty_pods:
            self._place_endpoint(pod)
        self._dirty_pods = set()
        for profile in self._book.take_dirty():
            items = self._book.items(profile)
            for key in profile_keys(profile):
                self._pending[key] = items.get(key)
        told = self._policies.take_changes()
        self._pending |= told.items
        for ref, findings in told.findings.items():
            self._set_findings(ref, findings)
        changes = Changes()
        for key, value in self._pending.items():
            if value == self._emitted.get(key):
                continue
            if isinstance(key, keys.HostEndpointKey):
                self._count(key.node, (value is not None) - (key in self._emitted))
            if value is None:
                changes.deletes.add(key)
                del self._emitted[key]
            else:
                changes.puts[key] = self._emitted[key] = value
        self._pending = {}
        for ref in self._changed_findings:
            changes.findings[ref] = self._findings.get(ref, ())
        self._changed_findings = set()
        changes.policies.update(told.touched)
        return changes

    @property
    def items(self) -> Mapping[keys.Key, Value]:
        """Everything as of the last flush, not to be changed."""
        return self._emitted

    @property
    def endpoint_count(self) -> int:
        """How many of the items are endpoints.  Cost: O(1)."""
        return len(self._endpoint_keys)

    def nodes_with_endpoints(self) -> frozenset[NodeName]:
        """The nodes that have pods or host endpoints, as of the last flush.  Cost: O(them)."""
        return frozenset(self._endpoints_by_node)

    def standing(self, ref: ObjectRef) -> Standing | None:
        """What has become of a policy object; None where there is none, or it cannot be used."""
        return self._policies.standing(ref)

    @property
    def policies(self) -> Iterable[ObjectRef]:
        """Every policy object that can be used."""
        return self._policies.refs

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding there is, by object."""
        return tuple(f for ref in sorted(self._findings) for f in self._findings[ref])

    def _set_findings(self, ref: ObjectRef, findings: tuple[Finding, ...]) -> None:
        if findings == self._findings.get(ref, ()):
            return
        self._changed_findings.add(ref)
        if findings:
            self._findings[ref] = findings
        else:
            del self._findings[ref]

    # Pods.

    def _update_pod(self, pod: objects.Pod) -> tuple[Finding, ...]:
        name = _name(pod)
        reading = read_pod(pod, self._settings)
        if reading.workload is None:
            self._remove_pod(name)
        elif reading.workload != self._workloads.get(name):
            self._set_workload(name, reading.workload)
        return reading.findings

    def _set_workload(self, name: Name, workload: Workload) -> None:
        before = self._workloads.get(name)
        profiles = workload.profiles
        held = () if before is None else before.profiles
        for profile in profiles:
            if profile not in held:
                self._book.hold(profile, partial(_brought, workload, name.namespace, profile))
        for profile in held:
            if profile not in profiles:
                self._book.release(profile)
        self._bring(workload, before)
        self._workloads[name] = workload
        self._index.set_pod(name, workload.pod_labels, workload.endpoint.addresses)
        self._dirty_pods.add(name)

    def _remove_pod(self, name: Name) -> None:
        before = self._workloads.pop(name, None)
        if before is not None:
            for profile in before.profiles:
                self._book.release(profile)
            self._bring(None, before)
            self._index.remove_pod(name)
            self._dirty_pods.add(name)

    def _bring(self, now: Workload | None, before: Workload | None) -> None:
        """Count what a pod brings that policies may name, and no more what it brought."""
        if now is not None and before is not None and now.brings == before.brings:
            return
        for workload, count in ((now, 1), (before, -1)):
            if workload is not None:
                things = endpoint_things(workload.endpoint, workload.service_account)
                self._policies.bring(things, count)

    def _place_endpoint(self, pod: Name) -> None:
        workload = self._workloads.get(pod)
        key = None if workload is None else keys.EndpointKey(workload.endpoint.id)
        before = self._endpoint_keys.pop(pod, None)
        if before is not None:
            self._count(before.id.node, -1)
            if before != key:
                self._pending[before] = None
        if workload is None or key is None:
            return
        self._count(key.id.node, 1)
        services = (service_profile(*service) for service in self._index.services_of(pod))
        self._endpoint_keys[pod] = key
        self._pending[key] = with_services(workload, services)

    def _count(self, node: NodeName, difference: int) -> None:
        self._endpoints_by_node[node] += difference
        if not self._endpoints_by_node[node]:
            del self._endpoints_by_node[node]

    # What pods' profiles are made of.

    def _update_namespace(self, namespace: objects.Namespace) -> tuple[Finding, ...]:
        reading = read_namespace(namespace, self._settings)
        name = namespace.metadata.name
        if name not in self._known_namespaces:
            for profile, items in _namespace_items(name, unknown_namespace(name)).items():
                self._book.hold(profile, partial(_as_is, items))
        for profile, items in _namespace_items(name, reading).items():
            self._book.define(profile, items)
        self._known_namespaces.add(name)
        self._policies.set_namespace(name, namespace.metadata.labels or {})
        return reading.findings

    def _remove_namespace(self, name: Name) -> None:
        if name.name in self._known_namespaces:
            self._known_namespaces.remove(name.name)
            self._policies.set_namespace(name.name, None)
            for profile in (namespace_profile(name.name), namespace_labels_profile(name.name)):
                self._book.undefine(profile)
                self._book.release(profile)

    def _update_service_account(self, account: objects.ServiceAccount) -> tuple[Finding, ...]:
        name = _name(account)
        profile = service_account_profile(*name)
        items = _service_account_items(name, account.metadata.labels or {})
        self._book.define(profile, items)
        if name not in self._accounts:
            self._accounts.add(name)
            self._policies.bring(account_things(name), 1)
        return ()

    def _update_service(self, service: objects.Service) -> tuple[Finding, ...]:
        reading = read_service(service)
        self._set_service(_name(service), reading.exposure)
        self._policies.set_service(_name(service), service)
        return reading.findings

    def _set_service(self, name: Name, exposure: Exposure | None) -> None:
        profile = service_profile(*name)
        if exposure is not None:
            items: ProfileItems = {keys.ProfileRulesKey(profile): exposure.rules}
            if name not in self._open_services:
                self._open_services.add(name)
                self._book.hold(profile, partial(_as_is, items))
            self._book.define(profile, items)
        elif name in self._open_services:
            self._open_services.remove(name)
            self._book.undefine(profile)
            self._book.release(profile)
        self._dirty_pods |= self._index.set_service(name, exposure)

    def _update_slice(self, endpoint_slice: objects.EndpointSlice) -> tuple[Finding, ...]:
        name = _name(endpoint_slice)
        self._dirty_pods |= self._index.set_slice(name, read_slice(endpoint_slice))
        self._policies.set_slice(name, endpoint_slice)
        return ()

    def _update_node(self, node: objects.Node) -> tuple[Finding, ...]:
        record, findings = read_node(node)
        self._pending[keys.NodeKey(record.name)] = record
        self._policies.set_node(record.name, record)
        if self._settings.auto_host_endpoints:
            made = auto_host_endpoint(record)
            self._pending[keys.HostEndpointKey(made.node, made.name)] = made
        return findings


def translate_all(
    cluster: Iterable[KubeObject],
    settings: TranslateSettings | None = None,
    *,
    sees_all: bool = False,
) -> Translation:
    """The translation of objects that do not change; of two of one name the later holds."""
    translator = Translator(settings or TranslateSettings(), sees_all=sees_all)
    for value in cluster:
        translator.update(value)
    translator.flush()
    return Translation(translator.items, translator.findings)


def _name(value: KubeObject) -> Name:
    ref = object_ref(value)
    return Name(ref.namespace, ref.name)


def _brought(workload: Workload, namespace: str, profile: ProfileId) -> ProfileItems:
    """What a profile that a pod holds, no service's, has in it if nobody says more."""
    if profile in workload.own_profiles:
        return workload.own_profiles[profile]
    account = Name(namespace, workload.service_account)
    if profile == service_account_profile(*account):
        return _service_account_items(account, {})
    return _namespace_items(namespace, unknown_namespace(namespace))[profile]


def _as_is(items: ProfileItems) -> ProfileItems:
    return items


def _namespace_items(name: str, reading: NamespaceReading) -> dict[ProfileId, ProfileItems]:
    by_flag, inherited = namespace_profile(name), namespace_labels_profile(name)
    return {
        by_flag: {keys.ProfileRulesKey(by_flag): reading.rules},
        inherited: {
            keys.ProfileTagsKey(inherited): reading.tags,
            keys.ProfileLabelsKey(inherited): reading.labels,
        },
    }


def _service_account_items(name: Name, labels: Mapping[str, str]) -> ProfileItems:
    profile = service_account_profile(*name)
    inherited = Labels(inherited_labels(SERVICE_ACCOUNT_PREFIX, name.name, labels))
    return {keys.ProfileLabelsKey(profile): inherited}
