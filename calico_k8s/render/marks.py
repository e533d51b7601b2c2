"""Which bits of a mark mean what, and which number a policy group has.

In: the mask of bits that are ours, groups that come and go, the time.  Out: a layout, numbers,
marks.  A number is spread over the bits of the *field*, lowest first, so that the mask may have
gaps for other programs' bits::

    mask    1111 1111 0000 0000 0001 1111 0111 1111
    cut                                           x   only of the connection mark
    field   xxxx xxxx           x xxxx   xxx xxx.     only of the packet mark

The cut bit is never set in a packet mark: a program that saves whole packet marks to connections
(``CONNMARK --save-mark``) can undo a cut, but never make one.
"""

import heapq
from collections import deque
from collections.abc import Collection, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import Final

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.render.tables import ChainName

REUSE_AFTER_S: Final = 10.0
"""A packet can wait that long between being marked and being judged: a number that meant one
group does not mean another sooner."""


class Number(IntEnum):
    """Numbers that are no group's."""

    NONE = 0
    """No known endpoint."""
    ACCEPTED = 1
    """Let through without a group, or judged already."""
    HELD = 2
    """An endpoint between two groups: no chain has this number, so new flows are denied."""
    ALLOW_ALL = 3
    """Every group that allows everything in both families: one rule, no chain."""


FIRST_GROUP: Final = Number.ALLOW_ALL + 1


@lru_cache(maxsize=4096)
def _spread(number: int, field: int) -> int:
    """A number in the bits of a field, lowest first: asked for each endpoint, of few groups."""
    mark = 0
    while number and field:
        lowest = field & -field
        if number & 1:
            mark |= lowest
        field ^= lowest
        number >>= 1
    return mark


class MarkLayout(msgspec.Struct, frozen=True):
    """The two uses of a mask."""

    cut: int
    """The bit of the connection mark that ends a flow."""
    field: int
    """The bits of the packet mark that hold a number."""

    @property
    def numbers(self) -> int:
        """How many numbers the field holds, those of :class:`Number` included."""
        return 1 << self.field.bit_count()

    def mark(self, number: int) -> int:
        """The number, spread over the field."""
        return _spread(number, self.field)

    def number(self, mark: int) -> int:
        """The inverse of :meth:`mark`; other bits are ignored."""
        number, place, field = 0, 0, self.field
        while field:
            lowest = field & -field
            if mark & lowest:
                number |= 1 << place
            field ^= lowest
            place += 1
        return number


def mark_layout(mask: int) -> MarkLayout:
    """The lowest bit cuts, the others are the field."""
    cut = mask & -mask
    return MarkLayout(cut=cut, field=mask ^ cut)


class NumberAllocator:
    """The numbers of one direction's groups: a group keeps its number while it lives.

    Numbers are given lowest first, so the tree stays low.  ``recovered`` is what the kernel's
    tree says (:func:`.dispatch.parse_leaf`): a restarted agent goes on with it.
    """

    def __init__(self, layout: MarkLayout, recovered: Mapping[ChainName, int] = {}) -> None:
        self._end = layout.numbers
        self._numbers = {
            chain: number
            for chain, number in recovered.items()
            if FIRST_GROUP <= number < self._end
        }
        used = set(self._numbers.values())
        self._next = max(used, default=FIRST_GROUP - 1) + 1
        self._free = [number for number in range(FIRST_GROUP, self._next) if number not in used]
        self._resting: deque[tuple[float, int]] = deque()

    def assign(self, chain: ChainName, now_s: float) -> int:
        """The number of the group whose first chain this is; the same until it is released.

        Raises:
            InputError: the mask has no room for so many groups.
        """
        if chain in self._numbers:
            return self._numbers[chain]
        while self._resting and self._resting[0][0] + REUSE_AFTER_S <= now_s:
            heapq.heappush(self._free, self._resting.popleft()[1])
        if self._free:
            number = heapq.heappop(self._free)
        elif self._next < self._end:
            number = self._next
            self._next += 1
        else:
            raise InputError(
                f"the mark mask holds {self._end - FIRST_GROUP} policy groups of one direction, and"
                " one more is needed: give mark-mask more bits"
            )
        self._numbers[chain] = number
        return number

    def release(self, chain: ChainName, now_s: float) -> None:
        """The group is gone from the kernel; its number rests before it is given again."""
        number = self._numbers.pop(chain, None)
        if number is not None:
            self._resting.append((now_s, number))

    def release_others(self, chains: Collection[ChainName], now_s: float) -> None:
        """Release what is not among these: what was recovered and turned out to be gone."""
        for chain in sorted(self._numbers.keys() - set(chains)):
            self.release(chain, now_s)
