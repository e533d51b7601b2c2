"""What an update costs the calculation: 10,000 endpoints, 1,000 policies, 100 pods on this node.

In comes nothing; out go microseconds for each kind of update with its flush: the median beside
its budget, and as a ratio to the floor, which is reading the updated value from JSON, as every
agent has to.  Growth is the ratio to the same update in a cluster a tenth as large, with a tenth
of the pods on this node: 1 where the size of the cluster costs nothing.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from calico_k8s.calc.graph import Graph
from calico_k8s.model import codec, keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import Key
from calico_k8s.model.names import (
    EndpointId,
    NamespaceName,
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
    Origin,
    Policy,
    PortRange,
    Rule,
    Rules,
    Tags,
    Tier,
    Value,
    WorkloadEndpoint,
)
from tests.bench.figure import Figure, Floor, record

NAMESPACES, APPS, PODS = 50, 20, 10
"""Namespaces, applications in each, pods of each: 10,000 pods of 1,000 templates."""
NODE_COUNT = 100
ROUNDS = 200
START_BUDGET_US = 500_000
TCP = 6
NAMESPACE_LABEL = "projectcalico.org/namespace"
LOCAL = NodeName("n0")

Edit = tuple[Key, Value | None]


def endpoint(
    namespace: int, app: int, pod: int, *, node: int | None = None, tier: str = "x", moved: int = 0
) -> WorkloadEndpoint:
    """One pod as the controller writes it."""
    number = (namespace * APPS + app) * PODS + pod
    home = NodeName(f"n{number % NODE_COUNT if node is None else node}")
    return WorkloadEndpoint(
        id=EndpointId(home, NamespaceName(f"ns{namespace}"), f"app{app}-{pod}"),
        addresses=(Address(f"10.{number // 65536 + moved}.{number // 256 % 256}.{number % 256}"),),
        labels={
            "app": f"app{app}",
            "tier": tier,
            "pod-template-hash": f"{namespace}-{app}",
            NAMESPACE_LABEL: f"ns{namespace}",
            "projectcalico.org/orchestrator": "k8s",
            "projectcalico.org/serviceaccount": "default",
        },
        named_ports=(NamedPort("http", TCP, 8080),),
        profiles=(
            ProfileId(f"annotation.ns{namespace}.{app}"),
            ProfileId(f"pod-labels.ns{namespace}.{app}"),
            ProfileId(f"namespace-labels.ns{namespace}"),
        ),
        uid=f"uid-{number}",
        created=float(number),
    )


def profiles(namespace: int, app: int, port: int = 4001) -> Iterator[tuple[Key, Value]]:
    """An application's annotation, which lets the next application in, and its tags."""
    origin = Origin("Pod", f"ns{namespace}", "", 0)
    peer = EntityMatch(tag=TagName(f"ns{namespace}_app_app{(app + 1) % APPS}"))
    to = EntityMatch(ports=(PortRange(port, port),))
    rule = Rule(Action.ALLOW, origin, protocol=TCP, src=peer, dst=to)
    yield (
        keys.ProfileRulesKey(ProfileId(f"annotation.ns{namespace}.{app}")),
        Rules((rule,), (Rule(Action.ALLOW, origin),), origin),
    )
    yield (
        keys.ProfileTagsKey(ProfileId(f"pod-labels.ns{namespace}.{app}")),
        Tags((TagName(f"ns{namespace}_app_app{app}"), TagName(f"ns{namespace}_tier_x"))),
    )


def policy(namespace: int, app: int, port: int = 80, peer: str | None = None) -> Edit:
    """A policy for one application: some other one, and its own tier, may come in."""
    identity = PolicyId("NetworkPolicy", f"ns{namespace}", f"app{app}")
    here = f'{NAMESPACE_LABEL} == "ns{namespace}"'
    allowed = peer or f'app == "app{(app + 2) % APPS}" && {here}'
    ends = (
        EntityMatch(selector=SelectorText(allowed)),
        EntityMatch(ports=(PortRange(port, port),)),
    )
    own_tier = EntityMatch(selector=SelectorText(f'{here} && tier == "y"'))
    origin = Origin("NetworkPolicy", f"ns{namespace}", f"app{app}", 0)
    return keys.PolicyKey(TierName("default"), identity), Policy(
        id=identity,
        tier=TierName("default"),
        selector=SelectorText(f'app == "app{app}" && {here}'),
        types=(Direction.INGRESS, Direction.EGRESS),
        order=1000.0,
        ingress=(
            Rule(Action.ALLOW, origin, protocol=TCP, src=ends[0], dst=ends[1]),
            Rule(Action.ALLOW, origin, src=own_tier),
        ),
        egress=(Rule(Action.ALLOW, origin, protocol=TCP, dst=ends[0]),),
    )


def cluster(namespaces: int) -> dict[Key, Value]:
    """Everything stored; one pod of a hundred is on this node."""
    items: dict[Key, Value] = {keys.TierKey(TierName("default")): Tier(TierName("default"), 1.0)}
    for namespace in range(namespaces):
        profile = ProfileId(f"namespace-labels.ns{namespace}")
        items[keys.ProfileTagsKey(profile)] = Tags((TagName(f"namespace_ns{namespace}"),))
        items[keys.ProfileLabelsKey(profile)] = Labels({"pcns.team": f"t{namespace % 5}"})
        for app in range(APPS):
            items.update(profiles(namespace, app))
            key, value = policy(namespace, app)
            if value is not None:
                items[key] = value
            for pod in range(PODS):
                one = endpoint(namespace, app, pod)
                items[keys.EndpointKey(one.id)] = one
    return items


def put(value: WorkloadEndpoint) -> Edit:
    """The edit that stores an endpoint."""
    return keys.EndpointKey(value.id), value


def delete(value: WorkloadEndpoint) -> Edit:
    """The edit that deletes it."""
    return keys.EndpointKey(value.id), None


def scenarios() -> dict[str, tuple[tuple[Edit, Edit], int]]:
    """For each kind of update, two edits that are made in turn, and the budget of one in us."""
    pod = endpoint(0, 0, 3)
    moving = endpoint(0, 2, 3)
    extra, local = endpoint(0, 1, PODS), endpoint(0, 0, PODS, node=0)
    team = keys.ProfileLabelsKey(ProfileId("namespace-labels.ns0"))
    return {
        "remote pod relabelled": ((put(endpoint(0, 0, 3, tier="y")), put(pod)), 100),
        "remote pod gets another address": (
            (put(endpoint(0, 2, 3, moved=100)), put(moving)),
            80,
        ),
        "remote pod added, removed": ((put(extra), delete(extra)), 50),
        "local pod added to its group, removed": ((put(local), delete(local)), 50),
        "policy of a local pod: other port": ((policy(0, 0, 81), policy(0, 0)), 300),
        "policy of a local pod: other peer": (
            (policy(0, 0, peer='tier == "y"'), policy(0, 0)),
            500,
        ),
        "policy of no local pod": ((policy(0, 1, 81), policy(0, 1)), 100),
        "annotation of a local pod: other port": ((annotation(4002), annotation(4001)), 250),
        "namespace of 200 pods relabelled": (
            ((team, Labels({"pcns.team": "t1"})), (team, Labels({"pcns.team": "t0"}))),
            1000,
        ),
    }


def annotation(port: int) -> Edit:
    """The annotation of the first application."""
    return next(iter(profiles(0, 0, port)))


def microseconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def measure(graph: Graph, edits: Iterable[Edit]) -> tuple[float, float, float]:
    """Median and 99th percentile of an update with its flush, and the median of the floor."""
    spent: list[float] = []
    floor: list[float] = []
    for key, value in edits:
        if value is not None:
            floor.append(microseconds(partial(codec.decode, key, codec.encode(value))))
        spent.append(microseconds(partial(update_and_flush, graph, key, value)))
    return (
        statistics.median(spent),
        statistics.quantiles(spent, n=100)[-1],
        statistics.median(floor),
    )


def update_and_flush(graph: Graph, key: Key, value: Value | None) -> None:
    """What Felix does for one change that comes alone."""
    graph.update(key, value)
    graph.flush()


def start_fresh(items: dict[Key, Value]) -> Graph:
    """A graph that has seen everything."""
    graph = Graph(LOCAL)
    for key, value in items.items():
        graph.update(key, value)
    graph.flush()
    return graph


def main() -> int:
    """Prints every figure; 1 if one of them is outside its budget."""
    small, large = cluster(NAMESPACES // 10), cluster(NAMESPACES)
    gc.collect()
    gc.freeze()
    stored = [(key, codec.encode(value)) for key, value in large.items()]
    decoding = microseconds(lambda: [codec.decode(key, raw) for key, raw in stored])
    starting = min(microseconds(partial(start_fresh, large)) for _ in range(3))
    graph, beside = start_fresh(large), start_fresh(small)
    print(describe(large, graph))
    print(f"{'':40} {'us':>9} {'budget':>9} {'p99':>9} {'floor':>9} {'ratio':>6} {'growth':>6}")
    print(
        f"{'fresh start, whole':40} {starting:9.0f} {START_BUDGET_US:9} {'':9} {decoding:9.0f} "
        f"{starting / decoding:6.2f}"
    )
    floor_ms = decoding / 1000
    record(Figure("fresh start, whole", starting / 1000, 0, Floor("decoding it", floor_ms)))
    is_within = starting <= START_BUDGET_US
    for name, (edits, budget) in scenarios().items():
        median, last, floor = measure(graph, edits * ROUNDS)
        growth = median / measure(beside, edits * ROUNDS)[0]
        is_within = is_within and median <= budget
        print(
            f"{name:40} {median:9.1f} {budget:9} {last:9.1f} {floor:9.1f} {median / floor:6.2f} "
            f"{growth:6.2f}"
        )
        record(Figure(name, median, last, Floor("decoding it", floor), unit="us", goal=budget))
    return 0 if is_within else 1


def describe(items: dict[Key, Value], graph: Graph) -> str:
    """How large the state is that is measured on."""
    groups = {g for e in graph.endpoints.values() for g in (e.ingress, e.egress)}
    members = sum(len(graph.members(identity)) for identity in graph.ipset_ids())
    return (
        f"{len(items)} items; on this node {len(graph.endpoints)} pods in {len(groups)} groups "
        f"ask {len(graph.ipset_ids())} sets of {members} members"
    )


if __name__ == "__main__":
    sys.exit(main())
