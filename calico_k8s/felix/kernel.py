"""Everything of one network namespace that Felix drives, behind one object.

In: nothing but the namespace it is made in.  Out: the drivers, put together, and what an earlier
run of the agent, or another boot, left for this one.  What is desired, and why, is the agent's
business.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from enum import StrEnum
from functools import partial
from itertools import product
from pathlib import Path

import msgspec
import structlog

from calico_k8s.errors import KernelError
from calico_k8s.felix.apply import Applier, TableWriter
from calico_k8s.felix.bridge import BridgeDriver, clean_bridges
from calico_k8s.felix.conntrack import FlowCutter
from calico_k8s.felix.desired import Left, Order, Plan
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.interfaces import InterfaceWatcher
from calico_k8s.felix.ipsets import IpsetDriver, clean_ipsets
from calico_k8s.felix.iptables import inprocess
from calico_k8s.felix.iptables.backend import clean_tables, sweep_backend
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.nftdirect import NftWriter, open_writer
from calico_k8s.felix.iptables.programs import Backend, counted_packets, save, try_rule
from calico_k8s.felix.iptables.together import Together
from calico_k8s.felix.metrics import FaultKind
from calico_k8s.felix.nftables.driver import Nftables, clean_nftables
from calico_k8s.felix.nftables.foreign import foreign_drops
from calico_k8s.felix.order import ChangedSet, Role
from calico_k8s.felix.recover import recover
from calico_k8s.felix.saved import SavedState
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.nftables import NftEvents
from calico_k8s.render.marks import MarkLayout, Number, mark_layout
from calico_k8s.render.names import is_telling
from calico_k8s.render.notes import probing_rule
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP, TableName

IPV6_PROC = Path("/proc/net/if_inet6")

log = structlog.get_logger()

OUR_TABLES: tuple[TableName, ...] = ("raw", "mangle", "filter")
"""In the order in which they are written; see :mod:`.order`."""


IPTABLES_TELLING = "xt_NFLOG, xt_limit or xt_hashlimit"
NATIVE_TELLING = "nft_log, nft_limit or nft_dynset"
"""What telling of packets takes, beside nfnetlink_log."""


DENYING_TABLES: tuple[TableName, ...] = ("raw", "mangle")


class Native(StrEnum):
    """The backend that is neither iptables."""

    NFTABLES = "nftables"


AnyBackend = Backend | Native


class Kernel:
    """The drivers of the namespace it was made in.

    Raises:
        KernelError: from every method; drivers then work from what they read back.
    """

    def __init__(
        self,
        backend: AnyBackend,
        hold_mark: int,
        lock_timeout_s: float,
        on_fault: Callable[[FaultKind], None] = lambda _fault: None,
    ) -> None:
        self.backend = backend
        self._lock_timeout_s = lock_timeout_s
        self.versions = node_versions()
        self.interfaces = InterfaceWatcher(partial(on_fault, "events-lost"))
        self.bridges = BridgeDriver()
        self.transactions = NftEvents()
        """Of nftables, by any other program, or by one that we run."""
        self._nftables = Nftables(self.versions) if backend is Native.NFTABLES else None
        if self._nftables is not None:
            self.transactions.ignore((self._nftables.socket,))
        self.ipsets = IpsetDriver(
            sets=None if self._nftables is None else self._nftables.sets,
            on_full=partial(on_fault, "ipset-full"),
        )
        self._tables = self._table_writers()
        self._netlink: NftWriter | None = None
        drivers = [each for each in self._tables.values() if isinstance(each, TableDriver)]
        self._together = Together(drivers) if backend is Backend.NFT else None
        self.applier = Applier(self.ipsets, self._tables, hold_mark, self._nftables, self._together)

    def _table_writers(self) -> Mapping[tuple[Version, TableName], TableWriter]:
        if self._nftables is not None:
            return self._nftables.writers(OUR_TABLES)
        backend = Backend(self.backend)
        return {
            (version, name): TableDriver(backend, version, name, self._lock_timeout_s)
            for version in self.versions
            for name in OUR_TABLES
        }

    @property
    def has_own_table(self) -> bool:
        """Whether our chains are in no table of iptables."""
        return self._nftables is not None

    @property
    def keeps_writes_waiting(self) -> bool:
        """Whether chains cannot be written now: only iptables-legacy has a lock for them."""
        return self.backend is Backend.LEGACY and inprocess.is_lock_held()

    def fitted(self, config: RenderConfig, *, can_tell: bool = True) -> RenderConfig:
        """What chains show of the backend beside their settings, and of who hears what they tell."""
        return msgspec.structs.replace(
            config,
            tells=config.tells and can_tell,
            has_own_table=self.has_own_table,
            is_over_nftables=self.backend is Backend.NFT,
        )

    def close(self) -> None:
        """Release every socket; the kernel keeps its state."""
        self.ipsets.close()
        self.interfaces.close()
        self.bridges.close()
        self.transactions.close()
        for driver in self._tables.values():
            driver.close()
        if self._nftables is not None:
            self._nftables.close()
        if self._netlink is not None:
            self._netlink.close()

    def prepare(self) -> None:
        """Make small edits of tables quick from now on; what takes long is done beside us."""
        if self.backend is Backend.LEGACY:
            threading.Thread(target=inprocess.load, name="load-iptc", daemon=True).start()
        if self._together is not None and self._netlink is None:
            try:
                self._netlink = open_writer()
            except KernelError as error:
                log.info("chains are written by iptables-nft-restore", error=str(error))
                return
            self.transactions.ignore((self._netlink.socket,))
            self._together.open(self._netlink)

    def sweep_other_backends(self) -> None:
        """Remove what an earlier run wrote by another backend: a packet would have to pass both.

        Only once everything is in this one.
        """
        for other in (*Backend, *Native):
            if other is self.backend:
                continue
            try:
                swept = self._sweep(other)
            except KernelError as error:
                log.info("another backend could not be looked at", backend=other, error=str(error))
                continue
            if swept:
                log.info("removed what an earlier run left", backend=other, count=len(swept))

    def _sweep(self, other: AnyBackend) -> tuple[str, ...]:
        if isinstance(other, Native):
            return clean_nftables()
        swept = sweep_backend(other, self._lock_timeout_s)
        if swept and self.has_own_table:
            clean_ipsets()
        return swept

    def foreign_drops(self) -> tuple[str, ...]:
        """Of each chain of others that drops what our policy allows, a sentence with the remedy.

        None where our own last rule accepts, as with either iptables.
        """
        return foreign_drops() if self.has_own_table else ()

    def left(self, layout: MarkLayout) -> Left:
        """What an earlier run of the agent left here."""
        return Left(
            {version: recover(self._saved_chains(version), layout) for version in self.versions},
            self.ipsets.existing(),
        )

    def _saved_chains(self, version: Version) -> str:
        if self._nftables is not None:
            return self._nftables.saved_text(version)
        return save(Backend(self.backend), version, "mangle")

    def differences(self) -> Iterator[Difference]:
        """What sets, tables and the bridges' table hold otherwise than desired; writes nothing."""
        if self._nftables is not None:
            yield from self._nftables.differences()
        for driver in self._tables.values():
            yield from driver.differences()
        yield from self.ipsets.differences()
        yield from self.bridges.differences()

    def telling_problem(self) -> str | None:
        """Why this kernel can tell of no packets; None where it can.  Cost: some 20 ms a family."""
        rule = probing_rule()
        try:
            if self._nftables is not None:
                self._nftables.try_rule(rule)
            else:
                for version in self.versions:
                    backend = Backend(self.backend)
                    try_rule(backend, version, "mangle", rule, self._lock_timeout_s)
        except KernelError as error:
            wanted = NATIVE_TELLING if self.has_own_table else IPTABLES_TELLING
            return f"the kernel, or iptables, is without {wanted}: {error}"
        return None

    def told_packets(self) -> Mapping[str, int]:
        """How many packets each chain that tells of them has dropped, or let go on, by its name.

        Cost: a reading of the tables that deny, 30 ms at 4,000 rules; of native ones, a third.
        """
        if self._nftables is not None:
            return self._nftables.told_packets()
        found = Counter[str]()
        for version, table in product(self.versions, DENYING_TABLES):
            for chain, packets in counted_packets(Backend(self.backend), version, table).items():
                if is_telling(chain):
                    found[chain] += packets
        return found

    def saved(self, boot_id: str) -> SavedState:
        """What is desired now, for the disk."""
        return self.applier.saved(boot_id, self.backend.value)

    def restore(self, state: SavedState) -> None:
        """Enforce a saved state, on a node that has nothing of ours."""
        self.applier.carry_out(
            Plan(
                created={ipset.name: ipset for ipset in state.ipsets},
                added={name: list(members) for name, members in state.members.items()},
                tables=tuple(t for t in state.tables if t.version in self.versions),
                order=Order(tuple(ChangedSet(ipset.name, Role.NEW) for ipset in state.ipsets)),
            )
        )


def restore_kernel(state: SavedState, lock_timeout_s: float, mark_mask: int) -> bool:
    """Enforce a saved state in the backend that it was for; False where there is something of ours.

    Raises:
        KernelError: a tool is missing or refuses; what was written stays, and closes more than it
            opens.
    """
    hold_mark = mark_layout(mark_mask).mark(Number.HELD)
    kernel = Kernel(parse_backend(state.backend), hold_mark, lock_timeout_s)
    with closing(kernel):
        if kernel.ipsets.existing():
            return False
        kernel.restore(state)
    return True


def parse_backend(name: str) -> AnyBackend:
    """The backend that has this name."""
    return Native(name) if name in set(Native) else Backend(name)


def node_versions() -> tuple[Version, ...]:
    """The families this kernel speaks; IPv6 may be off altogether."""
    return (4, 6) if IPV6_PROC.exists() else (4,)


def clean_kernel(lock_timeout_s: float, mark_mask: int) -> tuple[str, ...]:
    """Remove every trace of ours from the namespace; what could not be removed, and why.

    Flows that were cut pass again: nothing asks for their mark any more, and a later agent with
    another mask would take the bit for something else.

    Raises:
        KernelError: a tool is missing or refuses altogether.
    """
    problems = clean_tables(lock_timeout_s)
    clean_nftables()
    clean_bridges()
    left = clean_ipsets()
    problems += [f"ipset {name} stays: something still refers to it" for name in sorted(left)]
    with closing(InterfaceWatcher()) as watcher:
        watcher.mark_workloads(watcher.read(), (), WORKLOAD_LINK_GROUP)
    with closing(FlowCutter(mark_layout(mark_mask).cut)) as cutter:
        cutter.restore_all()
    return tuple(problems)
