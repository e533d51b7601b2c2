"""What is other than it should be in a node's kernel, as values that print.  Pure.

In: nothing.  Out: :class:`Difference`, which the drivers make when they compare without writing,
and which ``felix drift`` and ``felix clean --verify`` print.
"""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Literal

import msgspec

from calico_k8s.render.tables import RuleText

DifferenceKind = Literal[
    "chain", "hook", "ipset", "member", "bridge", "interface", "flow", "leftover", "unread"
]
"""``hook``: our rules in a built-in chain; ``leftover``: ours where nothing should be; ``unread``:
a place that could not be looked at, which proves nothing."""


class Difference(msgspec.Struct, frozen=True, order=True):
    """One thing that is other than it should be."""

    kind: DifferenceKind
    place: str
    """Where, as people name it: ``IPv4 nft mangle``, ``ipset cali4-src``."""
    problem: str
    """What is wrong there, half a sentence."""
    wanted: tuple[str, ...] = ()
    """What should be there and is not: rules, members."""
    held: tuple[str, ...] = ()
    """What is there and should not be."""


def compare_rules(wanted: Sequence[str], held: Sequence[str]) -> tuple[list[str], list[str]]:
    """The rules that are missing from ``held``, and those that stand in it too much, in order."""
    missing: list[str] = []
    extra: list[str] = []
    matcher = SequenceMatcher(None, wanted, held, autojunk=False)
    for tag, first, last, held_first, held_last in matcher.get_opcodes():
        if tag != "equal":
            missing += wanted[first:last]
            extra += held[held_first:held_last]
    return missing, extra


def chain_difference(
    place: str, name: str, wanted: Sequence[RuleText], held: Sequence[str] | None
) -> Iterable[Difference]:
    """How a chain of ours differs; ``held`` None: it is not there."""
    if held is None:
        yield Difference("chain", place, f"chain {name} is missing", wanted=tuple(wanted))
        return
    missing, extra = compare_rules(wanted, held)
    if missing or extra:
        is_order = sorted(missing) == sorted(extra)
        what = "has its rules in another order" if is_order else "has other rules"
        yield Difference("chain", place, f"chain {name} {what}", tuple(missing), tuple(extra))
