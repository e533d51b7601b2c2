"""The sets of our tables, for :class:`~calico_k8s.felix.ipsets.IpsetDriver`.

In: creates, edits and destroys as for ipsets.  Out: requests in the transaction that is open, and
members as they are read back.  What is desired is the driver's business.

Beside the sets that rules name there is one that they do not: pairs of each local endpoint's
address with itself, in which a packet is looked up that an endpoint sends to itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

from calico_k8s.errors import KernelError
from calico_k8s.felix.expressions import same_set
from calico_k8s.felix.nftables.batch import Batch
from calico_k8s.felix.nftables.disjoint import Bounds, DisjointNets, Edits
from calico_k8s.felix.nftables.elements import (
    Marker,
    bounds_text,
    interval_elements,
    ipset_of,
    listed_member,
    listed_nets,
    member_element,
    net_bounds,
    pair_element,
    pair_kind,
    set_kind,
)
from calico_k8s.felix.nftables.family import TABLE, FamilyTable
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import Edit, EditFailure, IpsetHeader, MemberCommand
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.netlink.nftwrite import SetElement
from calico_k8s.render.names import dst_ipset
from calico_k8s.render.tables import IPSET_PREFIXES, IpsetName, IpsetType, KernelIpset, KernelMember

Transaction = Callable[[], AbstractContextManager[Batch]]

_NO_LIMIT: Final = 2**32 - 1


class NativeSets:
    """The sets of every family's table.

    Raises:
        KernelError: from every method; outside a transaction each is one of its own.
    """

    def __init__(
        self,
        families: Mapping[Version, FamilyTable],
        socket: NftSocket,
        transaction: Transaction,
    ) -> None:
        self._families = families
        self._socket = socket
        self._transaction = transaction
        self._states: dict[IpsetName, _SetState] = {}
        self._listed: set[str] = set()
        """The names that the tables held when they were last looked at, and since then."""
        self._pairs: dict[Version, set[bytes]] = {version: set() for version in families}
        self._stale: set[Version] = set(families)
        """Families whose maps have changed since what follows from them was queued."""
        self.is_anew = False
        """Whether the open transaction begins with nothing."""

    def close(self) -> None:
        """Nothing is held that is not the driver's."""

    def begin_anew(self) -> None:
        """The tables are deleted by the transaction that is open."""
        self.is_anew = True
        self._states.clear()
        self._listed.clear()
        self.forget()
        for held in self._pairs.values():
            held.clear()

    def forget(self) -> None:
        """What was queued was not done."""
        self._stale = set(self._families)

    def type_of(self, name: IpsetName) -> IpsetType:
        """What kind of set it is."""
        if name not in self._states:
            raise KernelError(f"set {name} is asked by a rule and was never made")
        return self._states[name].ipset.type

    def _markers(self, version: Version) -> set[Marker]:
        """The marks that entries of a family's maps have."""
        return {
            marker
            for state in self._states.values()
            if state.ipset.version == version
            for marker in state.markers.values()
        }

    def settle(self, batch: Batch) -> None:
        """Queue what follows from changed maps: chains that set marks, and pairs of addresses.

        Cost: O(local endpoints), where a map has changed.
        """
        stale, self._stale = self._stale, set()
        for version in stale:
            self._families[version].settle_markers(batch, self._markers(version))
        self._settle_pairs(batch, stale)

    def _settle_pairs(self, batch: Batch, stale: Iterable[Version]) -> None:
        for version in stale:
            family = self._families[version]
            state, name = self._states.get(dst_ipset(version)), same_set(version)
            if state is None:
                continue
            if name not in self._listed:
                batch.sets.append(
                    family.messages.make_set(name, pair_kind(version), batch.next_id())
                )
                self._listed.add(name)
                self._pairs[version].clear()
            held = self._pairs[version]
            wanted = {pair_element(address, version).key for address in state.markers}
            gone, new = map(SetElement, held - wanted), map(SetElement, wanted - held)
            batch.elements += family.messages.delete_elements(name, [*gone])
            batch.elements += family.messages.add_elements(name, [*new])
            self._pairs[version] = wanted

    def headers(self) -> dict[IpsetName, IpsetHeader]:
        """Every set of ours, without members."""
        if self.is_anew:
            return {}
        found: dict[IpsetName, IpsetHeader] = {}
        self._listed.clear()
        for version in self._families:
            kinds = self._socket.sets(version, TABLE)
            self._listed |= kinds.keys()
            for name, kind in kinds.items():
                if not name.startswith(IPSET_PREFIXES[version]) or name == same_set(version):
                    continue
                ipset = ipset_of(name, kind, version)
                found[IpsetName(name)] = IpsetHeader(
                    name=IpsetName(name),
                    type=ipset.type if ipset is not None else "unknown",
                    version=version,
                    maxelem=_NO_LIMIT,
                    references=0,
                    has_marks=ipset is not None and ipset.has_marks,
                )
        self._states = {name: each for name, each in self._states.items() if name in found}
        return found

    def members(self, ipset: KernelIpset) -> list[KernelMember]:
        """What one set holds, in no order; with nets those within them that were asked for."""
        version = ipset.version
        state = self._states.setdefault(ipset.name, _SetState(ipset))
        listed = self._socket.elements(version, TABLE, ipset.name)
        if state.nets is not None:
            nets = listed_nets(listed, version)
            if nets is None:
                raise KernelError(f"set {ipset.name} holds intervals that are no nets of ours")
            state.nets.replace_held(nets)
            return [KernelMember(bounds_text(net, version)) for net in state.nets]
        members = [listed_member(ipset, each) for each in listed]
        state.note(members)
        self._stale.add(version)
        if ipset.name != dst_ipset(version):
            return members
        pairs, name = self._pairs[version], same_set(version)
        pairs.clear()
        if name in self._listed:
            pairs |= {each.key for each in self._socket.elements(version, TABLE, name)}
        # One without its pair counts as missing, so that it is written again.
        return [m for m in members if pair_element(m.text, version).key in pairs]

    def create(self, ipset: KernelIpset, maxelem: int, hashsize: int) -> None:  # noqa: ARG002 - none here
        """Make an empty set."""
        if ipset.name in self._listed:
            raise KernelError(f"set {ipset.name} is there already, of another type")
        messages = self._families[ipset.version].messages
        with self._transaction() as batch:
            batch.sets.append(messages.make_set(ipset.name, set_kind(ipset), batch.next_id()))
        self._listed.add(ipset.name)
        self._states[ipset.name] = _SetState(ipset)
        self._stale.add(ipset.version)

    def destroy(self, names: Iterable[IpsetName]) -> dict[IpsetName, int]:
        """Destroy each set, which no rule asks any more by the end of the transaction."""
        with self._transaction() as batch:
            for name in names:
                if name not in self._listed:
                    continue
                version: Version = 4 if name.startswith(IPSET_PREFIXES[4]) else 6
                messages = self._families[version].messages
                batch.dropped_sets.append(messages.delete_set(name))
                self._states.pop(name, None)
                self._listed.discard(name)
        return {}

    def swap(self, first: IpsetName, second: IpsetName) -> None:
        """Never needed: these sets have no limit."""
        raise KernelError(f"sets {first} and {second} cannot be exchanged in nftables")

    def edit(self, edits: Sequence[Edit]) -> list[EditFailure]:
        """Add and delete members, in order; nothing fails before the transaction does.

        Cost: 3 us a member.
        """
        with self._transaction() as batch:
            for edit in edits:
                self._edit(batch, edit)
        return []

    def _edit(self, batch: Batch, edit: Edit) -> None:
        ipset, command, members = edit
        state, version = self._states[ipset.name], ipset.version
        messages = self._families[version].messages
        is_add = command is MemberCommand.ADD
        if state.nets is not None:
            changes = state.edit_nets(members, is_add=is_add)
            deletes = [*interval_elements(changes.deletes, version)]
            adds = [*interval_elements(changes.adds, version)]
        else:
            known = [member for member in members if member.text in state.markers]
            deletes = [member_element(ipset, member) for member in (known if is_add else members)]
            adds = [member_element(ipset, member) for member in members] if is_add else []
            state.edit_markers(members, is_add=is_add)
            if ipset.has_marks:
                self._stale.add(version)
        batch.elements += messages.delete_elements(ipset.name, deletes)
        batch.elements += messages.add_elements(ipset.name, adds)


class _SetState:
    """One set that is there: what must be known of its members to change them."""

    def __init__(self, ipset: KernelIpset) -> None:
        self.ipset = ipset
        self.nets = DisjointNets(ipset.version) if ipset.type == "hash:net" else None
        self.markers: dict[str, Marker] = {}
        """In a map, each member's: the kernel takes no other verdict for a key that it has."""

    def note(self, members: Iterable[KernelMember]) -> None:
        """These were read back."""
        self.markers.clear()
        self.edit_markers(members, is_add=True)

    def edit_markers(self, members: Iterable[KernelMember], *, is_add: bool) -> None:
        for member in members if self.ipset.has_marks else ():
            if is_add:
                self.markers[member.text] = Marker(member.mark, member.mark_mask)
            else:
                self.markers.pop(member.text, None)

    def edit_nets(self, members: Iterable[KernelMember], *, is_add: bool) -> Edits:
        """What the kernel's set loses and gains; one that both would do is neither."""
        assert self.nets is not None
        change = self.nets.add if is_add else self.nets.remove
        deletes: dict[Bounds, None] = {}
        adds: dict[Bounds, None] = {}
        for member in members:
            edits = change(net_bounds(member.text, self.ipset.version))
            for net in edits.deletes:
                if net in adds:
                    del adds[net]
                else:
                    deletes[net] = None
            for net in edits.adds:
                if net in deletes:
                    del deletes[net]
                else:
                    adds[net] = None
        return Edits(tuple(deletes), tuple(adds))
