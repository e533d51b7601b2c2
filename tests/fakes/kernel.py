"""A simulated kernel with doors like the real one's, so that real drivers' callers can be stopped.

In: what :class:`~calico_k8s.felix.ipsets.IpsetDriver` and :class:`~calico_k8s.felix.apply.Applier`
do to sets and tables.  Out: after each single change, one member or one table, a call of whoever
watches; and where a fault is asked for, a refusal.  What packets then meet is for
:mod:`tests.simulate`.
"""

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise

from calico_k8s.calc.graph import Graph
from calico_k8s.errors import IptablesError
from calico_k8s.felix.apply import Applier
from calico_k8s.felix.desired import Left
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.enforce import Enforcer
from calico_k8s.felix.ipsets import IpsetDriver
from calico_k8s.felix.recover import recover
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import (
    IPSET_ERR_REFERENCED,
    Edit,
    EditFailure,
    IpsetHeader,
    MemberCommand,
    ipset_error,
)
from calico_k8s.render.marks import MarkLayout, Number, mark_layout
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember, Table, TableName
from tests.render.kernels import restore_text
from tests.simulated_rules import SimulatedIpset

BOTH: tuple[Version, ...] = (4, 6)
TABLES: tuple[TableName, ...] = ("raw", "mangle", "filter")


@dataclass
class FakeKernel:
    """Sets and tables of one node; it outlives the agents that write it."""

    versions: tuple[Version, ...] = BOTH
    ipsets: dict[IpsetName, SimulatedIpset] = field(default_factory=dict)
    tables: dict[tuple[Version, TableName], Table] = field(default_factory=dict)
    on_change: Callable[[IpsetName | None], None] = lambda _: None
    """Called with the set that changed; None: a table did."""
    changes: int = 0
    """How many there have been."""
    fail_at: int | None = None
    """This change of all is refused, once."""
    has_transactions: bool = False
    """Whether sets and tables change together, as in nftables."""
    writes_together: bool = False
    """Whether the tables of all families change in one instant."""
    lets_go: bool = True
    """Whether a set can be destroyed: iptables-nft keeps it for a while after its last rule."""

    def change(self) -> None:
        """Before each change: refuse it, or count it."""
        if self.fail_at is not None and self.changes >= self.fail_at:
            self.fail_at = None
            raise IptablesError("refused by the test")
        self.changes += 1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What changes within is seen at the end, and not at all where something is refused."""
        before, on_change = deepcopy((self.ipsets, self.tables)), self.on_change
        self.on_change = lambda _: None
        try:
            yield
        except IptablesError:
            self.ipsets, self.tables = before
            raise
        finally:
            self.on_change = on_change
        self.on_change(None)

    def begin_anew(self) -> None:
        """The transaction that is open starts from nothing."""
        self.ipsets.clear()
        self.tables.clear()

    def left(self, layout: MarkLayout) -> Left:
        """What an agent finds that starts now."""
        saved = {
            version: restore_text(self.tables[version, "mangle"])
            if (version, "mangle") in self.tables
            else ""
            for version in self.versions
        }
        return Left(
            {version: recover(text, layout) for version, text in saved.items()},
            frozenset(self.ipsets),
        )

    def enforcer(self, graph: Graph, config: RenderConfig) -> Enforcer:
        """The agent's part that writes, on this kernel."""
        tables = {
            (version, name): FakeTable(self, version, name)
            for version in self.versions
            for name in TABLES
        }
        hold = mark_layout(config.mark_mask).mark(Number.HELD)
        transactions = self if self.has_transactions else None
        together = FakeTogether(self, tables.values()) if self.writes_together else None
        applier = Applier(IpsetDriver(sets=FakeIpsets(self)), tables, hold, transactions, together)
        return Enforcer(graph, applier, self.versions, self.left)

    def asks(self, name: IpsetName) -> bool:
        """Whether a rule asks the set."""
        return any(
            name in rule.split(" ")
            for table in self.tables.values()
            for rules in table.chains.values()
            for rule in rules
        )


class FakeIpsets:
    """The sets, as a netlink socket would give them."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel

    def close(self) -> None:
        """Nothing is held."""

    def headers(self) -> dict[IpsetName, IpsetHeader]:
        return {
            name: IpsetHeader(
                name=name,
                type=held.ipset.type,
                version=held.ipset.version,
                maxelem=65536,
                references=int(self._kernel.asks(name)),
                has_marks=held.ipset.has_marks,
            )
            for name, held in self._kernel.ipsets.items()
        }

    def members(self, ipset: KernelIpset) -> list[KernelMember]:
        return list(self._kernel.ipsets[ipset.name].members.values())

    def create(self, ipset: KernelIpset, maxelem: int, hashsize: int) -> None:  # noqa: ARG002 - it has room
        assert ipset.name not in self._kernel.ipsets
        self._kernel.change()
        self._kernel.ipsets[ipset.name] = SimulatedIpset(ipset)
        self._kernel.on_change(ipset.name)

    def destroy(self, names: Iterable[IpsetName]) -> dict[IpsetName, int]:
        left: dict[IpsetName, int] = {}
        for name in names:
            if name not in self._kernel.ipsets:
                continue
            if self._kernel.asks(name) or not self._kernel.lets_go:
                left[name] = IPSET_ERR_REFERENCED
                continue
            self._kernel.change()
            del self._kernel.ipsets[name]
            self._kernel.on_change(name)
        return left

    def swap(self, first: IpsetName, second: IpsetName) -> None:  # noqa: ARG002 - never full
        raise ipset_error("ipset swap", errno.EOPNOTSUPP)

    def edit(self, edits: Sequence[Edit]) -> list[EditFailure]:
        for ipset, command, members in edits:
            held = self._kernel.ipsets[ipset.name].members
            for member in members:
                self._kernel.change()
                if command is MemberCommand.ADD:
                    held[member.text] = member
                else:
                    held.pop(member.text, None)
                self._kernel.on_change(ipset.name)
        return []


class FakeTable:
    """A table: written whole, in one instant."""

    def __init__(self, kernel: FakeKernel, version: Version, name: TableName) -> None:
        self._kernel = kernel
        self._place = (version, name)
        self._empty = self._desired = Table(name, version, {})

    def close(self) -> None:
        """Nothing is held."""

    def set_desired(self, table: Table) -> None:
        self._desired = table

    def write(self) -> int:
        held = self._kernel.tables.get(self._place, self._empty)
        if held == self._desired:
            return 0
        self._check(self._desired)
        self._kernel.change()
        self._kernel.tables[self._place] = self._desired
        self._kernel.on_change(None)
        return _differing(held, self._desired)

    def settle(self) -> int:
        return 0

    def has_drifted(self) -> bool:
        return self._kernel.tables.get(self._place, self._empty) != self._desired

    def mend_words(self) -> int:
        return self.write()

    def differences(self) -> list[Difference]:
        raise AssertionError("nobody asks here")

    def _check(self, table: Table) -> None:
        """As iptables-restore does: every chain and set that a rule names is there."""
        for rules in (*table.chains.values(), *table.first.values(), *table.last.values()):
            for rule in rules:
                words = rule.split(" ")
                for option, name in pairwise(words):
                    if option in ("-j", "-g") and name.startswith("cali-"):
                        assert name in table.chains, f"{rule}: no such chain"
                    if option in ("--match-set", "--map-set"):
                        assert name in self._kernel.ipsets, f"{rule}: no such set"


class FakeTogether:
    """All tables: written in one instant, or one after the other where that is refused."""

    is_open = True

    def __init__(self, kernel: FakeKernel, tables: Iterable[FakeTable]) -> None:
        self._kernel = kernel
        self._tables = tuple(tables)

    def write(self) -> int:
        try:
            with self._kernel.transaction():
                return sum(table.write() for table in self._tables)
        except IptablesError:
            return sum(table.write() for table in self._tables)


def _differing(held: Table, desired: Table) -> int:
    names = held.chains.keys() | desired.chains.keys()
    return sum(held.chains.get(name) != desired.chains.get(name) for name in names) or 1
