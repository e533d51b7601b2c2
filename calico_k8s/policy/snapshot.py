"""One state of the cluster, indexed and never changed: what :mod:`.verdict` looks things up in.

In: stored items, a mapping from :data:`~calico_k8s.model.keys.Key` to value.  Out: endpoints by
address, the tags and labels each endpoint ends up with, tiers and their policies in order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import chain
from typing import TypeVar

import grammar
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, net_contains
from calico_k8s.model.domains import DomainName
from calico_k8s.model.names import (
    EndpointId,
    NetsetName,
    NodeName,
    ProfileId,
    SelectorText,
    TagName,
    TierName,
)
from calico_k8s.model.resources import (
    HostEndpoint,
    Labels,
    NetworkSet,
    Node,
    Policy,
    Rules,
    Setting,
    Tags,
    Tier,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.model.staging import target_of

NO_RULES = Rules()

Names = Mapping[NodeName, Mapping[DomainName, AbstractSet[Address]]]

_KIND_IN_TIES = {
    "CalicoNetworkPolicy": "NetworkPolicy",
    "NetworkPolicy": "KubernetesNetworkPolicy",
    "ClusterNetworkPolicy": "KubernetesClusterNetworkPolicy",
}
"""Kinds that Calico calls otherwise than we: its names break ties, so that policies that come from a
cluster of its mean the same here.  Source: Calico, libcalico-go/lib/backend/model/policy.go."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def claim(endpoint: WorkloadEndpoint) -> tuple[bool, float, str, EndpointId]:
    """The sort key by which live endpoints contend for an address: the greatest owns it.

    A pod goes before a host endpoint that expects its address.
    """
    return (not endpoint.id.is_host, endpoint.created, endpoint.uid, endpoint.id)


def policy_sort_key(policy: Policy) -> tuple[float, str]:
    """Order within a tier: by order, None last, then by ``name/namespace/kind``.

    A staged policy stands where it will once it is enforced.
    """
    order = float("inf") if policy.order is None else policy.order
    kind, namespace, name = target_of(policy.id)
    return (order, f"{name}/{namespace}/{_KIND_IN_TIES.get(kind, kind)}")


def tier_sort_key(tier: Tier) -> tuple[float, str]:
    """Order of tiers: by order, None last, then by name."""
    return (float("inf") if tier.order is None else tier.order, tier.name)


@lru_cache(maxsize=65536)
def selector(text: SelectorText) -> grammar.Selector:
    """The selector a canonical text stands for.

    The codec lets no text through that does not parse; one that gets here is true of nothing.
    """
    try:
        return grammar.parse_selector(text)
    except grammar.GrammarError:
        return grammar.In(key="", values=())


@dataclass(frozen=True)
class Snapshot:
    """A state of the cluster."""

    endpoints: Mapping[EndpointId, WorkloadEndpoint]
    profile_rules: Mapping[ProfileId, Rules]
    profile_tags: Mapping[ProfileId, Tags]
    profile_labels: Mapping[ProfileId, Labels]
    tiers: Mapping[TierName, Tier]
    policies: Mapping[keys.PolicyKey, Policy]
    """By tier too: while a policy moves to another tier, it stands in both."""
    netsets: Mapping[NetsetName, NetworkSet]
    nodes: Mapping[NodeName, Node]
    settings: Mapping[tuple[NodeName | None, str], str]
    host_endpoints: Mapping[EndpointId, HostEndpoint]
    names: Names = field(default_factory=dict)
    """By node, the addresses that it has learnt for names; what is stored says nothing of them."""

    @classmethod
    def from_items(cls, items: Mapping[keys.Key, Value], names: Names | None = None) -> "Snapshot":
        """Index stored items; what is not policy (readiness) is left out."""
        return cls(
            endpoints={k.id: v for k, v in _select(items, keys.EndpointKey, WorkloadEndpoint)},
            profile_rules={k.profile: v for k, v in _select(items, keys.ProfileRulesKey, Rules)},
            profile_tags={k.profile: v for k, v in _select(items, keys.ProfileTagsKey, Tags)},
            profile_labels={k.profile: v for k, v in _select(items, keys.ProfileLabelsKey, Labels)},
            tiers={k.tier: v for k, v in _select(items, keys.TierKey, Tier)},
            policies=dict(_select(items, keys.PolicyKey, Policy)),
            netsets={k.netset: v for k, v in _select(items, keys.NetsetKey, NetworkSet)},
            nodes={k.node: v for k, v in _select(items, keys.NodeKey, Node)},
            settings={
                (k.node, k.name): v.value for k, v in _select(items, keys.SettingKey, Setting)
            },
            host_endpoints={v.id: v for _, v in _select(items, keys.HostEndpointKey, HostEndpoint)},
            names=names or {},
        )

    @cached_property
    def owner_by_address(self) -> Mapping[Address, WorkloadEndpoint]:
        """Each address' one owner: of the live endpoints that hold it, the newest."""
        return {a: peer for a, peer in self.peer_by_address.items() if not peer.id.is_host}

    @cached_property
    def peer_by_address(self) -> Mapping[Address, WorkloadEndpoint]:
        """Whom rules mean by each address: its owner, else the host endpoint that expects it."""
        peers: dict[Address, WorkloadEndpoint] = {}
        for endpoint in sorted(self.everybody.values(), key=claim):
            for address in endpoint.addresses:
                peers[address] = endpoint
        return peers

    @cached_property
    def everybody(self) -> Mapping[EndpointId, WorkloadEndpoint]:
        """Pods, and host endpoints as the peers that they are."""
        hosts = {name: endpoint.as_peer() for name, endpoint in self.host_endpoints.items()}
        return {**self.endpoints, **hosts}

    @cached_property
    def hosts_by_node(self) -> Mapping[NodeName, tuple[HostEndpoint, ...]]:
        """Each node's host endpoints, by name."""
        found: dict[NodeName, list[HostEndpoint]] = {}
        for endpoint in sorted(self.host_endpoints.values(), key=lambda each: each.name):
            found.setdefault(endpoint.node, []).append(endpoint)
        return {node: tuple(endpoints) for node, endpoints in found.items()}

    @cached_property
    def policies_by_tier(self) -> tuple[tuple[Tier, tuple[Policy, ...]], ...]:
        """Tiers in order, each with its enforced policies in order.

        A policy whose tier does not exist is in none of them: it is not enforced until it does.
        """
        tiers = sorted(self.tiers.values(), key=tier_sort_key)
        policies = sorted(self.policies.values(), key=policy_sort_key)
        return tuple(
            (tier, tuple(p for p in policies if p.tier == tier.name and p.staged is None))
            for tier in tiers
        )

    def tags_of(self, endpoint: WorkloadEndpoint) -> frozenset[TagName]:
        """The tags of all the endpoint's profiles."""
        return self._tags_by_profiles(endpoint.profiles)

    def selects(self, text: SelectorText, endpoint: WorkloadEndpoint) -> bool:
        """Whether the selector is true of the labels of a pod or host endpoint of this snapshot."""
        return self._selected(text, endpoint.id)

    def labels_of(self, endpoint: WorkloadEndpoint) -> Mapping[str, str]:
        """The endpoint's own labels, and its profiles' where it has none of that key."""
        labels: dict[str, str] = {}
        for profile in reversed(endpoint.profiles):
            if profile in self.profile_labels:
                labels.update(self.profile_labels[profile].labels)
        return labels | endpoint.labels

    def rules_of(self, profile: ProfileId) -> Rules:
        """A profile's rules; none for a profile that is not there."""
        return self.profile_rules.get(profile, NO_RULES)

    def netsets_of(self, address: Address) -> Iterable[NetworkSet]:
        """The network sets that hold the address."""
        return (
            netset
            for netset in self.netsets.values()
            if any(net_contains(net, address) for net in netset.nets)
        )

    def names_of(self, node: NodeName, address: Address) -> frozenset[DomainName]:
        """What a node has learnt an address to be called."""
        learnt = self.names.get(node, {})
        return frozenset(name for name, addresses in learnt.items() if address in addresses)

    def is_node_address(self, node: NodeName, address: Address) -> bool:
        """Whether the address is one of the node's own."""
        return node in self.nodes and address in self.nodes[node].addresses

    def setting(self, node: NodeName, name: str, default: str) -> str:
        """A setting as the node sees it: its own, else the global one, else the default."""
        return self.settings.get((node, name), self.settings.get((None, name), default))

    # A matrix asks the same of the same few endpoints a million times, so two answers are kept.

    @cached_property
    def _tags_by_profiles(self) -> Callable[[tuple[ProfileId, ...]], frozenset[TagName]]:
        @cache
        def tags(profiles: tuple[ProfileId, ...]) -> frozenset[TagName]:
            named = (self.profile_tags[p].tags for p in profiles if p in self.profile_tags)
            return frozenset(chain.from_iterable(named))

        return tags

    @cached_property
    def _selected(self) -> Callable[[SelectorText, EndpointId], bool]:
        @cache
        def is_selected(text: SelectorText, endpoint: EndpointId) -> bool:
            return grammar.evaluate(selector(text), self.labels_of(self.everybody[endpoint]))

        return is_selected


def _select(
    items: Mapping[keys.Key, Value], key_type: type[_Key], value_type: type[_Value]
) -> Iterator[tuple[_Key, _Value]]:
    for key, value in items.items():
        if isinstance(key, key_type) and isinstance(value, value_type):
            yield key, value
