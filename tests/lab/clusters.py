"""Clusters for tests of the lab: manifests as values, and random ones of names that collide."""

import json
from random import Random
from typing import Any

from hypothesis import strategies as st

from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, expand
from tests.policy_strategies import PolicyMaker, Pools

Object = dict[str, Any]  # Any: what JSON can say

NAMESPACES = ("web", "data", "ops")
NODES = ("node-1", "node-2")
TCP_PORTS = (80, 4001)
UDP_PORT = 53
DUAL_STACK = ExpandOptions(nodes=2, families=(4, 6))

LABELS = {"app": ("front", "back"), "access": ("yes", "no")}
POOLS = Pools(
    namespaces=NAMESPACES,
    labels=[(key, value) for key, values in LABELS.items() for value in values],
    namespace_labels=[("kubernetes.io/metadata.name", name) for name in NAMESPACES],
    nets=(
        *("10.128.0.0/20", "10.128.16.0/20", "10.128.0.0/14", "10.128.0.2/31", "0.0.0.0/0"),
        *("fd00:10:128::/64", "fd00:10:128::/48", "::/0"),
    ),
    ports=(*TCP_PORTS, UDP_PORT),
    accounts=("default", "nobody"),
    services=("s0", "s1", "s2"),
    nodes=[("kubernetes.io/hostname", node) for node in NODES],
)

MATCHES = (
    "label app=front",
    "label app=back label access=yes",
    "namespace ops",
    "namespace web label app=front",
    "selector (app in {'front', 'none'} || !has(access))",
    "selector (all()) namespace data",
    "cidr 10.128.0.0/20",
    "cidr 10.128.16.0/20,fd00:10:128::/64",
    "cidr fd00:10:128:1::/64",
    "cidr 0.0.0.0/0,::/0",
)
PORTS = ("port 80", "ports 80,4001", "port 4000:4100", "port http", "ports http,4001")


@st.composite
def statements(draw: st.DrawFn) -> str:
    """One statement, mostly a valid one."""
    action = draw(st.sampled_from(("allow", "allow", "deny")))
    protocol = draw(
        st.sampled_from(("", "tcp", "tcp", "udp", "icmp", "icmp type 8", "icmpv6 type 128", "sctp"))
    )
    words = [action, protocol]
    has_ports = protocol in ("tcp", "udp", "sctp")
    source = [draw(st.sampled_from(MATCHES))] if draw(st.booleans()) else []
    if has_ports and draw(st.integers(0, 9)) == 0:
        source.append("port 40000:50000")
    if source:
        words += ["from", *source]
    target = [draw(st.sampled_from(PORTS))] if has_ports and draw(st.booleans()) else []
    if draw(st.integers(0, 5)) == 0:
        target.append(draw(st.sampled_from(("label app=back", "cidr 10.128.0.0/20", "cidr ::/0"))))
    if target:
        words += ["to", *target]
    return " ".join(word for word in words if word)


def policies() -> st.SearchStrategy[str]:
    """Annotations: some statements, none, or one that does not parse."""
    several = st.lists(statements(), max_size=3).map("; ".join)
    return st.one_of(several, several, several, st.just("allow tcp frm label app=front"))


@st.composite
def pod(draw: st.DrawFn, number: int) -> Object:
    """Pod ``p<number>`` somewhere, with or without a policy."""
    labels = {key: draw(st.sampled_from(values)) for key, values in LABELS.items()}
    named = {"name": "http", "containerPort": draw(st.sampled_from(TCP_PORTS))}
    metadata: Object = {
        "name": f"p{number}",
        "namespace": draw(st.sampled_from(NAMESPACES)),
        "labels": {key: value for key, value in labels.items() if draw(st.booleans())},
    }
    if draw(st.booleans()):
        metadata["annotations"] = {"policy": draw(policies())}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "nodeName": draw(st.sampled_from(NODES)),
            "containers": [{"name": "c", "ports": [named]}],
        },
    }


@st.composite
def namespace(draw: st.DrawFn, name: str) -> Object:
    """A namespace, often closed, with a flag that may be wrong."""
    flag = draw(st.sampled_from((None, "open", "closed", "closed", "shut")))
    flags = {} if flag is None else {"projectcalico-policy": flag}
    place = draw(st.sampled_from(("annotations", "labels")))
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, place: flags}}


@st.composite
def service(draw: st.DrawFn, number: int) -> Object:
    """Service ``s<number>``, open or not, on a number or a name."""
    key = draw(st.sampled_from(sorted(LABELS)))
    target = draw(st.sampled_from((80, 4001, "http")))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": f"s{number}",
            "namespace": draw(st.sampled_from(NAMESPACES)),
            "labels": draw(st.sampled_from(({}, {"projectcalico-policy": "open"}))),
        },
        "spec": {
            "selector": {key: draw(st.sampled_from(LABELS[key]))},
            "ports": [{"port": 8000 + number, "targetPort": target}],
        },
    }


def some_policies(most: int = 5) -> st.SearchStrategy[list[Object]]:
    """Policies of any kind; each list is a beginning of one that its seed decides."""

    def made(seed: int, count: int) -> list[Object]:
        maker = PolicyMaker(Random(seed), POOLS)
        return [maker.any_policy(number) for number in range(count)]

    return st.builds(made, st.integers(0, 2**32 - 1), st.integers(0, most))


@st.composite
def clusters(draw: st.DrawFn) -> list[Object]:
    """Up to six pods, their namespaces, up to three services, and up to five policies of any kind."""
    made = [draw(namespace(name)) for name in NAMESPACES if draw(st.booleans())]
    made += [draw(pod(number)) for number in range(draw(st.integers(2, 6)))]
    made += [draw(service(number)) for number in range(draw(st.integers(0, 3)))]
    return made + draw(some_policies())


def expanded(
    objects: list[Object],
    before: ClusterObjects | None = None,
    options: ExpandOptions = DUAL_STACK,
) -> ClusterObjects:
    """The cluster of some objects."""
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    reading = read_text(json.dumps(listed), "test.json")
    assert not reading.errors, reading.errors
    return expand(reading.manifests, options, before)
