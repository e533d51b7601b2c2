"""calico_k8s as an operator installs it, from manifests/, on three lab nodes.

In comes a folder, out goes a :class:`Installation`::

    control namespace    kube-apiserver and its etcd, reached by its address as in any cluster
    node-1 to node-3     a member of policy's etcd, Felix; two controllers, the signer
    node-1, node-3       a proxy of policy's etcd, through which Felix reads

Everything is applied by `kubectl apply -k` and started with what it says there.
"""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from calico_k8s.controller.kube import connect
from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.forward import Forwarder
from calico_k8s.lab.plan import LabNode, LabPlan
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NodeName
from tests.cluster.kubelet import Kubelet, Machine, Pod, Workload
from tests.cluster.objects import KubeObjects
from tests.cluster.servers import ApiServer, api_server
from tests.etcd.binaries import EtcdVersion, etcd_binary
from tests.etcd.servers import Host

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "calico-k8s"
MORE = {
    # Whatever is ever logged is.
    "CALICO_K8S_LOG_LEVEL": "debug",
    "ETCD_LOG_LEVEL": "debug",
    # A lab node's way to the API server looks like a pod's: a veth with a route for one address.
    "CALICO_K8S_WORKLOAD_INTERFACES": "veth*",
}
"""Environment beyond the manifests'."""
NODES = tuple(
    LabNode(
        NodeName(f"node-{number}"),
        (Address(f"192.168.9.{number}"),),
        (Net(f"10.244.{number}.0/24"),),
    )
    for number in (1, 2, 3)
)


class Installation(NamedTuple):
    """What :func:`installation` yields: nothing runs yet but the API server."""

    network: Cluster
    kube: ApiServer
    objects: KubeObjects
    kubelet: Kubelet
    machines: Mapping[NodeName, Machine]
    folder: Path
    port: int
    """Of the API server, on loopback where the test runs."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What an operator fills in."""
        values = {"api-server-host": self.kube.host.address}
        values["api-server-port"] = str(self.kube.port)
        members = {f"etcd-{number}": node.addresses[0] for number, node in enumerate(NODES, 1)}
        return values | members

    def machine(self, number: int) -> Machine:
        """A node, by its number."""
        return self.machines[NodeName(f"node-{number}")]

    def make(self, kind: Workload, name: str, *numbers: int) -> list[Pod]:
        """Pods of a workload on nodes, not started."""
        return [
            self.kubelet.make(kind, NAMESPACE, name, self.machine(number)) for number in numbers
        ]


def overlay(folder: Path, values: Mapping[str, str]) -> Path:
    """manifests/policy-only as an operator fills it in, beside a copy of the base."""
    shutil.copytree(ROOT / "manifests", folder)
    file = folder / "policy-only" / "kustomization.yaml"
    fill_in(file, values)
    return file.parent


def fill_in(file: Path, values: Mapping[str, str]) -> None:
    """Writes the values of an overlay's ConfigMap into its file, as an operator's editor would."""
    lines = file.read_text().splitlines()
    for key, value in values.items():
        (at,) = (at for at, line in enumerate(lines) if line.strip().startswith(f"- {key}="))
        lines[at] = f"{lines[at].partition('-')[0]}- {key}={value}"
    file.write_text("\n".join([*lines, ""]))


def refuse_at_the_door(file: Path) -> None:
    """Takes the webhook's component into an overlay, as its own comment says."""
    file.write_text(
        file.read_text().replace("# components: [../webhook]", "components: [../webhook]")
    )


def read_through_proxies(file: Path, *nodes: LabNode) -> None:
    """Takes etcd's proxies and the dashboard into an overlay, as its own comments say."""
    text = file.read_text()
    (literal,) = (line for line in text.splitlines() if "# - etcd-proxies=" in line)
    proxies = ",".join(f"{node.addresses[0]}:12378" for node in nodes)
    taken = f"{literal.partition('#')[0]}- etcd-proxies={proxies}"
    components = "components: [../proxies, ../dashboard]"
    text = text.replace(literal, taken).replace("images:\n", f"{components}\nimages:\n")
    file.write_text(text)


@contextmanager
def installation(folder: Path) -> Iterator[Installation]:
    """A cluster to which manifests/ has been applied; nothing is left at its end.

    Cost: 6 s.
    """
    with bare_cluster(folder) as site:
        manifests = overlay(folder / "manifests", site.settings)
        read_through_proxies(manifests / "kustomization.yaml", NODES[0], NODES[2])
        site.kube.kubectl("apply", "-k", str(manifests))
        yield site


@contextmanager
def bare_cluster(folder: Path) -> Iterator[Installation]:
    """A cluster of which an operator has nothing but its administrator's kubeconfig."""
    with ExitStack() as stack:
        network = stack.enter_context(cluster_up(LabPlan(NODES)))
        host = Host(network.control_address, network.control)
        _lead_to_nodes(network)
        kube = stack.enter_context(api_server(folder / "kube", host=host))
        port = stack.enter_context(
            closing(Forwarder(network.control, network.control_address, kube.port))
        ).port
        api = stack.enter_context(closing(connect(str(kube.kubeconfig(port=port)))))
        objects = KubeObjects(api)
        for node in NODES:
            objects.node(node.name, node.addresses, node.pod_cidrs)
        programs = (etcd_binary(EtcdVersion.CURRENT).parent,)
        runner = Kubelet(api, kube.authority, folder / "pods", programs, MORE)
        stack.callback(runner.kill_all)
        machines = {
            node.name: Machine(
                node.name,
                Host(node.addresses[0], network.nodes[node.name].namespace),
                folder / "nodes" / node.name,
            )
            for node in NODES
        }
        yield Installation(network, kube, objects, runner, machines, folder, port)


def _lead_to_nodes(network: Cluster) -> None:
    """The API server reaches nodes at their addresses, as a webhook on their network wants."""
    with Host(network.control_address, network.control).inside():
        for node in network.nodes.values():
            via = node.management_address
            command = ["ip", "route", "add", f"{node.addresses[0]}/32", "via", via]
            command += ["src", network.control_address]
            subprocess.run(command, check=True)
