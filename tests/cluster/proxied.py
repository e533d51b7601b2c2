"""A live cluster in which services lead to pods by real kube-proxies, and a client that is no node.

In: how kube-proxy writes, how pods are attached, a folder.  Out: a :class:`ProxiedCluster`, whose
pods and services are the table :data:`PODS` and :data:`SERVICES`; no kube-proxy runs at first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.lab.kernelview import kernel_text
from calico_k8s.lab.kubeproxy import FelixBackend
from calico_k8s.lab.plan import LabNode, ListenPort, Place, PodNetwork
from calico_k8s.lab.question import Probe
from calico_k8s.lab.run import LabOptions
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.names import NodeName
from tests.cluster.live import NODE_1, NODE_2, NODES, LiveCluster, live_cluster
from tests.cluster.proxies import KubeProxies, KubeService, ProxyKind, expose, kube_proxies
from tests.lab.plans import TCP, UDP
from tests.lab.walls import on_site

OUTSIDE = LabNode(NodeName("outside"), (Address("192.168.9.9"), Address("fd00:9::9")))
WEB, API, DNS = ListenPort(TCP, 80), ListenPort(TCP, 4001), ListenPort(UDP, 53)


class _Pod(NamedTuple):
    node: NodeName
    policy: str | None = None
    labels: Mapping[str, str] = {}


PODS = {
    "shop/web": _Pod(NODE_1),
    "shop/plain": _Pod(NODE_2),
    "shop/shown": _Pod(NODE_2, labels={"app": "shown"}),
    "ops/near": _Pod(NODE_1, labels={"access": "yes"}),
    "ops/far": _Pod(NODE_2),
    "ops/noted": _Pod(NODE_1, "allow tcp from label access=yes to port 4001"),
    "ops/sealed": _Pod(NODE_2, "deny"),
    "ops/client": _Pod(NODE_2, "allow tcp from cidr 192.168.9.9/32,fd00:9::9/128 to port 80"),
    "ops/nodes": _Pod(NODE_2, "allow tcp from cidr 192.168.9.1/32,fd00:9::1/128 to port 80"),
}
ADDRESSES = {
    name: (
        Address(f"10.244.{pod.node[-1]}.{10 + n}"),
        Address(f"fd00:244:{pod.node[-1]}::{10 + n}"),
    )
    for n, (name, pod) in enumerate(PODS.items())
}

SERVICES = {
    each.name: each
    for each in (
        KubeService("shop/web", 1, 8080, 80, ("shop/web",)),
        KubeService(
            "shop/shown", 2, 8080, 4001, ("shop/shown",), labels={"projectcalico-policy": "open"}
        ),
        KubeService("shop/hidden", 3, 4001, 80, ("shop/shown",)),
        KubeService("ops/noted", 4, 80, 4001, ("ops/noted",)),
        KubeService("ops/swapped", 5, 4001, 80, ("ops/noted",)),
        KubeService("ops/sealed", 6, 8080, 80, ("ops/sealed",)),
        KubeService("ops/client", 7, 80, 80, ("ops/client",)),
        KubeService("ops/client-local", 8, 80, 80, ("ops/client",), is_local=True),
        KubeService("ops/nodes", 9, 80, 80, ("ops/nodes",)),
        KubeService("ops/nodes-local", 10, 80, 80, ("ops/nodes",), is_local=True),
        KubeService("ops/both", 11, 80, 80, ("ops/near", "ops/far"), is_sticky=True),
        KubeService("ops/none", 12, 53, 53, (), protocol="UDP"),
    )
}


class ProxiedCluster(NamedTuple):
    """What :func:`proxied_cluster` yields."""

    live: LiveCluster
    proxies: KubeProxies
    network: PodNetwork
    backend: FelixBackend

    def via_cluster_ip(self, src: str, service: str, version: int) -> Probe:
        """A pod, or node, to a service."""
        of = SERVICES[service]
        address = next(a for a in of.cluster_ips if address_version(a) == version)
        return Probe(Place(src), address, of.port, UDP if of.protocol == "UDP" else TCP)

    def via_node(self, src: str, node: str, service: str, version: int) -> Probe:
        """The same, by the service's port at a node."""
        address = next(
            a for n in NODES if n.name == node for a in n.addresses if address_version(a) == version
        )
        of = SERVICES[service]
        return Probe(Place(src), address, of.node_port, UDP if of.protocol == "UDP" else TCP)

    def direct(self, src: str, dst: str, port: int, version: int) -> Probe:
        """A pod to a pod."""
        return Probe(Place(src), ADDRESSES[dst][version == 6], port, TCP)

    def answered_by(self, probes: Sequence[Probe]) -> list[str]:
        """Who answers each; nothing where nobody does."""
        return [answer.answered_by for answer in self.live.prober.probe(probes)]

    def on_node(self, node: NodeName, *command: str) -> str:
        """What a program prints on a node."""
        return on_site(self.live.network.nodes[node], *command)

    def rules(self) -> dict[NodeName, str]:
        """What Felix has put into each node's kernel."""
        if self.backend == "nftables":
            return {n.name: self._own_tables(n.name) for n in NODES}
        backend = Backend(self.backend)
        texts = {n.name: kernel_text(self.live.network.nodes[n.name], backend) for n in NODES}
        return {name: "\n".join(_OURS.findall(text)) for name, text in texts.items()}

    def _own_tables(self, node: NodeName) -> str:
        command = ("nft", "--stateless", "--terse", "list", "table")
        return "".join(
            self.on_node(node, *command, family, "calico_k8s") for family in ("ip", "ip6")
        )

    def drift(self) -> list[int]:
        """What each Felix has mended since it started."""
        told = [self.live.agents.status(self.live.store.store, node.name) for node in NODES]
        return [status.drift_repaired for status in told if status is not None]


_OURS = re.compile(r"^.*cali.*$", re.MULTILINE)


@contextmanager
def proxied_cluster(
    kind: ProxyKind,
    network: PodNetwork,
    folder: Path,
    felix: Sequence[str],
    backend: FelixBackend | None = None,
) -> Iterator[ProxiedCluster]:
    """A cluster whose policy is in force; ``felix`` are more arguments of every Felix.

    Without a backend Felix writes the iptables that the nodes have.
    """
    options = LabOptions(network, backend or kind.flavour, felix=tuple(felix))
    with (
        live_cluster(folder, listen=(WEB, API, DNS), options=options, outside=(OUTSIDE,)) as live,
        kube_proxies(live, kind, folder / "proxies") as proxies,
    ):
        live.objects.namespace("shop", annotations={"projectcalico-policy": "closed"})
        live.objects.namespace("ops")
        for name, pod in PODS.items():
            live.objects.pod(
                *name.split("/"),
                labels=pod.labels,
                annotations={"policy": pod.policy} if pod.policy else {},
                spec={"nodeName": pod.node},
            )
            live.run_pod(*name.split("/"), *ADDRESSES[name])
        for service in SERVICES.values():
            expose(live, service)
        live.wait_in_force()
        yield ProxiedCluster(live, proxies, network, options.backend)
