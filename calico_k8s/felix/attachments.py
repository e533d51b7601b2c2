"""Where the node's endpoints are, kept up to date, and the node's interfaces told what they are.

In: link, route and neighbour events, the addresses of the node's endpoints.  Out: each address'
attachment; beside it, the kernel is told which interfaces lead to workloads (a bit of their link
group), which bridges show their packets to iptables, and which address is behind which port.
"""

from collections.abc import Mapping

from calico_k8s.calc.graph import Graph
from calico_k8s.config import Config
from calico_k8s.errors import KernelError
from calico_k8s.felix.bridge import BridgeDriver
from calico_k8s.felix.interfaces import (
    NO_INTERFACES,
    HostState,
    Interfaces,
    InterfaceWatcher,
    Wanted,
    find_interfaces,
)
from calico_k8s.model.addresses import Address
from calico_k8s.netlink.routing import Change
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP


class Attachments:
    """The attachments of one namespace.

    Raises:
        KernelError: from every method; the next call starts from what is there.
    """

    def __init__(self, watcher: InterfaceWatcher, bridges: BridgeDriver) -> None:
        self._watcher = watcher
        self._bridges = bridges
        self._state: HostState | None = None
        self._wanted: Wanted | None = None
        self._found = NO_INTERFACES
        self._filtered: frozenset[str] = frozenset()
        self.by_address: Mapping[Address, Attachment] = {}
        """The same object until something differs."""

    @property
    def found(self) -> Interfaces:
        """What is known of the node's endpoints and interfaces."""
        return self._found

    @property
    def is_stale(self) -> bool:
        """Whether the network may be other than :meth:`find` saw it."""
        return self._state is None

    def notice(self) -> None:
        """Take the events that wait: to be called whenever the watcher is readable, or it stays so."""
        changes = self._watcher.changes()
        if changes & ~Change.NEIGHBOURS or (changes and self._found.bridges):
            # Where no pod is on a bridge, nobody is found by a neighbour entry.
            self._state = self._wanted = None

    def find(self, wanted: Wanted) -> None:
        """Find where these are.  Cost: nothing where neither they nor the network changed."""
        if self._state is None:
            self._state = self._watcher.read()
        if wanted == self._wanted:
            return
        found = find_interfaces(self._state, wanted, self._found)
        self._watcher.mark_workloads(self._state, found.workload, WORKLOAD_LINK_GROUP)
        if found.bridges - self._filtered:
            self._watcher.filter_bridges(found.bridges)
        self._filtered = found.bridges
        self._guard_bridges(found)
        if found.unsettled:
            self._watcher.solicit(found.unsettled)
        self._found, self._wanted = found, wanted
        by_address = attachments_of(found)
        if by_address != self.by_address:
            self.by_address = by_address

    def close_new(self, wanted: Wanted) -> None:
        """Mark interfaces that lead to workloads; none loses its mark, and nobody is found.

        For the time before the datastore has said who the endpoints are, on a node where an
        earlier run left its chains: a pod that starts meanwhile is closed, too.
        """
        state = self._watcher.read()
        found = find_interfaces(state, wanted)
        marked = {link.name for link in state.links if link.group & WORKLOAD_LINK_GROUP}
        self._watcher.mark_workloads(state, found.workload | marked, WORKLOAD_LINK_GROUP)

    def forget(self) -> None:
        """Read and write everything anew, whatever is known: after a failure, or to mend drift."""
        self._state = self._wanted = None
        self._filtered = frozenset()
        self._bridges.needs_resync = True

    def repair(self) -> int:
        """Compare the bridges' table with the kernel's and mend it; how much was otherwise."""
        drifted = self._bridges.resync() if self._found.workload_ports else 0
        return drifted and self._bridges.apply()

    def mend(self) -> int:
        """The same, where a cheap look says that rules of the table are lost."""
        return self.repair() if self._found.workload_ports and self._bridges.has_lost_rules() else 0

    def _guard_bridges(self, found: Interfaces) -> None:
        if not (found.workload_ports or self._found.workload_ports):
            return  # no pod is on a bridge: nft need not even be installed
        self._bridges.set_desired(found)
        try:
            self._bridges.apply()
        except KernelError:
            self.forget()
            raise


def wanted_places(graph: Graph, config: Config) -> Wanted:
    """What to find in the node's network: its endpoints, and what is known of it beforehand."""
    record = graph.record
    pod_nets = config.pod_cidr or (record.pod_cidrs if record is not None else ())
    endpoints = (a for e in graph.endpoints.values() for a in e.addresses)
    return Wanted(frozenset(endpoints), config.workload_interfaces, pod_nets)


def attachments_of(found: Interfaces) -> Mapping[Address, Attachment]:
    """Where each endpoint that was found is, as rules and sets see it."""
    return {
        address: Attachment(interface, is_shared=interface in found.bridges)
        for address, interface in found.by_address.items()
    }
