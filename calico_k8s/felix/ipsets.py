"""The ipsets of ours in the kernel, brought to what is desired and no further.

In: sets and members as :mod:`calico_k8s.render.tables` has them.  Out: creates, member batches,
destroys, in the phases the caller asks for, so that it decides the order against the rules.
Only names with our prefixes are read or written.  A set of ours nobody asked for is destroyed.

::

    resync ─► apply_creates ─► apply_adds ─► (rules) ─► apply_removes ─► apply_destroys
"""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from calico_k8s.errors import KernelError
from calico_k8s.felix.delta import DeltaTracker
from calico_k8s.felix.differences import Difference
from calico_k8s.netlink.ipset import (
    DEFAULT_HASHSIZE,
    DEFAULT_MAXELEM,
    IPSET_ERR_BUSY,
    IPSET_ERR_HASH_FULL,
    IPSET_ERR_REFERENCED,
    Edit,
    EditFailure,
    IpsetHeader,
    IpsetSocket,
    MemberCommand,
    ipset_error,
)
from calico_k8s.netlink.members import ZERO_NET_HALVES, canonical_member
from calico_k8s.render.tables import IPSET_PREFIXES, IpsetName, KernelIpset, KernelMember

REBUILD_SUFFIX = "rebuild"
"""Name of the set a full one is rebuilt in; a sweep finds it by its prefix after a crash."""

log = structlog.get_logger()

_REFERENCED: Final = (IPSET_ERR_BUSY, IPSET_ERR_REFERENCED, errno.EBUSY)
MAXELEM_MAX = 2**32 - 1  # the kernel's u32


class IpsetKernel(Protocol):
    """The sets of one network namespace: :class:`~calico_k8s.netlink.ipset.IpsetSocket`."""

    def close(self) -> None:
        """Release it."""

    def headers(self) -> dict[IpsetName, IpsetHeader]:
        """Every set, without members."""

    def members(self, ipset: KernelIpset) -> list[KernelMember]:
        """What one set holds."""

    def create(self, ipset: KernelIpset, maxelem: int, hashsize: int) -> None:
        """Make an empty set."""

    def destroy(self, names: Iterable[IpsetName]) -> dict[IpsetName, int]:
        """Destroy each set; the errno of each that stayed."""

    def swap(self, first: IpsetName, second: IpsetName) -> None:
        """Exchange the contents of two sets."""

    def edit(self, edits: Sequence[Edit]) -> list[EditFailure]:
        """Add and delete members, in order; those that were not taken."""


class Sizes(NamedTuple):
    """How much is desired."""

    ipsets: int
    members: int


class IpsetDriver:
    """Desired and programmed sets of both families of one network namespace.

    After any error the driver no longer trusts what it believes of the kernel: ``needs_resync``
    is set, and the next apply works from what is read back.

    Raises:
        NetlinkError: from :meth:`resync` and every ``apply``.
        InputError: from an ``apply``, for a member that is not of its set's type.
    """

    def __init__(
        self,
        maxelem: int = DEFAULT_MAXELEM,
        hashsize: int = DEFAULT_HASHSIZE,
        sets: IpsetKernel | None = None,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = sets or IpsetSocket()
        self._on_full = on_full
        self._maxelem = maxelem
        self._hashsize = hashsize
        self._states: dict[IpsetName, _IpsetState] = {}
        self._dirty: set[IpsetName] = set()
        self._stale: set[IpsetName] = set()
        """Sets of ours in the kernel that nobody desires."""
        self._dropped: dict[IpsetName, _IpsetState] = {}
        """Those of the stale ones whose members are known, should they be desired again."""
        self.needs_resync = True

    def close(self) -> None:
        """Release the socket; the kernel keeps its sets."""
        self._socket.close()

    def set_ipset(self, ipset: KernelIpset, members: Iterable[KernelMember]) -> None:
        """The set should exist with exactly these members."""
        state = self._states.pop(ipset.name, None) or self._dropped.pop(ipset.name, None)
        if state is not None and state.ipset != ipset:
            self.needs_resync = True  # the kernel may hold the old one
            state = None
        elif state is None and ipset.name in self._stale:
            self.needs_resync = True
        self._stale.discard(ipset.name)
        state = self._states[ipset.name] = state or _IpsetState(ipset)
        state.replace(members)
        self._dirty.add(ipset.name)

    def drop_ipset(self, name: IpsetName) -> None:
        """The set should not exist; it goes in the next :meth:`apply_destroys`."""
        state = self._states.pop(name, None)
        self._dirty.discard(name)
        if state is not None and state.exists:
            self._dropped[name] = state
            self._stale.add(name)

    def add_members(self, name: IpsetName, members: Iterable[KernelMember]) -> None:
        """Members a desired set should also have; one that is there takes the new mark."""
        state = self._states[name]
        for member in members:
            state.add(member)
        self._dirty.add(name)

    def remove_members(self, name: IpsetName, members: Iterable[KernelMember]) -> None:
        """Members a desired set should no longer have."""
        state = self._states[name]
        for member in members:
            state.remove(member)
        self._dirty.add(name)

    def desired(self) -> dict[KernelIpset, tuple[KernelMember, ...]]:
        """Every desired set with its members."""
        return {
            state.ipset: tuple(state.tracker.desired.values()) for state in self._states.values()
        }

    def sizes(self) -> Sizes:
        """How many sets and members are desired.  Cost: O(sets)."""
        members = sum(len(state.tracker.desired) for state in self._states.values())
        return Sizes(len(self._states), members)

    def existing(self) -> frozenset[IpsetName]:
        """The sets of ours that the kernel holds, desired or not."""
        return frozenset(filter(is_our_ipset, self._socket.headers()))

    def replaced_members(self, name: IpsetName) -> tuple[KernelMember, ...]:
        """The desired members of a set that are programmed with another mark."""
        tracker = self._states[name].tracker
        return tuple(tracker.desired[key] for key in tracker.updates if key in tracker.programmed)

    def missing_members(self, name: IpsetName) -> tuple[KernelMember, ...]:
        """The desired members of a set that are not programmed."""
        tracker = self._states[name].tracker
        return tuple(
            tracker.desired[key] for key in tracker.updates if key not in tracker.programmed
        )

    def leaving_members(self, name: IpsetName) -> tuple[KernelMember, ...]:
        """The programmed members of a set that it should no longer have."""
        tracker = self._states[name].tracker
        return tuple(tracker.programmed[key] for key in tracker.deletes)

    def overwrite(self, name: IpsetName, members: Iterable[KernelMember]) -> int:
        """Write these members as they are given, though others may be desired; how many.

        What is desired stays so, and the next apply for the set writes it.
        """
        state = self._states[name]
        edit = Edit(state.ipset, MemberCommand.ADD, list(members))
        if not edit.members:
            return 0
        with self._distrusting_errors():
            _raise_first(self._socket.edit([edit]))
        for member in edit.members:
            state.tracker.note_programmed(member.text, member)
        self._dirty.add(name)
        return len(edit.members)

    def differ(self, names: Iterable[IpsetName]) -> bool:
        """Whether a member of any of these sets is to be added or deleted, as far as is known."""
        return any(
            not self._states[name].tracker.is_in_sync for name in names if name in self._states
        )

    @property
    def is_in_sync(self) -> bool:
        """Nothing to write, as far as is known."""
        return not (self._dirty or self._stale or self.needs_resync)

    def differences(self) -> Iterator[Difference]:
        """What the sets of ours are otherwise than desired; reads everything, writes nothing.

        What is believed of the kernel is as it was read; a set of another type is left alone.
        """
        headers = self._socket.headers()
        for name, state in sorted(self._states.items()):
            header = headers.get(name)
            is_fit = header is not None and header.holds(state.ipset)
            self._read_back(state, header if is_fit else None)
            if header is None:
                yield Difference("ipset", f"ipset {name}", "is missing")
            elif not is_fit:
                what = f"is a {header.type} with other options than {state.ipset.type} wants"
                yield Difference("ipset", f"ipset {name}", what)
            if header is None or is_fit:
                yield from state.differences()
        for name in sorted(filter(is_our_ipset, headers)):
            if name not in self._states:
                yield Difference("ipset", f"ipset {name}", "is not wanted")

    def resync(self, names: Collection[IpsetName] | None = None) -> int:
        """Read back the sets of ours; how many sets and members were other than believed.

        ``names`` limits the reading of members to these, so that a large node's sets can be read
        a few at a time.  Cost: 6 us a member read.
        """
        headers = {
            name: header for name, header in self._socket.headers().items() if is_our_ipset(name)
        }
        self._stale = {name for name in headers if name not in self._states}
        self._dropped.clear()
        drifted = 0
        for name, state in self._states.items():
            header = headers.get(name)
            if header is not None and not header.holds(state.ipset):
                self._remove_misfit(header)
                header = None
            if names is None or name in names or state.exists != (header is not None):
                drifted += self._read_back(state, header)
        if names is None:
            self.needs_resync = False
        return drifted

    def apply_creates(self) -> int:
        """Create the desired sets that are missing, empty; how many."""
        self._resync_if_needed()
        created = 0
        for name in sorted(self._dirty):
            state = self._states[name]
            if not state.exists:
                with self._distrusting_errors():
                    self._socket.create(state.ipset, self._maxelem, self._hashsize)
                state.exists = True
                created += 1
        return created

    def apply_adds(self, names: Iterable[IpsetName] | None = None) -> int:
        """Add the missing members of these sets, or of all; how many.

        A set that is full is rebuilt larger and swapped: rules see the old members or the new.
        """
        self._resync_if_needed()
        states = self._chosen(names)
        edits = [state.additions() for state in states if state.tracker.updates]
        with self._distrusting_errors():
            failures = self._socket.edit(edits)
            full = {failure.ipset for failure in failures if failure.errno == IPSET_ERR_HASH_FULL}
            _raise_first(failure for failure in failures if failure.ipset not in full)
            for state in states:
                if state.ipset.name in full:
                    self._rebuild(state)
        for state in states:
            state.tracker.mark_all_programmed()
        self._settle(states)
        return sum(len(edit.members) for edit in edits)

    def apply_removes(self, names: Iterable[IpsetName] | None = None) -> int:
        """Delete the members these sets, or all, should no longer have; how many."""
        self._resync_if_needed()
        states = self._chosen(names)
        edits = [state.deletions() for state in states if state.tracker.deletes]
        with self._distrusting_errors():
            _raise_first(self._socket.edit(edits))
        for state in states:
            state.tracker.mark_deleted(state.tracker.deletes)
        self._settle(states)
        return sum(len(edit.members) for edit in edits)

    def apply_destroys(self) -> frozenset[IpsetName]:
        """Destroy the sets nobody desires; the names that stay because something refers to them.

        They are tried again by the next call: iptables-nft lets go of a set some milliseconds
        after the rule is gone.
        """
        self._resync_if_needed()
        if not self._stale:
            return frozenset()
        with self._distrusting_errors():
            left = self._socket.destroy(sorted(self._stale))
            for name, code in left.items():
                if code not in _REFERENCED:
                    raise ipset_error(f"ipset destroy {name}", code)
        self._stale = set(left)
        self._dropped = {name: state for name, state in self._dropped.items() if name in left}
        return frozenset(left)

    def _resync_if_needed(self) -> None:
        if self.needs_resync:
            self.resync()

    def _chosen(self, names: Iterable[IpsetName] | None) -> list["_IpsetState"]:
        chosen = self._dirty if names is None else self._dirty.intersection(names)
        return [self._states[name] for name in sorted(chosen)]

    def _settle(self, states: Iterable["_IpsetState"]) -> None:
        for state in states:
            if state.exists and state.tracker.is_in_sync:
                self._dirty.discard(state.ipset.name)

    def _read_back(self, state: "_IpsetState", header: IpsetHeader | None) -> int:
        members = self._socket.members(state.ipset) if header is not None else []
        is_drifted = state.exists != (header is not None)
        state.exists = header is not None
        drifted = state.tracker.replace_programmed({member.text: member for member in members})
        if not (state.exists and state.tracker.is_in_sync):
            self._dirty.add(state.ipset.name)
        return drifted + is_drifted

    def _remove_misfit(self, header: IpsetHeader) -> None:
        """A set with a desired name and another type: nothing can be exchanged for it."""
        left = self._socket.destroy([header.name])
        if header.name in left:
            raise KernelError(
                f"ipset {header.name} exists as {header.type} with other options than wanted and "
                f"{header.references} rules use it: remove those rules, or run 'calico-k8s felix clean'"
            )

    def _rebuild(self, state: "_IpsetState") -> None:
        """Put a full set's members, old and new, into a larger one and exchange the two."""
        wanted = dict(state.tracker.programmed) | dict(state.tracker.desired)
        header = self._socket.headers()[state.ipset.name]
        maxelem = min(max(2 * header.maxelem, 2 * len(wanted)), MAXELEM_MAX)
        log.warning("an ipset is full and made larger", ipset=state.ipset.name, maxelem=maxelem)
        self._on_full()
        name = IpsetName(IPSET_PREFIXES[state.ipset.version] + REBUILD_SUFFIX)
        larger = msgspec.structs.replace(state.ipset, name=name)
        self._stale.add(name)
        self._socket.destroy([name])
        self._socket.create(larger, maxelem, self._hashsize)
        _raise_first(self._socket.edit([Edit(larger, MemberCommand.ADD, list(wanted.values()))]))
        self._socket.swap(name, state.ipset.name)
        self._socket.destroy([name])
        self._stale.discard(name)

    @contextmanager
    def _distrusting_errors(self) -> Iterator[None]:
        """After a failure what the kernel holds is unknown: have it read back."""
        try:
            yield
        except KernelError:
            self.needs_resync = True
            raise


class _IpsetState:
    """One desired set: its members as the kernel can hold them, and whether it exists."""

    def __init__(self, ipset: KernelIpset) -> None:
        self.ipset = ipset
        self.exists = False
        self.tracker: DeltaTracker[str, KernelMember] = DeltaTracker()
        self._split: dict[str, KernelMember] = {}
        """Asked-for nets of length zero and their halves, which hold the same kernel members."""

    def replace(self, members: Iterable[KernelMember]) -> None:
        self._split.clear()
        wanted = {member.text: member for member in map(self._canonical, members)}
        for text in _SPLIT_TEXTS & wanted.keys() if self.ipset.type == "hash:net" else ():
            self._split[text] = wanted.pop(text)
        self.tracker.replace_desired(wanted)
        self._put_halves()

    def add(self, member: KernelMember) -> None:
        member = self._canonical(member)
        if self.ipset.type == "hash:net" and member.text in _SPLIT_TEXTS:
            self._split[member.text] = member
            self._put_halves()
        else:
            self.tracker.set_desired(member.text, member)

    def remove(self, member: KernelMember) -> None:
        text = self._canonical(member).text
        if text in self._split:
            del self._split[text]
            self._put_halves()
        else:
            self.tracker.drop_desired(text)

    def additions(self) -> Edit:
        members = [self.tracker.desired[key] for key in self.tracker.updates]
        return Edit(self.ipset, MemberCommand.ADD, members)

    def deletions(self) -> Edit:
        members = [self.tracker.programmed[key] for key in self.tracker.deletes]
        return Edit(self.ipset, MemberCommand.DELETE, members)

    def differences(self) -> Iterator[Difference]:
        """The members that are missing, too much, or with another mark, as one difference."""
        tracker = self.tracker
        wanted = tuple(sorted(_spelled(tracker.desired[key]) for key in tracker.updates))
        leaving = (*tracker.deletes, *(key for key in tracker.updates if key in tracker.programmed))
        held = tuple(sorted(_spelled(tracker.programmed[key]) for key in leaving))
        if wanted or held:
            yield Difference(
                "member", f"ipset {self.ipset.name}", "has other members", wanted, held
            )

    def _canonical(self, member: KernelMember) -> KernelMember:
        text = canonical_member(member.text, self.ipset.type, self.ipset.version)
        return member if text == member.text else msgspec.structs.replace(member, text=text)

    def _put_halves(self) -> None:
        """A half is there for itself or for the whole; what was asked for itself comes first."""
        for whole, halves in ZERO_NET_HALVES.items():
            for half in halves:
                member = self._split.get(half, self._split.get(whole))
                if member is None:
                    self.tracker.drop_desired(half)
                else:
                    self.tracker.set_desired(half, msgspec.structs.replace(member, text=half))


_SPLIT_TEXTS: Final = frozenset(ZERO_NET_HALVES) | {
    half for halves in ZERO_NET_HALVES.values() for half in halves
}


def _spelled(member: KernelMember) -> str:
    """A member as ``ipset save`` would print it."""
    mark = f" skbmark {member.mark:#x}/{member.mark_mask:#x}" if member.mark_mask else ""
    return f"{member.text}{mark}{' nomatch' if member.nomatch else ''}"


def is_our_ipset(name: str) -> bool:
    """Whether the name carries one of our prefixes."""
    return name.startswith(tuple(IPSET_PREFIXES.values()))


def clean_ipsets() -> frozenset[IpsetName]:
    """Destroy every set of ours in this namespace; the names something still refers to.

    Raises:
        NetlinkError: the kernel refused for another reason.
    """
    driver = IpsetDriver()
    try:
        driver.resync()
        return driver.apply_destroys()
    finally:
        driver.close()


def _raise_first(failures: Iterable[EditFailure]) -> None:
    for name, command, member, code in failures:
        raise ipset_error(f"ipset {command.name.lower()} {name} {member.text}", code)
