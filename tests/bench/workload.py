"""A cluster as the goals for scale describe it: pods of many namespaces under NetworkPolicies.

In: a size.  Out: Kubernetes objects, and what the controller stores of them.

Pods have an ``app`` and a ``role``, of five each.  A policy lets TCP 8080 into the pods of one app
of its namespace from the pods of one role: seven of ten from the same namespace, two from the
namespaces of a team, one from a block of addresses with an exception.  One of five also limits
egress to TCP 8080 of all pods.  All but four of this node's pods are selected.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import Node, Ready, Value
from calico_k8s.translate import objects
from calico_k8s.translate.cluster import Translator
from calico_k8s.translate.namespaces import TranslateSettings
from tests.bench.bed import NODE, OWN, local_address, remote_address

APPS, ROLES, TEAMS = 5, 5, 5
OTHER_NODES = 100
UNSELECTED = 4
ALONE = "alone"
"""The app that no policy selects: of this node's last four pods, all of the first namespace."""
PORT = 8080

Document = dict[str, object]


class Size(NamedTuple):
    """How large a cluster is; ``is_together``: this node's pods are all of the first namespace."""

    name: str
    namespaces: int
    local: int
    remote: int
    policies: int
    is_together: bool = False


SMALL = Size("small", 10, 50, 1_000, 100)
LARGE = Size("large", 50, 100, 10_000, 1_000)


def namespace(number: int) -> objects.Namespace:
    """The nth namespace, of a team."""
    labels = {"team": f"t{number % TEAMS}", "kubernetes.io/metadata.name": f"ns{number}"}
    return objects.Namespace(objects.Metadata(name=f"ns{number}", labels=labels))


def local_pod(size: Size, number: int, address: Address | None = None) -> objects.Pod:
    """The nth pod of this node."""
    is_selected = number < size.local - UNSELECTED
    namespaces = 1 if size.is_together or not is_selected else size.namespaces
    app = f"a{number // namespaces % APPS}" if is_selected else ALONE
    labels = {"app": app, "role": f"r{number // APPS % ROLES}"}
    name = (f"ns{number % namespaces}", f"local{number}")
    return _pod(name, NODE, labels, address or local_address(number))


def remote_pod(size: Size, number: int, role: str | None = None) -> objects.Pod:
    """The nth pod of other nodes, with its own role or another."""
    app = number // size.namespaces % APPS
    labels = {"app": f"a{app}", "role": role or turned_role(size, number, 0)}
    name = (f"ns{number % size.namespaces}", f"remote{number}")
    return _pod(name, f"node{number % OTHER_NODES}", labels, remote_address(number))


def turned_role(size: Size, number: int, turn: int) -> str:
    """The role of the nth remote pod, another in each turn."""
    return f"r{(number // size.namespaces // APPS + turn) % ROLES}"


def _pod(name: tuple[str, str], node: str, labels: dict[str, str], address: Address) -> objects.Pod:
    return objects.Pod(
        objects.Metadata(namespace=name[0], name=name[1], labels=labels, uid=f"uid-{name[1]}"),
        objects.PodSpec(
            node_name=node, containers=(objects.Container((objects.ContainerPort(PORT, "http"),)),)
        ),
        objects.PodStatus("Running", address),
    )


def policy(size: Size, number: int) -> objects.NetworkPolicy:
    """The nth policy."""
    place, turn = number % size.namespaces, number // size.namespaces
    ports = [{"protocol": "TCP", "port": PORT}]
    spec: Document = {
        "podSelector": {"matchLabels": {"app": f"a{turn % APPS}"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [_peer(place, turn)], "ports": ports}],
    }
    if (turn + 2 * place) % 5 == 0:
        spec["policyTypes"] = ["Ingress", "Egress"]
        spec["egress"] = [{"to": [{"namespaceSelector": {}}], "ports": ports}]
    metadata = objects.Metadata(namespace=f"ns{place}", name=f"policy{number}")
    return objects.NetworkPolicy(metadata, spec)


def _peer(place: int, turn: int) -> Document:
    role: Document = {"matchLabels": {"role": f"r{(turn // APPS + turn + place) % ROLES}"}}
    kind = (place + turn) % 10
    if kind < 7:
        return {"podSelector": role}
    if kind < 9:
        team: Document = {"matchLabels": {"team": f"t{place % TEAMS}"}}
        return {"namespaceSelector": team, "podSelector": role}
    return {"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"10.{200 + place}.0.0/16"]}}


def new_policy(
    selected: Document, peer: Document, port: Document, name: str = "new"
) -> objects.NetworkPolicy:
    """One more policy of the first namespace, that lets pods of it in."""
    rule = {"from": [{"podSelector": peer}], "ports": [port]}
    spec: Document = {"podSelector": selected, "policyTypes": ["Ingress"], "ingress": [rule]}
    return objects.NetworkPolicy(objects.Metadata(namespace="ns0", name=name), spec)


def cluster(size: Size) -> Iterator[objects.KubeObject]:
    """Every object."""
    yield from map(namespace, range(size.namespaces))
    for number in range(size.local):
        yield local_pod(size, number)
    for number in range(size.remote):
        yield remote_pod(size, number)
    for number in range(size.policies):
        yield policy(size, number)


class Stored:
    """What the controller makes of a cluster, and of each change after."""

    def __init__(self, size: Size) -> None:
        self._translator = Translator(TranslateSettings())
        for value in cluster(size):
            self._translator.update(value)
        self._translator.flush()

    def items(self) -> dict[Key, Value]:
        """Everything, as complete."""
        own: dict[Key, Value] = {keys.NodeKey(NODE): Node(NODE, (OWN,))}
        return {**self._translator.items, **own, keys.ReadyKey(): Ready(value=True)}

    def change(self, *values: objects.KubeObject) -> Mapping[Key, Value | None]:
        """What changes by objects that are so now."""
        for value in values:
            self._translator.update(value)
        return self._flush()

    def remove(self, value: objects.KubeObject) -> Mapping[Key, Value | None]:
        """What changes by an object that is gone."""
        self._translator.remove(objects.object_ref(value))
        return self._flush()

    def _flush(self) -> dict[Key, Value | None]:
        changes = self._translator.flush()
        return {**changes.puts, **dict.fromkeys(changes.deletes)}
