"""What one transaction changes, in the order in which the kernel takes it.  Pure.

In: requests, each where it belongs.  Out: all of them: what is referred to comes before what
refers to it, and goes after.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from calico_k8s.netlink.wire import Request


@dataclass
class Batch:
    """Requests by what they are about; in each list in the order in which they came."""

    tables: list[Request] = field(default_factory=list)
    chains: list[Request] = field(default_factory=list)
    """New chains, empty."""
    sets: list[Request] = field(default_factory=list)
    """New sets, empty."""
    elements: list[Request] = field(default_factory=list)
    rules: list[Request] = field(default_factory=list)
    dropped_sets: list[Request] = field(default_factory=list)
    dropped_chains: list[Request] = field(default_factory=list)
    _last_id: int = 0

    def next_id(self) -> int:
        """A number for a set that is made here."""
        self._last_id += 1
        return self._last_id

    def requests(self) -> list[Request]:
        """The whole transaction."""
        return [*self.tables, *self._changes()]

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes; that the table is there is not counted."""
        return not any(True for _ in self._changes())

    def _changes(self) -> Iterable[Request]:
        # The rules' maps refer to chains, so their elements go before those do; sets go when no
        # rule asks them.
        yield from self.chains
        yield from self.sets
        yield from self.elements
        yield from self.rules
        yield from self.dropped_sets
        yield from self.dropped_chains
