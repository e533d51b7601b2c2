"""What our chains and rules are recognised by: a hash of their texts in a comment.  Pure.

In: a table as the renderer made it.  Out: the same with hashes and the lines that write them.
The kernel is not asked to give a text back: equal hashes in equal places are equal rules, whatever
the two iptables backends make of spelling and order.

A comment is a match that the kernel runs, and costs a packet more than most rules do (34 ns
legacy, 44 ns nft).  So a chain of ours has one, in its last rule, with the hash of the whole
chain: the renderer's chains end where few packets come.  In a built-in chain a bare jump to a
chain of ours is known by that chain's name, and any other rule of ours has a hash of its own.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NewType

import msgspec

from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import ChainName, HookName, RuleText, Table, TableName

RuleHash = NewType("RuleHash", str)

COMMENT_PREFIX: Final = "cali:"
HASH_LENGTH: Final = 8
"""Characters of URL-safe base64: 48 bits, compared only with what stands in the same place."""
FOREIGN: Final = RuleHash("")
"""Stands for a rule without a hash: not ours, or in a chain of ours and not the last."""


_BARE_JUMP = re.compile(r"-j cali-\S+")


class HashedRule(NamedTuple):
    """A rule as it is written: its text with the comment, if it has one, and the hash in it."""

    hash: RuleHash
    text: str


HashedRules = tuple[HashedRule, ...]


class HashedTable(msgspec.Struct, frozen=True):
    """A :class:`~calico_k8s.render.tables.Table` whose rules carry their hashes."""

    name: TableName
    version: Version
    chains: Mapping[ChainName, HashedRules]
    first: Mapping[HookName, HashedRules]
    last: Mapping[HookName, HashedRules]


class Hasher:
    """Hashes tables, keeping what it hashed last: chains that did not change cost nothing again."""

    def __init__(self) -> None:
        self._done: dict[str, tuple[tuple[RuleText, ...], HashedRules]] = {}

    def hash_table(self, table: Table) -> HashedTable:
        """The table with hashes.  Cost: 2 us for each rule of a changed chain."""
        before, self._done = self._done, {}

        def hashed(
            place: str,
            rules: tuple[RuleText, ...],
            make: Callable[[str, tuple[RuleText, ...]], HashedRules],
        ) -> HashedRules:
            known = before.get(place)
            self._done[place] = (
                known if known and known[0] == rules else (rules, make(place, rules))
            )
            return self._done[place][1]

        def in_hooks(
            hooks: Mapping[HookName, tuple[RuleText, ...]], end: str
        ) -> Mapping[HookName, HashedRules]:
            return {
                hook: hashed(f"{hook} {end}", rules, hash_rules) for hook, rules in hooks.items()
            }

        return HashedTable(
            table.name,
            table.version,
            chains={name: hashed(name, rules, hash_chain) for name, rules in table.chains.items()},
            first=in_hooks(table.first, "first"),
            last=in_hooks(table.last, "last"),
        )


def hash_chain(name: str, rules: tuple[RuleText, ...]) -> HashedRules:
    """The rules of a chain of ours; the last has the hash of them all."""
    if not rules:
        return ()
    others = tuple(HashedRule(FOREIGN, text) for text in rules[:-1])
    return (*others, _commented(name, rules)[-1])


def hash_rules(place: str, rules: tuple[RuleText, ...]) -> HashedRules:
    """The rules of one place in a built-in chain."""
    return tuple(
        HashedRule(jump_hash(text), text) if is_bare_jump(text) else hashed
        for text, hashed in zip(rules, _commented(place, rules), strict=True)
    )


def is_bare_jump(text: str) -> bool:
    """Whether a rule is nothing but a jump to a chain of ours."""
    return _BARE_JUMP.fullmatch(text) is not None


def jump_hash(text: str) -> RuleHash:
    """What stands for the hash of a bare jump: its text, which names the chain."""
    return RuleHash(text)


def _commented(place: str, rules: tuple[RuleText, ...]) -> HashedRules:
    """Each rule with the hash of all up to and with it.

    The comment stands last among the matches: a packet that the others turn away never pays
    for it.
    """
    state = hashlib.sha256(place.encode())
    hashed: list[HashedRule] = []
    for text in rules:
        state.update(b"\n" + text.encode())
        digest = base64.urlsafe_b64encode(state.digest()[:6]).decode()
        hashed.append(
            HashedRule(RuleHash(digest), f'{text} -m comment --comment "{COMMENT_PREFIX}{digest}"')
        )
    return tuple(hashed)
