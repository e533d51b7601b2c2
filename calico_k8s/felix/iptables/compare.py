"""A table of iptables word by word: what was desired against what ``iptables-save`` prints.  Pure.

In: a hashed table and the printed text.  Out: :class:`~calico_k8s.felix.differences.Difference`,
one for each chain of ours that is missing, too much or other than written, and one for each
built-in chain in which our rules do not stand where they should.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from calico_k8s.felix.differences import Difference, chain_difference, compare_rules
from calico_k8s.felix.iptables.hashes import HashedTable, is_bare_jump
from calico_k8s.felix.iptables.plan import HOOKS, own_chain
from calico_k8s.felix.iptables.texts import comment_last, split_comment
from calico_k8s.render.tables import RuleText

_TABLE: Final = re.compile(r"^\*(\S+)$")
_CHAIN: Final = re.compile(r"^:(\S+) ")
_RULE: Final = re.compile(r"^-A (\S+) (.*)$")


class SavedTable(NamedTuple):
    """One table as it was printed: every chain, with its rules in order."""

    name: str
    chains: dict[str, list[str]]


def read_saved(saved: str) -> list[SavedTable]:
    """The tables of what ``iptables-save`` printed."""
    tables: list[SavedTable] = []
    for line in saved.splitlines():
        if found := _TABLE.match(line):
            tables.append(SavedTable(found[1], {}))
        elif found := _CHAIN.match(line):
            tables[-1].chains[found[1]] = []
        elif found := _RULE.match(line):
            tables[-1].chains[found[1]].append(comment_last(found[2]))
    return tables


def table_differences(desired: HashedTable, saved: str, place: str) -> Iterator[Difference]:
    """What of ours is other than desired; ``place`` says which table it is."""
    held: dict[str, list[str]] = {}
    for table in read_saved(saved):
        if table.name == desired.name:
            held = table.chains
    for name, rules in desired.chains.items():
        wanted = [RuleText(rule.text) for rule in rules]
        yield from map(_bare, chain_difference(place, name, wanted, held.get(name)))
    unwanted = set(filter(own_chain, held)).difference(desired.chains)
    for chain in sorted(unwanted):
        yield Difference("chain", place, f"chain {chain} is not wanted", held=tuple(held[chain]))
    for hook in HOOKS:
        first = [rule.text for rule in desired.first.get(hook, ())]
        last = [rule.text for rule in desired.last.get(hook, ())]
        yield from map(_bare, _hook_difference(place, hook, (first, last), held.get(hook, [])))


def is_ours(rule: str) -> bool:
    """Whether a rule in a chain that is not ours is of ours."""
    return is_bare_jump(rule) or bool(split_comment(rule)[1])


def _hook_difference(
    place: str, hook: str, wanted: tuple[list[str], list[str]], held: Sequence[str]
) -> Iterator[Difference]:
    first, last = wanted
    ours = [rule for rule in held if is_ours(rule)]
    missing, extra = compare_rules([*first, *last], ours)
    if missing or extra:
        what = f"chain {hook} has other rules of ours"
        yield Difference("hook", place, what, tuple(missing), tuple(extra))
        return
    if list(held[: len(first)]) != first:
        before = held.index(first[-1]) + 1 - len(first)
        what = f"our rules in chain {hook} are not first: {before} of others stand before them"
        yield Difference("hook", place, what, tuple(first))
    if last and list(held[-len(last) :]) != last:
        after = list(reversed(held)).index(last[0]) + 1 - len(last)
        what = f"our rules in chain {hook} are not last: {after} of others stand after them"
        yield Difference("hook", place, what, tuple(last))


def _bare(difference: Difference) -> Difference:
    """Without the comments that chains are recognised by, unless they are all that differs."""
    wanted, held = (
        tuple(split_comment(rule)[0] for rule in rules)
        for rules in (difference.wanted, difference.held)
    )
    if wanted == held:
        return difference
    return Difference(difference.kind, difference.place, difference.problem, wanted, held)
