"""A shop with walls on a live cluster: its objects as kubectl applies them, and its pods.

::

    ops   (open)     near, far       on node-1, node-2
    shop  (closed)   front           node-1, access=yes
                     plain           node-2, without that label
                     back, rear      node-1, node-2; take port 4001, and 53/udp, from access=yes
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import yaml

from calico_k8s.lab.plan import ListenPort
from calico_k8s.model.names import NodeName
from calico_k8s.query.reach import Service
from tests.cluster.live import NODE_1, NODE_2, LiveCluster
from tests.cluster.objects import Document
from tests.lab.plans import TCP, UDP

WEB, API, DNS = Service(TCP, 80), Service(TCP, 4001), Service(UDP, 53)
ONES, TWOS = Service(TCP, 8080), Service(TCP, 9090)
LISTEN = [ListenPort(*each) for each in (WEB, API, DNS, ONES, TWOS)]

POLICY = "allow tcp from label access=yes to port 4001; allow udp from label access=yes"

OBJECTS: list[Document] = [
    {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "annotations": {"projectcalico-policy": "closed"}},
    },
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ops"}},
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "front"}, "ports": [{"port": 80}]},
    },
]


class ShopPod(NamedTuple):
    """A pod to be: where, with what, and at which addresses."""

    name: str
    """``namespace/name``."""
    node: NodeName
    number: int
    """The last part of its addresses, which are its node's; see :data:`addresses`."""
    labels: Mapping[str, str] = MappingProxyType({})
    policy: str = ""
    http: int = 0
    """The number of its port ``http``."""

    @property
    def addresses(self) -> tuple[str, str]:
        """One of each family."""
        net = 1 if self.node == NODE_1 else 2
        return f"10.244.{net}.{self.number}", f"fd00:244:{net}::{self.number}"

    def document(self) -> Document:
        """What a user applies."""
        namespace, _, name = self.name.partition("/")
        container: Document = {"name": "main", "image": "none"}
        if self.http:
            container["ports"] = [{"name": "http", "containerPort": self.http}]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": dict(self.labels),
                "annotations": {"policy": self.policy} if self.policy else {},
            },
            "spec": {"nodeName": self.node, "containers": [container]},
        }


PODS = [
    ShopPod("ops/near", NODE_1, 10),
    ShopPod("ops/far", NODE_2, 10),
    ShopPod("shop/front", NODE_1, 11, {"app": "front", "access": "yes"}),
    ShopPod("shop/plain", NODE_2, 11, {"app": "plain"}),
    ShopPod("shop/back", NODE_1, 12, {"app": "back"}, POLICY),
    ShopPod("shop/rear", NODE_2, 12, {"app": "back"}, POLICY),
]


def apply(cluster: LiveCluster, *documents: Document) -> None:
    """``kubectl apply``."""
    cluster.kube.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))


def run(cluster: LiveCluster, *pods: ShopPod) -> None:
    """Applies pods, and starts them."""
    apply(cluster, *(pod.document() for pod in pods))
    for pod in pods:
        cluster.run_pod(*pod.name.split("/"), *pod.addresses)


def end(cluster: LiveCluster, *names: str) -> None:
    """``kubectl delete`` of pods, which stop."""
    for name in names:
        namespace, _, short = name.partition("/")
        cluster.kube.kubectl("-n", namespace, "delete", "pod", short, "--grace-period=0", "--force")
        cluster.stop_pod(namespace, short)
