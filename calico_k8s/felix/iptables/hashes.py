"""A rule's identity: a hash of its chain, the rules before it and its own text.  Pure.

In: a table as the renderer made it.  Out: the same with each rule's hash and the line that
writes it.  The kernel is not asked to give a text back: equal hashes in equal places are equal
rules, whatever the two iptables backends make of spelling and order.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple, NewType

import msgspec

from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import ChainName, HookName, RuleText, Table, TableName

RuleHash = NewType("RuleHash", str)

COMMENT_PREFIX: Final = "cali:"
HASH_LENGTH: Final = 8
"""Characters of URL-safe base64: 48 bits, compared only with what stands in the same place."""
FOREIGN: Final = RuleHash("")
"""Stands for a rule that is not ours."""


class HashedRule(NamedTuple):
    """A rule as it is written: its text with the comment, and the hash in it."""

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

        def hashed(place: str, rules: tuple[RuleText, ...]) -> HashedRules:
            known = before.get(place)
            self._done[place] = (
                known if known and known[0] == rules else (rules, hash_rules(place, rules))
            )
            return self._done[place][1]

        return HashedTable(
            table.name,
            table.version,
            chains={name: hashed(name, rules) for name, rules in table.chains.items()},
            first={hook: hashed(f"{hook} first", rules) for hook, rules in table.first.items()},
            last={hook: hashed(f"{hook} last", rules) for hook, rules in table.last.items()},
        )


def hash_rules(place: str, rules: tuple[RuleText, ...]) -> HashedRules:
    """The rules of one place, each with the hash of everything up to and with itself.

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
