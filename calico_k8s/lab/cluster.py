"""The virtual cluster's network: up, changed while it runs, and down whatever happens.

In: a :class:`~calico_k8s.lab.plan.LabPlan`.  Out: namespaces of nodes, pods and control plane,
joined as :mod:`calico_k8s.lab.topology` draws; nothing in the machine's own namespace.  Policy,
services and probes are put on top by others.
"""

import array
import atexit
import fcntl
import itertools
import shutil
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from calico_k8s.errors import InputError, KernelError, UnavailableError
from calico_k8s.lab import links, netns, topology
from calico_k8s.lab.interrupts import exit_on_signals, interrupts_deferred
from calico_k8s.lab.netns import Namespace, Rooms, RunId, entered, write_sysctls
from calico_k8s.lab.plan import (
    LabPlan,
    LabPod,
    Place,
    PodId,
    PodNetwork,
    check_plan,
    check_pod,
    place_of,
    versions,
)
from calico_k8s.lab.topology import Attachment, NodeSlot
from calico_k8s.model.addresses import Address, parse_address
from calico_k8s.model.names import NodeName
from calico_k8s.netlink.routing import RoutingSocket
from calico_k8s.netlink.socket import NETLINK_ROUTE, NetlinkSocket, netlink_error
from calico_k8s.netlink.wire import Request

RUN_DIRECTORY = Path("/run/calico-k8s/lab")
"""Each run has a directory of its name here, for as long as it lives."""

LINKS_TIMEOUT_S = 5.0
LINKS_POLL_S = 0.002
ANSWER_S = 0.02
"""Who has not answered for so long is asked again."""
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0xA  # linux/sockios.h, linux/ethtool.h

_RUN_NUMBERS = itertools.count()


class NodeSite(msgspec.Struct, frozen=True):
    """A node that is up."""

    namespace: Namespace
    addresses: tuple[Address, ...]
    management_address: Address
    xtables_lockfile: Path
    """``XTABLES_LOCKFILE`` of everything that runs iptables there: nodes share no lock."""


class PodSite(msgspec.Struct, frozen=True):
    """A pod that is up."""

    pod: LabPod
    namespace: Namespace
    host_interface: str
    """Its interface on its node."""
    host_index: int


class Cluster:
    """What :func:`cluster_up` yields; for one thread at a time.

    ``directory`` is the run's own, for files that go with it.  ``control`` is where datastore and
    controller run, and ``control_address`` is where every node reaches them.
    """

    def __init__(self, plan: LabPlan, network: PodNetwork, rooms: Rooms, directory: Path) -> None:
        check_plan(plan)
        self.network = network
        self.directory = directory
        self.nodes: dict[NodeName, NodeSite] = {}
        self.pods: dict[PodId, PodSite] = {}
        self.control_address = topology.CONTROL_ADDRESS
        taken = [address for pod in plan.pods for address in pod.addresses]
        self._attachments = {node.name: Attachment(node, network, taken) for node in plan.nodes}
        self._slots = {node.name: NodeSlot(node, number) for number, node in enumerate(plan.nodes)}
        self._next_index = itertools.count(topology.FIRST_POD_INDEX)
        self._is_routed = network is PodNetwork.PTP
        self._has_ipv6 = any(6 in versions(node.addresses) for node in plan.nodes)
        self._rooms = rooms
        self._fabric, self.control = rooms.make(["fabric", "ctl"])
        self._start_nodes()
        self.add_pods(plan.pods)

    def places(self) -> dict[Place, Namespace]:
        """The namespaces that packets can start in, of pods and of nodes."""
        found = {place_of(name): site.namespace for name, site in self.nodes.items()}
        return found | {place_of(name): site.namespace for name, site in self.pods.items()}

    def add_pods(self, pods: Sequence[LabPod]) -> None:
        """Starts pods: routed to when this returns, and without listeners.

        Raises:
            InputError: one does not fit; none was started.
            KernelError: the kernel refused; none is left.
        """
        for pod in pods:
            self._check_new(pod)
        made = self._rooms.make([f"pod.{pod.id}" for pod in pods])
        settings = topology.QUIET | (topology.QUIET_6 if self._has_ipv6 else {})
        sites = [
            PodSite(pod, namespace, topology.host_interface(pod.id), next(self._next_index))
            for pod, namespace in zip(pods, made, strict=True)
        ]
        self.pods |= {site.pod.id: site for site in sites}
        try:
            for site in sites:
                with entered(site.namespace):
                    write_sysctls(settings)
            for name, node in self.nodes.items():
                self._attach(name, node, [site for site in sites if site.pod.node == name])
            for site in sites:
                self._connect(site)
            for name in {site.pod.node for site in sites}:
                _settle_links(self.nodes[name].namespace)
                _await_answers(
                    self.nodes[name].namespace,
                    [
                        (address, site.host_index if self._is_routed else topology.BRIDGE_INDEX)
                        for site in sites
                        for address in site.pod.addresses
                        if site.pod.node == name
                    ],
                )
        except KernelError:
            for site in sites:
                del self.pods[site.pod.id]
                self._rooms.drop(site.namespace)  # and with it its interface on the node
            raise

    def remove_pod(self, name: PodId) -> None:
        """Stops a pod and kills what runs inside; close sockets of this process in it before.

        Raises:
            InputError: there is no such pod.
        """
        site = self.pods.pop(name, None)
        if site is None:
            raise InputError(f"there is no pod {name} in the lab")
        slot = self._slots[site.pod.node]
        attachment = self._attachments[site.pod.node]
        node = self.nodes[site.pod.node].namespace
        _apply(node, attachment.detach(site.pod, site.host_index))
        _apply(self._fabric, topology.drop_fabric_pod_routes(slot, site.pod))
        self._rooms.drop(site.namespace)

    def _start_nodes(self) -> None:
        slots = list(self._slots.values())
        made = self._rooms.make([f"node.{slot.node.name}" for slot in slots])
        for namespace in (self._fabric, self.control, *made):
            with entered(namespace):
                write_sysctls(self._router_settings())
        descriptors = [namespace.descriptor for namespace in made]
        _apply(self._fabric, topology.fabric_links(slots, descriptors))
        _apply(self.control, topology.control_links(slots, descriptors))
        # The control plane has a link to every node and passes nothing between them.
        with entered(self.control):
            write_sysctls({"net/ipv4/ip_forward": "0"})
        for slot, namespace in zip(slots, made, strict=True):
            name = slot.node.name
            attachment = self._attachments[name]
            _apply(namespace, [*topology.node_links(slot), *attachment.node_links()])
            with entered(namespace):
                write_sysctls(topology.PROXY_ARP if self.network is PodNetwork.PTP else {})
            self.nodes[name] = NodeSite(
                namespace=namespace,
                addresses=slot.node.addresses,
                management_address=slot.management_address,
                xtables_lockfile=self.directory / f"{namespace.name}.xtables.lock",
            )
        _settle_links(self._fabric)
        _settle_links(self.control)

    def _router_settings(self) -> dict[str, str]:
        settings = topology.QUIET | topology.ROUTER
        if self._has_ipv6:
            settings |= topology.QUIET_6 | topology.ROUTER_6
        if self.network is PodNetwork.BRIDGE:
            if not Path("/proc/sys/net/bridge").exists():
                raise UnavailableError(
                    "pods on bridges need the kernel's bridge filter: run `modprobe br_netfilter`"
                )
            settings |= topology.BRIDGED
        return settings

    def _check_new(self, pod: LabPod) -> None:
        slot = self._slots.get(pod.node)
        check_pod(pod, slot.node if slot else None)
        if pod.id in self.pods:
            raise InputError(f"pod {pod.id} is in the lab already")
        of_nodes = {address for site in self.nodes.values() for address in site.addresses}
        of_pods = {address for site in self.pods.values() for address in site.pod.addresses}
        for address in sorted(set(pod.addresses) & (of_nodes | of_pods)):
            raise InputError(f"address {address} of pod {pod.id} is taken")
        self._attachments[pod.node].check(pod)

    def _attach(self, name: NodeName, node: NodeSite, sites: Sequence[PodSite]) -> None:
        """The node's end of its new pods."""
        attachment = self._attachments[name]
        requests: list[Request] = []
        for site in sites:
            requests += attachment.attach(site.pod, site.host_index, site.namespace.descriptor)
        _apply(node.namespace, requests)
        if self.network is PodNetwork.PTP:
            with entered(node.namespace):
                for site in sites:
                    write_sysctls(topology.host_settings(site.host_interface))
        for site in sites:
            _apply(self._fabric, topology.fabric_pod_routes(self._slots[name], site.pod))

    def _connect(self, site: PodSite) -> None:
        """The pod's end."""
        requests = list(self._attachments[site.pod.node].pod_links(site.pod))
        if self.network is PodNetwork.BRIDGE and self._is_crowded():
            beside = [each for each in self.pods.values() if each.pod.node == site.pod.node]
            requests += topology.bridge_neighbours(site.pod, [each.pod for each in beside])
            for each in beside:
                _apply(each.namespace, topology.bridge_neighbours(each.pod, [site.pod]))
        _apply(site.namespace, requests)

    def _is_crowded(self) -> bool:
        """Whether pods on bridges would fill the kernel's table of neighbours."""
        counts = [sum(site.pod.node == name for site in self.pods.values()) for name in self.nodes]
        return sum(count * (count - 1) for count in counts) > topology.NEIGHBOURS_MAX


@contextmanager
def cluster_up(plan: LabPlan, network: PodNetwork = PodNetwork.PTP) -> Iterator[Cluster]:
    """A plan's network, for as long as the context lasts; then nothing is left of it.

    Whatever ends the context, Ctrl-C, SIGTERM and SIGHUP included, removes it, as does the end of
    the process.  What SIGKILL leaves is removed by the next lab that starts.

    Raises:
        InputError: the plan cannot be built.
        UnavailableError: not root, or the kernel lacks something.
        NetlinkError: the kernel refused a step.
    """
    sweep_dead_runs()
    rooms = Rooms(netns.run_id(next(_RUN_NUMBERS)))
    directory = RUN_DIRECTORY / rooms.run

    def remove() -> None:
        with interrupts_deferred():
            rooms.close()
            shutil.rmtree(directory, ignore_errors=True)

    with exit_on_signals():
        atexit.register(remove)
        try:
            directory.mkdir(mode=0o700, parents=True)
            yield Cluster(plan, network, rooms, directory)
        finally:
            remove()
            atexit.unregister(remove)


def left_of(run: RunId) -> list[str]:
    """What there is of a run: namespaces, and its directory; nothing once it is over."""
    directory = RUN_DIRECTORY / run
    return [*netns.names_of_run(run), *([str(directory)] if directory.exists() else [])]


def sweep_dead_runs() -> list[RunId]:
    """Removes what runs left whose process is gone; those that it removed, sorted."""
    found = netns.dead_runs()
    for run in found:
        netns.sweep(run)
    if RUN_DIRECTORY.exists():
        for directory in RUN_DIRECTORY.iterdir():
            if not netns.is_alive(RunId(directory.name)):
                shutil.rmtree(directory, ignore_errors=True)
    return found


def _settle_links(namespace: Namespace) -> None:
    """Makes every link carry packets now.

    The end of a veth that was turned on first, and a bridge, drop packets until the kernel's link
    watch has seen their carrier: it sees to a hundred links at once and to the next a second
    later.  Asking for a link's state has it looked at.

    Raises:
        KernelError: one does not come up.
    """
    deadline = time.monotonic() + LINKS_TIMEOUT_S
    with (
        entered(namespace),
        NetlinkSocket(NETLINK_ROUTE) as netlink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
    ):
        while unready := links.unready_links(netlink.dump(links.list_links(), "link list")):
            if time.monotonic() > deadline:
                raise KernelError(f"{', '.join(unready)} in {namespace.name} did not come up")
            for name in unready:
                _ask_link_state(asking, name)
            time.sleep(LINKS_POLL_S)


def _await_answers(namespace: Namespace, places: Sequence[tuple[Address, int]]) -> None:
    """Returns when each address has answered on the interface of that index.

    A link that is listed as up may still drop a packet, some one in fifteen here, and the kernel
    would repeat a lost ARP request a second later.

    Raises:
        KernelError: one does not answer.
    """
    deadline = time.monotonic() + LINKS_TIMEOUT_S
    # In the kernel's spelling, whatever the plan's.
    waiting = {(parse_address(address), link) for address, link in places}
    with entered(namespace), closing(RoutingSocket()) as asking:
        while waiting:
            if time.monotonic() > deadline:
                silent = ", ".join(sorted(address for address, _ in waiting))
                raise KernelError(f"{silent} did not answer in {namespace.name}")
            asking.forget_neighbours(sorted(waiting))
            asking.solicit(sorted(waiting))
            again = time.monotonic() + ANSWER_S
            while waiting and time.monotonic() < again:
                waiting -= {(n.address, n.link) for n in asking.neighbours() if not n.is_failed}
                time.sleep(LINKS_POLL_S if waiting else 0)


def _ask_link_state(asking: socket.socket, name: str) -> None:
    """``ethtool NAME``, its last line."""
    value = array.array("I", [_ETHTOOL_GLINK, 0])
    address, _length = value.buffer_info()
    with suppress(OSError):  # a kind of link that cannot tell: the link watch will come
        fcntl.ioctl(asking, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))


def _apply(namespace: Namespace, requests: Iterable[Request]) -> None:
    """Carries out requests in a namespace.

    Raises:
        NetlinkError: the first that failed.
    """
    messages = list(requests)
    if not messages:
        return
    with entered(namespace), NetlinkSocket(NETLINK_ROUTE) as netlink:
        for number, code in enumerate(netlink.batch(messages)):
            if code:
                raise netlink_error(f"step {number} of {len(messages)} in {namespace.name}", code)
