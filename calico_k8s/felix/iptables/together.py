"""The tables of iptables-nft of every family, written in one transaction.

In: their drivers, each of which knows what it desires and holds.  Out: one netlink transaction of
all that differs; where it can't be had, each table is written alone, and an error is that table's.

Two transactions would be slower than their sum: with an extension of iptables in it one waits
until the kernel has let go of what the one before took away, some 7 ms.
"""

from collections.abc import Iterable

from calico_k8s.errors import NetlinkError
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.nftdirect import NftWriter, TablePlan


class Together:
    """Drivers of one network namespace.

    Raises:
        KernelError: from :meth:`write`, as from a driver's.
    """

    def __init__(self, drivers: Iterable[TableDriver]) -> None:
        self._drivers = tuple(drivers)
        self._writer: NftWriter | None = None

    def open(self, writer: NftWriter) -> None:
        """Have tables written over netlink from now on."""
        self._writer = writer
        for driver in self._drivers:
            driver.write_by(writer)

    @property
    def is_open(self) -> bool:
        """Whether several tables may be written at once."""
        return self._writer is not None

    def write(self) -> int:
        """Write what differs; the number of lines."""
        written = self._write_at_once()
        return sum(map(self._write_alone, self._drivers)) if written is None else written

    def _write_at_once(self) -> int | None:
        """The number of lines; None where it can't be done so, and nothing was."""
        if self._writer is None or any(driver.is_doubtful for driver in self._drivers):
            return None
        plans = {driver: driver.plan() for driver in self._drivers}
        differing = [
            TablePlan(driver.version, driver.table, plan)
            for driver, plan in plans.items()
            if plan.line_count
        ]
        try:
            if not self._writer.write(differing):
                return None
        except NetlinkError:
            return None  # whose rule was refused is found by writing each alone
        if differing:
            generation = self._writer.socket.generation()
            for driver, plan in plans.items():
                driver.note_transaction(generation, is_written=bool(plan.line_count))
        return sum(each.plan.line_count for each in differing)

    def _write_alone(self, driver: TableDriver) -> int:
        lines = driver.write()
        if lines and driver.stamp is not None:
            for other in self._drivers:
                if other is not driver:
                    other.note_transaction(driver.stamp, is_written=False)
        return lines
