"""In which order a batch of changes reaches the kernel: pure.

In: the changes of one batch, each with what it can do to a verdict.  Out: the steps, in order.
At every instant between two steps, or inside one, a new flow gets its old verdict, its new one,
or is denied; never an allow that neither state gives.  Why the order achieves that, with *O* the
sets whose members open, *C* those whose members close, ingress and egress apart::

    1  create new sets, full              nobody asks them yet
    2  C: add; endpoints that go          only closes
    3  O of affected groups, and of
       egress: remove                     only closes; egress is now at most old and new
    4  write chains, one transaction      affected groups go from at most old to at most new
    5  move endpoints between groups      an entry is replaced whole
    6  O of ingress: add, then remove     egress is at most both, so what passes, passes in
                                          the old or the new ingress
    7  O of egress and of affected: add   ingress is new; at most new
    8  C: remove                          opens only what is new
    9  destroy sets                       nobody asks them any more

Chains that endpoints leave in this batch stay: the agent retires them, and a later batch drops
them with their sets.

A group is *affected* when its chains change in this batch or an endpoint joins or leaves it.
Without affected groups an ingress peer that moves from one allowed set to another is never denied
between.  Sets that pass rules ask are replaced whole, in step 4, with everything else tightened.

When endpoints move in both maps at once, an old egress could meet a new ingress that no state
has.  Their ingress entries are then taken out first: a new flow to an unknown endpoint drops.
"""

from collections.abc import Iterable, Iterator
from enum import Enum

import msgspec

from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember, Table


class Role(Enum):
    """What a change of a set's members can do."""

    OPENS_INGRESS = "opens-ingress"
    OPENS_EGRESS = "opens-egress"
    CLOSES = "closes"
    PASSES = "passes"
    """Asked by pass rules: adding may open or close."""
    NEUTRAL = "neutral"
    """No verdict depends on it."""
    EGRESS_MAP = "egress-map"
    """(address, interface) of local endpoints to egress group; missing is closed."""
    INGRESS_MAP = "ingress-map"
    """Address of local endpoints to ingress group; missing is closed."""


class SetChange(msgspec.Struct, frozen=True):
    """How one ipset's members differ from what is programmed.

    In a map a member that is in ``added`` under the key of a programmed one replaces it.
    """

    ipset: KernelIpset
    role: Role
    added: frozenset[KernelMember] = frozenset()
    removed: frozenset[KernelMember] = frozenset()
    is_new: bool = False
    is_affected: bool = False
    """Whether a group that asks it is affected."""


class Batch(msgspec.Struct, frozen=True):
    """Everything that differs between two states of the kernel."""

    sets: tuple[SetChange, ...] = ()
    tables: tuple[Table, ...] = ()
    """Tables whose chains differ, with the chains that endpoints leave in this batch."""
    destroyed: tuple[IpsetName, ...] = ()
    """Sets that neither these tables nor the ones that stay ask for."""


class CreateSet(msgspec.Struct, frozen=True):
    """Create a set with its members."""

    ipset: KernelIpset
    members: frozenset[KernelMember]


class AddMembers(msgspec.Struct, frozen=True):
    """Add members, replacing the mark of those that are there."""

    ipset: KernelIpset
    members: frozenset[KernelMember]


class RemoveMembers(msgspec.Struct, frozen=True):
    """Remove members."""

    ipset: KernelIpset
    members: frozenset[KernelMember]


class ReplaceMembers(msgspec.Struct, frozen=True):
    """Change a set's members at one instant, by a swap."""

    ipset: KernelIpset
    added: frozenset[KernelMember]
    removed: frozenset[KernelMember]


class WriteTables(msgspec.Struct, frozen=True):
    """Bring tables to this state, each in one transaction."""

    tables: tuple[Table, ...]


class DestroySets(msgspec.Struct, frozen=True):
    """Destroy sets that no rule asks."""

    names: tuple[IpsetName, ...]


Step = CreateSet | AddMembers | RemoveMembers | ReplaceMembers | WriteTables | DestroySets


def steps(batch: Batch) -> tuple[Step, ...]:
    """The steps of a batch, in order; none that does nothing."""
    return tuple(_steps(batch))


def _steps(batch: Batch) -> Iterator[Step]:
    changes = [change for change in batch.sets if not change.is_new]
    by_role = {role: [c for c in changes if c.role is role] for role in Role}
    ingress = by_role[Role.OPENS_INGRESS]
    has_passes = bool(by_role[Role.PASSES])
    tightened = [c for c in ingress if c.is_affected or has_passes] + by_role[Role.OPENS_EGRESS]
    grown_first = [c for c in ingress if c not in tightened]
    yield from (CreateSet(c.ipset, c.added) for c in batch.sets if c.is_new)
    maps = (*by_role[Role.EGRESS_MAP], *by_role[Role.INGRESS_MAP])
    yield from _add(by_role[Role.CLOSES])
    yield from _leave(maps)
    yield from _remove(tightened)
    if batch.tables:
        yield WriteTables(batch.tables)
    for change in by_role[Role.PASSES]:
        yield ReplaceMembers(change.ipset, change.added, change.removed)
    yield from _move(by_role[Role.EGRESS_MAP], by_role[Role.INGRESS_MAP])
    yield from _add(grown_first)
    yield from _remove(grown_first)
    yield from _add(tightened)
    yield from _remove(by_role[Role.CLOSES])
    yield from _add(by_role[Role.NEUTRAL])
    yield from _remove(by_role[Role.NEUTRAL])
    if batch.destroyed:
        yield DestroySets(batch.destroyed)


def _leave(maps: Iterable[SetChange]) -> Iterator[Step]:
    """Take out the addresses that no endpoint has any more."""
    for change in maps:
        kept = {_address(member) for member in change.added}
        gone = frozenset(member for member in change.removed if _address(member) not in kept)
        if gone:
            yield RemoveMembers(change.ipset, gone)


def _move(egress: list[SetChange], ingress: list[SetChange]) -> Iterator[Step]:
    moves_egress = any(_replaced(change) for change in egress)
    for change in ingress:
        replaced = _replaced(change)
        if moves_egress and replaced:
            yield RemoveMembers(change.ipset, replaced)
    yield from _add(egress)
    for change in egress:
        # An address that has changed its interface: the new way in stands before the old one goes.
        kept = {_address(member) for member in change.added}
        old_ways = change.removed - _replaced(change)
        old_ways = frozenset(member for member in old_ways if _address(member) in kept)
        if old_ways:
            yield RemoveMembers(change.ipset, old_ways)
    yield from _add(ingress)


def _address(member: KernelMember) -> str:
    """The address of a map's member: ``ADDRESS`` or ``ADDRESS,INTERFACE``."""
    return member.text.partition(",")[0]


def _replaced(change: SetChange) -> frozenset[KernelMember]:
    """The programmed members whose key stays and whose mark changes."""
    kept = {member.text for member in change.added}
    return frozenset(member for member in change.removed if member.text in kept)


def _add(changes: Iterable[SetChange]) -> Iterator[Step]:
    for change in changes:
        if change.added:
            yield AddMembers(change.ipset, change.added)


def _remove(changes: Iterable[SetChange]) -> Iterator[Step]:
    for change in changes:
        if change.removed:
            yield RemoveMembers(change.ipset, change.removed)
