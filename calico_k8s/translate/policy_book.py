"""Policy objects to what the datastore holds of them, kept up to date.

In: policy objects as they are now, the names of those that are gone, and what policies depend on:
namespaces' labels, endpoint slices, nodes.  Out: the keys that may have changed, with their
values, and the findings of each object that may have changed.  Nothing waits for another object:
what refers to one that is missing matches nothing until it comes, and is told.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Generic, NamedTuple, TypeVar, assert_never

import msgspec

from calico_k8s.model import keys
from calico_k8s.model.dns_servers import DnsServers
from calico_k8s.model.names import TierName
from calico_k8s.model.resources import Node
from calico_k8s.translate import objects
from calico_k8s.translate.calico_policies import (
    read_calico_policy,
    read_network_set,
    read_profile,
    read_tier,
)
from calico_k8s.translate.cluster_network_policies import read_cluster_network_policy
from calico_k8s.translate.derived_sets import DerivedSets, Items
from calico_k8s.translate.dns_servers import TrustedServers
from calico_k8s.translate.findings import Code, Finding, Name, ObjectRef, make_finding
from calico_k8s.translate.host_endpoints import (
    ALLOW_ALL_PROFILE,
    allow_all_rules,
    read_host_endpoint,
)
from calico_k8s.translate.network_policies import read_network_policy
from calico_k8s.translate.objects import EndpointSlice, PolicyObject, Service, object_ref
from calico_k8s.translate.reading import Reading
from calico_k8s.translate.references import Account, References, Thing, named_ports_of
from calico_k8s.translate.staged_policies import FIELD, read_staged_policy
from calico_k8s.translate.tiers import BUILT_IN_TIERS

_Key = TypeVar("_Key")


class PolicyChanges(NamedTuple):
    """What may be different; a value of None is deleted."""

    items: Items
    findings: Mapping[ObjectRef, tuple[Finding, ...]]
    touched: AbstractSet[ObjectRef]
    """Objects that came, went or were read again, and those whose tier was."""


class Standing(msgspec.Struct, frozen=True):
    """What has become of a policy object."""

    uid: str
    generation: int | None
    keys: frozenset[keys.Key]
    """Everything that has to be stored for all of it to be in force."""
    findings: tuple[Finding, ...]


class PolicyBook:
    """Everything that policy objects say.

    Cost: a policy's change is O(its rules), a tier's O(its policies), a namespace's O(its network
    sets); a slice's, where it changes the ports of a service, O(the policies that name it).
    """

    def __init__(self, *, sees_all: bool = False, dns_servers: DnsServers = ()) -> None:
        self._sees_all = sees_all
        self._servers = TrustedServers(dns_servers)
        self._references = References()
        self._things: dict[ObjectRef, frozenset[Thing]] = {}
        self._values: dict[ObjectRef, PolicyObject] = {}
        self._readings: dict[ObjectRef, Reading] = {}
        self._derived = DerivedSets()
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._sets_in: _Refs[str] = _Refs()
        self._in_tier: _Refs[TierName] = _Refs()
        self._naming: _Refs[Name] = _Refs()
        self._deleting: _Refs[ObjectRef] = _Refs()
        self._dirty: set[ObjectRef] = set()
        self._touched: set[ObjectRef] = set()
        self._items: Items = dict(_BUILT_IN)

    def update(self, value: PolicyObject) -> None:
        """A policy object as it is now; its status, which we write, is no part of it."""
        ref = object_ref(value)
        if self._values.get(ref) == value:
            return
        self._values[ref] = value
        self._set(ref, self._read(value))

    def remove(self, ref: ObjectRef) -> None:
        """A policy object that is gone; nothing if it never was."""
        if self._values.pop(ref, None) is not None:
            self._set(ref, None)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """The labels of a namespace; None: it is not there."""
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        self._read_again(self._sets_in.get(name))

    def set_node(self, name: str, record: Node | None) -> None:
        """A node as it is now; None: it is not there."""
        self._items |= self._derived.set_node(name, record)

    def set_service(self, name: Name, value: Service | None) -> None:
        """A service as it is now; None: it is not there."""
        self._items |= self._servers.set_service(name, value)

    def set_slice(self, name: Name, value: EndpointSlice | None) -> None:
        """An endpoint slice as it is now; None: it is not there."""
        services, items = self._derived.set_slice(name, value)
        self._items |= items | self._servers.set_slice(name, value)
        for service in services:
            self._read_again(self._naming.get(service))

    def bring(self, things: Iterable[Thing], count: int) -> None:
        """Pods and service accounts bring so many more of each thing that policies may name."""
        if self._sees_all:
            self._dirty |= self._references.bring(things, count)

    def take_changes(self) -> PolicyChanges:
        """What may have changed since the last call."""
        items, dirty, touched = self._items, self._dirty, self._touched
        self._items, self._dirty, self._touched = {}, set(), set()
        return PolicyChanges(items, {ref: self._findings(ref) for ref in dirty}, touched | dirty)

    def standing(self, ref: ObjectRef) -> Standing | None:
        """What has become of an object; None where there is none, or it cannot be used."""
        reading = self._readings.get(ref)
        if reading is None:
            return None
        metadata = self._values[ref].metadata
        tier = {keys.TierKey(reading.tier)} if reading.tier is not None else set()
        return Standing(
            metadata.uid or "",
            metadata.generation,
            frozenset(reading.items.keys() | tier),
            self._findings(ref),
        )

    @property
    def refs(self) -> Iterable[ObjectRef]:
        """Every object there is."""
        return self._readings.keys()

    def _read(self, value: PolicyObject) -> Reading:
        match value:
            case objects.NetworkPolicy():
                return read_network_policy(value)
            case objects.ClusterNetworkPolicy():
                return read_cluster_network_policy(value)
            case objects.GlobalNetworkPolicy() | objects.CalicoNetworkPolicy():
                return read_calico_policy(value, self._derived.ports_of)
            case (
                objects.StagedGlobalNetworkPolicy()
                | objects.StagedNetworkPolicy()
                | objects.StagedKubernetesNetworkPolicy()
            ):
                return read_staged_policy(value, self._derived.ports_of)
            case objects.CalicoTier():
                return read_tier(value)
            case objects.CalicoProfile():
                return read_profile(value, self._derived.ports_of)
            case objects.CalicoHostEndpoint():
                return read_host_endpoint(value)
            case objects.GlobalNetworkSet() | objects.CalicoNetworkSet():
                namespace = object_ref(value).namespace
                return read_network_set(value, self._namespaces.get(namespace, {}))
            case _:
                assert_never(value)

    def _read_again(self, refs: Iterable[ObjectRef]) -> None:
        for ref in tuple(refs):
            self._set(ref, self._read(self._values[ref]))

    def _set(self, ref: ObjectRef, new: Reading | None) -> None:
        """Replace what an object says; what it names is taken up before the old is let go."""
        old = self._readings.pop(ref, None)
        self._dirty.discard(ref)
        self._touched.add(ref)
        if new is not None:
            self._dirty.add(ref)
            self._items |= self._derived.use(new.services, new.node_selectors)
            self._items |= self._servers.ask(new.asks_domains)
        if old is not None:
            self._items |= self._derived.release(old.services, old.node_selectors)
            self._items |= self._servers.ask(-old.asks_domains)
            self._items |= {key: _BUILT_IN.get(key) for key in old.items}
            self._enter(ref, old, is_in=False)
        if new is not None:
            self._items |= new.items
            self._readings[ref] = new
            self._enter(ref, new, is_in=True)

    def _enter(self, ref: ObjectRef, reading: Reading, *, is_in: bool) -> None:
        """Put an object into the indexes, or take it out."""
        if ref.kind == "NetworkSet":
            self._sets_in.set(ref.namespace, ref, is_in=is_in)
        if ref.kind == "Tier":
            self._dirty |= self._in_tier.get(TierName(ref.name))
        self._dirty |= self._deleting.get(ref)
        if reading.deletes is not None:
            self._deleting.set(reading.deletes, ref, is_in=is_in)
        if reading.tier is not None:
            self._in_tier.set(reading.tier, ref, is_in=is_in)
        for service in reading.services:
            self._naming.set(service, ref, is_in=is_in)
        if self._sees_all:
            things = self._things.pop(ref, None) or _things(reading)
            self._references.name(ref, things, is_in=is_in)
            if is_in and things:
                self._things[ref] = things

    def _findings(self, ref: ObjectRef) -> tuple[Finding, ...]:
        reading = self._readings.get(ref)
        if reading is None:
            return ()
        return (*reading.findings, *self._missing(ref, reading))

    def _missing(self, ref: ObjectRef, reading: Reading) -> Iterable[Finding]:
        """What an object refers to that is not there."""
        tier = reading.tier
        if (
            tier is not None
            and tier not in BUILT_IN_TIERS
            and _tier_ref(tier) not in self._readings
        ):
            message = f"there is no tier '{tier}', so the policy is not enforced until there is"
            yield make_finding(Code.TIER_UNKNOWN, message, ref, ("spec", "tier"))
        if reading.deletes is not None and reading.deletes not in self._readings:
            message = f"there is no {reading.deletes} to delete, so it would change nothing"
            yield make_finding(Code.STAGED_TARGET_UNKNOWN, message, ref, ("spec", FIELD))
        for service in sorted(reading.services):
            if not self._derived.has_service(service):
                where = f"{service.namespace}/{service.name}"
                message = f"no EndpointSlice says where the service {where} leads, so a rule that names it matches nothing"
                yield make_finding(Code.POLICY_SERVICE_UNKNOWN, message, ref, ("spec",))
        if self._sees_all and reading.asks_domains and not self._servers.is_known:
            message = (
                f"no DNS server is known that is trusted ({self._servers.words}), so no address is "
                "learnt for its domains: set dns-trusted-servers to the one that pods ask"
            )
            yield make_finding(Code.POLICY_SERVICE_UNKNOWN, message, ref, ("spec",))
        yield from self._references.missing(ref, self._things.get(ref, ()))


def _things(reading: Reading) -> frozenset[Thing]:
    """What an object names that pods and service accounts bring."""
    accounts = (Account(*account) for account in reading.accounts)
    return frozenset((*accounts, *named_ports_of(reading.items.values())))


_BUILT_IN: Items = {
    **{keys.TierKey(name): tier for name, tier in BUILT_IN_TIERS.items()},
    keys.ProfileRulesKey(ALLOW_ALL_PROFILE): allow_all_rules(),
}


def _tier_ref(name: TierName) -> ObjectRef:
    return ObjectRef("Tier", "", name)


class _Refs(Generic[_Key]):
    """Objects by something that they share; what nothing shares is not kept."""

    def __init__(self) -> None:
        self._refs: dict[_Key, set[ObjectRef]] = {}

    def get(self, key: _Key) -> set[ObjectRef]:
        return self._refs.get(key, set())

    def set(self, key: _Key, ref: ObjectRef, *, is_in: bool) -> None:
        refs = self._refs.setdefault(key, set())
        if is_in:
            refs.add(ref)
        else:
            refs.discard(ref)
            if not refs:
                del self._refs[key]
