"""The calculation graph of one node: stored items in, differences for the kernel out.

In: updates of any key, in any order, and their flushes.  Out: :class:`.deltas.Deltas`.  After any
history the deltas sum to what a fresh graph gives for the same items.  Nothing here knows how the
kernel holds it, or in which order a batch is written::

    endpoints ──► peers ──────────────┐ views             ┌──► members ──► ipsets, members
    profile tags, labels ──► (traits) ┤                   │       ▲
                                      ├─► local traits    │       │ expressions asked
    network sets ──► netsets ─────────┼───────────────────┤       │
    what names have ──► names ────────┼───────────────────┤       │
                                      ▼                   ▼       │
    tiers, policies, profile rules ──► rulebook ──► placement ────┴──► groups, local endpoints
    nodes, settings ──────────────────────────────────────────────────► settings_changed

Members follow each update at once.  Groups wait for the flush, since many updates touch the same;
sets that no group has asked before are filled then.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from calico_k8s.calc.deltas import (
    DNS_SERVERS,
    Deltas,
    Group,
    GroupId,
    IpsetId,
    LocalEndpoint,
    LocalHostEndpoint,
    Member,
    PortMember,
)
from calico_k8s.calc.members import ActiveSet, Members
from calico_k8s.calc.names import Names
from calico_k8s.calc.netsets import Netsets
from calico_k8s.calc.peers import Peers, put
from calico_k8s.calc.placement import Placement
from calico_k8s.calc.rulebook import Rulebook
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, single_address
from calico_k8s.model.domains import DomainName, DomainPattern, parse_servers_netset
from calico_k8s.model.names import HOST_NAMESPACE, EndpointId, NetsetName, NodeName, ProfileId
from calico_k8s.model.resources import (
    HostEndpoint,
    Labels,
    NetworkSet,
    Node,
    Policy,
    Protocol,
    Rules,
    Setting,
    Tags,
    Tier,
    Value,
    WorkloadEndpoint,
)


class Graph:
    """The state of one node; what it answers is as of the last flush.

    Cost of an update: the memberships that it changes, the endpoints that share an address, and
    at the flush the groups of this node that it touches; never the size of the cluster.
    """

    def __init__(self, node: NodeName) -> None:
        self._node = node
        self._peers = Peers()
        self._netsets = Netsets()
        self._rulebook = Rulebook()
        self._names = Names()
        self._members = Members(self._peers, self._netsets, self._names)
        self._placement = Placement(self._peers, self._netsets, self._rulebook)
        self._settings: dict[tuple[NodeName | None, str], Setting] = {}
        self._effective: dict[str, str] = {}
        """The settings as they hold here: a new one whenever one changes."""
        self._record: Node | None = None
        self._servers: dict[tuple[Protocol, int], NetworkSet] = {}
        """The DNS servers that are trusted, by protocol and port."""
        self._flushed_servers: frozenset[Member] | None = None
        self._flushed_settings: dict[str, str] = {}
        self._flushed_record: Node | None = None

    @property
    def node(self) -> NodeName:
        """The node whose endpoints are local."""
        return self._node

    @property
    def record(self) -> Node | None:
        """The node's own record; None while there is none."""
        return self._flushed_record

    @property
    def settings(self) -> Mapping[str, str]:
        """The settings as this node sees them: its own before the global ones."""
        return self._flushed_settings

    @property
    def endpoints(self) -> Mapping[EndpointId, LocalEndpoint]:
        """The local endpoints."""
        return self._placement.endpoints

    @property
    def hosts(self) -> Mapping[EndpointId, LocalHostEndpoint]:
        """The host endpoints of this node."""
        return self._placement.hosts

    @property
    def endpoint_count(self) -> int:
        """How many endpoints the cluster has."""
        return len(self._peers)

    def unknown_profiles(self, endpoint: EndpointId) -> tuple[ProfileId, ...]:
        """The profiles that an endpoint names and of which nothing is stored."""
        traits = self._peers.traits(endpoint)
        return tuple(
            profile
            for profile in (traits.profiles if traits is not None else ())
            if not (self._peers.has_profile(profile) or self._rulebook.has_profile(profile))
        )

    def lost_addresses(self, endpoint: EndpointId) -> Mapping[Address, EndpointId]:
        """The addresses that an endpoint claims and a newer one owns, with that one."""
        claimed = self._peers.claimed(endpoint)
        if len(claimed) == len(self._peers.addresses(endpoint)):
            return {}
        owners = {a: self._peers.owners.owner(a) for a in claimed}
        return {a: o for a, o in owners.items() if o is not None and o != endpoint}

    @property
    def domains(self) -> AbstractSet[DomainPattern]:
        """The domains whose names' addresses sets ask, as of the last flush; a live view."""
        return self._names.asked

    def names_of(self, address: Address) -> AbstractSet[DomainName]:
        """The names that have an address, or had it lately, as far as they were learnt."""
        return self._names.names_of(address)

    def had(self, ipset_id: IpsetId, address: Address) -> bool:
        """Whether a set had an address that has lapsed since: its flows are spared."""
        return self._names.had(self._members.get(ipset_id).patterns, address)

    def group(self, identity: GroupId) -> Group:
        """A group of a local endpoint."""
        return self._placement.group(identity)

    def ipset_ids(self) -> AbstractSet[IpsetId]:
        """The sets that groups of local endpoints ask."""
        return self._members.ids()

    def members(self, ipset_id: IpsetId) -> AbstractSet[Member]:
        """The members of a set."""
        return self._members.get(ipset_id).members()

    def ipset(self, ipset_id: IpsetId) -> ActiveSet:
        """A set, to be asked about single addresses."""
        return self._members.get(ipset_id)

    def owner(self, address: Address) -> EndpointId | None:
        """The endpoint of any node that owns an address; None where none does."""
        return self._peers.owners.owner(address)

    def local_owner(self, address: Address) -> LocalEndpoint | None:
        """The local endpoint that owns an address; None where another node's, or nobody, does."""
        owner = self._peers.owners.owner(address)
        return None if owner is None else self._placement.endpoints.get(owner)

    def update(self, key: keys.Key, value: Value | None) -> None:  # noqa: C901 - one arm each
        """Take in one item; None: it is deleted.  A value that does not fit its key is no value."""
        match key:
            case keys.EndpointKey(endpoint):
                self._update_endpoint(
                    endpoint, value if isinstance(value, WorkloadEndpoint) else None
                )
            case keys.HostEndpointKey():
                self._update_host(key, value if isinstance(value, HostEndpoint) else None)
            case keys.ProfileTagsKey(profile):
                tags = value if isinstance(value, Tags) else None
                self._members.change_endpoints(self._peers.update_tags(profile, tags))
                self._placement.touch_labels(self._peers.with_profile(profile))
            case keys.ProfileLabelsKey(profile):
                labels = value if isinstance(value, Labels) else None
                self._members.change_endpoints(self._peers.update_labels(profile, labels))
                self._placement.touch_labels(self._peers.with_profile(profile))
            case keys.ProfileRulesKey(profile):
                rules = value if isinstance(value, Rules) else None
                if self._rulebook.update_profile(profile, rules):
                    self._placement.touch_source(key, self._peers.with_profile(profile))
            case keys.TierKey(tier):
                touched = self._rulebook.update_tier(
                    tier, value if isinstance(value, Tier) else None
                )
                self._placement.touch_source(key, touched)
            case keys.PolicyKey():
                touched = self._rulebook.update_policy(
                    key, value if isinstance(value, Policy) else None
                )
                self._placement.touch_source(key, touched)
            case keys.NetsetKey(netset):
                self._update_netset(netset, value if isinstance(value, NetworkSet) else None)
            case keys.NodeKey(node):
                if node == self._node:
                    self._record = value if isinstance(value, Node) else None
            case keys.SettingKey(node, name):
                if node in (None, self._node):
                    setting = value if isinstance(value, Setting) else None
                    if put(self._settings, (node, name), setting):
                        self._effective = self._effective_settings()
            case keys.ReadyKey():
                pass  # whether the store is complete is asked before there is a graph

    def learn(
        self,
        name: DomainName,
        addresses: frozenset[Address],
        lapsed: frozenset[Address] = frozenset(),
    ) -> None:
        """Say what addresses a name has from now on, and which it had lately; none: forget it."""
        self._members.change_name(name, addresses, lapsed)

    def flush(self) -> Deltas:
        """Everything that is different since the last flush."""
        deltas = Deltas()
        asked = self._placement.flush(deltas)
        for ipset, expression in asked.created.items():
            self._members.create(ipset, expression)
            deltas.ipsets_created[ipset.id] = ipset
        for ipset_id in asked.dropped:
            self._members.drop(ipset_id)
        deltas.ipsets_removed |= asked.dropped
        for active in self._members.take_changes():
            if active.added:
                deltas.members_added[active.ipset.id] = active.added
            if active.removed:
                deltas.members_removed[active.ipset.id] = active.removed
            active.added, active.removed = set(), set()
        self._flush_servers(deltas)
        settings = self._effective
        deltas.settings_changed = (settings, self._record) != (
            self._flushed_settings,
            self._flushed_record,
        )
        self._flushed_settings, self._flushed_record = settings, self._record
        return deltas

    def state(self) -> Deltas:
        """The last flushed state whole, as the difference from nothing."""
        endpoints = self._placement.endpoints
        hosts = self._placement.hosts
        groups = {name for e in endpoints.values() for name in (e.ingress, e.egress)}
        groups |= {asked.group for host in hosts.values() for asked in host.groups}
        sets = {name: self._members.get(name) for name in self._members.ids()}
        ipsets = {name: active.ipset for name, active in sets.items()}
        members = {name: set(active.members()) for name, active in sets.items()}
        if self._flushed_servers is not None:
            ipsets[DNS_SERVERS.id] = DNS_SERVERS
            members[DNS_SERVERS.id] = set(self._flushed_servers)
        return Deltas(
            ipsets_created=ipsets,
            members_added=members,
            groups_updated={name: self._placement.group(name) for name in groups},
            endpoints_updated=dict(endpoints),
            hosts_updated=dict(hosts),
        )

    def _update_endpoint(self, endpoint: EndpointId, value: WorkloadEndpoint | None) -> None:
        changes = self._peers.update(endpoint, value)
        self._members.change_endpoints(changes.values())
        for touched in changes:
            if touched.node == self._node:
                self._placement.touch_endpoint(touched)

    def _update_host(self, key: keys.HostEndpointKey, value: HostEndpoint | None) -> None:
        endpoint = EndpointId(key.node, HOST_NAMESPACE, key.name)
        if value is not None and value.id != endpoint:
            value = None
        self._update_endpoint(endpoint, value.as_peer() if value is not None else None)
        if endpoint.node == self._node:
            self._placement.touch_host(endpoint, value)

    def _update_netset(self, name: NetsetName, value: NetworkSet | None) -> None:
        place = parse_servers_netset(name)
        if place is not None:
            put(self._servers, place, value)
        selectors = self._netsets.update(name, value)
        if selectors is not None:
            self._members.change_netset(name, selectors)
            self._placement.touch_netsets()

    def _flush_servers(self, deltas: Deltas) -> None:
        """The set of trusted DNS servers is there while any domain is asked."""
        old, new = self._flushed_servers, self._trusted() if self._names.asked else None
        if new == old:
            return
        self._flushed_servers = new
        if new is None:
            deltas.ipsets_removed.add(DNS_SERVERS.id)
            return
        if old is None:
            deltas.ipsets_created[DNS_SERVERS.id] = DNS_SERVERS
        held = old or frozenset[Member]()
        come, gone = new - held, held - new
        if come:
            deltas.members_added[DNS_SERVERS.id] = set(come)
        if gone:
            deltas.members_removed[DNS_SERVERS.id] = set(gone)

    def _trusted(self) -> frozenset[Member]:
        return frozenset(
            PortMember(address, protocol, port)
            for (protocol, port), netset in self._servers.items()
            for address in map(single_address, netset.nets)
            if address is not None
        )

    def _effective_settings(self) -> dict[str, str]:
        shared = {name: s.value for (node, name), s in self._settings.items() if node is None}
        own = {name: s.value for (node, name), s in self._settings.items() if node is not None}
        return shared | own
