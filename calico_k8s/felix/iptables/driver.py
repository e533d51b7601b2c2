"""One table of one family and backend, kept as desired.

In: :class:`~calico_k8s.render.tables.Table` values.  Out: at most one ``iptables-restore`` for a
change, none where nothing differs.  Other programs' chains and rules are read past.

::

    set_desired ─► write ─► plan ─► restore ─► settle: read ─┐ differs: another program wrote too
                     ▲                                       │
                     └───────────────────────────────────────┘
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Final, Protocol

from calico_k8s.errors import IptablesError, LockHeld, NetlinkError
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.iptables.compare import table_differences
from calico_k8s.felix.iptables.extensions import asked_sets
from calico_k8s.felix.iptables.hashes import HashedTable, Hasher, RuleHash
from calico_k8s.felix.iptables.inprocess import (
    InProcessRefusal,
    edit_table,
    is_loaded,
    split_plan,
)
from calico_k8s.felix.iptables.legacy import LegacyReader
from calico_k8s.felix.iptables.nft import NftReader
from calico_k8s.felix.iptables.nftdirect import NftWriter, TablePlan
from calico_k8s.felix.iptables.plan import (
    Held,
    Plan,
    expected_after,
    hook_texts,
    make_plan,
)
from calico_k8s.felix.iptables.programs import (
    DEFAULT_LOCK_TIMEOUT_S,
    Backend,
    restore,
    save,
    saved_texts,
)
from calico_k8s.felix.iptables.texts import Spelling, Texts, printed_texts
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import IpsetSocket
from calico_k8s.render.tables import ChainName, Table, TableName

APPLY_ATTEMPTS: Final = 4
"""A program that changes the same table in the same instants is waited for this often."""
_DOUBTED: Final = (RuleHash("?"),)
"""Stands for the rules of a chain whose hash is not believed."""


class TableReader(Protocol):
    """What a table holds, as the kernel says."""

    def read(self) -> Held:
        """The chains of ours and the built-in ones."""
        ...

    def stamp(self) -> int | None:
        """Equal stamps: nothing changed between; None: unknown."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class TableDriver:
    """A table of the network namespace it was made in, desired and held.

    Raises:
        IptablesError: from every method that reads or writes, as NetlinkError with the nft
            backend; the next call works from what the kernel then holds.
    """

    def __init__(
        self,
        backend: Backend,
        version: Version,
        table: TableName,
        lock_timeout_s: float = DEFAULT_LOCK_TIMEOUT_S,
    ) -> None:
        self._backend = backend
        self.version = version
        self.table = table
        self._lock_timeout_s = lock_timeout_s
        self._reader: TableReader = (
            LegacyReader(version, table) if backend is Backend.LEGACY else NftReader(version, table)
        )
        self._hasher = Hasher()
        self._desired = HashedTable(table, version, {}, {}, {})
        self._hook_texts: dict[RuleHash, str] = {}
        self._held: Held | None = None
        self._stamp: int | None = None
        self._spelling = Spelling()
        self._compared: int | None = None
        """The stamp at which every word was as it should be."""
        self._doubted: frozenset[ChainName] = frozenset()
        """Chains that are written again, whatever the hash in them says."""
        self._kept_chains: frozenset[str] = frozenset()
        self._netlink: NftWriter | None = None
        self._ipsets = IpsetSocket()

    def write_by(self, writer: NftWriter) -> None:
        """Have chains of an nft table written over netlink, where that can be done."""
        self._netlink = writer

    def close(self) -> None:
        """Release the reader; the kernel keeps its rules."""
        self._reader.close()
        self._ipsets.close()

    @property
    def kept_chains(self) -> frozenset[str]:
        """Unwanted chains of ours that another program's rules jump to: emptied, not deleted."""
        return self._kept_chains

    @property
    def stamp(self) -> int | None:
        """The generation at which the table was as is believed; None: unknown."""
        return self._stamp

    @property
    def is_doubtful(self) -> bool:
        """Whether it takes a look, or more than a plan, to write what differs."""
        return self._held is None or bool(self._doubted)

    def plan(self) -> Plan:
        """What there is to write, by what is believed of the table.

        Raises:
            IptablesError: nothing is, or a rule of ours that must leave has gone.
        """
        if self._held is None:
            raise IptablesError(f"table {self.table} was not read")
        return self._plan(self._held)

    def note_transaction(self, generation: int, *, is_written: bool) -> None:
        """A transaction of ours has ended, in which the plan was written, or nothing of this table.

        Where it was not alone since the last look, the next write or look begins with a reading.
        """
        is_alone = self._stamp is not None and generation == self._stamp + 1
        if is_written and self._held is not None:
            expected = expected_after(self._desired, self._held, self._kept_chains)
            self._held = expected if is_alone else None
        if is_alone:
            self._stamp = generation

    def set_desired(self, table: Table) -> None:
        """What is ours should be exactly this; :meth:`apply` writes it."""
        before = self._desired
        self._desired = self._hasher.hash_table(table)
        self._hook_texts = hook_texts(before) | hook_texts(self._desired)

    def has_drifted(self) -> bool:
        """Whether something is other than desired, however it came to be; :meth:`apply` mends it.

        Cost: 10 us where the nft generation stands still, else a reading (2 to 7 us a rule).
        """
        held, stamp = self._held, self._reader.stamp()
        if held is None or stamp is None or stamp != self._stamp:
            held = self._read()
        return bool(self._plan(held).line_count)

    def mend_words(self) -> int:
        """Compare every word of our chains and write those again that differ; how many did.

        Finds what hashes cannot tell: a rule that was replaced where it stands.  Cost: nothing
        where the nft generation stands still, else an ``iptables-save`` of the table.
        """
        if not self._desired.chains:
            return 0
        stamp = self._reader.stamp()
        if stamp is not None and stamp == self._compared:
            return 0
        before = self._spelling.differing(self._desired, self._printed())
        if before:
            self._doubted = frozenset(before)
            self.apply()
            stamp = None  # our own writing: compared again the next time
            after = self._spelling.differing(self._desired, self._printed())
            as_before = {name: held for name, held in after.items() if held == before.get(name)}
            self._spelling.learn(self._desired, as_before)
            before = {name: held for name, held in before.items() if name not in as_before}
        self._compared = stamp
        return len(before)

    def differences(self) -> Iterator[Difference]:
        """What of ours the table holds otherwise than desired; an ``iptables-save``, no writing."""
        place = f"IPv{self.version} {self._backend} {self.table}"
        desired = self._desired
        # To name a table has the legacy kernel make it: none is named of which nothing is wanted.
        is_wanted = desired.chains or desired.first or desired.last
        saved = save(self._backend, self.version, self.table if is_wanted else None)
        yield from table_differences(self._desired, saved, place)

    def _printed(self) -> dict[str, Texts]:
        return printed_texts(save(self._backend, self.version, self.table))

    def apply(self) -> int:
        """Write what differs, and see that it stands; the number of lines, 0 where nothing does.

        Raises:
            IptablesError: refused, or the table is changed by others faster than it is written.
        """
        return self.write() + self.settle()

    def write(self) -> int:
        """Write what differs in one transaction; the number of lines.

        Whether it was written into what was read before, :meth:`settle` sees.

        Raises:
            IptablesError: refused.
        """
        held = self._held if self._held is not None else self._read()
        for attempt in count(1):
            plan = self._plan(held)
            if not plan.line_count:
                break
            try:
                self._write(plan)
            except IptablesError:
                before, held = held, self._read()
                if held == before or attempt == APPLY_ATTEMPTS:
                    raise  # not a race: what was refused will be refused again
                continue
            self._doubted = frozenset()
            expected = expected_after(self._desired, held, self._kept_chains)
            self._held = expected if self._is_undisturbed() else None
            return plan.line_count
        return 0

    def settle(self) -> int:
        """Look, unless that is known, whether all stands that was written, and write what does not.

        Raises:
            IptablesError: the table is changed by others faster than it is written.
        """
        written = 0
        for _ in range(APPLY_ATTEMPTS):
            if self._held is not None:
                return written
            written += self.write()
        raise IptablesError(f"table {self.table} is changed by another program all the time")

    def _is_undisturbed(self) -> bool:
        """Whether our restore was the only transaction since the last look.

        Spares the nft backend a reading after each write; the legacy kernel does not count.
        """
        before, self._stamp = self._stamp, self._reader.stamp()
        return before is not None and self._stamp == before + 1

    def _read(self) -> Held:
        self._held = None
        # The stamp first: a change between the two is then seen by the next look.
        self._stamp = self._reader.stamp()
        held = self._reader.read()
        self._kept_chains &= held.keys()
        self._held = held
        return held

    def _plan(self, held: Held) -> Plan:
        held = {**held, **dict.fromkeys(self._doubted & held.keys(), _DOUBTED)}
        try:
            return make_plan(self._desired, held, self._hook_texts, self._kept_chains)
        except KeyError:
            # A rule of an earlier release or run: only iptables-save can spell it.
            saved = save(self._backend, self.version, self.table)
            self._hook_texts = saved_texts(saved) | self._hook_texts
        try:
            return make_plan(self._desired, held, self._hook_texts, self._kept_chains)
        except KeyError as error:
            self._held = None
            raise IptablesError(
                f"table {self.table}: the rule {error} went away while it was read"
            ) from error

    def _write(self, plan: Plan) -> None:
        is_in_process = self._backend is Backend.LEGACY and is_loaded()
        if is_in_process:
            # iptables-restore then does it, or says what is wrong.
            with suppress(InProcessRefusal, NetlinkError):
                asked = {name for line in plan.lines for name in asked_sets(line)}
                edits = split_plan(plan, self.version, self._ipsets.indexes(asked))
                if edits is not None:
                    edit_table(self.version, self.table, edits, self._lock_timeout_s)
                    return
        # What iptables spells otherwise than expected is for iptables to write.
        if self._netlink is not None and not self._doubted:
            with suppress(NetlinkError):  # iptables-restore says what is wrong
                if self._netlink.write([TablePlan(self.version, self.table, plan)]):
                    return
        try:
            self._restore(plan.restore_text(self.table))
        except LockHeld:
            raise  # it would be as long again until the next try says the same
        except IptablesError:
            if not plan.deletes:
                raise
            self._restore(plan.restore_text(self.table, with_deletes=False))
            self._delete_singly(plan)

    def _delete_singly(self, plan: Plan) -> None:
        """Delete what can be; the rest is emptied already and kept in mind."""
        kept = set(self._kept_chains)
        for line in plan.deletes:
            try:
                self._restore(Plan((), (line,)).restore_text(self.table))
            except IptablesError:
                kept.add(line.removeprefix("-X "))
        self._kept_chains = frozenset(kept)

    def _restore(self, text: str) -> None:
        restore(self._backend, self.version, text, self._lock_timeout_s)
