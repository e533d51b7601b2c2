"""Nets of which none lies within another, kept for a set that is asked for any.  Pure.

In: nets that come and go.  Out: which intervals the kernel's set gains and loses for it.  Two nets
are apart or one holds the other, so those within another add nothing, and are only remembered.
Where all have one length, as a set of pods does, a change costs O(1).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from calico_k8s.model.addresses import ADDRESS_BITS, Version


class Bounds(NamedTuple):
    """A net by its first address and its length in bits."""

    first: int
    length: int


class Edits(NamedTuple):
    """What a change does to the kernel's set: first the deletes."""

    deletes: tuple[Bounds, ...] = ()
    adds: tuple[Bounds, ...] = ()


class DisjointNets:
    """The nets asked for, and of these the outermost."""

    def __init__(self, version: Version) -> None:
        self._bits = ADDRESS_BITS[version]
        self._asked: set[Bounds] = set()
        self._lengths: Counter[int] = Counter()

    def __iter__(self) -> Iterator[Bounds]:
        """The nets asked for."""
        return iter(self._asked)

    def __contains__(self, net: object) -> bool:
        """Whether the net was asked for."""
        return net in self._asked

    def add(self, net: Bounds) -> Edits:
        """The net is asked for."""
        if net in self._asked:
            return Edits()
        inner = () if self._is_within_another(net) else self._outermost_within(net)
        self._asked.add(net)
        self._lengths[net.length] += 1
        return Edits() if self._is_within_another(net) else Edits(inner, (net,))

    def remove(self, net: Bounds) -> Edits:
        """The net is asked for no more."""
        if net not in self._asked:
            return Edits()
        self._asked.remove(net)
        self._lengths[net.length] -= 1
        if not self._lengths[net.length]:
            del self._lengths[net.length]
        if self._is_within_another(net):
            return Edits()
        return Edits((net,), self._outermost_within(net))

    def replace_held(self, held: Iterable[Bounds]) -> None:
        """The kernel's set was read back: what it has, and what lies within that, is asked for."""
        before = self._asked
        self._asked = set(held)
        self._lengths = Counter(net.length for net in self._asked)
        kept = [net for net in before if self._is_within_another(net)]
        self._asked.update(kept)
        self._lengths = Counter(net.length for net in self._asked)

    def _is_within_another(self, net: Bounds) -> bool:
        return any(
            Bounds(net.first >> (shift := self._bits - length) << shift, length) in self._asked
            for length in self._lengths
            if length < net.length
        )

    def _outermost_within(self, net: Bounds) -> tuple[Bounds, ...]:
        if not any(length > net.length for length in self._lengths):
            return ()
        shift = self._bits - net.length
        inner = (
            each
            for each in self._asked
            if each.length > net.length and each.first >> shift == net.first >> shift
        )
        return tuple(sorted(each for each in inner if not self._lies_between(each, net)))

    def _lies_between(self, inner: Bounds, outer: Bounds) -> bool:
        """Whether a third net that was asked for holds the inner one, within the outer."""
        return any(
            Bounds(inner.first >> (shift := self._bits - length) << shift, length) in self._asked
            for length in self._lengths
            if outer.length < length < inner.length
        )
