"""How many packets each cause denied, where the kernel told only some of them.

In: what was told, and now and then the packets that the chain of each cause has dropped.  Out: how
many more there were of what was told, so that each packet is counted once.  Pure.

Below the rates of :mod:`calico_k8s.render.notes` every packet is told and nothing is read.  A cause
that comes near them is *suspected*: its chain's counter is read, and what was not told is shared out
by how often each flow was told since the reading before: among those that came near their own rate,
or, where none did, among all.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from calico_k8s.netlink.nflog import Sighting
from calico_k8s.render.text import FLOW_BURST, RULE_BURST

WINDOW_S: Final = 2.0
"""In so long a bucket is full again: whoever empties it meets half its burst in one such window."""


class DenialCounts:
    """The counts of one node, by chain: a chain has the name that is its prefix.

    ``counters`` are the kernel's when it is begun to listen: what was dropped before is nobody's.
    """

    def __init__(self, counters: Mapping[str, int] = {}) -> None:
        self._counted = Counter[str]()
        """Packets that were told or shared out, since the first reading."""
        self._before = dict(counters)
        """What the kernel's counters said last, and ..."""
        self._dropped = Counter[str]()
        """... how much that was in all, since the first reading."""
        self._recent: dict[str, Counter[Sighting]] = {}
        """What each chain told since the last reading; older than a window only where suspected."""
        self._earlier: dict[str, Counter[Sighting]] = {}
        """What was shared out among last, while the chain is suspected."""
        self._suspected: dict[str, float] = {}
        """When each chain last came near its rates."""
        self._eager: set[Sighting] = set()
        """Flows that came near their own rate since the last reading."""
        self._window: Counter[Sighting | str] = Counter()
        self._window_from_s = 0.0

    @property
    def needs_reading(self) -> bool:
        """Whether more may have been denied than was told."""
        return bool(self._suspected)

    def note(self, sighting: Sighting, count: int, now_s: float) -> None:
        """So many packets were told."""
        prefix = sighting.prefix
        self._counted[prefix] += count
        if now_s >= self._window_from_s + WINDOW_S:
            self._window.clear()
            self._window_from_s = now_s
            if not self._suspected:
                self._recent.clear()
        self._recent.setdefault(prefix, Counter())[sighting] += count
        self._window[sighting] += count
        self._window[prefix] += count
        if self._window[sighting] >= FLOW_BURST // 2:
            self._eager.add(sighting)
            self._suspected[prefix] = now_s
        elif self._window[prefix] >= RULE_BURST // 2:
            self._suspected[prefix] = now_s

    def settle(self, counters: Mapping[str, int], now_s: float) -> Counter[Sighting]:
        """What there was more of than was told, by the chains' counters.

        A cause stays suspected until its buckets are full again and a reading finds no more.
        """
        shares = Counter[Sighting]()
        for prefix, packets in counters.items():
            before = self._before.get(prefix, 0)
            # A chain that was made anew counts from nothing.
            self._dropped[prefix] += packets - before if packets >= before else packets
        self._before = dict(counters)
        for prefix, near_s in list(self._suspected.items()):
            told = self._recent.get(prefix, Counter())
            eager = Counter({each: n for each, n in told.items() if each in self._eager})
            among = eager or told or self._earlier.get(prefix, Counter())
            more = self._dropped[prefix] - self._counted[prefix] if among else 0
            if more > 0:
                self._counted[prefix] += more
                shares += share_out(more, among)
            self._earlier[prefix] = among
            if more <= 0 and now_s >= near_s + WINDOW_S:
                del self._suspected[prefix], self._earlier[prefix]
        self._recent, self._eager = {}, set()
        return shares


def share_out(packets: int, told: Counter[Sighting]) -> Counter[Sighting]:
    """So many packets among what was told, by how often each was; the most frequent has the rest."""
    whole = told.total()
    if not whole:
        return Counter()
    shares = Counter({each: packets * times // whole for each, times in told.items()})
    shares[told.most_common(1)[0][0]] += packets - shares.total()
    return shares
