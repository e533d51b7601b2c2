"""Worlds that follow one another on one node, for the laws of what an agent does to its kernel.

In: nothing.  Out: hypothesis strategies of histories, with the flows to try, and :data:`NAMED`
pairs.  A world is what the datastore says, and behind which interface each local pod is.
"""

from collections.abc import Iterable, Mapping
from itertools import product

from hypothesis import strategies as st

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.codec import encode
from calico_k8s.model.keys import Key, key_path
from calico_k8s.model.names import EndpointId, NamespaceName, PolicyId, ProfileId, TagName
from calico_k8s.model.resources import (
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    HostHook,
    Node,
    Origin,
    Policy,
    Rule,
    Rules,
    Setting,
    Tags,
    Tier,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import POD_TO_HOST_ACTION
from tests.model_strategies import (
    NODE_ADDRESSES,
    NODES,
    OUTSIDE,
    PACKETS,
    POD_ADDRESSES,
    PROFILES,
    SELECTORS,
    TAGS,
    TIERS,
    edits,
    states,
)

NODE = NODES[0]
OWN = frozenset(NODE_ADDRESSES[NODE])
LINKS = ("cali0", "cali1", "cali2")

Case = tuple[list["World"], tuple[Flow, ...]]
Places = Mapping[EndpointId, str]
Items = Mapping[Key, Value]


class World:
    """What the datastore says, and behind which interface each local pod is."""

    def __init__(self, items: Items, places: Places) -> None:
        self.items, self.places = items, places

    def __repr__(self) -> str:
        places = {f"{e.namespace}.{e.name}": link for e, link in self.places.items()}
        lines = (f"  {key_path(key)} {encode(value).decode()}" for key, value in self.items.items())
        return "\n".join((f"World {places}", *lines, ""))

    def snapshot(self) -> Snapshot:
        return Snapshot.from_items(self.items)


LOCAL = tuple(
    EndpointId(NODE, NamespaceName(namespace), name)
    for namespace, name in (("na", "p"), ("na", "q"), ("nb", "p"), ("nb", "q"))
)
moves = st.tuples(st.sampled_from(LOCAL), st.sampled_from(("", *LINKS)))
"""A pod's interface comes, goes, or is another one."""


@st.composite
def any_histories(draw: st.DrawFn) -> list[World]:
    """A state, and up to three that follow, each some edits later."""
    places = moved(dict(zip(LOCAL, LINKS, strict=False)), draw(st.lists(moves, max_size=2)))
    items = dict(draw(states))
    return following(draw, World(items, places), edits)


def following(
    draw: st.DrawFn, first: World, some_edits: st.SearchStrategy[tuple[Key, Value | None]]
) -> list[World]:
    """The world and up to three after it."""
    items, places, history = dict(first.items), first.places, [first]
    batches = st.lists(st.lists(some_edits, min_size=1, max_size=4), min_size=1, max_size=3)
    for changes in draw(batches):
        for key, value in changes:
            items.pop(key, None)
            items |= {} if value is None else {key: value}
        places = moved(places, draw(st.lists(moves, max_size=1)))
        history.append(World(dict(items), places))
    return history


# Pods with one address each, in profiles of rules that ask nothing but who the peer is: so that
# most of what changes is a set, a group, or who is in which.
PEERS = POD_ADDRESSES[:4]
CROSSING = tuple(
    Flow(src, dst, 6, 40000, 80) for src, dst in product((*PEERS, OUTSIDE[0]), PEERS) if src != dst
)
_who = st.sampled_from(
    (
        EntityMatch(),
        *(EntityMatch(tag=tag) for tag in TAGS),
        *(EntityMatch(not_tag=tag) for tag in TAGS),
        EntityMatch(tag=TAGS[0], not_tag=TAGS[1]),
        EntityMatch(tag=TAGS[1], not_tag=TAGS[0]),
    )
)


def _asking(direction: Direction, *actions: Action) -> st.SearchStrategy[tuple[Rule, ...]]:
    end = "src" if direction is Direction.INGRESS else "dst"
    made = st.builds(
        lambda action, who: Rule(action, Origin("Pod"), **{end: who}),
        st.sampled_from(actions),
        _who,
    )
    return st.lists(made, max_size=3).map(tuple)


_DECIDE = (Action.ALLOW, Action.ALLOW, Action.DENY)
_pods = st.tuples(
    st.sampled_from((*LOCAL[:3], EndpointId(NODES[1], NamespaceName("na"), "p"))),
    st.sampled_from((*PEERS, None)),
    st.sampled_from(PROFILES[:2]),
    st.sampled_from((PROFILES[2:], PROFILES[2:3], PROFILES[3:], ())),
).map(
    lambda drawn: (
        keys.EndpointKey(drawn[0]),
        WorkloadEndpoint(
            drawn[0], (drawn[1],) if drawn[1] else (), profiles=(drawn[2], *drawn[3]), created=0.0
        ),
    )
)
_ruled = st.tuples(
    st.sampled_from(PROFILES[:2]).map(keys.ProfileRulesKey),
    st.builds(Rules, _asking(Direction.INGRESS, *_DECIDE), _asking(Direction.EGRESS, *_DECIDE)),
)
_tagged = st.tuples(
    st.sampled_from(PROFILES[2:]).map(keys.ProfileTagsKey),
    st.sampled_from(((), TAGS[:1], TAGS[1:], TAGS)).map(Tags),
)
_TIERED = keys.PolicyKey(TIERS[0], PolicyId("NetworkPolicy", "", "web"))
_passing = st.builds(
    Policy,
    id=st.just(_TIERED.policy),
    tier=st.just(TIERS[0]),
    selector=st.just(SELECTORS[0]),
    types=st.sampled_from(((Direction.INGRESS,), (Direction.EGRESS,), tuple(Direction))),
    ingress=_asking(Direction.INGRESS, *_DECIDE, Action.PASS, Action.PASS),
    egress=_asking(Direction.EGRESS, *_DECIDE, Action.PASS, Action.PASS),
)
_policies = st.tuples(st.just(_TIERED), st.none() | _passing)
_peer_edits: st.SearchStrategy[tuple[Key, Value | None]] = st.one_of(
    _pods, _pods, _ruled, _tagged, _tagged, _policies
)


@st.composite
def peer_histories(draw: st.DrawFn) -> list[World]:
    """Worlds in which little but sets, groups and who is in which changes."""
    items: dict[Key, Value] = {
        keys.NodeKey(NODE): Node(NODE, tuple(OWN)),
        keys.TierKey(TIERS[0]): Tier(
            TIERS[0], 1.0, draw(st.sampled_from((Action.PASS, Action.DENY)))
        ),
    }
    some: tuple[st.SearchStrategy[tuple[Key, Value | None]], ...] = (
        *(_pods, _pods, _pods, _pods),
        *(_ruled, _ruled, _tagged, _tagged, _policies),
    )
    for key, value in map(draw, some):
        items |= {} if value is None else {key: value}
    first = World(items, moved({}, zip(LOCAL, LINKS, strict=False)))
    return following(draw, first, _peer_edits)


samples = st.integers(0, 28).map(lambda start: PACKETS[start::29])
cases: st.SearchStrategy[Case] = st.one_of(
    st.tuples(any_histories(), samples), st.tuples(peer_histories(), st.just(CROSSING))
)
"""A history, and the flows to try at every instant of it."""


def moved(places: Places, to: Iterable[tuple[EndpointId, str]]) -> Places:
    """The pods after some moves; an interface has one pod, the one that came last."""
    after = dict(places)
    for pod, link in to:
        after = {other: place for other, place in after.items() if place != link} | {pod: link}
    return after


def world(
    *pods: tuple[EndpointId, Address, tuple[ProfileId, ...]], **items: tuple[Key, Value]
) -> World:
    """The pods, each with an address and profiles, and more; every local pod at its interface."""
    state: dict[Key, Value] = {
        keys.NodeKey(NODE): Node(NODE, tuple(OWN)),
        keys.TierKey(TIERS[0]): Tier(TIERS[0], 1.0),
    }
    for identity, address, profiles in pods:
        endpoint = WorkloadEndpoint(identity, (address,), profiles=profiles)
        state[keys.EndpointKey(identity)] = endpoint
    return World(state | dict(items.values()), dict(zip(LOCAL, LINKS, strict=False)))


def tagged(*tags: TagName) -> tuple[Key, Value]:
    return keys.ProfileTagsKey(PROFILES[2]), Tags(tuple(sorted(tags)))


def ruled(profile: int, *ingress: Rule, egress: bool = True) -> tuple[Key, Value]:
    allow = (Rule(Action.ALLOW, Origin("Namespace")),)
    return keys.ProfileRulesKey(PROFILES[profile]), Rules(ingress, allow if egress else ())


def passing(who: EntityMatch, hook: HostHook = HostHook.LOCAL) -> tuple[Key, Value]:
    """A policy of every pod; with another hook, of the host endpoint alone."""
    rule = Rule(Action.PASS, Origin("Pod"), src=who)
    policy = Policy(
        _TIERED.policy,
        TIERS[0],
        SELECTORS[0] if hook is HostHook.LOCAL else SELECTORS[1],
        (Direction.INGRESS,),
        ingress=(rule,),
        host_hook=hook,
    )
    return _TIERED, policy


def every_interface() -> tuple[Key, Value]:
    return keys.HostEndpointKey(NODE, "every"), HostEndpoint(NODE, "every", "*", labels={"a": "x"})


def host(action: str) -> tuple[Key, Value]:
    return keys.SettingKey(None, POD_TO_HOST_ACTION), Setting(action)


HERE, REMOTE = LOCAL[0], EndpointId(NODES[1], NamespaceName("na"), "p")
ANYBODY = Rule(Action.ALLOW, Origin("Pod"))
OPEN, CLOSED = ruled(0, ANYBODY), ruled(1, ANYBODY, egress=False)
PODS = ((HERE, PEERS[0], PROFILES[:1]), (REMOTE, PEERS[1], PROFILES[2:3]))
SHUT_IN = ((HERE, PEERS[0], PROFILES[1:2]), PODS[1])
TA, TB = TAGS
CLIENTS = Rule(Action.ALLOW, Origin("Pod"), src=EntityMatch(tag=TA))
SERVER = (HERE, PEERS[0], PROFILES[:1])
CLIENT = (LOCAL[1], PEERS[1], PROFILES[1:3])

NAMED: Mapping[str, tuple[World, World]] = {
    **{
        f"a host endpoint's pass rule asks for {one} and not for {other}, and the peer has both": (
            world(*PODS, a=OPEN, b=tagged(TA, TB), c=passes, d=every_interface()),
            world(*PODS, a=OPEN, b=tagged(), c=passes, d=every_interface()),
        )
        for one, other in ((TA, TB), (TB, TA))
        for passes in (passing(EntityMatch(tag=one, not_tag=other), HostHook.FORWARDED),)
    },
    **{
        f"a pass rule asks for {one} and not for {other}, and the peer has both or none": (
            world(*PODS, a=OPEN, b=tagged(TA, TB), c=passing(EntityMatch(tag=one, not_tag=other))),
            world(*PODS, a=OPEN, b=tagged(), c=passing(EntityMatch(tag=one, not_tag=other))),
        )
        for one, other in ((TA, TB), (TB, TA))
    },
    "pods may speak to the node or not, and this one may speak at all or not": (
        world(*PODS, a=OPEN, b=CLOSED, c=host("drop")),
        world(*SHUT_IN, a=OPEN, b=CLOSED, c=host("accept")),
    ),
    "a pod may speak and is no client any more, or is one and may not": (
        world(SERVER, CLIENT, a=ruled(0, CLIENTS), b=CLOSED, c=tagged(TA)),
        world(SERVER, CLIENT, a=ruled(0, CLIENTS), b=ruled(1, ANYBODY), c=tagged()),
    ),
    "a client of another node and a pod of this one have an address after one another": (
        world(SERVER, (REMOTE, PEERS[1], PROFILES[2:3]), a=ruled(0, CLIENTS), c=tagged(TA)),
        world(SERVER, (LOCAL[1], PEERS[1], PROFILES[3:]), a=ruled(0, CLIENTS), d=ruled(3)),
    ),
    "a pod may speak no more, and another comes that takes from anybody": (
        world(SERVER, a=OPEN, b=CLOSED),
        world(SHUT_IN[0], (LOCAL[1], PEERS[1], PROFILES[1:2]), a=OPEN, b=CLOSED),
    ),
    "a profile's ingress and egress change places": (
        world(*PODS, a=ruled(0, ANYBODY, egress=False)),
        world(*PODS, a=ruled(0)),
    ),
}
TO_NODE = tuple(Flow(PEERS[0], own, 6, 40000, 80) for own in OWN if ":" not in own)
