"""Hypothesis strategies for everything the model holds.

Names come from pools so small that things collide: endpoints share addresses, profiles, labels
and claims, network sets overlap pods, a named port differs from pod to pod, tiers are missing,
profiles are named before they exist.  Values keep what the codec promises (ports only with a
protocol that has them, canonical addresses and selectors), and nothing more.
"""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st

import grammar
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net, address_version
from calico_k8s.model.domains import DomainName, DomainPattern, parse_domain
from calico_k8s.model.keys import Key
from calico_k8s.model.names import (
    EndpointId,
    NamespaceName,
    NetsetName,
    NodeName,
    PolicyId,
    ProfileId,
    SelectorText,
    TagName,
    TierName,
)
from calico_k8s.model.resources import (
    ICMP,
    ICMPV6,
    PROTOCOL_NUMBERS,
    PROTOCOLS_WITH_PORTS,
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    HostHook,
    IcmpMatch,
    Labels,
    NamedPort,
    NetworkSet,
    Node,
    Origin,
    Policy,
    PortRange,
    Ready,
    Rule,
    Rules,
    Setting,
    StagedAction,
    Tags,
    Tier,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.model.staging import STAGED_KINDS
from calico_k8s.policy.match import Flow

TCP, UDP, SCTP = (PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp"))
GRE = 47
"""A protocol without ports."""

NODES = (NodeName("n1"), NodeName("n2"))
POD_ADDRESSES = tuple(
    map(Address, ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "fd00::1", "fd00::2"))
)
NODE_ADDRESSES = {
    NODES[0]: (Address("192.168.0.1"), Address("fd00:1::1")),
    NODES[1]: (Address("192.168.0.2"),),
}
OUTSIDE = (Address("198.51.100.7"), Address("2001:db8::7"))
ADDRESSES = (*POD_ADDRESSES, *(a for own in NODE_ADDRESSES.values() for a in own), *OUTSIDE)
NETS = tuple(
    map(
        Net,
        (
            "10.0.0.1/32",
            "10.0.0.2/31",
            "10.0.0.0/30",
            "10.0.0.0/16",
            "0.0.0.0/0",
            "198.51.100.0/24",
            "fd00::1/128",
            "fd00::/64",
            "::/0",
        ),
    )
)
DOMAINS = tuple(map(parse_domain, ("api.example.com", "*.example.com", "www.*.com", "other.test")))
DOMAIN_NAMES = tuple(
    map(DomainName, ("api.example.com", "x.y.example.com", "www.example.com", "elsewhere.test"))
)
PORT_NAMES = ("http", "dns")
PORTS = (53, 80, 8080)
PROFILES = tuple(map(ProfileId, ("pa", "pb", "pc", "pd")))
TAGS = tuple(map(TagName, ("ta", "tb")))
TIERS = tuple(map(TierName, ("first", "default", "last")))
NETSETS = tuple(map(NetsetName, ("sa", "sb")))
SETTINGS = ("pod-to-host-action", "failsafe-inbound-ports", "log-level")
SELECTORS = tuple(
    SelectorText(grammar.print_selector(grammar.parse_selector(text)))
    for text in (
        "all()",
        "has(a)",
        "!has(a)",
        "a == 'x'",
        "a != 'x'",
        "a in {'x', 'y'}",
        "a not in {'x', 'y'}",
        "b == 'x'",
        "a == 'x' && b == 'x'",
        "a == 'x' || b == 'y'",
        "has(a) && !has(b)",
        "a starts with 'x'",
        "b contains 'y' && a != ''",
        "a in {}",
    )
)

any_node = st.sampled_from(NODES)
label_maps = st.dictionaries(st.sampled_from("ab"), st.sampled_from(("", "x", "y", "xy")))
net_tuples = st.lists(st.sampled_from(NETS), max_size=3, unique=True).map(tuple)
port_ranges = st.sampled_from(
    (PortRange(80, 80), PortRange(8080, 8080), PortRange(1, 1023), PortRange(0, 65535))
)
named_ports = st.builds(
    NamedPort, st.sampled_from(PORT_NAMES), st.sampled_from((TCP, UDP)), st.sampled_from(PORTS)
)
endpoint_ids = st.builds(
    EndpointId, any_node, st.sampled_from(("na", "nb")).map(NamespaceName), st.sampled_from("pq")
)
origins = st.builds(
    Origin,
    kind=st.sampled_from(("Pod", "Namespace", "Service")),
    name=st.sampled_from(("", "x", "y")),
    index=st.integers(-1, 2),
)

# One criterion each; an entity has up to three of them, mostly one or none.
_PLACES: tuple[dict[str, Any], ...] = (  # Any: the value of the field it is keyed by
    *({field: tag} for field in ("tag", "not_tag") for tag in TAGS),
    *({field: text} for field in ("selector", "not_selector") for text in SELECTORS),
    *({field: name} for field in ("netset", "not_netset") for name in NETSETS),
    *({field: (net,)} for field in ("nets", "not_nets") for net in NETS),
    *({field: (NETS[0], NETS[7])} for field in ("nets", "not_nets")),
)
_PORTS: tuple[dict[str, Any], ...] = (
    *({field: (name,)} for field in ("named_ports", "not_named_ports") for name in PORT_NAMES),
    {"named_ports": PORT_NAMES},
    *({field: (PortRange(80, 80),)} for field in ("ports", "not_ports")),
    {"ports": (PortRange(53, 53), PortRange(8000, 9000))},
)


_Drawn = TypeVar("_Drawn")


def some(
    elements: st.SearchStrategy[_Drawn], *sizes: int, unique: bool = False
) -> st.SearchStrategy[tuple[_Drawn, ...]]:
    """As many as one of the sizes says: left to itself, hypothesis mostly draws none."""
    of_size = (
        st.lists(elements, min_size=size, max_size=size, unique=unique).map(tuple) for size in sizes
    )
    return st.one_of(*of_size)


@cache
def entity_matches(*, has_ports: bool) -> st.SearchStrategy[EntityMatch]:
    """One end of a rule; port criteria only where the rule's protocol has ports."""
    criteria = (*_PLACES, *_PORTS, *_PORTS) if has_ports else _PLACES
    return some(st.sampled_from(criteria), 0, 0, 0, 1, 1, 2, 3).map(
        lambda chosen: EntityMatch(**{k: v for criterion in chosen for k, v in criterion.items()})
    )


domain_tuples = some(st.sampled_from(DOMAINS), 0, 0, 1, 2, unique=True)


def _by_domain(entity: EntityMatch, domains: tuple[DomainPattern, ...]) -> EntityMatch:
    """The entity with domains in place of who it is."""
    return msgspec.structs.replace(
        entity, domains=domains, tag=None, selector=None, netset=None, named_ports=()
    )


_HEADS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"protocol": TCP},
    {"protocol": TCP},
    {"protocol": UDP},
    {"protocol": SCTP},
    {"protocol": GRE},
    {"not_protocol": TCP},
    {"ip_version": 4},
    {"ip_version": 6, "protocol": TCP},
    {"protocol": ICMP, "icmp": IcmpMatch(8)},
    {"protocol": ICMP, "not_icmp": IcmpMatch(8, 0)},
    {"protocol": ICMPV6, "icmp": IcmpMatch(128, 0)},
)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """A rule that the codec would let through."""
    head = draw(st.sampled_from(_HEADS))
    entities = entity_matches(has_ports=head.get("protocol") in PROTOCOLS_WITH_PORTS)
    action = draw(st.sampled_from((*[Action.ALLOW] * 3, *Action)))
    dst, domains = draw(entities), draw(domain_tuples)
    if domains and action is Action.ALLOW:
        dst = _by_domain(dst, domains)
    return Rule(action=action, origin=draw(origins), src=draw(entities), dst=dst, **head)


rule_tuples = some(rules(), 0, 1, 1, 2)


@st.composite
def endpoints(draw: st.DrawFn, identity: EndpointId) -> WorkloadEndpoint:
    """An endpoint of this id; it may claim addresses that others claim as well."""
    return WorkloadEndpoint(
        id=identity,
        addresses=draw(some(st.sampled_from(POD_ADDRESSES), 0, 1, 1, 2, 3, unique=True)),
        labels=draw(label_maps),
        named_ports=draw(some(named_ports, 0, 1, 2, unique=True)),
        profiles=draw(some(st.sampled_from(PROFILES), 0, 1, 1, 2, 3, unique=True)),
        uid=draw(st.sampled_from(("", "u1", "u2"))),
        created=draw(st.sampled_from((0.0, 1.0))),
    )


HOST_NAMES = ("ha", "hb", "hc")
UPLINK, OTHER_LINK = "eth0", "eth1"
_expected = tuple(map(Address, ("192.168.0.1", "fd00:1::1", "10.0.0.3", "192.168.9.9")))


def host_endpoints(key: keys.HostEndpointKey) -> st.SearchStrategy[HostEndpoint]:
    """A host endpoint that lives at this key; some expect a pod's address, or none."""
    return st.builds(
        HostEndpoint,
        node=st.just(key.node),
        name=st.just(key.name),
        interface=st.sampled_from((UPLINK, UPLINK, OTHER_LINK, "*", "")),
        expected_ips=some(st.sampled_from(_expected), 0, 1, 1, 2, unique=True),
        labels=label_maps,
        named_ports=some(named_ports, 0, 0, 1, unique=True),
        profiles=some(st.sampled_from(PROFILES), 0, 1, 1, 2, unique=True),
        created=st.sampled_from((0.0, 1.0)),
    )


profile_rules = st.builds(Rules, rule_tuples, rule_tuples, st.none() | origins)
profile_tags = st.builds(
    Tags, st.lists(st.sampled_from(TAGS), unique=True).map(lambda tags: tuple(sorted(tags)))
)
profile_labels = st.builds(Labels, label_maps)
set_labels = st.one_of(label_maps, label_maps, st.none())
network_sets = st.builds(
    NetworkSet, st.sampled_from(NETSETS), set_labels, net_tuples, domain_tuples
)
orders = st.sampled_from((None, 1.0, 2.0))


def tiers(name: TierName) -> st.SearchStrategy[Tier]:
    """A tier of this name."""
    return st.builds(Tier, st.just(name), orders, st.sampled_from((Action.DENY, Action.PASS)))


def policies(key: keys.PolicyKey) -> st.SearchStrategy[Policy]:
    """A policy that lives at this key; the rules of a staged one say whose they are."""
    is_staged = key.policy.kind in STAGED_KINDS
    made = st.builds(
        Policy,
        id=st.just(key.policy),
        tier=st.just(key.tier),
        selector=st.sampled_from((*[SELECTORS[0]] * 6, *SELECTORS)),
        types=st.sampled_from(
            ((Direction.INGRESS,), (Direction.EGRESS,), (Direction.INGRESS, Direction.EGRESS))
        ),
        order=orders,
        ingress=rule_tuples,
        egress=rule_tuples,
        staged=st.sampled_from(StagedAction) if is_staged else st.none(),
        host_hook=st.sampled_from((HostHook.LOCAL, HostHook.FORWARDED, *HostHook)),
    )
    return made.map(_with_origins) if is_staged else made


def _with_origins(policy: Policy) -> Policy:
    def own(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(
            msgspec.structs.replace(rule, origin=Origin(*policy.id, index))
            for index, rule in enumerate(rules)
        )

    ingress, egress = own(policy.ingress), own(policy.egress)
    return msgspec.structs.replace(policy, ingress=ingress, egress=egress)


STAGED = ("StagedKubernetesNetworkPolicy", "StagedGlobalNetworkPolicy")
policy_keys = st.builds(
    keys.PolicyKey,
    st.sampled_from(TIERS),
    st.builds(
        PolicyId,
        st.sampled_from(("NetworkPolicy", "GlobalNetworkPolicy") * 2 + STAGED),
        st.sampled_from(("", "na")),
        st.just("web"),
    ),
)
setting_keys = st.builds(keys.SettingKey, st.none() | any_node, st.sampled_from(SETTINGS))

_endpoint_keys = endpoint_ids.map(keys.EndpointKey)
_host_keys = st.builds(keys.HostEndpointKey, any_node, st.sampled_from(HOST_NAMES))
_profiles = st.sampled_from(PROFILES)
all_keys: st.SearchStrategy[Key] = st.one_of(
    _endpoint_keys,
    _endpoint_keys,
    _endpoint_keys,
    _host_keys,
    _profiles.map(keys.ProfileRulesKey),
    _profiles.map(keys.ProfileRulesKey),
    _profiles.map(keys.ProfileTagsKey),
    _profiles.map(keys.ProfileLabelsKey),
    st.sampled_from(TIERS).map(keys.TierKey),
    policy_keys,
    policy_keys,
    st.sampled_from(NETSETS).map(keys.NetsetKey),
    any_node.map(keys.NodeKey),
    setting_keys,
    st.builds(keys.ReadyKey),
)


@cache  # making a strategy takes longer than drawing from it
def values(key: Key) -> st.SearchStrategy[Value]:  # noqa: C901 - one arm for each kind of key
    """What may be stored at a key."""
    match key:
        case keys.EndpointKey(identity):
            return endpoints(identity)
        case keys.HostEndpointKey():
            return host_endpoints(key)
        case keys.ProfileRulesKey():
            return profile_rules
        case keys.ProfileTagsKey():
            return profile_tags
        case keys.ProfileLabelsKey():
            return profile_labels
        case keys.TierKey(tier):
            return tiers(tier)
        case keys.PolicyKey():
            return policies(key)
        case keys.NetsetKey(name):
            return st.builds(NetworkSet, st.just(name), set_labels, net_tuples, domain_tuples)
        case keys.NodeKey(node):
            return st.just(Node(node, NODE_ADDRESSES[node]))
        case keys.SettingKey(_, "pod-to-host-action"):
            return st.sampled_from(("accept", "drop", "return")).map(Setting)
        case keys.SettingKey(_, "failsafe-inbound-ports"):
            return st.sampled_from(("none", "tcp:80", "udp:192.168.0.0/24:53", "?")).map(Setting)
        case keys.SettingKey():
            return st.sampled_from(("info", "debug")).map(Setting)
        case keys.ReadyKey():
            return st.just(Ready(value=True))


items: st.SearchStrategy[tuple[Key, Value]] = all_keys.flatmap(
    lambda key: st.tuples(st.just(key), values(key))
)
# Enough for most of what the model can say to matter at once: pods of both nodes with profiles,
# two tiers with policies, and network sets.
_CORE: tuple[Key, ...] = (
    *(
        keys.EndpointKey(EndpointId(node, NamespaceName(namespace), name))
        for node, namespace, name in (
            (NODES[0], "na", "p"),
            (NODES[0], "na", "q"),
            (NODES[1], "na", "p"),
            (NODES[1], "nb", "q"),
        )
    ),
    *(keys.HostEndpointKey(NODES[0], name) for name in HOST_NAMES[:2]),
    *map(keys.ProfileRulesKey, PROFILES[:2]),
    *map(keys.ProfileTagsKey, PROFILES[:2]),
    *map(keys.ProfileLabelsKey, PROFILES[:2]),
    *map(keys.TierKey, TIERS[:2]),
    keys.PolicyKey(TIERS[0], PolicyId("NetworkPolicy", "na", "web")),
    keys.PolicyKey(TIERS[1], PolicyId("NetworkPolicy", "na", "web")),
    keys.PolicyKey(TIERS[1], PolicyId("NetworkPolicy", "", "web")),
    keys.PolicyKey(TIERS[1], PolicyId("StagedKubernetesNetworkPolicy", "na", "web")),
    *map(keys.NetsetKey, NETSETS),
    keys.NodeKey(NODES[0]),
)


@st.composite
def _full_states(draw: st.DrawFn) -> Mapping[Key, Value]:
    missing = draw(st.sets(st.sampled_from(_CORE), max_size=4))
    state = {key: draw(values(key)) for key in _CORE if key not in missing}
    return state | dict(draw(st.lists(items, max_size=4)))


states: st.SearchStrategy[Mapping[Key, Value]] = st.one_of(
    _full_states(), _full_states(), st.lists(items, max_size=20).map(dict)
)
"""Whole states: most with something of everything, some with little."""
edits: st.SearchStrategy[tuple[Key, Value | None]] = st.one_of(
    items, items, st.tuples(all_keys, st.none())
)
"""A put or a delete of one key, whether it is there or not."""


PACKETS = tuple(
    Flow(src, dst, *head)
    for src, dst in product(ADDRESSES, repeat=2)
    if address_version(src) == address_version(dst)
    for head in (
        (TCP, 40000, 80),
        (TCP, 80, 8080),
        (TCP, 40000, 53),
        (UDP, 53, 53),
        (SCTP, 80, 80),
        (GRE,),
        (ICMP if address_version(src) == 4 else ICMPV6, 0, 0, IcmpMatch(8, 0)),
        (ICMPV6, 0, 0, IcmpMatch(128, 0)),
    )
)
"""Some packets between any two addresses of one family."""

flows: st.SearchStrategy[Flow] = st.sampled_from(PACKETS)
samples: st.SearchStrategy[tuple[Flow, ...]] = st.integers(0, 6).map(lambda i: PACKETS[i::7])
"""A seventh of all packets, some of each kind."""
