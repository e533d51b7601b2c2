"""Named histories: lists of whole states, to be replayed in many ways.

In: nothing.  Out: :data:`HISTORIES`, and for each its replays: forwards, backwards, with nothing
in between, one item at a time, all at once.  Whatever follows the datastore must end each replay
where a fresh start on its last state does.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net
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
    Action,
    Direction,
    EntityMatch,
    Labels,
    NamedPort,
    NetworkSet,
    Node,
    Origin,
    Policy,
    PortRange,
    Rule,
    Rules,
    StagedAction,
    Tags,
    Tier,
    Value,
    WorkloadEndpoint,
)

State = Mapping[Key, Value]
Edit = tuple[Key, Value | None]
Step = Sequence[Edit]
"""Edits that are seen together."""

TCP = 6
ANY = EntityMatch()


def pod(
    name: str,
    *addresses: str,
    node: str = "n1",
    labels: Mapping[str, str] | None = None,
    profiles: Iterable[str] = ("namespace.prod",),
    ports: Iterable[NamedPort] = (),
    created: float = 0.0,
) -> State:
    """A pod of namespace ``prod``."""
    identity = EndpointId(NodeName(node), NamespaceName("prod"), name)
    return {
        keys.EndpointKey(identity): WorkloadEndpoint(
            id=identity,
            addresses=tuple(map(Address, addresses)),
            labels=dict(labels or {}),
            named_ports=tuple(ports),
            profiles=tuple(map(ProfileId, profiles)),
            created=created,
        )
    }


def profile(
    name: str,
    *ingress: Rule,
    tags: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    origin: Origin | None = None,
) -> State:
    """A profile; with an origin it speaks for all directions, and its egress is open."""
    identity = ProfileId(name)
    items: dict[Key, Value] = {}
    if ingress or origin:
        egress = (Rule(Action.ALLOW, origin),) if origin else ()
        items[keys.ProfileRulesKey(identity)] = Rules(ingress, egress, origin)
    if tags:
        items[keys.ProfileTagsKey(identity)] = Tags(tuple(map(TagName, sorted(tags))))
    if labels:
        items[keys.ProfileLabelsKey(identity)] = Labels(dict(labels))
    return items


def rule(
    action: Action, src: EntityMatch = ANY, dst: EntityMatch = ANY, *, protocol: int | None = None
) -> Rule:
    """A rule; where it was written does not matter."""
    return Rule(action, Origin(kind="Pod"), protocol=protocol, src=src, dst=dst)


def tag(name: str) -> EntityMatch:
    """Endpoints with a tag."""
    return EntityMatch(tag=TagName(name))


def selector(text: str) -> EntityMatch:
    """Endpoints and network sets that a selector is true of."""
    return EntityMatch(selector=SelectorText(text))


def port(number: int) -> EntityMatch:
    """One port by number."""
    return EntityMatch(ports=(PortRange(number, number),))


def netset(name: str, *nets: str, labels: Mapping[str, str] | None = None) -> State:
    """A network set."""
    identity = NetsetName(name)
    return {
        keys.NetsetKey(identity): NetworkSet(identity, dict(labels or {}), tuple(map(Net, nets)))
    }


def tier(
    name: str,
    order: float | None = None,
    default: Literal[Action.DENY, Action.PASS] = Action.DENY,
) -> State:
    """A tier."""
    return {keys.TierKey(TierName(name)): Tier(TierName(name), order, default)}


def policy(
    name: str, selected: str, *ingress: Rule, order: float = 1.0, tier: str = "default"
) -> State:
    """A policy for ingress."""
    identity = PolicyId("NetworkPolicy", "prod", name)
    return {
        keys.PolicyKey(TierName(tier), identity): Policy(
            id=identity,
            tier=TierName(tier),
            selector=SelectorText(selected),
            types=(Direction.INGRESS,),
            order=order,
            ingress=ingress,
        )
    }


def staged(policies: State) -> State:
    """The same policies, staged."""
    return {
        key: msgspec.structs.replace(value, staged=StagedAction.SET)
        for key, value in policies.items()
        if isinstance(value, Policy)
    }


def both(*parts: State) -> State:
    """All of these items in one state."""
    whole: dict[Key, Value] = {}
    for part in parts:
        whole |= part
    return whole


NODE: State = {keys.NodeKey(NodeName("n1")): Node(NodeName("n1"), (Address("192.168.0.1"),))}
OPEN = profile("namespace.prod", rule(Action.ALLOW), origin=Origin("Namespace", name="prod"))
CLOSED = profile(
    "namespace.prod",
    rule(Action.ALLOW, tag("namespace_prod")),
    tags=["namespace_prod"],
    origin=Origin("Namespace", name="prod"),
)
FOR_BACKEND = profile(
    "annotation.prod.1",
    rule(Action.ALLOW, tag("prod_access_backend"), port(4001), protocol=TCP),
    origin=Origin("Pod"),
)
BACKEND = profile("pod-labels.prod.1", tags=["prod_access_backend"])
SERVICE = profile("service.prod.web", rule(Action.ALLOW, dst=port(80), protocol=TCP))
DB = pod(
    "db",
    "10.0.0.1",
    "fd00::1",
    profiles=["annotation.prod.1", "service.prod.web", "namespace-labels.prod"],
)
BASE = both(NODE, OPEN, FOR_BACKEND, BACKEND)


def client(
    node: str = "n2",
    profiles: Iterable[str] = ("namespace.prod", "pod-labels.prod.1"),
    labels: Mapping[str, str] | None = None,
) -> State:
    """The pod that the annotation lets in, on the other node."""
    return pod("client", "10.0.1.1", node=node, profiles=profiles, labels=labels)


def web(name: str, address: str, http: int | None = None) -> State:
    """A pod that lets everybody in to its port named http."""
    ports = (NamedPort("http", TCP, http),) if http is not None else ()
    return pod(name, address, ports=ports, profiles=["annotation.prod.2"])


TO_HTTP = profile(
    "annotation.prod.2",
    rule(Action.ALLOW, dst=EntityMatch(named_ports=("http",)), protocol=TCP),
    origin=Origin("Pod"),
)
TO_X = both(tier("default"), policy("p", "all()", rule(Action.ALLOW, selector('a == "x"'))))
TO_TEAM = both(tier("default"), policy("p", 'pcns.team == "a"', rule(Action.ALLOW)))

A_X, A_Y = {"a": "x"}, {"a": "y"}
OPEN_DB = pod("db", "10.0.0.1", "fd00::1")
TWO_DB = pod("db", "10.0.0.1", "10.0.0.2", profiles=["annotation.prod.1"])
AT_OFFICE = both(
    tier("default"),
    policy(
        "p",
        "all()",
        rule(Action.ALLOW, dst=EntityMatch(netset=NetsetName("office"))),
        rule(Action.DENY, tag("prod_access_backend"), selector('a == "x"')),
        rule(Action.PASS),
    ),
)
TAGGED_AND_X = both(
    tier("default"),
    policy(
        "p",
        "all()",
        rule(
            Action.ALLOW,
            EntityMatch(tag=TagName("prod_access_backend"), selector=SelectorText('a == "x"')),
        ),
    ),
)
X_IN_OFFICE = both(
    tier("default"),
    policy(
        "p",
        "all()",
        rule(
            Action.ALLOW,
            EntityMatch(netset=NetsetName("office"), selector=SelectorText('a == "x"')),
        ),
    ),
)
HTTP_OF_X = both(
    tier("default"),
    policy(
        "p",
        "all()",
        rule(
            Action.ALLOW,
            EntityMatch(named_ports=("http",), selector=SelectorText('a == "x"')),
            protocol=TCP,
        ),
    ),
)

HISTORIES: Mapping[str, tuple[State, ...]] = {
    "a client comes, loses its label, has it again, goes": (
        both(BASE, DB),
        both(BASE, DB, client()),
        both(BASE, DB, client(profiles=["namespace.prod"])),
        both(BASE, DB, client()),
        both(BASE, DB),
    ),
    "a client gets another address, then a second one": (
        both(BASE, DB, client()),
        both(BASE, DB, pod("client", "10.0.1.2", node="n2", profiles=["pod-labels.prod.1"])),
        both(
            BASE,
            DB,
            pod("client", "10.0.1.2", "fd00:1::2", node="n2", profiles=["pod-labels.prod.1"]),
        ),
    ),
    "a namespace is closed, then opened": (
        both(NODE, OPEN, pod("a", "10.0.0.1"), pod("b", "10.0.1.1", node="n2")),
        both(NODE, CLOSED, pod("a", "10.0.0.1"), pod("b", "10.0.1.1", node="n2")),
        both(NODE, OPEN, pod("a", "10.0.0.1"), pod("b", "10.0.1.1", node="n2")),
    ),
    "a service opens, changes its port, closes": (
        both(BASE, DB),
        both(BASE, DB, SERVICE),
        both(BASE, DB, profile("service.prod.web", rule(Action.ALLOW, dst=port(81), protocol=TCP))),
        both(BASE, DB),
    ),
    "an address goes to a newer pod and comes back": (
        both(BASE, DB, client()),
        both(BASE, DB, client(), pod("newer", "10.0.1.1", node="n2", created=2.0)),
        both(BASE, DB, client(), pod("newer", "10.0.0.1", node="n1", created=2.0)),
        both(BASE, DB, client()),
    ),
    "a pod moves to another node": (
        both(BASE, DB, client()),
        both(BASE, DB, client(node="n1")),
        both(BASE, client(node="n1")),
    ),
    "a named port moves from pod to pod": (
        both(TO_HTTP, web("a", "10.0.0.1", 80)),
        both(TO_HTTP, web("a", "10.0.0.1", 80), web("b", "10.0.0.2", 8080)),
        both(TO_HTTP, web("b", "10.0.0.2")),
    ),
    "tiers and policies come in the wrong order": (
        both(BASE, DB),
        both(BASE, DB, policy("deny", "all()", rule(Action.DENY))),
        both(BASE, DB, policy("deny", "all()", rule(Action.DENY)), tier("default")),
        both(
            BASE,
            DB,
            policy("deny", "all()", rule(Action.DENY)),
            policy("allow", "all()", rule(Action.ALLOW), order=0.0),
            tier("default", default=Action.PASS),
        ),
        both(BASE, DB, tier("default", 5.0)),
    ),
    "a network set covers a pod, then is selected otherwise": (
        both(BASE, DB, TO_X),
        both(
            both(BASE, DB, TO_X, client(labels={"a": "x"})),
            netset("office", "10.0.1.1/32", "10.0.1.0/24", labels={"a": "x"}),
        ),
        both(
            both(BASE, DB, TO_X, client(labels={"a": "y"})),
            netset("office", "10.0.1.1/32", labels={"a": "x"}),
        ),
        both(
            both(BASE, DB, TO_X, client(labels={"a": "x"})),
            netset("office", "10.0.1.1/32", labels={"a": "y"}),
        ),
    ),
    "a namespace gets labels that a policy selects": (
        both(BASE, DB, TO_TEAM),
        both(BASE, DB, TO_TEAM, profile("namespace-labels.prod", labels={"pcns.team": "a"})),
        both(BASE, DB, TO_TEAM, profile("namespace-labels.prod", labels={"pcns.team": "b"})),
    ),
    "a policy is staged, then enforced, then staged": (
        both(BASE, DB, tier("default"), staged(policy("p", "all()", rule(Action.DENY)))),
        both(BASE, DB, tier("default"), policy("p", "all()", rule(Action.DENY))),
        both(BASE, DB, tier("default"), staged(policy("p", "all()", rule(Action.DENY)))),
    ),
    "a tier passes instead of denying, then comes after another": (
        both(BASE, OPEN_DB, TO_X, tier("later", 2.0), policy("q", "all()", tier="later")),
        both(BASE, OPEN_DB, TO_X, tier("default", 1.0, Action.PASS)),
        both(BASE, OPEN_DB, TO_X, tier("later", 2.0), policy("q", "all()", tier="later")),
        both(
            both(BASE, OPEN_DB, TO_X, tier("default", 3.0), tier("later", 2.0)),
            policy("q", "all()", rule(Action.PASS), tier="later"),
        ),
    ),
    "another profile owns the end": (
        both(BASE, DB),
        both(BASE, DB, profile("service.prod.web", origin=Origin("Service", name="web"))),
        both(BASE, DB, profile("annotation.prod.1", origin=Origin("Pod", name="new"))),
        both(
            both(BASE, pod("db", "10.0.0.1", profiles=["service.prod.web"])),
            profile("service.prod.web", origin=Origin("Service", name="web")),
        ),
        both(
            both(BASE, pod("db", "10.0.0.1", profiles=["service.prod.web"])),
            profile("service.prod.web", origin=Origin("Service", name="other")),
        ),
    ),
    "a label comes from two profiles and from the pod": (
        both(BASE, OPEN_DB, TO_X, client(profiles=["one", "two"]), profile("one", labels=A_X)),
        both(
            both(BASE, OPEN_DB, TO_X, client(profiles=["one", "two"])),
            both(profile("one", labels=A_X), profile("two", labels=A_Y)),
        ),
        both(
            both(BASE, OPEN_DB, TO_X, client(profiles=["two", "one"])),
            both(profile("one", labels=A_X), profile("two", labels=A_Y)),
        ),
        both(
            both(BASE, OPEN_DB, TO_X, client(profiles=["two", "one"], labels=A_X)),
            both(profile("one", labels=A_X), profile("two", labels=A_Y)),
        ),
        both(
            both(BASE, OPEN_DB, TO_X, client(profiles=["one"], labels=A_Y)),
            profile("one", labels=A_X),
        ),
    ),
    "a network set decides the local end": (
        both(BASE, DB, AT_OFFICE),
        both(BASE, DB, AT_OFFICE, netset("office", "10.0.0.0/24", labels=A_X)),
        both(BASE, DB, AT_OFFICE, netset("office", "10.0.0.1/32", "fd00::/64", labels=A_X)),
        both(BASE, TWO_DB, AT_OFFICE, netset("office", "10.0.0.1/32", labels=A_X)),
        both(BASE, TWO_DB, AT_OFFICE, netset("office", "10.0.0.1/32", labels=A_Y)),
    ),
    "what meets a tag and a selector at once depends on a network set": (
        both(BASE, DB, TAGGED_AND_X, client()),
        both(BASE, DB, TAGGED_AND_X, client(), netset("office", "10.0.1.0/24", labels=A_X)),
        both(BASE, DB, TAGGED_AND_X, client(), netset("office", "10.0.2.0/24", labels=A_X)),
        both(BASE, DB, TAGGED_AND_X, client(), netset("office", "10.0.1.0/24", labels=A_Y)),
        both(BASE, DB, TAGGED_AND_X, client(labels=A_X)),
    ),
    "what meets a selector and a network set at once": (
        both(BASE, DB, X_IN_OFFICE, client(labels=A_X)),
        both(BASE, DB, X_IN_OFFICE, client(labels=A_X), netset("office", "10.0.0.0/8")),
        both(
            both(BASE, DB, X_IN_OFFICE, client(), netset("office", "10.0.0.0/15")),
            netset("home", "10.0.1.0/24", "10.9.0.0/16", labels=A_X),
        ),
        both(BASE, DB, X_IN_OFFICE, client(labels=A_X), netset("office", "10.0.2.0/24")),
    ),
    "a peer's named port, where only a network set makes it selected": (
        both(BASE, DB, HTTP_OF_X, web("a", "10.0.1.1", 80)),
        both(BASE, DB, HTTP_OF_X, web("a", "10.0.1.1", 80), netset("n", "10.0.1.0/24", labels=A_X)),
        both(BASE, DB, HTTP_OF_X, web("a", "10.0.1.1", 81), netset("n", "10.0.1.0/24", labels=A_X)),
    ),
}


def edits_between(old: State, new: State) -> list[Edit]:
    """What a watcher sees: deletes, then puts of what differs."""
    gone: list[Edit] = [(key, None) for key in old if key not in new]
    return [*gone, *((key, value) for key, value in new.items() if old.get(key) != value)]


def replays(history: Sequence[State]) -> Iterator[list[Step]]:
    """The steps of each way to go through a history, from nothing."""
    nothing: State = {}
    backwards = history[::-1]
    yield _steps([nothing, *history])
    yield _steps([nothing, *backwards])
    yield _steps([nothing, *(state for one in history for state in (one, nothing))])
    yield [[edit] for step in _steps([nothing, *history]) for edit in step]
    yield [[edit] for step in _steps([nothing, *backwards]) for edit in step[::-1]]
    yield [[edit for step in _steps([nothing, *history]) for edit in step]]


def _steps(states: Sequence[State]) -> list[Step]:
    return [edits_between(old, new) for old, new in pairwise(states)]
