"""Real kube-proxies on the nodes of a live cluster, and the services that they lead to pods.

In: a live cluster, services as values.  Out: Services with their EndpointSlices in the API server,
as its own controllers would write them, and one kube-proxy on each node, which can be ended and
started again.  What a kube-proxy touches is its namespace's: rules, settings, a lock file.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from calico_k8s.lab.kubeproxy import IptablesFlavour
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import PodId
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.names import NodeName
from tests.cluster.binaries import kube_program
from tests.cluster.live import NODES, LiveCluster

ProxyMode = Literal["iptables", "nftables"]

SYNC_S = 1
"""How often kube-proxy writes everything anew, though nothing changed; its default is 30."""
_VERBS = ("", "-save", "-restore")


class ProxyKind(NamedTuple):
    """How a kube-proxy writes: nftables, or one of the two iptables."""

    mode: ProxyMode
    flavour: IptablesFlavour
    """What ``iptables`` is on its node."""


class KubeService(NamedTuple):
    """A service with one port, in both families."""

    name: str
    """``namespace/name``"""
    number: int
    """Its cluster IPs end with this, its node port too; no two services have the same."""
    port: int
    target: int
    pods: tuple[str, ...]
    """The pods behind it, whatever its selector would say."""
    is_local: bool = False
    """Whether its node port leads to pods of that node alone, and keeps the client's address."""
    is_sticky: bool = False
    labels: Mapping[str, str] = {}
    protocol: Literal["TCP", "UDP"] = "TCP"

    @property
    def cluster_ips(self) -> tuple[Address, Address]:
        """One for each family."""
        return Address(f"10.96.77.{self.number}"), Address(f"fd00:10:96::77{self.number:02d}")

    @property
    def node_port(self) -> int:
        """At every node's addresses."""
        return 31000 + self.number


def expose(cluster: LiveCluster, service: KubeService) -> None:
    """Makes a service, and the slices that its pods' controller would make."""
    namespace, _, name = service.name.partition("/")
    first, second = service.cluster_ips
    document = {
        "metadata": {"name": name, "labels": dict(service.labels)},
        "spec": {
            "type": "NodePort",
            "clusterIP": first,
            "clusterIPs": [first, second],
            "ipFamilyPolicy": "RequireDualStack",
            "externalTrafficPolicy": "Local" if service.is_local else "Cluster",
            "sessionAffinity": "ClientIP" if service.is_sticky else "None",
            "selector": {"app": name},
            "ports": [
                {
                    "protocol": service.protocol,
                    "port": service.port,
                    "targetPort": service.target,
                    "nodePort": service.node_port,
                }
            ],
        },
    }
    cluster.objects.api.create(f"/api/v1/namespaces/{namespace}/services", document)
    sites = [cluster.network.pods[PodId(pod)].pod for pod in service.pods]
    for version in (4, 6):
        endpoints = [
            {
                "addresses": [a for a in pod.addresses if address_version(a) == version],
                "nodeName": pod.node,
                "conditions": {"ready": True},
            }
            for pod in sites
        ]
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        cluster.objects.api.create(
            slices,
            {
                "metadata": {
                    "name": f"{name}-{version}",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": f"IPv{version}",
                "ports": [{"name": "", "port": service.target, "protocol": service.protocol}],
                "endpoints": endpoints,
            },
        )


class KubeProxies:
    """The kube-proxies of a cluster's nodes; none runs at first."""

    def __init__(self, cluster: LiveCluster, kind: ProxyKind, folder: Path) -> None:
        self.kind = kind
        self._nodes = {node.name: cluster.network.nodes[node.name] for node in NODES}
        self._folder = folder
        self._kubeconfig = cluster.kube.kubeconfig()
        self._processes: dict[NodeName, subprocess.Popen[bytes]] = {}

    def start(self, node: NodeName, *more: str) -> None:
        """Starts a node's; it has written its rules some tenths of a second later."""
        site = self._nodes[node]
        command = [str(kube_program("kube-proxy")), f"--config={self._config(node)}", *more]
        environment = {
            "PATH": f"{self._programs()}:{os.environ['PATH']}",
            "XTABLES_LOCKFILE": str(site.xtables_lockfile),
        }
        with self.log_path(node).open("ab") as log, entered(site.namespace):
            self._processes[node] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdout=log,
                stderr=log,
                env=environment,
            )

    def is_running(self, node: NodeName) -> bool:
        """Whether a node's was started and not ended."""
        return node in self._processes

    def end(self, node: NodeName, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends a node's, which leaves its rules as they are; fine if it does not run."""
        process = self._processes.pop(node, None)
        if process is not None:
            process.send_signal(number)
            process.wait()

    def clean(self, node: NodeName) -> None:
        """Ends a node's and has another remove every rule of it."""
        self.end(node)
        self.start(node, "--cleanup")
        assert self._processes.pop(node).wait(30) == 0, self.log(node)

    def close(self) -> None:
        """Ends all."""
        for node in list(self._processes):
            self.end(node, signal.SIGKILL)

    def log(self, node: NodeName) -> str:
        """The end of what a node's has said."""
        return self.log_path(node).read_text()[-3000:]

    def log_path(self, node: NodeName) -> Path:
        """All that a node's has said."""
        return self._folder / f"{node}.kube-proxy.log"

    def _programs(self) -> Path:
        """A folder in which ``iptables`` is one of the two: kube-proxy takes what it finds."""
        folder = self._folder / "programs"
        if not folder.exists():
            folder.mkdir()
            for family in ("iptables", "ip6tables"):
                for verb in _VERBS:
                    real = shutil.which(f"{family}-{self.kind.flavour}{verb}")
                    assert real is not None
                    (folder / f"{family}{verb}").symlink_to(real)
        return folder

    def _config(self, node: NodeName) -> Path:
        timing = {"syncPeriod": f"{SYNC_S}s", "minSyncPeriod": "50ms"}
        document = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._kubeconfig)},
            "mode": self.kind.mode,
            "hostnameOverride": node,
            "detectLocalMode": "ClusterCIDR",
            "clusterCIDR": "10.244.0.0/16,fd00:244::/32",
            # The machine's own limits, which a namespace may not change.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "iptables": timing,
            "nftables": timing,
        }
        path = self._folder / f"{node}.kube-proxy.yaml"
        path.write_text(yaml.safe_dump(document))
        return path


@contextmanager
def kube_proxies(cluster: LiveCluster, kind: ProxyKind, folder: Path) -> Iterator[KubeProxies]:
    """No kube-proxy yet; those that are started end with the context."""
    folder.mkdir()
    with closing(KubeProxies(cluster, kind, folder)) as proxies:
        yield proxies
