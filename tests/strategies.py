"""Hypothesis strategies for Kubernetes objects: small pools of names, so that things collide.

Objects come out decoded.  Hypothesis draws the seed of a whole history and its length, not each
field: with ``st.builds`` all the way down, and with lists of objects from a pool as well, histories
stayed so poor that three of five planted mistakes were not found.

Pods share addresses, labels and policy texts across namespaces; services, slices, namespaces and
accounts are often missing, and often refer to each other.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

from calico_k8s.translate import objects
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import KubeObject, decode_object, known_kind, object_ref
from tests.policy_strategies import PolicyMaker, Pools

_Item = TypeVar("_Item")

NAMESPACES = ("prod", "prod", "dev", "kube-system")
NAMES = ("a", "b", "c")
NODES = ("node-1", "node-2")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00:0::2", "::ffff:10.0.0.1")
ACCOUNTS = ("default", "builder")
LABELS = (("app", "web"), ("app", "db"), ("tier", ""), ("example.org/a_b", "web"))
PORT_NAMES = ("http", "dns")
POLICY_KEYS = ("projectcalico.org/policy", "policy")
FLAG_KEY = "projectcalico-policy"

POLICY_TEXTS = (
    "",
    "allow",
    "allow tcp from label app=web to port 80",
    "allow tcp from label app=web label tier=",
    "allow from namespace dev",
    "allow from namespace dev label app=db",
    "allow udp from selector (app in {'web', 'db'} || has(tier)) to port dns",
    "deny tcp from cidr 10.0.0.0/8; allow",
    "DENY TCP from cidr 10.0.0.0/8;  allow # the same, written otherwise",
    "allow icmp type 8 code 0",
    "allow tcp frm label app=web",
)

FLAGS = ("open", "open", "closed", "Open")


class Chance:
    """Choices for the making of one object."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def one(self, items: Sequence[_Item]) -> _Item:
        """One of the items."""
        return self.random.choice(items)

    def some(self, items: Sequence[_Item], most: int) -> list[_Item]:
        """Some of the items, perhaps none, each at most once."""
        return self.random.sample(items, self.random.randint(0, most))

    def maybe(self, item: _Item, times_of_ten: int = 5) -> _Item | None:
        """The item, or None."""
        return item if self.random.randrange(10) < times_of_ten else None


def _labels(chance: Chance) -> dict[str, str]:
    return dict(chance.some(LABELS, 2))


def _flag(chance: Chance, times_of_ten: int) -> dict[str, str]:
    value = chance.maybe(chance.one(FLAGS), times_of_ten)
    return {} if value is None else {FLAG_KEY: value}


def _container(chance: Chance) -> objects.Container:
    port = objects.ContainerPort(
        container_port=chance.one((80, 8080, 53)),
        name=chance.maybe(chance.one(PORT_NAMES)),
        protocol=chance.one((None, "", "TCP", "UDP")),
    )
    return objects.Container(chance.one((None, (), (port,))), chance.maybe("Always"))


def _pod(chance: Chance) -> objects.Pod:
    policies = {key: chance.one(POLICY_TEXTS) for key in chance.some(POLICY_KEYS, 1)}
    if chance.maybe(1, 1):
        policies = {key: chance.one(POLICY_TEXTS) for key in POLICY_KEYS}
    metadata = objects.Metadata(
        name=chance.one(NAMES),
        namespace=chance.one(NAMESPACES),
        labels=chance.maybe(_labels(chance), 9),
        annotations=policies,
        uid=chance.one(("", "u1", "u2")),
        creation_timestamp=chance.one((None, datetime(2026, 1, 1, tzinfo=UTC))),
    )
    spec = objects.PodSpec(
        node_name=chance.maybe(chance.one(NODES), 9),
        host_network=chance.maybe(bool(chance.maybe(1, 2))),
        service_account_name=chance.maybe(chance.one(ACCOUNTS)),
        containers=(_container(chance), _container(chance)),
        init_containers=chance.maybe((_container(chance),)),
    )
    addresses = tuple(objects.PodIp(address) for address in chance.some(ADDRESSES, 2))
    status = objects.PodStatus(
        phase=chance.one(("Running",) * 5 + ("Pending", "Succeeded", "Failed")),
        pod_ip=chance.maybe(chance.one(ADDRESSES), 9),
        pod_ips=chance.maybe(addresses),
    )
    return objects.Pod(metadata, spec, status)


def _namespace(chance: Chance) -> objects.Namespace:
    metadata = objects.Metadata(
        name=chance.one(NAMESPACES),
        labels=_labels(chance) | _flag(chance, 4),
        annotations=_flag(chance, 4),
    )
    return objects.Namespace(metadata)


def _service_account(chance: Chance) -> objects.ServiceAccount:
    metadata = objects.Metadata(
        name=chance.one(ACCOUNTS), namespace=chance.one(NAMESPACES), labels=_labels(chance)
    )
    return objects.ServiceAccount(metadata)


def _service(chance: Chance) -> objects.Service:
    metadata = objects.Metadata(
        name=chance.one(NAMES),
        namespace=chance.one(NAMESPACES),
        labels=_labels(chance) | _flag(chance, 8),
    )
    ports = tuple(
        objects.ServicePort(
            port=chance.one((80, 53)),
            protocol=chance.one((None, "TCP", "UDP")),
            target_port=chance.one((None, 0, "", 8080, "http")),
        )
        for _ in range(chance.one((0, 1, 2)))
    )
    spec = objects.ServiceSpec(
        type=chance.one((None, "ClusterIP", "ClusterIP", "ExternalName")),
        selector=chance.maybe(_labels(chance), 8),
        ports=ports,
    )
    return objects.Service(metadata, chance.maybe(spec, 9))


def _endpoint_slice(chance: Chance) -> objects.EndpointSlice:
    labels = {"kubernetes.io/service-name": chance.one(NAMES)}
    metadata = objects.Metadata(
        name=chance.one(NAMES), namespace=chance.one(NAMESPACES), labels=chance.maybe(labels, 9)
    )
    addresses = tuple(chance.some((*ADDRESSES, "10.9.9.9", "example.org"), 3))
    ports = tuple(
        objects.SlicePort(port=chance.maybe(port, 9), protocol=chance.one((None, "TCP", "UDP")))
        for port in chance.some((53, 80, 8080), 2)
    )
    return objects.EndpointSlice(metadata, (objects.SliceEndpoint(addresses),), ports=ports)


def _node(chance: Chance) -> objects.Node:
    addresses = tuple(
        objects.NodeAddress(
            chance.one(("InternalIP", "ExternalIP", "Hostname")),
            chance.one(("192.168.0.1", "fd00:1::1", "node-1")),
        )
        for _ in range(chance.one((0, 1, 2)))
    )
    return objects.Node(
        objects.Metadata(name=chance.one(NODES), labels=_labels(chance)),
        objects.NodeSpec(chance.maybe("10.0.0.0/24")),
        objects.NodeStatus(addresses),
    )


POOLS = Pools(
    namespaces=NAMESPACES,
    labels=LABELS,
    namespace_labels=(*LABELS[:2], ("kubernetes.io/metadata.name", "dev")),
    nets=("10.0.0.0/8", "10.0.0.0/31", "10.0.0.1/32", "0.0.0.0/0", "fd00::/16", "::/0"),
    ports=(53, 80, 8080),
    port_names=PORT_NAMES,
    accounts=ACCOUNTS,
    services=NAMES,
    nodes=LABELS[:2],
)


def _policy(chance: Chance) -> KubeObject:
    made = PolicyMaker(chance.random, POOLS).any_policy(chance.one((1, 2, 3)))
    kind = known_kind(made["apiVersion"], made["kind"])
    assert kind is not None
    decoded = decode_object(kind, made)
    assert decoded.object is not None, decoded.findings
    return decoded.object


_MAKERS: Sequence[Callable[[Chance], KubeObject]] = (
    *(_pod,) * 6,
    *(_service,) * 4,
    *(_endpoint_slice,) * 3,
    *(_namespace,) * 2,
    *(_policy,) * 6,
    _service_account,
    _node,
)


def _pool(make: Callable[[Chance], _Item], size: int) -> st.SearchStrategy[_Item]:
    return st.sampled_from([make(Chance(Random(seed))) for seed in range(size)])


_PODS = _pool(_pod, 400)
_OBJECTS = st.one_of(*(_pool(make, 200) for make in dict.fromkeys(_MAKERS)))


def pods() -> st.SearchStrategy[objects.Pod]:
    """Pods in every state, sharing addresses."""
    return _PODS


def kube_objects() -> st.SearchStrategy[KubeObject]:
    """Objects of every kind."""
    return _OBJECTS


Step = KubeObject | ObjectRef | None
"""An object as it is now, one that is gone, or None: look at what has changed."""


def histories(most: int = 120) -> st.SearchStrategy[list[Step]]:
    """Objects come, change and go.  Each is a beginning of a history that its seed decides."""
    return st.builds(_history, st.integers(0, 2**32 - 1), st.integers(0, most))


def _history(seed: int, length: int) -> list[Step]:
    chance = Chance(Random(seed))
    steps: list[Step] = []
    while len(steps) < length:
        value = chance.one(_MAKERS)(chance)
        steps.append(object_ref(value) if chance.maybe(1, 2) else value)
        if chance.maybe(1, 3):
            steps.append(None)
    return steps[:length]
