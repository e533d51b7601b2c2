"""Everything of one network namespace that Felix drives, behind one object.

In: desired sets and tables, and the steps of :mod:`.order`.  Out: kernel writes, in that order.
What is desired, and why, is the agent's business.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from calico_k8s.felix.bridge import BridgeDriver, clean_bridges
from calico_k8s.felix.desired import Left, Plan
from calico_k8s.felix.interfaces import InterfaceWatcher
from calico_k8s.felix.ipsets import IpsetDriver, clean_ipsets
from calico_k8s.felix.iptables.backend import clean_tables
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.felix.order import ChangedSet, Do, Role, Step, Switches, steps
from calico_k8s.felix.recover import recover
from calico_k8s.felix.saved import FORMAT, SavedState
from calico_k8s.model.addresses import Version
from calico_k8s.render.marks import MarkLayout
from calico_k8s.render.tables import IpsetName, KernelMember, Table, TableName

IPV6_PROC = Path("/proc/net/if_inet6")

OUR_TABLES: tuple[TableName, ...] = ("mangle", "filter")


class Written(NamedTuple):
    """What a batch wrote; all zero where nothing differed."""

    members: int = 0
    lines: int = 0


class Kernel:
    """The drivers of the namespace it was made in.

    Raises:
        KernelError: from every method; drivers then work from what they read back.
    """

    def __init__(self, backend: Backend, hold_mark: int, lock_timeout_s: float) -> None:
        self.backend = backend
        self._hold_mark = hold_mark
        self.versions = node_versions()
        self.ipsets = IpsetDriver()
        self.interfaces = InterfaceWatcher()
        self.bridges = BridgeDriver()
        self._desired_tables: dict[tuple[Version, TableName], Table] = {}
        self._tables: dict[tuple[Version, TableName], TableDriver] = {
            (version, name): TableDriver(backend, version, name, lock_timeout_s)
            for version in self.versions
            for name in OUR_TABLES
        }

    def close(self) -> None:
        """Release every socket; the kernel keeps its state."""
        self.ipsets.close()
        self.interfaces.close()
        for driver in self._tables.values():
            driver.close()

    def left(self, layout: MarkLayout) -> Left:
        """What an earlier run of the agent left here."""
        saved = {version: save(self.backend, version, "mangle") for version in self.versions}
        return Left(
            {version: recover(text, layout) for version, text in saved.items()},
            self.ipsets.existing(),
        )

    def carry_out(self, plan: Plan) -> Written:
        """Bring the kernel to a plan, in the order that its changes need."""
        self._take_over(plan)
        order = steps(plan.changed, writes_tables=bool(plan.tables), switches=plan.switches)
        return self._perform(order, plan.held)

    def mend(self, everything: tuple[ChangedSet, ...]) -> Written:
        """Bring the kernel to what is desired from whatever it holds."""
        self.ipsets.needs_resync = True
        switches = Switches(chains=True, egress=True, ingress=True)
        return self._perform(steps(everything, writes_tables=True, switches=switches), {})

    def _take_over(self, plan: Plan) -> None:
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

    def _perform(
        self, steps: Iterable[Step], held: Mapping[IpsetName, tuple[KernelMember, ...]]
    ) -> Written:
        """Bring the kernel to what is desired, step by step.

        HOLD holds the members whose mark is replaced, and ``held``.
        """
        members = lines = 0
        for step in steps:
            match step.do:
                case Do.CREATE:
                    members += self.ipsets.apply_creates()
                case Do.ADD:
                    members += self.ipsets.apply_adds(step.names)
                case Do.REMOVE:
                    members += self.ipsets.apply_removes(step.names)
                case Do.HOLD:
                    members += self._hold(step.names, held)
                case Do.WRITE_TABLES:
                    lines += sum(driver.apply() for driver in self._tables.values())
                case Do.DESTROY:
                    self.ipsets.apply_destroys()
        return Written(members, lines)

    def mend_tables(self) -> int:
        """Mend the tables that another program changed: a jump moved, a rule gone; how many."""
        drifted = [driver for driver in self._tables.values() if driver.has_drifted()]
        for driver in drifted:
            driver.apply()
        return len(drifted)

    def resync(self) -> int:
        """Read everything back; how many sets and members were other than believed."""
        return self.ipsets.resync()

    def saved(self, boot_id: str) -> SavedState:
        """What is desired now, for the disk."""
        desired = self.ipsets.desired()
        return SavedState(
            format=FORMAT,
            boot_id=boot_id,
            backend=self.backend.value,
            tables=tuple(self._desired_tables.values()),
            ipsets=tuple(desired),
            members={ipset.name: members for ipset, members in desired.items()},
        )

    def restore(self, state: SavedState) -> None:
        """Enforce a saved state."""
        plan = Plan(
            created={ipset.name: ipset for ipset in state.ipsets},
            added={name: list(members) for name, members in state.members.items()},
            tables=tuple(t for t in state.tables if t.version in self.versions),
            changed=tuple(ChangedSet(ipset.name, Role.NEW) for ipset in state.ipsets),
        )
        self.carry_out(plan)

    def _hold(
        self, names: Iterable[IpsetName], held: Mapping[IpsetName, tuple[KernelMember, ...]]
    ) -> int:
        written = 0
        for name in names:
            final = (*self.ipsets.replaced_members(name), *held.get(name, ()))
            self.ipsets.add_members(name, map(self._held, final))
            written += self.ipsets.apply_adds([name])
            self.ipsets.add_members(name, final)
        return written

    def _held(self, member: KernelMember) -> KernelMember:
        return msgspec.structs.replace(member, mark=self._hold_mark)


def node_versions() -> tuple[Version, ...]:
    """The families this kernel speaks; IPv6 may be off altogether."""
    return (4, 6) if IPV6_PROC.exists() else (4,)


def clean_kernel(lock_timeout_s: float) -> tuple[str, ...]:
    """Remove every trace of ours from the namespace; what could not be removed, and why.

    Raises:
        KernelError: a tool is missing or refuses altogether.
    """
    problems = clean_tables(lock_timeout_s)
    clean_bridges()
    left = clean_ipsets()
    problems += [f"ipset {name} stays: something still refers to it" for name in sorted(left)]
    return tuple(problems)
