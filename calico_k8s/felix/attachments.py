"""Where the node's endpoints are, kept up to date, and the node's interfaces told what they are.

In: link, route and neighbour events, the addresses of the node's endpoints.  Out: each address'
attachment; beside it, the kernel is told which interfaces lead to workloads (a bit of their link
group), which bridges show their packets to iptables, and which address is behind which port.
"""

from collections.abc import Mapping

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
from calico_k8s.render.endpoints import Attachment
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP


class Attachments:
    """The attachments of one namespace.

    Raises:
        KernelError: from :meth:`read` and :meth:`find`; the next call starts from what is there.
    """

    def __init__(self, watcher: InterfaceWatcher, bridges: BridgeDriver) -> None:
        self._watcher = watcher
        self._bridges = bridges
        self._state: HostState | None = None
        self._wanted: Wanted | None = None
        self._found = NO_INTERFACES
        self.by_address: Mapping[Address, Attachment] = {}
        """The same object until something differs."""

    @property
    def missing(self) -> frozenset[Address]:
        """Endpoints that no interface of this node leads to: not enforceable."""
        return self._found.missing

    def read(self) -> bool:
        """Read the node's network anew where it may have changed; whether it was read."""
        if self._watcher.changes() or self._state is None:
            self._state = self._watcher.read()
            self._wanted = None
            return True
        return False

    def find(self, wanted: Wanted) -> None:
        """Find where these are.  Cost: nothing where neither they nor the network changed."""
        if wanted == self._wanted or self._state is None:
            return
        found = find_interfaces(self._state, wanted, self._found)
        self._watcher.mark_workloads(self._state, found.workload, WORKLOAD_LINK_GROUP)
        if found.bridges - self._found.bridges:
            self._watcher.filter_bridges(found.bridges)
        self._guard_bridges(found)
        if found.unsettled:
            self._watcher.solicit(found.unsettled)
        self._found, self._wanted = found, wanted
        by_address = {
            address: Attachment(interface, is_shared=interface in found.bridges)
            for address, interface in found.by_address.items()
        }
        if by_address != self.by_address:
            self.by_address = by_address

    def forget(self) -> None:
        """Read and write everything anew, whatever is known: after a failure, or to mend drift."""
        self._state = self._wanted = None
        self._bridges.needs_resync = True

    def repair(self) -> int:
        """Compare the bridges' table with the kernel's and mend it; how much was otherwise."""
        drifted = self._bridges.resync() if self._found.workload_ports else 0
        return drifted and self._bridges.apply()

    def _guard_bridges(self, found: Interfaces) -> None:
        if not (found.workload_ports or self._found.workload_ports):
            return  # no pod is on a bridge: nft need not even be installed
        self._bridges.set_desired(found)
        try:
            self._bridges.apply()
        except KernelError:
            self.forget()
            raise
