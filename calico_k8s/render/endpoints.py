"""Endpoints and the members of rules' ipsets, as the kernel holds them.

In: local endpoints with the interface each was found at; calc's ipsets and members.  Out: sets and
members by family.  A pod that joins a policy group is one entry in each of two sets.
"""

from typing import NamedTuple

from calico_k8s.calc.deltas import Ipset, IpsetKind, LocalEndpoint, Member, PortMember
from calico_k8s.model.addresses import Address, Version, address_version
from calico_k8s.model.resources import PROTOCOL_NAMES
from calico_k8s.render.marks import MarkLayout
from calico_k8s.render.names import dst_ipset, ipset_name, self_ipset, src_ipset
from calico_k8s.render.rules import net_text
from calico_k8s.render.tables import IpsetName, IpsetType, KernelIpset, KernelMember

_TYPES: dict[IpsetKind, IpsetType] = {
    IpsetKind.NET: "hash:net",
    IpsetKind.ADDRESS_PORT: "hash:ip,port",
}


class Attachment(NamedTuple):
    """Where an endpoint's packets come in."""

    interface: str
    is_shared: bool = False
    """Whether it is a bridge that other endpoints use too."""


class Numbers(NamedTuple):
    """The numbers of an endpoint's two groups; see :mod:`.marks`."""

    egress: int
    ingress: int


class Entry(NamedTuple):
    """A member and the set that it belongs in."""

    ipset: IpsetName
    member: KernelMember


class VersionedMember(NamedTuple):
    """A member of a rule's ipset and the family of the set that holds it."""

    version: Version
    member: KernelMember


def endpoint_ipsets(version: Version) -> tuple[KernelIpset, ...]:
    """The sets that say which addresses are whose; every node has them, empty or not."""
    return (
        KernelIpset(src_ipset(version), "hash:net,iface", version, has_marks=True),
        KernelIpset(dst_ipset(version), "hash:ip", version, has_marks=True),
        KernelIpset(self_ipset(version), "hash:net,iface", version),
    )


def render_endpoint(
    endpoint: LocalEndpoint, attachment: Attachment | None, numbers: Numbers, layout: MarkLayout
) -> tuple[Entry, ...]:
    """An endpoint's entries: it is enforced once it has these, and closed until then.

    Without an attachment it has no entry by interface: whatever claims to be it is dropped.
    """
    entries: list[Entry] = []
    ingress = layout.mark(numbers.ingress)
    egress = layout.mark(numbers.egress)
    for address in endpoint.addresses:
        version = address_version(address)
        entries.append(Entry(dst_ipset(version), KernelMember(address, ingress, layout.field)))
        if attachment is not None:
            member = KernelMember(f"{address},{attachment.interface}", egress, layout.field)
            entries.append(Entry(src_ipset(version), member))
    if attachment is not None and not attachment.is_shared:
        entries += _self_entries(endpoint.addresses, attachment.interface)
    return tuple(entries)


def _self_entries(addresses: tuple[Address, ...], interface: str) -> list[Entry]:
    """For a pod with several addresses of a family: what its interface sends to each is its own.

    With one address, equal ends say the same without a set.
    """
    entries: list[Entry] = []
    versions: tuple[Version, ...] = (4, 6)
    for version in versions:
        own = [address for address in addresses if address_version(address) == version]
        if len(own) > 1:
            members = (KernelMember(f"{address},{interface}") for address in own)
            entries += [Entry(self_ipset(version), member) for member in members]
    return entries


def render_ipset(ipset: Ipset, version: Version) -> KernelIpset:
    """One family's half of a rule's ipset."""
    return KernelIpset(ipset_name(ipset.id, version), _TYPES[ipset.kind], version)


def render_member(member: Member) -> VersionedMember:
    """A member of a rule's ipset.  Cost: 1 us."""
    if isinstance(member, PortMember):
        address, protocol, port = member
        written = f"{address},{PROTOCOL_NAMES[protocol]}:{port}"
        return VersionedMember(address_version(address), KernelMember(written))
    return VersionedMember(address_version(member), KernelMember(net_text(member)))
