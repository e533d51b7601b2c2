"""From what a table holds to what it should: the text for one ``iptables-restore``.  Pure.

In: a hashed table, and for each chain the hashes the kernel holds in it.  Out: restore lines, or
none.  One restore is one transaction: at no instant is a jump of ours missing that was there
before and is wanted after.

A chain of ours that differs is written whole: its hash, in the last rule, is that of the whole.
In a built-in chain our rules are deleted by their text, never by number: another program may
insert between reading and writing.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, get_args

from calico_k8s.felix.iptables.hashes import FOREIGN, HashedTable, RuleHash
from calico_k8s.render.tables import CHAIN_PREFIX, HookName

Held = Mapping[str, tuple[RuleHash, ...]]
"""Chain by chain what the kernel has: the hashes in our rules, ``FOREIGN`` for rules without one.

Chains of ours, and the built-in chains that exist.
"""

HOOKS: Final[tuple[HookName, ...]] = get_args(HookName)


class Plan(NamedTuple):
    """What to write; empty lines mean nothing differs."""

    lines: tuple[str, ...]
    """Of one table, without its header and ``COMMIT``."""
    deletes: tuple[str, ...]
    """The ``-X`` lines: they fail where another program's rule jumps to the chain."""

    @property
    def line_count(self) -> int:
        """How much there is to write; 0: nothing differs."""
        return len(self.lines) + len(self.deletes)

    def restore_text(self, table: str, *, with_deletes: bool = True) -> str:
        """The input of ``iptables-restore``."""
        deletes = self.deletes if with_deletes else ()
        return "\n".join((f"*{table}", *self.lines, *deletes, "COMMIT", ""))


def make_plan(
    desired: HashedTable,
    held: Held,
    strays: Mapping[RuleHash, str],
    kept_chains: Collection[str] = frozenset(),
) -> Plan:
    """What brings ``held`` to ``desired``.

    ``strays`` has the text of each of our rules that may have to leave a built-in chain.
    ``kept_chains`` are chains of ours that cannot be deleted for now: they are emptied instead.

    Raises:
        KeyError: the text of a rule that must leave is missing from ``strays``.
    """
    declared: list[str] = []
    appended: list[str] = []
    for name, rules in desired.chains.items():
        old = held.get(name)
        new = tuple(rule.hash for rule in rules)
        if old == new:
            continue
        if old != ():
            declared.append(f":{name} - [0:0]")
        appended += [f"-A {name} {rule.text}" for rule in rules]
    unwanted = [
        name for name in held if name.startswith(CHAIN_PREFIX) and name not in desired.chains
    ]
    emptied = [name for name in unwanted if name not in kept_chains or held[name]]
    declared += [f":{name} - [0:0]" for name in emptied]
    hook_lines = [line for hook in HOOKS for line in _hook_lines(hook, desired, held, strays)]
    return Plan(
        lines=(*declared, *appended, *hook_lines),
        deletes=tuple(f"-X {name}" for name in unwanted if name not in kept_chains),
    )


def _hook_lines(
    hook: HookName, desired: HashedTable, held: Held, strays: Mapping[RuleHash, str]
) -> list[str]:
    """The edits of one built-in chain: ours first and last, others' rules as they are."""
    first = desired.first.get(hook, ())
    last = desired.last.get(hook, ())
    old = held.get(hook, ())
    first_hashes = tuple(rule.hash for rule in first)
    last_hashes = tuple(rule.hash for rule in last)
    keeps_first = old[: len(first)] == first_hashes
    rest = old[len(first) :] if keeps_first else old
    keeps_last = len(rest) >= len(last) and rest[len(rest) - len(last) :] == last_hashes
    rest = rest[: len(rest) - len(last)] if keeps_last else rest
    leaving = [rule for rule in rest if rule != FOREIGN]
    if not leaving and keeps_first and keeps_last:
        return []
    kept = (first_hashes if keeps_first else ()) + (last_hashes if keeps_last else ())
    if set(leaving) & set(kept):
        # A copy of ours further down: a delete by text would take the one in place.
        leaving += kept
        keeps_first = keeps_last = False
    lines = [f"-D {hook} {strays[rule]}" for rule in leaving]
    if not keeps_first:
        lines += [f"-I {hook} {place} {rule.text}" for place, rule in enumerate(first, 1)]
    if not keeps_last:
        lines += [f"-A {hook} {rule.text}" for rule in last]
    return lines


def expected_after(desired: HashedTable, held: Held, kept_chains: Collection[str]) -> Held:
    """What a table that held ``held`` holds once the plan for it is done."""
    expected: dict[str, tuple[RuleHash, ...]] = dict.fromkeys(kept_chains, ())
    for name, rules in desired.chains.items():
        expected[name] = tuple(rule.hash for rule in rules)
    for hook in HOOKS:
        first = tuple(rule.hash for rule in desired.first.get(hook, ()))
        last = tuple(rule.hash for rule in desired.last.get(hook, ()))
        others = tuple(rule for rule in held.get(hook, ()) if rule == FOREIGN)
        if hook in held or first or last:
            expected[hook] = first + others + last
    return expected


def own_chain(name: str) -> bool:
    """Whether a chain is ours by its name."""
    return name.startswith(CHAIN_PREFIX)


def hook_texts(table: HashedTable) -> dict[RuleHash, str]:
    """The texts of the rules a table puts into built-in chains: what ``strays`` needs of them."""
    both = (*table.first.values(), *table.last.values())
    return {rule.hash: rule.text for rules in both for rule in rules}
