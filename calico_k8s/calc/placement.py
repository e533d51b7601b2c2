"""Which local endpoint is in which policy group, and which sets those groups ask.

In: what was touched among local endpoints, rules and network sets.  Out, at a flush: differences
of groups and local endpoints, and the sets that began or ceased to be asked.

Endpoints of the same traits are in the same groups, unless a rule's local end asks about their
addresses; so groups are found once for all pods of a template, and a pod that joins them costs
nothing but its own place.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import product
from typing import NamedTuple

from calico_k8s.calc.deltas import (
    Deltas,
    Group,
    GroupId,
    HostGroup,
    Ipset,
    IpsetId,
    LocalEndpoint,
    LocalHostEndpoint,
)
from calico_k8s.calc.expressions import Expression
from calico_k8s.calc.groups import Builder, BuiltGroup, Recipe, answer_all, group_id
from calico_k8s.calc.local import LocalEnd
from calico_k8s.calc.netsets import Netsets
from calico_k8s.calc.peers import Peers, Traits, put
from calico_k8s.calc.rulebook import Rulebook
from calico_k8s.model.keys import Key
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import Direction, HostEndpoint, HostHook


class AskedSets(NamedTuple):
    """The sets that began and that ceased to be asked."""

    created: dict[Ipset, Expression]
    dropped: set[IpsetId]


class _Groups(NamedTuple):
    ingress: GroupId
    egress: GroupId


class Placement:
    """The local endpoints of one node, in their groups."""

    def __init__(self, peers: Peers, netsets: Netsets, rulebook: Rulebook) -> None:
        self._peers = peers
        self._netsets = netsets
        self._rulebook = rulebook
        self._traits: dict[EndpointId, Traits] = {}
        self._endpoints_by_traits: dict[Traits, set[EndpointId]] = {}
        self._groups_by_traits: dict[Traits, _Groups] = {}
        """Of traits whose groups do not depend on addresses, where nothing was touched since."""
        self._depending_on_nets: set[Traits] = set()
        self._recipes: dict[GroupId, Recipe] = {}
        self._built: dict[GroupId, BuiltGroup] = {}
        self._endpoints: dict[EndpointId, LocalEndpoint] = {}
        self._host_values: dict[EndpointId, HostEndpoint] = {}
        self._hosts: dict[EndpointId, LocalHostEndpoint] = {}
        self._group_uses: Counter[GroupId] = Counter()
        self._set_uses: Counter[IpsetId] = Counter()
        self._touched_endpoints: set[EndpointId] = set()
        self._touched_traits: set[Traits] = set()
        self._touched_sources: set[Key] = set()

    @property
    def endpoints(self) -> Mapping[EndpointId, LocalEndpoint]:
        """Local endpoints as of the last flush."""
        return self._endpoints

    @property
    def hosts(self) -> Mapping[EndpointId, LocalHostEndpoint]:
        """Local host endpoints as of the last flush."""
        return self._hosts

    def group(self, identity: GroupId) -> Group:
        """A group of the last flush."""
        return self._built[identity].group

    def groups(self) -> Iterable[Group]:
        """All groups of the last flush."""
        return (built.group for built in self._built.values())

    def touch_endpoint(self, endpoint: EndpointId) -> None:
        """Follow a local endpoint that came, went, or has other addresses or traits."""
        self._touched_endpoints.add(endpoint)
        old, new = self._traits.get(endpoint), self._peers.traits(endpoint)
        if old is new:
            return
        if new is not None:
            self._traits[endpoint] = new
            if new not in self._endpoints_by_traits:
                self._endpoints_by_traits[new] = set()
                self._rulebook.set_traits(new)
            self._endpoints_by_traits[new].add(endpoint)
        else:
            del self._traits[endpoint]
        if old is not None:
            self._leave(endpoint, old)

    def touch_host(self, endpoint: EndpointId, value: HostEndpoint | None) -> None:
        """Follow a host endpoint of this node; peers know it already."""
        put(self._host_values, endpoint, value)
        self.touch_endpoint(endpoint)

    def touch_labels(self, touched: Iterable[Traits]) -> None:
        """Follow traits, local or not, whose labels or tags may be others."""
        for traits in touched:
            if traits in self._endpoints_by_traits:
                self._rulebook.set_traits(traits)
                self._touched_traits.add(traits)

    def touch_source(self, source: Key, touched: Iterable[Traits]) -> None:
        """Follow a tier, policy or profile's rules; ``touched`` are the traits it speaks for."""
        self._touched_sources.add(source)
        self._touched_traits.update(t for t in touched if t in self._endpoints_by_traits)

    def touch_netsets(self) -> None:
        """Follow any change of a network set."""
        self._touched_traits |= self._depending_on_nets

    def flush(self, deltas: Deltas) -> AskedSets:
        """Put what changed since the last flush into the deltas.

        Cost: nothing where no endpoint of this node is touched; else the groups, and what is touched.
        """
        if not (self._touched_endpoints or self._touched_traits):
            self._touched_sources = set()
            return AskedSets({}, set())
        for traits in self._touched_traits:
            self._groups_by_traits.pop(traits, None)
            self._touched_endpoints |= self._endpoints_by_traits.get(traits, set())
        reached: set[GroupId] = set()
        for endpoint in self._touched_endpoints:
            if endpoint.is_host:
                reached |= self._publish_host(endpoint, deltas)
                continue
            new = self._place(endpoint)
            self._publish(endpoint, new, deltas)
            if new is not None:
                reached |= {new.ingress, new.egress}
        asked = self._build(reached, deltas)
        self._touched_endpoints, self._touched_traits = set(), set()
        self._touched_sources = set()
        return asked

    def _leave(self, endpoint: EndpointId, traits: Traits) -> None:
        endpoints = self._endpoints_by_traits[traits]
        endpoints.discard(endpoint)
        if not endpoints:
            del self._endpoints_by_traits[traits]
            self._groups_by_traits.pop(traits, None)
            self._depending_on_nets.discard(traits)
            self._touched_traits.discard(traits)
            self._rulebook.drop_traits(traits)

    def _place(self, endpoint: EndpointId) -> LocalEndpoint | None:
        traits = self._traits.get(endpoint)
        if traits is None:
            return None
        addresses = self._peers.addresses(endpoint)
        groups = self._groups_by_traits.get(traits)
        if groups is None:
            end = LocalEnd(traits.labels, traits.tags, traits.named_ports, addresses, self._netsets)
            groups = _Groups(
                self._group(traits, Direction.INGRESS, end),
                self._group(traits, Direction.EGRESS, end),
            )
            if end.depends_on_nets:
                self._depending_on_nets.add(traits)
            else:
                self._depending_on_nets.discard(traits)
                self._groups_by_traits[traits] = groups
        return LocalEndpoint(endpoint, addresses, groups.ingress, groups.egress)

    def _group(self, traits: Traits, direction: Direction, end: LocalEnd) -> GroupId:
        recipe = answer_all(self._rulebook.outline(traits, direction), self._rulebook, end)
        identity = group_id(recipe)
        self._recipes[identity] = recipe
        return identity

    def _publish(self, endpoint: EndpointId, new: LocalEndpoint | None, deltas: Deltas) -> None:
        old = self._endpoints.get(endpoint)
        if old == new:
            return
        if old is not None:
            self._group_uses.subtract((old.ingress, old.egress))
        if new is None:
            del self._endpoints[endpoint]
            deltas.endpoints_removed.add(endpoint)
        else:
            self._group_uses.update((new.ingress, new.egress))
            self._endpoints[endpoint] = new
            deltas.endpoints_updated[endpoint] = new

    def _publish_host(self, endpoint: EndpointId, deltas: Deltas) -> set[GroupId]:
        """Place a host endpoint, and say so; its groups.  A node has few: nothing is kept."""
        old, new = self._hosts.pop(endpoint, None), self._place_host(endpoint)
        if old is not None:
            self._group_uses.subtract(asked.group for asked in old.groups)
        if new is None:
            deltas.hosts_removed |= {endpoint} if old is not None else set()
            return set()
        self._group_uses.update(asked.group for asked in new.groups)
        self._hosts[endpoint] = new
        if new != old:
            deltas.hosts_updated[endpoint] = new
        return {asked.group for asked in new.groups}

    def _place_host(self, endpoint: EndpointId) -> LocalHostEndpoint | None:
        traits, value = self._traits.get(endpoint), self._host_values.get(endpoint)
        if traits is None or value is None:
            return None
        groups: list[HostGroup] = []
        for hook, direction in product(HostHook, Direction):
            outline = self._rulebook.host_outline(traits, direction, hook)
            if outline is not None:
                recipe = Recipe(outline, (), hook)
                identity = group_id(recipe)
                self._recipes[identity] = recipe
                groups.append(HostGroup(hook, direction, identity))
        return LocalHostEndpoint(value, tuple(groups))

    def _build(self, reached: set[GroupId], deltas: Deltas) -> AskedSets:
        builder = Builder(self._rulebook)
        created: dict[Ipset, Expression] = {}
        no_more: list[Ipset] = []
        for identity in reached:
            old = self._built.get(identity)
            if old is not None and self._touched_sources.isdisjoint(
                self._recipes[identity].outline.sources()
            ):
                continue
            new = self._built[identity] = builder.build(identity, self._recipes[identity])
            if old is None or old.group != new.group:
                deltas.groups_updated[identity] = new.group
            created |= {i: e for i, e in new.expressions.items() if not self._set_uses[i.id]}
            self._set_uses.update(ipset.id for ipset in new.expressions)
            no_more += old.expressions if old is not None else ()
        for identity in [i for i, uses in self._group_uses.items() if not uses]:
            del self._group_uses[identity], self._recipes[identity]
            built = self._built.pop(identity, None)
            if built is not None:
                deltas.groups_removed.add(identity)
                no_more += built.expressions
        self._set_uses.subtract(ipset.id for ipset in no_more)
        dropped = {ipset.id for ipset in no_more if not self._set_uses[ipset.id]}
        for ipset_id in dropped:
            del self._set_uses[ipset_id]
        return AskedSets(created, dropped)
