"""Ending the live connections of flows that are no longer allowed, and only those.

In: a judgement of flows, and the addresses it changed for.  Out: one bit of the conntrack mark,
set on denied flows and cleared on allowed ones; the first rule of ours drops packets that carry
it, in both directions.  Deleting the entry is not enough: the server's next packet would create
it again, the other way round.

A flow is judged as its first packet met the rules: the original source and, of the reply, source
and port, which is after DNAT and before SNAT.  A flow that another announced (FTP's data) shares
that one's fate.  Only the default conntrack zone is looked at.
"""

import os
import re
import socket
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from calico_k8s.model.addresses import Address, Version, address_version
from calico_k8s.model.resources import ICMP, ICMPV6, IcmpMatch
from calico_k8s.netlink.conntrack import IPS_DYING, ConntrackEntry, ConntrackSocket, text_tuple
from calico_k8s.policy.match import Flow

VERSIONS: Final[tuple[Version, ...]] = (4, 6)
FLOWS_A_WALK: Final = 1200
"""So many flows are read in the time of one walk through the kernel's table, which a dump takes
whatever it asks for: 12 ms at 262,144 buckets."""
FLOW_COUNT: Final = Path("/proc/sys/net/netfilter/nf_conntrack_count")
FLOW_TEXT: Final = Path("/proc/thread-self/net/nf_conntrack")
"""Every flow, a line each: the kernel walks its table for this without the lock of each bucket, in
0.2 ms where a dump takes 9; not every kernel is built with it."""
GLANCE_FLOWS_MAX: Final = 500
"""The text of so many takes 1 ms; older kernels walk from the table's start for each page of it."""
FEW_FLOWS: Final = 50
"""So many are looked up one by one, in 1 ms."""
PART_BYTES: Final = 1 << 16
_SOURCE: Final = re.compile(rb" src=(\S+)")


class CutResult(NamedTuple):
    """What one judgement did."""

    judged: int
    cut: int
    """Flows denied now that passed before."""
    restored: int
    """Flows allowed now that were cut before."""


class FlowCutter:
    """The flows of the network namespace it was made in; ``bit`` is its bit of the ct mark.

    Raises:
        NetlinkError: from every method; what was done is done, the rest by the next call.
    """

    def __init__(self, bit: int) -> None:
        self._bit = bit
        self._socket = ConntrackSocket()

    def close(self) -> None:
        """Release the socket; marks stay."""
        self._socket.close()

    def flows_of(self, addresses: Collection[Address]) -> list[ConntrackEntry]:
        """The flows opened by or to these addresses, each once.

        Cost: a walk through the kernel's table and 10 us for each flow of a family, or two walks
        for each address, whichever is less.
        """
        count = flow_count()
        flows: list[ConntrackEntry] = []
        for version in VERSIONS if count else ():
            asked = [address for address in addresses if address_version(address) == version]
            if asked and count < FLOWS_A_WALK * (2 * len(asked) - 1):
                flows += (
                    entry
                    for entry in self._socket.dump(version)
                    if entry.original.src in addresses or entry.reply.src in addresses
                )
            else:
                found = (entry for address in asked for entry in self._socket.dump_address(address))
                flows += {entry.key: entry for entry in found}.values()
        return flows

    def few_flows_of(self, addresses: Collection[Address]) -> list[ConntrackEntry] | None:
        """The same; None where there are so many flows that they are better read beside the loop.

        A flow may be passed over when another is forgotten in that very moment: look again.
        Cost: 0.2 ms at 262,144 buckets, 2 us a flow of anybody, 15 us a flow of theirs.
        """
        count = flow_count()
        if not count:
            return []
        if count > GLANCE_FLOWS_MAX:
            return None
        try:
            text = _read(FLOW_TEXT)
        except OSError:
            return None
        asked = frozenset(map(_spelled, addresses))
        if asked.isdisjoint(_SOURCE.findall(text)):
            return []
        lines = [line for line in text.splitlines() if not asked.isdisjoint(_SOURCE.findall(line))]
        found = [text_tuple(line) for line in lines[: FEW_FLOWS + 1]]
        tuples = [each for each in found if each is not None]
        if len(tuples) < len(found) or len(found) > FEW_FLOWS:
            return None
        return self._socket.find(tuples)

    def all_flows(self) -> list[ConntrackEntry]:
        """Every flow of both families.  Cost: 10 us a flow, and two walks through the table."""
        versions = VERSIONS if flow_count() else ()
        return [entry for version in versions for entry in self._socket.dump(version)]

    def judge(
        self, entries: Iterable[ConntrackEntry], is_denied: Callable[[Flow], bool]
    ) -> CutResult:
        """Cut the flows of ``entries`` that are denied, restore those that are not.

        ``is_denied`` must be false for flows that are none of ours to judge.
        """
        choice = choose(entries, is_denied, self._bit)
        return CutResult(
            judged=choice.judged,
            cut=self._set_bit(choice.cut, self._bit),
            restored=self._set_bit(choice.restored, 0),
        )

    def _set_bit(self, entries: list[ConntrackEntry], value: int) -> int:
        return self._socket.set_mark(entries, value, self._bit) if entries else 0

    def restore_all(self) -> int:
        """Clear the bit wherever it is set; how many flows carried it."""
        return self._socket.set_mark(self._marked(), 0, self._bit)

    def cut_count(self) -> int:
        """How many flows carry the bit."""
        return len(self._marked())

    def _marked(self) -> list[ConntrackEntry]:
        return [
            entry
            for version in VERSIONS
            for entry in self._socket.dump_marked(version, self._bit, self._bit)
        ]


def flow_count() -> int:
    """How many flows this network namespace has; 0 where the kernel tracks none."""
    try:
        return int(_read(FLOW_COUNT))
    except OSError:
        return 0


def _read(path: Path) -> bytes:
    """A file of the kernel's, by what calls of the kernel it takes; it gives a page or less each time."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    parts: list[bytes] = []
    try:
        while part := os.read(descriptor, PART_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _spelled(address: Address) -> bytes:
    """As the kernel writes an address there: of IPv6 all digits."""
    if address_version(address) == 4:
        return address.encode()
    return socket.inet_pton(socket.AF_INET6, address).hex(":", 2).encode()


class Choice(NamedTuple):
    """Which entries change."""

    judged: int
    cut: list[ConntrackEntry]
    restored: list[ConntrackEntry]


def choose(
    entries: Iterable[ConntrackEntry], is_denied: Callable[[Flow], bool], bit: int
) -> Choice:
    """The entries whose ``bit`` is other than their flow's judgement says.  Pure.

    An announced flow whose announcer is not among ``entries`` stays as it is.
    """
    living = [entry for entry in entries if not entry.status & IPS_DYING]
    is_denied_by_key = {
        (entry.version, entry.key): is_denied(judged_flow(entry))
        for entry in living
        if not entry.master
    }
    choice = Choice(len(living), [], [])
    for entry in living:
        is_cut = bool(entry.mark & bit)
        is_wanted_cut = is_denied_by_key.get((entry.version, entry.master or entry.key), is_cut)
        if is_wanted_cut and not is_cut:
            choice.cut.append(entry)
        elif is_cut and not is_wanted_cut:
            choice.restored.append(entry)
    return choice


def judged_flow(entry: ConntrackEntry) -> Flow:
    """The flow as its first packet met the rules of the filter table."""
    protocol = entry.original.protocol
    if protocol in (ICMP, ICMPV6):
        kind, code = divmod(entry.original.dport, 256)
        return Flow(
            entry.original.src, entry.reply.src, protocol, icmp=IcmpMatch(type=kind, code=code)
        )
    return Flow(
        src=entry.original.src,
        dst=entry.reply.src,
        protocol=protocol,
        src_port=entry.original.sport,
        dst_port=entry.reply.sport,
    )
