"""A whole live cluster on this machine: what runs on a real one, the kubelets aside.

In: nodes and a folder.  Out: a :class:`LiveCluster`::

    control namespace    kube-apiserver and its etcd; etcd of three members over mutual TLS, for
                         policy; two controllers that elect one of them
    each node            the real Felix, over that etcd
    pods                 namespaces on the nodes; the prober listens in them, and asks

This process is the kubelet: :meth:`LiveCluster.run_pod` attaches what the API server was told of,
and says so in its status.  Everything can be killed and started again.  Whoever runs more on a
node (a kube-proxy, say) starts it inside ``cluster.network.nodes[NAME].namespace`` with
``cluster.kube.kubeconfig()``, whose address all nodes reach.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from calico_k8s.controller.kube import KubeApi, connect
from calico_k8s.datastore.factory import open_store
from calico_k8s.lab.agents import Agents, Goal
from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.forward import Forwarder
from calico_k8s.lab.plan import LabNode, LabPlan, LabPod, ListenPort, PodId
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.run import LabOptions, agent_arguments
from calico_k8s.lab.stores import LabStore, tls_arguments
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address, Net
from calico_k8s.model.names import NodeName
from tests.cluster.controllers import CommandController, Stored, wait_for
from tests.cluster.objects import KubeObjects, pod_path
from tests.cluster.servers import ApiServer, api_server
from tests.etcd.certificates import LOOPBACK, Authority
from tests.etcd.servers import EtcdCluster, Host, etcd_cluster

NODE_1, NODE_2 = NodeName("node-1"), NodeName("node-2")
NODES = (
    LabNode(
        NODE_1,
        (Address("192.168.9.1"), Address("fd00:9::1")),
        (Net("10.244.1.0/24"), Net("fd00:244:1::/64")),
    ),
    LabNode(
        NODE_2,
        (Address("192.168.9.2"), Address("fd00:9::2")),
        (Net("10.244.2.0/24"), Net("fd00:244:2::/64")),
    ),
)
CONTROLLERS = ("one", "two")
LEASE_S = 5
"""Of the controllers, a third of what it is unless said."""


class PolicyStore(NamedTuple):
    """The etcd where policy is."""

    members: int = 3
    arguments: tuple[str, ...] = ()
    """Of etcd's own, after those that make tests quick."""


class LiveCluster(NamedTuple):
    """What :func:`live_cluster` yields; for one thread at a time."""

    network: Cluster
    prober: Prober
    kube: ApiServer
    objects: KubeObjects
    """Writes into the API server, as its administrator and as what else runs in a cluster."""
    etcd: EtcdCluster
    """Where policy is."""
    store: LabStore
    """The same, opened in this process."""
    controllers: Mapping[str, CommandController]
    agents: Agents

    @property
    def stored(self) -> Stored:
        """What the controllers have written."""
        return Stored(self.store.store)

    def leader(self) -> CommandController:
        """The controller that writes.

        Raises: AssertionError when none does so in time.
        """
        wait_for(self._leaders)
        return self._leaders()[0]

    def run_pod(
        self, namespace: str, name: str, *addresses: str, told: Sequence[str] | None = None
    ) -> None:
        """Starts a pod that the API server knows, as its kubelet; ``told`` are its status' addresses."""
        body = self.objects.api.get(pod_path(namespace, name))
        node = NodeName(msgspec.json.decode(body)["spec"]["nodeName"])
        pod = LabPod(PodId(f"{namespace}/{name}"), node, tuple(map(Address, addresses)))
        self.network.add_pods([pod])
        self.prober.add_pod(pod, self.network.pods[pod.id].namespace)
        self.objects.pod_status(namespace, name, addresses if told is None else told)

    def end_pod(self, namespace: str, name: str) -> None:
        """Ends a pod, as its kubelet: it stops, and then is gone from the API server."""
        self.stop_pod(namespace, name)
        self.objects.end_pod(namespace, name)

    def stop_pod(self, namespace: str, name: str) -> None:
        """Stops a pod whose object another deletes; streams from it end."""
        pod = PodId(f"{namespace}/{name}")
        self.prober.remove_pod(pod)
        self.network.remove_pod(pod)

    def wait_in_force(self, timeout_s: float = 30.0) -> None:
        """Returns when every pod that runs is stored, and every Felix that runs enforces it all.

        Raises: AssertionError or KernelError when that is not so in time.
        """
        pods = {pod: site.pod.node for pod, site in self.network.pods.items()}
        wait_for(
            lambda: pods.items() <= self.stored.pods().items(), lambda: self.leader().log[-2000:]
        )
        # Not the revision of the read: what the agents tell of themselves is counted there too.
        revision = max(entry.mod_revision for entry in self.store.store.read(keys.V1).entries)
        self.agents.wait_for(self.store.store, Goal(revision, Counter(pods.values())), timeout_s)

    def _leaders(self) -> list[CommandController]:
        running = [each for each in self.controllers.values() if each.is_running]
        leads = "\ncalico_k8s_controller_leader 1.0\n"
        return [each for each in running if leads in each.ask("/metrics")[1]]


@contextmanager
def live_cluster(
    folder: Path,
    *,
    listen: Iterable[ListenPort],
    options: LabOptions | None = None,
    outside: Sequence[LabNode] = (),
    policy_store: PolicyStore = PolicyStore(),  # noqa: B008 - immutable
    define: Callable[[ApiServer, KubeApi], None] | None = None,
) -> Iterator[LiveCluster]:
    """A cluster without pods in which everything runs, until the context ends; nothing is left.

    ``outside`` are machines of the same network that are not the cluster's: nothing runs there.
    ``define`` puts into the API server what is to be there before the controllers.

    Cost: 6 s.
    """
    options = options or LabOptions()
    plan = LabPlan((*NODES, *outside), listen=tuple(listen))
    with ExitStack() as stack:
        network = stack.enter_context(cluster_up(plan, options.network))
        prober = stack.enter_context(Prober(plan, network.places()))
        host = Host(network.control_address, network.control)
        authority = Authority(folder)
        etcd = stack.enter_context(
            etcd_cluster(
                folder / "etcd",
                members=policy_store.members,
                authority=authority,
                extra=policy_store.arguments,
                host=host,
            )
        )
        kube = stack.enter_context(api_server(folder / "kube", host=host))
        port = stack.enter_context(
            closing(Forwarder(network.control, network.control_address, kube.port))
        ).port
        objects = KubeObjects(
            stack.enter_context(closing(connect(str(kube.kubeconfig(port=port)))))
        )
        if define is not None:
            define(kube, objects.api)
        store = _open(etcd, network, stack)
        for node in NODES:
            objects.node(node.name, node.addresses, node.pod_cidrs)
        controllers = {name: _controller(folder / name, kube, store) for name in CONTROLLERS}
        for each in controllers.values():
            stack.callback(each.kill)
            each.start()
        arguments = [*agent_arguments(options), *store.agent_arguments()]
        nodes = {node.name: network.nodes[node.name] for node in NODES}
        agents = Agents(nodes, network.directory, arguments)
        stack.callback(agents.close)
        for name in nodes:
            agents.start(name)
        cluster = LiveCluster(network, prober, kube, objects, etcd, store, controllers, agents)
        cluster.leader().wait_until_ready()
        cluster.wait_in_force()
        yield cluster


def _controller(folder: Path, kube: ApiServer, store: LabStore) -> CommandController:
    folder.mkdir()
    arguments = ("--leader-elect", "--lease-duration", str(LEASE_S), *tls_arguments(store.tls))
    return CommandController(kube.kubeconfig(), store.node_url, folder, *arguments, host=kube.host)


def _open(etcd: EtcdCluster, network: Cluster, stack: ExitStack) -> LabStore:
    """The datastore, from this process, which is outside the namespace when it asks."""
    ports = [
        stack.enter_context(
            closing(Forwarder(network.control, Address(member.host.address), member.port))
        ).port
        for member in etcd.members
    ]
    local = f"etcd://{','.join(f'{LOOPBACK}:{port}' for port in ports)}/calico"
    store = stack.enter_context(closing(open_store(local, etcd.tls)))
    return LabStore(store, local, etcd.url(), etcd.tls)
