"""The mark trees: from the number in a packet's mark to the chain of its group.

In: each group's number and first chain.  Out: chains.  A node looks at two bits of the number,
so a packet passes at most some four rules on each level, and a level serves four times as many
groups: measured no slower than two or eight ways, and no set is asked again.  A leaf looks at the
whole field, and what no leaf takes is dropped: a number without a group never passes.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from calico_k8s.model.resources import Direction
from calico_k8s.render import text
from calico_k8s.render.marks import MarkLayout, Number
from calico_k8s.render.names import ROOTS, tree_chain
from calico_k8s.render.tables import ChainName, RuleText
from calico_k8s.render.text import DROP, RETURN

DIGIT_BITS = 2
_DIGIT = (1 << DIGIT_BITS) - 1

_LEAF = re.compile(r"-m mark --mark (0x[0-9a-f]+)/(0x[0-9a-f]+) .*?-[gj] (cali-\S+)")

Chains = dict[ChainName, tuple[RuleText, ...]]


class Leaf(NamedTuple):
    """What a tree says of one group."""

    number: int
    chain: ChainName


class MarkRule(NamedTuple):
    """A rule that goes to a chain where some bits of the mark have a value."""

    mark: int
    mask: int
    chain: ChainName


def render_tree(
    direction: Direction,
    leaves: Mapping[ChainName, int],
    layout: MarkLayout,
    *,
    is_flat: bool = False,
) -> Chains:
    """The chains of one direction's tree, its root among them.  Cost: some 3 us a group.

    A flat tree has every leaf in its root: for who looks a leaf up, and does not try one after
    the other.
    """
    by_number = {number: chain for chain, number in leaves.items()}
    tree = _Tree(direction, by_number, layout)
    if is_flat:
        rules = [tree.leaf(number) for number in sorted(by_number)]
    else:
        level = tree_height(by_number)
        rules = tree.children(sorted(by_number), level) if by_number else []
    allowed = text.rule(text.mark_is(layout.mark(Number.ALLOW_ALL), layout.field), RETURN)
    return {ROOTS[direction]: (allowed, *rules, text.rule(DROP))} | tree.chains


def parse_leaf(rule: str, layout: MarkLayout) -> Leaf | None:
    """The leaf that a programmed rule is; None for every other rule.

    A restarted agent reads the tree back to go on with the numbers that the kernel has.
    """
    found = split_leaf(rule)
    if found is None or found.mask != layout.field:
        return None
    number = layout.number(found.mark)
    return Leaf(number, found.chain) if number > Number.ALLOW_ALL else None


def split_leaf(rule: str) -> MarkRule | None:
    """What a rule of a tree says, of whatever layout; None for every other rule."""
    found = _LEAF.search(rule)
    if found is None:
        return None
    return MarkRule(int(found[1], 16), int(found[2], 16), ChainName(found[3]))


def tree_height(numbers: Iterable[int]) -> int:
    """The level of the root: how many digits stand below its own."""
    return max(0, (max(numbers, default=0).bit_length() - 1) // DIGIT_BITS)


def leaf_depth(number: int, numbers: Collection[int]) -> int:
    """How many chains stand between the root of a tree of these numbers and one's leaf."""
    shifts = (level * DIGIT_BITS for level in range(tree_height(numbers), 0, -1))
    return sum(
        any(other != number and other >> shift == number >> shift for other in numbers)
        for shift in shifts
    )


class _Tree:
    """Inner nodes, made from the root down; a branch with one leaf is that leaf."""

    def __init__(
        self, direction: Direction, by_number: Mapping[int, ChainName], layout: MarkLayout
    ) -> None:
        self._direction = direction
        self._by_number = by_number
        self._layout = layout
        self.chains: Chains = {}

    def children(self, numbers: list[int], level: int) -> list[RuleText]:
        """The rules that part sorted numbers by their digit on this level."""
        branches: dict[int, list[int]] = {}
        for number in numbers:
            branches.setdefault(number >> level * DIGIT_BITS & _DIGIT, []).append(number)
        return [self._branch(digit, branches[digit], level) for digit in sorted(branches)]

    def leaf(self, number: int) -> RuleText:
        """The rule for one group."""
        match = text.mark_is(self._layout.mark(number), self._layout.field)
        return text.rule(match, text.goto(self._by_number[number]))

    def _branch(self, digit: int, numbers: list[int], level: int) -> RuleText:
        layout = self._layout
        if len(numbers) == 1:
            return self.leaf(numbers[0])
        shift = level * DIGIT_BITS
        name = tree_chain(self._direction, level, numbers[0] >> shift)
        self.chains[name] = (*self.children(numbers, level - 1), text.rule(DROP))
        match = text.mark_is(layout.mark(digit << shift), layout.mark(_DIGIT << shift))
        return text.rule(match, text.goto(name))
