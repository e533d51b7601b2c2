"""A chain as the kernel's table holds it, and as it is read back.  Pure.

In: a chain's rules as the renderer made them.  Out: an :class:`Image` to compare with what is
held.  Each rule carries its own text as a comment, so that it is known again by any later run, and
``nft list`` shows the two spellings side by side.

The drops of chains that tell of denials count their packets, as every rule of iptables does.

The leaves of a mark tree, rules that each ask the whole mark and go to a group's chain, are one
verdict map instead: a group that comes or goes is one element.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

from calico_k8s.netlink.nftables import HookPlace
from calico_k8s.render import text
from calico_k8s.render.dispatch import split_leaf
from calico_k8s.render.names import ROOTS, is_telling
from calico_k8s.render.tables import ChainName, RuleText

COMMENT_MAX: Final = 253  # NFT_USERDATA_MAXLEN, less type, length and the closing zero
_HASHED: Final = "~"
RAW_PREFIX: Final = "raw-"
"""What tells the raw table's chains from those of the same name in mangle."""
COUNTED: Final = "<counted>"
"""Before the comment of a rule that counts its packets."""
_ENDS: Final = (text.rule(text.DROP), text.rule(text.RETURN))
_LEAVES: Final = "-m mark --map "
"""Stands for the leaves among a chain's rules; what follows is the mask."""
_MAPPED: Final = frozenset(ROOTS.values())


class Image(NamedTuple):
    """A chain: the comment of each rule, and what its map says of each mark."""

    comments: tuple[str, ...]
    leaves: Mapping[int, ChainName] = {}
    place: HookPlace | None = None
    """Where packets come in; None for a chain that others lead to."""


class Written(NamedTuple):
    """A chain to be written: each rule's comment with its text, or the mask its map is asked by."""

    image: Image
    rules: tuple[tuple[str, RuleText | int], ...]
    prefix: str = ""
    """Of the chains that its rules lead to."""


def write_chain(
    name: ChainName, rules: tuple[RuleText, ...], place: HookPlace | None = None
) -> Written:
    """How a chain is written.  Cost: 1 us a rule."""
    leaves: dict[int, ChainName] = {}
    mask: int | None = None
    is_counting = is_telling(name.removeprefix(RAW_PREFIX))
    lines: list[tuple[str, RuleText | int]] = []
    for rule in rules:
        leaf = split_leaf(rule) if name in _MAPPED else None
        if leaf is None or mask not in (None, leaf.mask):
            counted = COUNTED if is_counting and rule in _ENDS else ""
            lines.append((f"{counted}{comment_of(rule)}", rule))
            continue
        if mask is None:
            mask = leaf.mask
            lines.append((f"{_LEAVES}{mask:#x}", mask))
        leaves[leaf.mark] = leaf.chain
    return Written(Image(tuple(comment for comment, _ in lines), leaves, place), tuple(lines))


def comment_of(rule: RuleText) -> str:
    """What a rule is known by: its text, or a hash of one too long to be kept."""
    comment = str(rule)
    for phrase, short in _SHORTS.items():
        comment = comment.replace(phrase, short)
    if len(comment.encode()) <= COMMENT_MAX:
        return comment
    return _HASHED + _digest(rule, 16)


def _digest(words: str, size: int) -> str:
    return blake2b(words.encode(), digest_size=size).hexdigest()


_SHORTS: Final = {
    phrase: f"<{name} {_digest(phrase, 4)}>"
    for name, phrase in (
        ("same ends", text.SAME_ENDS[4]),
        ("same ends", text.SAME_ENDS[6]),
        ("within flow rate", text.WITHIN_FLOW_RATE),
    )
}
"""Long phrases that many rules have; in another release's words another phrase is another short."""
_SHORT: Final = re.compile(r"<[a-z ]+ [0-9a-f]{8}>")


def pack_comment(comment: str) -> bytes:
    """A rule's user data: a comment as nft has them."""
    packed = comment.encode() + b"\0"
    return bytes((0, len(packed))) + packed  # NFTNL_UDATA_RULE_COMMENT


def unpack_comment(user_data: bytes) -> str:
    """The comment in a rule's user data; empty where there is none."""
    if len(user_data) < 2 or user_data[0] != 0:
        return ""
    return user_data[2 : 2 + user_data[1]].rstrip(b"\0").decode(errors="replace")


def rule_texts(image: Image) -> tuple[RuleText, ...] | None:
    """A held chain's rules; None where one is too long to have been kept."""
    rules = tuple(rule for comment in image.comments for rule in _unfold(comment, image.leaves))
    is_told = not any(rule.startswith(_HASHED) or _SHORT.search(rule) for rule in rules)
    return rules if is_told else None


def _unfold(comment: str, leaves: Mapping[int, ChainName]) -> Iterator[RuleText]:
    comment = comment.removeprefix(COUNTED)
    if not comment.startswith(_LEAVES):
        for phrase, short in _SHORTS.items():
            comment = comment.replace(short, phrase)
        yield RuleText(comment)
        return
    mask = int(comment.removeprefix(_LEAVES), 16)
    for mark, chain in sorted(leaves.items()):
        yield text.rule(text.mark_is(mark, mask), text.goto(chain))


def saved_text(images: Mapping[str, Image]) -> str:
    """The chains in the form of ``iptables-save``, without those that cannot be told.

    A group of which one chain cannot be told is left out with all its chains.
    """
    told = {name: rule_texts(image) for name, image in images.items()}
    untold = {_group(name) for name, rules in told.items() if rules is None}
    return "\n".join(_lines(told, untold))


def _lines(
    told: Mapping[str, tuple[RuleText, ...] | None], untold: set[tuple[str, str]]
) -> Iterable[str]:
    for name, rules in told.items():
        if rules is not None and _group(name) not in untold:
            yield from (f"-A {name} {rule}" for rule in rules)


def _group(chain: str) -> tuple[str, str]:
    """``cali-i0-ID`` and ``cali-i1-ID`` are of one group; any other chain is alone."""
    parts = chain.split("-", 2)
    stage = parts[1].lower() if len(parts) == 3 else ""
    if stage[:1] in ("e", "i") and stage[1:].isdecimal():
        return stage[0], parts[2]
    return chain, ""
