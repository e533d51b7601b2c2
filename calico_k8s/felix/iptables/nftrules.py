"""A rule's text as the expressions that iptables-nft makes of it.  Pure.

In: rules as :mod:`calico_k8s.render.text` words them, and the numbers of the sets they ask.  Out:
what iptables-nft 1.8.9 would write, byte for byte as the kernel then gives it back, so that
programs of iptables list it as theirs; None for a rule with a word that is not known here, which
is for ``iptables-nft-restore``.

Some words iptables-nft writes in nftables' own expressions, as the native backend does.  The others
are extensions of iptables: a name, a revision, and the structure of the kernel's header.

=======================  ==================================================================
nftables' own            ``-s`` ``-d`` ``-p``, ``-m`` mark, tcp, udp, limit, ``-j NFLOG``, verdicts
extensions               ``-m`` bpf, comment, hashlimit, icmp, icmp6, multiport, sctp, set, ``-j LOG``
=======================  ==================================================================
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from calico_k8s.errors import KernelError
from calico_k8s.felix.expressions import compile_rule, port_range
from calico_k8s.felix.iptables.extensions import (
    KEPT,
    PORT_OPTIONS,
    WORD_ERRORS,
    Words,
    asked_sets,
    log_target,
    match_extension,
    protocol_number,
    refuse,
    rule_parts,
    word_options,
)
from calico_k8s.model.addresses import Net, Version, net_range
from calico_k8s.netlink import nftexpr as nft
from calico_k8s.netlink.nftexpr import Base, Cmp
from calico_k8s.netlink.nftwrite import RuleProtocol
from calico_k8s.netlink.wire import BE16
from calico_k8s.render.tables import IpsetType

_OF_FAMILY: Final = re.compile(r"(?:-[sdp]|-m (?:bpf|hashlimit)) ")
"""Where a rule is another in each family; one of marks, sets and chains alone is the same."""


class CompatRule(NamedTuple):
    """A rule as the kernel takes it."""

    expressions: bytes
    protocol: RuleProtocol | None


def compile_compat(rule: str, version: Version, indexes: Mapping[str, int]) -> CompatRule | None:
    """What iptables-nft would write; None where that is not known here.

    Cost: some 30 us; 2 for one that was asked for before, as most of a mark tree were.
    """
    asked = tuple((name, indexes[name]) for name in asked_sets(rule) if name in indexes)
    return _known(rule, version if _OF_FAMILY.search(rule) else 4, asked)


@lru_cache(maxsize=KEPT)
def _known(rule: str, version: Version, asked: tuple[tuple[str, int], ...]) -> CompatRule | None:
    try:
        return _compile(rule, version, dict(asked))
    except (KernelError, *WORD_ERRORS):
        return None


def _compile(rule: str, version: Version, indexes: Mapping[str, int]) -> CompatRule:
    """iptables-nft asks the protocol first, and counts before it does what the rule says.

    A chain's hash stands behind the target, in the text alone.
    """
    heads: dict[str, bytes] = {}
    matches: list[bytes] = []
    protocol: RuleProtocol | None = None
    target = b""
    for is_negated, words in rule_parts(rule):
        match words[0]:
            case "-p" | "-s" | "-d" as head if head not in heads and not (matches or target):
                heads[head] = _head(is_negated, words, version)
                if head == "-p":
                    protocol = RuleProtocol(protocol_number(words[1]), is_negated)
            case "-m" if not is_negated:
                matches.append(_match(words[1], words[2:], version, indexes))
            case "-j" | "-g" if not (target or is_negated):
                target = _target(words, version)
            case _:
                refuse()
    if not target:
        refuse()
    ordered = [heads[head] for head in ("-p", "-s", "-d") if head in heads]
    return CompatRule(b"".join((*ordered, *matches, nft.counter(), target)), protocol)


def _head(is_negated: bool, words: Words, version: Version) -> bytes:  # noqa: FBT001 - its sign
    option, said = words
    if option != "-p" and net_range(Net(said)).version != version:
        refuse()
    return _native(f"{'! ' if is_negated else ''}{option} {said}", version)


@lru_cache(maxsize=KEPT)
def _native(text: str, version: Version) -> bytes:
    """The expressions that the native backend, too, has for these words."""
    parts = compile_rule(text, version, _no_type)
    return b"".join(part for part in parts if isinstance(part, bytes))


def _no_type(_name: str) -> IpsetType:
    refuse()


def _match(module: str, words: Words, version: Version, indexes: Mapping[str, int]) -> bytes:
    match module:
        case "mark":
            return _mark(words, version)
        case "limit":
            return _native(" ".join(("-m", module, *words)), version)
        case "tcp" | "udp":
            return b"".join(_ports(words))
        case _:
            return nft.extension_match(*match_extension(module, words, version, indexes))


def _target(words: Words, version: Version) -> bytes:
    if words[1] == "LOG":
        return nft.extension_target(*log_target(words[2:]))
    is_plain = len(words) == 2 and (not words[1].isupper() or words[1] in _VERDICTS)
    if not is_plain and words[1] != "NFLOG":
        refuse()
    return _native(" ".join(words), version)


_VERDICTS: Final = frozenset({"ACCEPT", "DROP", "RETURN"})


def _mark(words: Words, version: Version) -> bytes:
    value = words[-1]
    if value.partition("/")[2] in ("", "0xffffffff"):  # iptables then leaves the mask out
        refuse()
    return _native(" ".join(("-m", "mark", *words)), version)


def _ports(words: Words) -> Iterator[bytes]:
    options = word_options(words, PORT_OPTIONS)
    ranges = [port_range(options[name]) if name in options else None for name in PORT_OPTIONS]
    ports = [each[0] for each in ranges if each is not None and each[0] == each[1]]
    if len(ports) == 2 and all(ports):
        yield nft.load_payload(Base.TRANSPORT, 0, 4)
        yield nft.compare(Cmp.EQ, b"".join(map(BE16.pack, ports)))
        return
    for place, each in enumerate(ranges):
        if each is not None:
            yield nft.load_payload(Base.TRANSPORT, 2 * place, 2)
            yield _in_range(*map(BE16.pack, each))


def _in_range(low: bytes, high: bytes) -> bytes:
    if low == high:
        return nft.compare(Cmp.EQ, low)
    return nft.in_range(low, high) if any(low) else nft.compare(Cmp.LTE, high)
