"""What a change of a set can do to verdicts, and to whose: pure.

In: sets as calc names them, and what is added and removed.  Out: roles for :mod:`.order`, and the
addresses whose flows may be judged otherwise.
"""

from collections.abc import Iterator

from calico_k8s.calc.deltas import Deltas, Ipset, Member, Polarity
from calico_k8s.felix.order import Role
from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import Direction
from calico_k8s.render.tables import KernelMember


def only_opens(
    role: Role, added: list[KernelMember] | None, removed: list[KernelMember] | None
) -> bool:
    """Whether no flow that was allowed is denied by this change of a set."""
    match role:
        case Role.OPENS_INGRESS | Role.OPENS_EGRESS:
            return not removed
        case Role.CLOSES:
            return not added
        case Role.NEUTRAL:
            return True
        case _:
            return False


def changed_peers(deltas: Deltas) -> Iterator[Address]:
    """Addresses whose membership of some set changed: single ones, not whole nets.

    Of a set that is new only groups ask that are new or changed, whose endpoints are touched anyway.
    """
    for changes in (deltas.members_added, deltas.members_removed):
        for identity, members in changes.items():
            if identity not in deltas.ipsets_created:
                yield from filter(None, map(_single_address, members))


def role_of(ipset: Ipset) -> Role:
    """What a change of a set of peers can do."""
    match ipset.polarity:
        case Polarity.OPENS if ipset.direction is Direction.INGRESS:
            return Role.OPENS_INGRESS
        case Polarity.OPENS:
            return Role.OPENS_EGRESS
        case Polarity.CLOSES:
            return Role.CLOSES
        case Polarity.MOVES:
            return Role.PASSES
        case Polarity.COUNTS:
            return Role.NEUTRAL


def _single_address(member: Member) -> Address | None:
    if isinstance(member, tuple):
        return member.address
    address, _, length = member.partition("/")
    return Address(address) if length in ("32", "128") else None
