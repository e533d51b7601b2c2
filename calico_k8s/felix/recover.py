"""What an earlier run of the agent left in the mangle table: its groups' numbers and chains.

In: the text of ``iptables-save``.  Out: which number each group's first chain has, and every
group's chains as they stand.  A restarted agent goes on with the numbers, so that nothing differs
that need not, and keeps the chains of groups it no longer wants until their endpoints have left.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from calico_k8s.model.resources import Direction
from calico_k8s.render.dispatch import parse_leaf
from calico_k8s.render.groups import RenderedGroup
from calico_k8s.render.marks import MarkLayout
from calico_k8s.render.names import is_telling
from calico_k8s.render.tables import ChainName, RuleText

_RULE = re.compile(r"^-A (cali-\S+) (.*)$", re.MULTILINE)
_HASH = re.compile(r' ?-m comment --comment "?cali:[\w-]+"?')
_STAGE = re.compile(r"^cali-([eiEI])\d+-(.+)$")
"""A stage, or one of the group's rehearsal."""
_ROOT = re.compile(
    r"^-A cali-(?:egress|ingress) -m mark --mark 0x\w+/0x(\w+) .*-j RETURN$", re.MULTILINE
)
"""The first rule of either tree's root, the only one there with the whole field and a RETURN."""
_DIRECTIONS = {"e": Direction.EGRESS, "i": Direction.INGRESS}


class Recovered(NamedTuple):
    """What was found; empty on a node without chains of ours."""

    numbers: Mapping[Direction, Mapping[ChainName, int]]
    groups: Mapping[ChainName, RenderedGroup]
    """By first chain, without the sets of nets that they ask: those are found by name."""
    has_chains: bool = False
    """Whether there is any chain of ours, so that packets may ask the sets."""
    has_other_marks: bool = False
    """The trees read marks of another mask: no number means the same as now."""


NOTHING = Recovered({direction: {} for direction in Direction}, {})


def recover(saved: str, layout: MarkLayout) -> Recovered:
    """What one family's saved table tells."""
    numbers: dict[Direction, dict[ChainName, int]] = {direction: {} for direction in Direction}
    stages: dict[tuple[str, str], dict[ChainName, list[RuleText]]] = {}
    telling: dict[ChainName, list[RuleText]] = {}
    for chain, written in _RULE.findall(saved):
        text = RuleText(_HASH.sub("", written).strip())
        if not text:
            continue
        stage = _STAGE.match(chain)
        if stage is not None:
            chains = stages.setdefault((stage[1].lower(), stage[2]), {})
            chains.setdefault(ChainName(chain), []).append(text)
            continue
        if is_telling(chain):
            telling.setdefault(ChainName(chain), []).append(text)
            continue
        leaf = parse_leaf(text, layout)
        if leaf is not None and (named := _STAGE.match(leaf.chain)) is not None:
            numbers[_DIRECTIONS[named[1]]][leaf.chain] = leaf.number
    groups = (RenderedGroup(_whole(chains, telling)) for chains in stages.values())
    return Recovered(
        numbers,
        {group.entry: group for group in groups},
        _RULE.search(saved) is not None,
        any(int(field, 16) != layout.field for field in _ROOT.findall(saved)),
    )


def _whole(
    stages: Mapping[ChainName, list[RuleText]], telling: Mapping[ChainName, list[RuleText]]
) -> dict[ChainName, tuple[RuleText, ...]]:
    """A group's stages in order, its rehearsal's after them, and the chains that tell of either."""
    gone_to = {rule.rpartition(" ")[2] for rules in stages.values() for rule in rules}
    chains = {chain: stages[chain] for chain in sorted(stages, key=str.swapcase)}
    chains |= {chain: rules for chain, rules in telling.items() if chain in gone_to}
    return {chain: tuple(rules) for chain, rules in chains.items()}


def merge_numbers(
    recovered: Iterable[Recovered],
) -> Mapping[Direction, Mapping[ChainName, int]]:
    """One number for each group, from all families: the first that says one.

    They agree unless a run ended between the writes of two families, or another program emptied
    one of them.
    """
    merged: dict[Direction, dict[ChainName, int]] = {direction: {} for direction in Direction}
    for family in recovered:
        for direction, numbers in family.numbers.items():
            taken = merged[direction]
            for chain, number in numbers.items():
                if number not in taken.values():
                    taken.setdefault(chain, number)
    return merged
