"""The native tables of one network namespace: transactions, generations, what was left there.

In: desired tables, and edits of sets.  Out: transactions, each of whatever was queued while it
was open, for all families at once: packets meet what was before or what is after, and a refusal
changes nothing.

::

    transaction ─► sets, tables queue ─► commit ─► generation one higher: alone
                                            └ refused: nothing is believed of the kernel any more
"""

import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager

from calico_k8s.errors import KernelError, NetlinkError
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.nftables.batch import Batch
from calico_k8s.felix.nftables.family import TABLE, FamilyTable
from calico_k8s.felix.nftables.images import Image, saved_text
from calico_k8s.felix.nftables.sets import NativeSets
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.netlink.nftwrite import TableMessages
from calico_k8s.render.tables import IpsetName, IpsetType, RuleText, Table, TableName

VERSIONS: tuple[Version, ...] = (4, 6)


class Nftables:
    """The tables of every family; for one thread.

    Raises:
        KernelError: from every method.
    """

    def __init__(self, versions: Iterable[Version]) -> None:
        self._socket = NftSocket()
        self._families = {
            version: FamilyTable(version, self._socket, self._type_of) for version in versions
        }
        self.sets = NativeSets(self._families, self._socket, self.transaction)
        self._batch: Batch | None = None
        self._generation: int | None = None
        """At which the tables were as is believed."""

    def _type_of(self, name: IpsetName) -> IpsetType:
        return self.sets.type_of(name)

    @property
    def socket(self) -> NftSocket:
        """Over which it writes."""
        return self._socket

    def close(self) -> None:
        """Release the socket; the kernel keeps its state."""
        self._socket.close()

    def writers(self, names: Iterable[TableName]) -> dict[tuple[Version, TableName], "NativeTable"]:
        """A writer for each table of iptables, by family; those of a family share one table here."""
        ordered = tuple(names)
        return {
            (version, name): NativeTable(self, family, looks=name == ordered[0])
            for version, family in self._families.items()
            for name in ordered
        }

    def held(self, version: Version) -> Mapping[str, Image]:
        """The chains that a family's table holds, as far as is known."""
        return self._families[version].held

    def saved_text(self, version: Version) -> str:
        """The same in the form of ``iptables-save``."""
        return saved_text(self.held(version))

    def try_rule(self, rule: RuleText) -> None:
        """Have the kernel take a rule, of each family; nothing is left of it."""
        for family in self._families.values():
            family.try_rule(rule)

    def told_packets(self) -> Counter[str]:
        """How many packets each chain that tells has dropped or let go on, in every family and table."""
        found = Counter[str]()
        for family in self._families.values():
            found += family.counted()
        return found

    def differences(self) -> Iterator[Difference]:
        """What our tables hold otherwise than desired; reads them, writes nothing."""
        for version, family in self._families.items():
            family.read()
            yield from family.differences(f"IPv{version} nftables {TABLE}")

    @contextmanager
    def transaction(self) -> Iterator[Batch]:
        """Collect changes and carry them out at the end; within an open one, be part of it."""
        if self._batch is not None:
            yield self._batch
            return
        batch = self._batch = Batch()
        is_done = False
        try:
            yield batch
            self._commit(batch)
            is_done = True
        finally:
            self._batch = None
            self.sets.is_anew = False
            if not is_done:
                self.forget()

    def begin_anew(self) -> None:
        """Have the open transaction delete the tables first: everything is written again."""
        if self._batch is None:
            raise KernelError("nothing is begun anew outside a transaction")
        for family in self._families.values():
            family.begin_anew(self._batch)
        self.sets.begin_anew()

    def forget(self) -> None:
        """Believe nothing of what the kernel holds."""
        self._generation = None
        self.sets.forget()
        for family in self._families.values():
            family.forget()

    def has_drifted(self, family: FamilyTable) -> bool:
        """Whether a family's chains are other than desired, however it came to be.

        Cost: 10 us where the generation stands still, else a reading of all.
        """
        generation = self._socket.generation()
        if generation != self._generation:
            for each in self._families.values():
                each.read()
            self._generation = generation
        else:
            family.learn()
        return family.differs()

    def write(self, family: FamilyTable) -> int:
        """Queue what differs of a family's chains; how many rules and leaves."""
        with self.transaction() as batch:
            return family.write(batch)

    def _commit(self, batch: Batch) -> None:
        self.sets.settle(batch)
        if batch.is_empty:
            return
        batch.tables += (family.messages.make_table() for family in self._families.values())
        before = self._generation
        self._socket.commit(batch.requests())
        now = self._socket.generation()
        self._generation = now if before is not None and now == before + 1 else None


class NativeTable:
    """What one table of iptables is here: :class:`~calico_k8s.felix.apply.TableWriter`."""

    def __init__(self, nftables: Nftables, family: FamilyTable, *, looks: bool) -> None:
        self._nftables = nftables
        self._family = family
        self._looks = looks
        """Whether it is the one of its family that looks for all."""

    def set_desired(self, table: Table) -> None:
        """What is ours should be exactly this."""
        self._family.set_desired(table)

    def write(self) -> int:
        """Queue, or write, what differs; how many rules and leaves."""
        return self._nftables.write(self._family)

    def settle(self) -> int:
        """Nothing: a transaction is known to have been alone."""
        return 0

    def has_drifted(self) -> bool:
        """Whether something is other than desired, however it came to be."""
        return self._looks and self._nftables.has_drifted(self._family)

    def differences(self) -> Iterable[Difference]:
        """None here: :meth:`Nftables.differences` has those of a whole table."""
        return ()

    def mend_words(self) -> int:
        """Nothing: each look compares what rules do."""
        return 0

    def close(self) -> None:
        """Nothing is held that is not the driver's."""


def clean_nftables() -> tuple[str, ...]:
    """Delete our tables; the families that had one.

    Raises:
        NetlinkError: the kernel refused.
    """
    with closing(NftSocket()) as socket:
        found = [version for version in VERSIONS if has_table(socket, version)]
        tables = {version: TableMessages(version, TABLE) for version in found}
        hooked = [
            tables[version].flush_chain(chain)
            for version in found
            for chain, place in socket.places(version, TABLE).items()
            if place is not None
        ]
        # First no packet comes in: one on its way would find sets empty that its rules still ask.
        socket.commit(hooked)
        socket.commit([tables[version].delete_table() for version in found])
    return tuple(f"IPv{version}" for version in found)


def has_table(socket: NftSocket, version: Version) -> bool:
    """Whether there is a table of ours; a kernel without nftables has none."""
    try:
        return bool(socket.chains(version, TABLE)) or bool(socket.sets(version, TABLE))
    except NetlinkError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
