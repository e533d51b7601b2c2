"""Carries a plan out: sets and tables of one namespace, in the order of :mod:`.order` or at once.

In: plans of :mod:`.desired`.  Out: kernel writes by the two drivers, and how much they wrote.
What is desired, and why, is not known here.  After a failure nothing is forgotten: the drivers
hold what is desired and read back what is there, and :meth:`Applier.mend` goes on from that.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import msgspec
import structlog

from calico_k8s.errors import KernelError
from calico_k8s.felix.desired import Order, Plan
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.ipsets import IpsetDriver
from calico_k8s.felix.order import Do, Role, Step, steps
from calico_k8s.felix.saved import FORMAT, SavedState
from calico_k8s.model.addresses import Version
from calico_k8s.render.names import ipset_version
from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember, Table, TableName

log = structlog.get_logger()

Held = Mapping[IpsetName, tuple[KernelMember, ...]]
"""Members by set, to be given the mark that denies."""


class TableWriter(Protocol):
    """One table of one family: :class:`~.iptables.driver.TableDriver`."""

    def close(self) -> None:
        """Release what it holds; the kernel keeps its rules."""

    def set_desired(self, table: Table) -> None:
        """What is ours should be exactly this."""

    def write(self) -> int:
        """Write what differs in one transaction; the number of lines."""

    def settle(self) -> int:
        """See that what was written stands, or write it again; the number of lines."""

    def has_drifted(self) -> bool:
        """Whether something is other than desired, however it came to be."""

    def mend_words(self) -> int:
        """Write chains again whose rules are not word for word as desired; how many."""

    def differences(self) -> Iterable[Difference]:
        """What is other than desired; writes nothing."""


class Transactions(Protocol):
    """A kernel that takes sets and tables in one: :class:`~.nftables.driver.Nftables`."""

    def transaction(self) -> AbstractContextManager[object]:
        """Carry out at its end, all or nothing, what is written within it."""

    def begin_anew(self) -> None:
        """Have the transaction that is open start from nothing."""


class TogetherWriter(Protocol):
    """Tables of every family, of which several may be written in one transaction."""

    @property
    def is_open(self) -> bool:
        """Whether they may be by now."""

    def write(self) -> int:
        """Write what differs in all tables; the number of lines."""


class Written(NamedTuple):
    """What a batch wrote; all zero where nothing differed."""

    members: int = 0
    lines: int = 0


class Applier:
    """Desired sets and tables on their way to the kernel; ``hold_mark`` is of the group that denies.

    Raises:
        KernelError: from every method but :meth:`take_over`.
    """

    def __init__(
        self,
        ipsets: IpsetDriver,
        tables: Mapping[tuple[Version, TableName], TableWriter],
        hold_mark: int,
        transactions: Transactions | None = None,
        together: TogetherWriter | None = None,
    ) -> None:
        self.ipsets = ipsets
        self._tables = tables
        self._hold_mark = hold_mark
        self._transactions = transactions
        self._together = together
        self._desired_tables: dict[tuple[Version, TableName], Table] = {}

    def carry_out(self, plan: Plan) -> Written:
        """Bring the kernel to a plan, in the order that its changes need."""
        self.take_over(plan)
        return self._perform(plan.order, writes_tables=bool(plan.tables))

    def mend(self, order: Order) -> Written:
        """Bring the kernel to what is desired from whatever it holds."""
        self.ipsets.needs_resync = True
        return self._perform(order, writes_tables=True)

    def take_over(self, plan: Plan) -> None:
        """What the plan says is desired from now on; nothing is written."""
        if plan.is_whole:
            kept = {ipset.name for ipset in self.ipsets.desired()}
            for name in sorted(kept - plan.created.keys()):
                self.ipsets.drop_ipset(name)
        for name, ipset in plan.created.items():
            self.ipsets.set_ipset(ipset, plan.added.get(name, ()))
        for name, members in plan.removed.items():
            if name not in plan.created:
                self.ipsets.remove_members(name, members)
        for name, members in plan.added.items():
            if name not in plan.created:
                self.ipsets.add_members(name, members)
        for name in plan.dropped:
            self.ipsets.drop_ipset(name)
        for table in plan.tables:
            self._desired_tables[table.version, table.name] = table
            self._tables[table.version, table.name].set_desired(table)

    def empty(self, ipsets: Sequence[KernelIpset]) -> None:
        """Take every member out of these sets, now."""
        for ipset in ipsets:
            self.ipsets.set_ipset(ipset, ())
        atomically = (
            nullcontext() if self._transactions is None else self._transactions.transaction()
        )
        with atomically:
            self.ipsets.apply_creates()
            self.ipsets.apply_removes(ipset.name for ipset in ipsets)

    def mend_tables(self) -> int:
        """Mend the tables that another program changed: a jump moved, a rule gone; how many."""
        drifted = [driver for driver in self._tables.values() if driver.has_drifted()]
        if drifted and self._transactions is not None:
            # Who took the chains has taken the sets.
            self.ipsets.needs_resync = True
            self._perform_at_once(self._transactions, writes_tables=True)
            return len(drifted)
        for driver in drifted:
            driver.write()
            driver.settle()
        return len(drifted)

    def sweep(self) -> None:
        """Destroy what nobody asks any more and could not be destroyed when that was written.

        iptables-nft lets go of a set some milliseconds after the rule that asked it.  In nftables a
        set goes in the transaction that takes the rule.
        """
        if self._transactions is None:
            self.ipsets.apply_destroys()

    def mend_words(self) -> int:
        """Mend chains in which another program replaced a rule where it stands; how many."""
        return sum(driver.mend_words() for driver in self._tables.values())

    def saved(self, boot_id: str, backend: str) -> SavedState:
        """What is desired now, for the disk."""
        desired = self.ipsets.desired()
        return SavedState(
            format=FORMAT,
            boot_id=boot_id,
            backend=backend,
            tables=tuple(self._desired_tables.values()),
            ipsets=tuple(desired),
            members={ipset.name: members for ipset, members in desired.items()},
        )

    def _perform(self, order: Order, *, writes_tables: bool) -> Written:
        """One family after the other: no packet asks sets or chains of both, so none waits for both.

        Both beside each other where one transaction writes the tables of both.
        """
        if self._transactions is not None:
            return self._perform_at_once(self._transactions, writes_tables=writes_tables)
        members, lines = self.ipsets.apply_creates(), 0
        held = self._to_hold(order)
        for versions in self._shares():
            written = self._perform_share(order, versions, held, writes_tables=writes_tables)
            members, lines = members + written.members, lines + written.lines
        if writes_tables:
            # Only now: no verdict waits for a look at what another program may have done meanwhile.
            lines += sum(driver.settle() for driver in self._tables.values())
        self.ipsets.apply_destroys()
        return Written(members, lines)

    def _shares(self) -> list[tuple[Version, ...]]:
        """The families that take their steps beside each other, by whose turn it is."""
        versions = tuple(sorted({version for version, _ in self._tables}))
        is_together = self._together is not None and self._together.is_open
        return [versions] if is_together else [(version,) for version in versions]

    def _perform_share(
        self, order: Order, versions: tuple[Version, ...], held: Held, *, writes_tables: bool
    ) -> Written:
        members = lines = 0
        changed = [each for each in order.changed if ipset_version(each.name) in versions]
        for step in steps(changed, writes_tables=writes_tables, switches=order.switches):
            match step.do:
                case Do.ADD:
                    members += self.ipsets.apply_adds(step.names)
                case Do.REMOVE:
                    members += self.ipsets.apply_removes(step.names)
                case Do.SHUT:
                    members += sum(map(self._shut, step.names))
                case Do.HOLD:
                    members += self._hold(step, held)
                case Do.WRITE_TABLES:
                    lines += self._write_tables(versions)
        return Written(members, lines)

    def _write_tables(self, versions: tuple[Version, ...]) -> int:
        if self._together is not None and self._together.is_open:
            return self._together.write()
        return sum(driver.write() for (v, _), driver in self._tables.items() if v in versions)

    def _perform_at_once(self, transactions: Transactions, *, writes_tables: bool) -> Written:
        """Write whatever differs: no instant lies between the state before and the one after."""
        try:
            return self._write_differences(transactions, writes_tables=writes_tables)
        except KernelError as error:
            log.warning("nftables is read back: a transaction was refused", error=str(error))
            self.ipsets.needs_resync = True
        try:
            return self._write_differences(transactions, writes_tables=True)
        except KernelError as error:
            log.warning("nftables is written anew: a transaction was refused", error=str(error))
            self.ipsets.needs_resync = True
        try:
            return self._write_differences(transactions, writes_tables=True, is_anew=True)
        except KernelError:
            self.ipsets.needs_resync = True
            raise

    def _write_differences(
        self, transactions: Transactions, *, writes_tables: bool, is_anew: bool = False
    ) -> Written:
        lines = 0
        with transactions.transaction():
            if is_anew:
                transactions.begin_anew()
            members = self.ipsets.apply_creates()
            members += self.ipsets.apply_adds() + self.ipsets.apply_removes()
            if writes_tables:
                lines = sum(driver.write() for driver in self._tables.values())
            self.ipsets.apply_destroys()
        return Written(members, lines)

    def _passes_differ(self, order: Order) -> bool:
        """Whether any set that pass rules ask is really about to change.

        Known once the creates have read back what is to be read back: a restart that finds
        everything as it should be holds nobody.
        """
        names = [each.name for each in order.changed if each.role is Role.PASSES]
        return self.ipsets.differ(names)

    def _to_hold(self, order: Order) -> Held:
        """Whom to hold for what is really about to change."""
        if self._passes_differ(order):
            return {**order.held, **order.host_held}
        return order.host_held if self._raw_differs(order) else {}

    def _raw_differs(self, order: Order) -> bool:
        """Whether the raw table is really about to change, as it may be."""
        return order.switches.raw and any(
            driver.has_drifted() for (_, name), driver in self._tables.items() if name == "raw"
        )

    def _hold(self, step: Step, held: Held) -> int:
        """Hold the members whose mark is replaced, and ``held``; a later step adds them as desired."""
        return sum(
            self._deny(name, (*self.ipsets.replaced_members(name), *held.get(name, ())))
            for name in step.names
        )

    def _shut(self, name: IpsetName) -> int:
        ipsets = self.ipsets
        return self._deny(name, (*ipsets.missing_members(name), *ipsets.leaving_members(name)))

    def _deny(self, name: IpsetName, members: Iterable[KernelMember]) -> int:
        mark = self._hold_mark
        return self.ipsets.overwrite(
            name, (msgspec.structs.replace(member, mark=mark) for member in members)
        )
