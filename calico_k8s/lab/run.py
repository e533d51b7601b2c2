"""A virtual cluster with the real controller and the real Felix in it.

In: Kubernetes objects.  Out: a :class:`Lab`: pods that can be probed, changed objects that take
effect, agents that can be killed.  The way of a policy is the real one::

    objects ─ Translator ─ Reconciler ─► store ─► one Felix per node ─► the node's kernel
            └ plan ─► namespaces, services, probes

The store is a file in the run's directory, or an etcd in the control plane's namespace.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import msgspec

from calico_k8s.controller.reconcile import Reconciler
from calico_k8s.datastore.store import Revision, Store
from calico_k8s.errors import InputError
from calico_k8s.lab.agents import Agents, Goal
from calico_k8s.lab.asking import Progress, ask_matrix
from calico_k8s.lab.cluster import Cluster, cluster_up
from calico_k8s.lab.kubeproxy import FelixBackend, KubeProxy
from calico_k8s.lab.plan import LabPlan, PodNetwork, check_plan
from calico_k8s.lab.planning import lab_plan
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.stores import LabStore, StoreKind, store_up
from calico_k8s.lab.topology import BRIDGE_NAME
from calico_k8s.model.names import NodeName
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import Matrix
from calico_k8s.query.reach import Service
from calico_k8s.sources.expand import ClusterObjects
from calico_k8s.translate.cluster import Translator, translate_all
from calico_k8s.translate.findings import Finding, ObjectRef
from calico_k8s.translate.namespaces import TranslateSettings
from calico_k8s.translate.objects import KubeObject, object_ref

IN_FORCE_TIMEOUT_S = 30.0

WORKLOAD_INTERFACES = {PodNetwork.PTP: "veth*", PodNetwork.BRIDGE: BRIDGE_NAME}
"""What Felix is told of pods' interfaces, so that a pod that it does not know is closed."""


class LabOptions(msgspec.Struct, frozen=True):
    """How a lab is made."""

    network: PodNetwork = PodNetwork.PTP
    backend: FelixBackend = "nft"
    store: StoreKind = "sqlite"
    settings: TranslateSettings = TranslateSettings()
    services: tuple[Service, ...] = ()
    """What pods listen on beside the ports of the objects."""
    felix: tuple[str, ...] = ()
    """More arguments of every agent."""


class Controller:
    """Objects to the store, as the controller does it."""

    def __init__(self, store: Store, settings: TranslateSettings) -> None:
        self._translator = Translator(settings)
        self._reconciler = Reconciler(store)
        self._objects: dict[ObjectRef, KubeObject] = {}
        self.snapshot = Snapshot.from_items({})
        """What the objects translate to."""
        self.revision = Revision(0)
        """The store's, that has what was written last."""

    def take(self, objects: Iterable[KubeObject]) -> tuple[Finding, ...]:
        """Translates the objects as they are now, not yet written; what is wrong with them."""
        now = {object_ref(value): value for value in objects}
        for ref in self._objects.keys() - now.keys():
            self._translator.remove(ref)
        for ref, value in now.items():
            if self._objects.get(ref) != value:
                self._translator.update(value)
        self._objects = now
        self._translator.flush()
        self.snapshot = Snapshot.from_items(dict(self._translator.items))
        return self._translator.findings

    def write(self) -> None:
        """Writes what differs from what is stored.

        Raises:
            StoreError: some or all of it is not written.
        """
        written = self._reconciler.sync(self._translator.items)
        self.revision = written.revision or self.revision


class Lab:
    """What :func:`lab_up` yields; for one thread at a time."""

    def __init__(
        self, objects: ClusterObjects, options: LabOptions, network: "_Network", policy: "_Policy"
    ) -> None:
        self.objects = objects
        self.options = options
        self.cluster = network.cluster
        self.prober = network.prober
        self.store = policy.store
        self.agents = policy.agents
        self._plan = network.plan
        self._proxy = network.proxy
        self._controller = policy.controller
        self._goal = _goal(policy.controller.revision, network.plan)

    @property
    def snapshot(self) -> Snapshot:
        """What the objects translate to."""
        return self._controller.snapshot

    def apply(self, objects: ClusterObjects, *, waits: bool = True) -> None:
        """Makes these the objects of the cluster: pods stop and start, policy is written.

        Returns when every agent that runs enforces it, unless told not to wait.

        Raises:
            InputError: a node came or went, or something cannot be built; nothing was changed.
            KernelError: an agent does not enforce it in time.
        """
        self.place(objects)
        self.write()
        if waits:
            self.wait_in_force()

    def place(self, objects: ClusterObjects) -> None:
        """The first half of :meth:`apply`: pods and services change, and policy not yet.

        So it is when a pod has started and nobody has told the controller.
        """
        plan = make_plan(objects, self.options)
        if plan.nodes != self._plan.nodes:
            raise InputError("nodes cannot come or go while the lab runs: start it anew")
        check_plan(plan)
        self._controller.take(objects.objects())
        self.objects = objects
        self._move_pods(plan)
        self.prober.listen(plan.listen)
        if plan.services != self._plan.services:
            self._proxy.apply(plan.services)
        self._plan = plan

    def write(self) -> None:
        """The second half of :meth:`apply`: what the objects translate to is written."""
        self._controller.write()
        self._goal = _goal(self._controller.revision, self._plan)

    def wait_in_force(self, timeout_s: float = IN_FORCE_TIMEOUT_S) -> None:
        """Returns when every agent that runs enforces what was written last.

        Raises:
            KernelError: one does not in time.
        """
        self.agents.wait_for(self.store.store, self._goal, timeout_s)

    def kill_agent(self, node: NodeName) -> None:
        """Ends a node's agent as a crash would."""
        self.agents.kill(node)

    def start_agent(self, node: NodeName) -> None:
        """Starts a node's agent, and returns when it enforces what was written last."""
        self.agents.start(node)
        self.wait_in_force()

    def matrix(
        self, services: Iterable[Service], progress: Progress = lambda _done, _total: None
    ) -> Matrix:
        """Asks every pair of pods for every service; see :func:`.asking.ask_matrix`."""
        return ask_matrix(self.prober, self.snapshot, services, progress)

    def _move_pods(self, plan: LabPlan) -> None:
        built = {name: site.pod for name, site in self.cluster.pods.items()}
        wanted = {pod.id: pod for pod in plan.pods}
        for name in [name for name, pod in built.items() if wanted.get(name) != pod]:
            self.prober.remove_pod(name)
            self.cluster.remove_pod(name)
        self.cluster.add_pods([pod for pod in plan.pods if pod.id not in self.cluster.pods])
        for pod in plan.pods:
            if built.get(pod.id) != pod:
                self.prober.add_pod(pod, self.cluster.pods[pod.id].namespace)


def _goal(revision: Revision, plan: LabPlan) -> Goal:
    """Every pod of a plan enforced."""
    return Goal(revision, Counter(pod.node for pod in plan.pods))


class _Network(NamedTuple):
    """What packets meet, policy aside."""

    plan: LabPlan
    cluster: Cluster
    prober: Prober
    proxy: KubeProxy


class _Policy(NamedTuple):
    """What policy is made by."""

    store: LabStore
    controller: Controller
    agents: Agents


def make_plan(objects: ClusterObjects, options: LabOptions) -> LabPlan:
    """What is to be built of the objects."""
    items = translate_all(objects.objects(), options.settings).items
    return lab_plan(objects, Snapshot.from_items(items), options.services)


@contextmanager
def lab_up(objects: ClusterObjects, options: LabOptions | None = None) -> Iterator[Lab]:
    """A lab in which every agent enforces what the objects say, until the context ends.

    Whatever ends it, nothing is left.

    Raises:
        InputError: something cannot be built.
        UnavailableError: not root, or something is not installed.
        KernelError: the kernel refused, or an agent does not enforce it in time.
    """
    options = options or LabOptions()
    plan = make_plan(objects, options)
    with ExitStack() as stack:
        cluster = stack.enter_context(cluster_up(plan, options.network))
        store = stack.enter_context(store_up(cluster, options.store))
        controller = Controller(store.store, options.settings)
        controller.take(objects.objects())
        controller.write()
        arguments = [*agent_arguments(options), *store.agent_arguments()]
        agents = Agents(cluster.nodes, cluster.directory, arguments)
        stack.callback(agents.close)
        for node in cluster.nodes:
            agents.start(node)
        # While the agents start, which takes a while, the pods are made to listen.
        prober = stack.enter_context(Prober(plan, cluster.places()))
        proxy = KubeProxy(cluster.nodes, "legacy" if options.backend == "legacy" else "nft")
        proxy.apply(plan.services)
        network = _Network(plan, cluster, prober, proxy)
        lab = Lab(objects, options, network, _Policy(store, controller, agents))
        lab.wait_in_force()
        yield lab


def agent_arguments(options: LabOptions) -> list[str]:
    """What every agent is told, the datastore aside."""
    interfaces = WORKLOAD_INTERFACES[options.network]
    return [
        *("--log-level", "debug"),
        *("--iptables-backend", options.backend),
        *("--workload-interfaces", interfaces),
        *options.felix,
    ]
