"""Names with their addresses, each for as long as it was said to last.  Pure: time is an argument.

In: answers, and the domains that are asked.  Out: the names whose addresses are others now.  Times
are seconds since the epoch, since a name is kept over a restart and a reboot.

An address lasts for its TTL and a margin from when it was last said.  Then, or where a name has too
many, it lapses: no new flow is opened to it, and one that is open goes on.  Names are bounded for
each domain, so that a flood of names under one wildcard costs no other domain its own.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from calico_k8s.felix.names.message import Found
from calico_k8s.model.addresses import Address
from calico_k8s.model.domains import DomainIndex, DomainName, DomainPattern

ADDRESSES_MAX: Final = 100
"""Of a name, and so many more that have lapsed.  Source: NPEP-133."""
NAMES_MAX: Final = 1000
"""Of a domain."""
LASTS_MIN_S: Final = 2.0
"""Whatever its TTL: who has asked needs a moment to connect."""


class NameRecord(msgspec.Struct, array_like=True):
    """One name: when each of its addresses lapses, and those that have, the longest ago first."""

    name: DomainName
    until_s: dict[Address, float] = {}
    lapsed: list[Address] = []

    @property
    def last_s(self) -> float:
        """When the last of its addresses lapses; long ago if all have."""
        return max(self.until_s.values(), default=0.0)


class NameBook:
    """What is known of the names that the asked domains mean."""

    def __init__(self, extra_ttl_s: float = 0.0) -> None:
        self.extra_ttl_s = extra_ttl_s
        self._index = DomainIndex()
        self._records: dict[DomainName, NameRecord] = {}
        self._recent: dict[DomainPattern, dict[DomainName, None]] = {}
        """Of each domain its names, the one last learnt of last."""

    @property
    def records(self) -> Mapping[DomainName, NameRecord]:
        """Every name; a live view."""
        return self._records

    @property
    def address_count(self) -> int:
        """How many addresses there are that have not lapsed, each name's."""
        return sum(len(record.until_s) for record in self._records.values())

    def ask(self, patterns: Iterable[DomainPattern]) -> set[DomainName]:
        """Exactly these domains are asked from now on; the names that are forgotten."""
        self._index = DomainIndex(patterns)
        records, self._records, self._recent = self._records, {}, {}
        for record in records.values():
            if self._means(record.name):
                self._put(record)
        return records.keys() - self._records.keys()

    def restore(self, records: Iterable[NameRecord], now_s: float) -> set[DomainName]:
        """Take what was known before, asked or not; the names that are there now."""
        for record in records:
            self._put(record)
        self.expire(now_s)
        return set(self._records)

    def learn(self, found: Iterable[Found], now_s: float) -> set[DomainName]:
        """Take an answer; the names that have, or had, other addresses before."""
        changed: set[DomainName] = set()
        for name, address, ttl_s in found:
            if not self._means(name):
                continue
            record = self._records.get(name) or NameRecord(name, {}, [])
            changed |= self._put(record)
            until_s = now_s + max(ttl_s + self.extra_ttl_s, LASTS_MIN_S)
            if address not in record.until_s:
                changed.add(name)
                if address in record.lapsed:
                    record.lapsed.remove(address)
            record.until_s[address] = max(until_s, record.until_s.get(address, 0.0))
            if len(record.until_s) > ADDRESSES_MAX:
                others = (other for other in record.until_s if other != address)
                _lapse(record, min(others, key=record.until_s.__getitem__))
        return changed

    def expire(self, now_s: float) -> set[DomainName]:
        """Have lapse what lasted until now; the names that have other addresses since."""
        changed: set[DomainName] = set()
        for record in self._records.values():
            for address in [a for a, until_s in record.until_s.items() if until_s <= now_s]:
                _lapse(record, address)
                changed.add(record.name)
        return changed

    def _means(self, name: DomainName) -> bool:
        return any(True for _ in self._index.meaning(name))

    def _put(self, record: NameRecord) -> set[DomainName]:
        """Add a name, or say that it was learnt of again; those that were pushed out for it."""
        pushed_out: set[DomainName] = set()
        self._records[record.name] = record
        for pattern in self._index.meaning(record.name):
            recent = self._recent.setdefault(pattern, {})
            recent.pop(record.name, None)
            recent[record.name] = None
            if len(recent) > NAMES_MAX:
                pushed_out.add(next(iter(recent)))
        for name in pushed_out:
            del self._records[name]
            for pattern in self._index.meaning(name):
                self._recent[pattern].pop(name, None)
        return pushed_out


def _lapse(record: NameRecord, address: Address) -> None:
    del record.until_s[address]
    record.lapsed.append(address)
    del record.lapsed[:-ADDRESSES_MAX]
