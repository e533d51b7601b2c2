"""Names of chains and ipsets, within the kernel's limits and the same after every restart.

In: ids of groups and ipsets.  Out: names.  A name that would be too long ends in a hash instead.

===================  ==========================================================================
chain
===================  ==========================================================================
``cali-FORWARD``     what a hook of that name jumps to (also ``INPUT``, ``OUTPUT``)
``cali-egress``      root of the mark tree that finds the group of a packet's sender
``cali-ingress``     the same for its receiver
``cali-te2-5``       inner node of the egress tree: five is what stands above the lowest 2 digits
``cali-e0-ID``       first stage of an egress group; ``cali-e1-ID`` the next
``cali-i0-ID``       the same of an ingress group
``cali-di-HASH``     tells and drops what one cause denies of ingress (``de``: of egress)
``cali-I0-ID``       what an ingress group would say if staged policies were enforced
``cali-si-HASH``     tells and counts what a staged policy would deny of ingress (``ai``: allow)
``cali-hi0-ID``      of a host endpoint's group: ``h`` local, ``f`` forwarded, ``n`` pre-DNAT, ``u``
                     untracked
===================  ==========================================================================
"""

import re
from hashlib import blake2b

from calico_k8s.calc.deltas import GroupId, IpsetId
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction, HostHook
from calico_k8s.render.tables import (
    CHAIN_NAME_MAX,
    CHAIN_PREFIX,
    IPSET_NAME_MAX,
    IPSET_PREFIXES,
    ChainName,
    IpsetName,
)

FORWARD = ChainName("cali-FORWARD")
INPUT = ChainName("cali-INPUT")
OUTPUT = ChainName("cali-OUTPUT")
ACCEPT = ChainName("cali-accept")
"""In the filter table: accepts what the mangle table let through."""
DENY = ChainName("cali-deny")
HOST_DENY = ChainName("cali-host-deny")
"""The same for host endpoints."""
HOST_SKIP = ChainName("cali-host-skip")
"""Lets a packet past the later hooks of host endpoints."""
ROOTS = {
    Direction.EGRESS: ChainName("cali-egress"),
    Direction.INGRESS: ChainName("cali-ingress"),
}

TO_WORKLOAD = ChainName("cali-POSTROUTING")
"""Hands the answers of trusted DNS servers to whoever learns from them."""
NFQUEUE_NUMBER = 3233
"""Of the network namespace's packet queues, the one that is ours."""

_LETTERS = {Direction.EGRESS: "e", Direction.INGRESS: "i"}
_HOOK_LETTERS = {
    HostHook.LOCAL: "h",
    HostHook.FORWARDED: "f",
    HostHook.PRE_DNAT: "n",
    HostHook.UNTRACKED: "u",
}
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
_TELLING = re.compile(rf"{CHAIN_PREFIX}[dsa][ei]-")
_STAGE = re.compile(rf"{CHAIN_PREFIX}[hfnu]?[ei]\d+-")
_REHEARSED_STAGE = re.compile(rf"{CHAIN_PREFIX}[hfnu]?[EI]\d+-")
_HASH_BYTES = 8


def stage_chain(
    group: GroupId,
    direction: Direction,
    stage: int = 0,
    hook: HostHook | None = None,
    *,
    rehearses: bool = False,
) -> ChainName:
    """The chain of one stage of a group; stage 0 is where its packets are sent first."""
    hook_letter = "" if hook is None else _HOOK_LETTERS[hook]
    letter = _LETTERS[direction].upper() if rehearses else _LETTERS[direction]
    prefix = f"{CHAIN_PREFIX}{hook_letter}{letter}{stage}-"
    return ChainName(_fit(prefix, group, CHAIN_NAME_MAX))


def is_stage(chain: str) -> bool:
    """Whether a chain is a stage of a group."""
    return _STAGE.match(chain) is not None


def is_rehearsed_stage(chain: str) -> bool:
    """Whether a chain is a stage of a rehearsal."""
    return _REHEARSED_STAGE.match(chain) is not None


def tree_chain(direction: Direction, level: int, above: int) -> ChainName:
    """An inner node of a mark tree: ``above`` is a group's number without its lowest digits.

    ``level`` counts the digits left out, so a node keeps its name when the tree grows higher.
    """
    return ChainName(f"{CHAIN_PREFIX}t{_LETTERS[direction]}{level}-{above:x}")


def note_name(kind: str, direction: Direction, *, plain: str = "", hashed: str = "") -> ChainName:
    """What is told of packets, by a word that ends the name or by a hash of one."""
    return ChainName(f"{CHAIN_PREFIX}{kind}{_LETTERS[direction]}-{plain or _digest(hashed)}")


def is_telling(chain: str) -> bool:
    """Whether a chain is one that tells of what it drops, or of what staged policies would do."""
    return _TELLING.match(chain) is not None


def ipset_version(name: IpsetName) -> Version:
    """The family that a set of ours is of."""
    return 4 if name.startswith(IPSET_PREFIXES[4]) else 6


def ipset_name(ipset: IpsetId, version: Version) -> IpsetName:
    """The set of a rule's peers, in one family."""
    return IpsetName(_fit(f"{IPSET_PREFIXES[version]}s-", ipset, IPSET_NAME_MAX))


def nets_name(content: str, version: Version) -> IpsetName:
    """A set of nets that never changes, by its content: other nets are another set."""
    return IpsetName(f"{IPSET_PREFIXES[version]}n-{_digest(content)}")


def src_ipset(version: Version) -> IpsetName:
    """Local endpoints by (address, host-side interface), each with its egress group's mark."""
    return IpsetName(f"{IPSET_PREFIXES[version]}src")


def dst_ipset(version: Version) -> IpsetName:
    """Local endpoints by address, each with its ingress group's mark."""
    return IpsetName(f"{IPSET_PREFIXES[version]}dst")


def self_ipset(version: Version) -> IpsetName:
    """(address, interface) of local endpoints that have several addresses of the family."""
    return IpsetName(f"{IPSET_PREFIXES[version]}self")


def host_hold_ipset(version: Version) -> IpsetName:
    """Whose new flows host endpoints deny while sets that their pass rules ask change."""
    return IpsetName(f"{IPSET_PREFIXES[version]}host-hold")


def _fit(prefix: str, identity: str, limit: int) -> str:
    if _PLAIN.fullmatch(identity) and len(prefix) + len(identity) <= limit:
        return prefix + identity
    # The tilde is in no plain id, so no shortened name equals a whole one.
    return f"{prefix}~{_digest(identity)}"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()
