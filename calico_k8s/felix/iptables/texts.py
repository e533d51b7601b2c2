"""Our chains' rules word by word: what was written against what ``iptables-save`` prints.  Pure.

In: a hashed table, and the printed text of the table that holds it.  Out: the chains that differ.
One comment a chain tells which chain was written, not that every rule of it is still there: a
rule that another program replaced in place (``iptables -R``) is found by its words alone.

An iptables that spells a rule otherwise than the renderer must not have us write that chain again
and again: what it prints before and after we wrote the chain is then the same text, and is kept
in mind as that chain's spelling.
"""

import re
from collections.abc import Mapping
from typing import Final

from calico_k8s.felix.iptables.hashes import COMMENT_PREFIX, HashedTable
from calico_k8s.render.tables import CHAIN_PREFIX, ChainName

_COMMENT: Final = re.compile(rf' ?-m comment --comment "?({COMMENT_PREFIX}[\w-]+)"?')
_OWN_RULE: Final = re.compile(rf"^-A ({CHAIN_PREFIX}\S*) (.*)$", re.MULTILINE)

Texts = tuple[str, ...]
"""The rules of one chain, in order."""


def split_comment(rule: str) -> tuple[str, str]:
    """A rule without our comment, and what that says; empty where there is none."""
    found = _COMMENT.search(rule)
    if found is None:
        return rule, ""
    return (rule[: found.start()] + rule[found.end() :]).strip(), found[1]


def comment_last(rule: str) -> str:
    """A printed rule with our comment where we write it: iptables prints a target after it."""
    text, comment = split_comment(rule)
    return f'{text} -m comment --comment "{comment}"' if comment else rule


def printed_texts(saved: str) -> dict[str, Texts]:
    """The rules of our chains in what was printed; a chain without rules is not there."""
    found: dict[str, list[str]] = {}
    for chain, rule in _OWN_RULE.findall(saved):
        found.setdefault(chain, []).append(comment_last(rule))
    return {chain: tuple(rules) for chain, rules in found.items()}


class Spelling:
    """Which chains are held as they were written, and how iptables spells them."""

    def __init__(self) -> None:
        self._known: dict[ChainName, tuple[Texts, Texts]] = {}
        """Of chains that iptables spells otherwise: what we wrote, and what it prints."""

    def differing(
        self, desired: HashedTable, printed: Mapping[str, Texts]
    ) -> dict[ChainName, Texts]:
        """The chains that are not held as written, with what is printed of each."""
        found: dict[ChainName, Texts] = {}
        for name, rules in desired.chains.items():
            written = tuple(rule.text for rule in rules)
            held = printed.get(name, ())
            if held not in (written, self._spelled(name, written)):
                found[name] = held
        return found

    def learn(self, desired: HashedTable, printed: Mapping[ChainName, Texts]) -> None:
        """Chains that were just written, and are printed as they were before that."""
        for name, held in printed.items():
            written = tuple(rule.text for rule in desired.chains[name])
            self._known[name] = (written, held)

    def _spelled(self, name: ChainName, written: Texts) -> Texts:
        before, printed = self._known.get(name, (written, written))
        return printed if before == written else written
