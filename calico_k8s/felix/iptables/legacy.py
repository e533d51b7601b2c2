"""What a table of the legacy backend holds, read from the kernel without a process.

In: a family and a table's name.  Out: :data:`~calico_k8s.felix.iptables.plan.Held`.  The kernel
gives a table as one block of entries; only chain borders, our comments and bare jumps are looked
at.  A
table that no program has used is not asked for: asking would create it.

Source: ``linux/netfilter_ipv4/ip_tables.h``, ``linux/netfilter_ipv6/ip6_tables.h``.
"""

import ctypes
import errno
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.hashes import FOREIGN, RuleHash, jump_hash
from calico_k8s.felix.iptables.plan import HOOKS, Held, own_chain
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import TableName

COMMENT = re.compile(rb"comment\0[\0-\x1f]{0,32}?cali:([\w-]{8})\0")
"""The comment match that starts with our text: its name, padding or attribute headers, the text."""

_SO_GET_INFO = 64
_SO_GET_ENTRIES = 65
_INFO = struct.Struct("=32sI5I5III")
_ENTRIES_HEADER = 40  # struct ipt_get_entries: name, size, padding to the entries' alignment
_OFFSETS = struct.Struct("=HH")
_TARGET_HEADER = 32  # struct xt_entry_target: size, name[29], revision
_NAME_OFFSET = 2
_NFCACHE_LENGTH = 4  # an entry's unused word before target_offset
_VERDICT = struct.Struct("=i")
"""Of a standard target: negative for a verdict, else where the chain's first rule is."""
_COUNTERS = 16  # struct xt_counters, last in an entry's head
READ_ATTEMPTS = 10


class _Family(NamedTuple):
    family: int
    level: int
    names: str
    offsets: int
    """Where in an entry target_offset and next_offset stand, behind addresses and flags."""
    size: int
    """Of an entry without matches: its target follows at once."""


_FAMILIES: Final[dict[Version, _Family]] = {
    4: _Family(socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 88, 112),
    6: _Family(socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 140, 168),
}


class Block(NamedTuple):
    """The entries of a table."""

    heads: dict[int, str]
    """The built-in chains, by where the first entry of each is."""
    length: int
    """How many there are."""
    data: bytearray
    """All of them, behind a header."""


class _Look(NamedTuple):
    """A table as it was read last, so that the same need not be taken apart again."""

    heads: dict[int, str]
    block: bytes
    """Without counters."""
    counters: tuple[int, ...]
    """Where they stood."""
    held: Held

    def is_of(self, heads: dict[int, str], block: bytearray) -> bool:
        """Whether the table is the same still, counters aside.

        Where every other byte is the same, each entry is as long as it was: so were the counters.
        """
        is_like = heads == self.heads and len(block) == len(self.block)
        return is_like and _without(self.counters, block) == self.block


class LegacyReader:
    """Reads one table of the namespace it is made in.

    Raises:
        IptablesError: the kernel refused, or the table changed ten times while it was read.
    """

    def __init__(self, version: Version, table: TableName) -> None:
        self._family = _FAMILIES[version]
        self._table = table
        # A raw socket is the door the kernel gives to these two options.
        try:
            self._socket = socket.socket(self._family.family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        except OSError as error:
            raise IptablesError(f"legacy iptables: {error.strerror}: root is needed") from error
        self._getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt
        self._last: _Look | None = None

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def stamp(self) -> None:
        """None: the legacy kernel counts no generations, so every look is a reading."""

    def read(self) -> Held:
        """What the table holds now.  Cost: 0.8 us a rule where nothing has changed, else 2.1 us."""
        if not self._is_loaded():
            return {}
        heads, count, data = self.block()
        if self._last is None or not self._last.is_of(heads, data):
            counters = tuple(_counters(data, count, self._family))
            held = _split_chains(data, heads, count, self._family)
            self._last = _Look(heads, _without(counters, data), counters, held)
        return self._last.held

    def block(self) -> Block:
        """The table as the kernel has it; one that no program has used is made by this."""
        for _ in range(READ_ATTEMPTS):
            info = bytearray(_INFO.pack(self._table.encode(), *([0] * 13)))
            self._ask(_SO_GET_INFO, info)
            _name, hooks, *numbers = _INFO.unpack(info)
            starts, count, size = numbers[0:5], numbers[10], numbers[11]
            data = bytearray(_ENTRIES_HEADER + size)
            struct.pack_into("=32sI", data, 0, self._table.encode(), size)
            try:
                self._ask(_SO_GET_ENTRIES, data)
            except BlockingIOError:  # changed between the two questions
                continue
            heads = {start: str(HOOKS[n]) for n, start in enumerate(starts) if hooks >> n & 1}
            return Block(heads, count, data)
        raise IptablesError(f"legacy table {self._table} changes all the time")

    def _is_loaded(self) -> bool:
        try:
            names = Path("/proc/thread-self/net", self._family.names).read_text(encoding="ascii")
        except FileNotFoundError:
            return False
        return self._table in names.split()

    def _ask(self, option: int, block: bytearray) -> None:
        length = ctypes.c_uint32(len(block))
        view = (ctypes.c_char * len(block)).from_buffer(block)
        descriptor = self._socket.fileno()
        if self._getsockopt(descriptor, self._family.level, option, view, ctypes.byref(length)):
            code = ctypes.get_errno()
            if code == errno.EAGAIN:
                raise BlockingIOError(code, os.strerror(code))
            raise IptablesError(f"legacy table {self._table}: {os.strerror(code)}")


def _counters(block: bytearray, count: int, family: _Family) -> Iterator[int]:
    """Where the counters of each of ``count`` entries begin."""
    position = _ENTRIES_HEADER
    for _ in range(count):
        yield position + family.size - _COUNTERS
        position += _OFFSETS.unpack_from(block, position + family.offsets)[1]


def _without(counters: tuple[int, ...], block: bytearray) -> bytes:
    cleared, zeros = bytearray(block), bytes(_COUNTERS)
    for start in counters:
        cleared[start : start + _COUNTERS] = zeros
    return bytes(cleared)


def _split_chains(
    block: bytearray, heads: dict[int, str], count: int, family: _Family
) -> dict[str, tuple[RuleHash, ...]]:
    """The chains of ours and the built-in ones, of a block of ``count`` entries.

    Each chain ends with an entry that is its policy or its return, not a rule; a user's chain
    starts with an ERROR target that carries its name, and one more ends the block.
    """
    chains: dict[str, list[RuleHash]] = {}
    names: dict[int, str] = {}
    jumps: list[tuple[str, int, int]] = []
    name = ""
    position = _ENTRIES_HEADER
    for _ in range(count):
        target, length = _OFFSETS.unpack_from(block, position + family.offsets)
        head = heads.get(position - _ENTRIES_HEADER) or _chain_head(block, position + target)
        if head is not None:
            name = head
            names[position + length - _ENTRIES_HEADER] = head
            chains[name] = []
        if head is None or head in HOOKS:
            found = COMMENT.search(block, position, position + length)
            chains[name].append(RuleHash(found[1].decode()) if found else FOREIGN)
            if name in HOOKS and found is None and _is_bare(block, position, target, family):
                (offset,) = _VERDICT.unpack_from(block, position + target + _TARGET_HEADER)
                jumps.append((name, len(chains[name]) - 1, offset))
        position += length
    for hook, place, offset in jumps:
        if own_chain(names.get(offset, "")):
            chains[hook][place] = jump_hash(f"-j {names[offset]}")
    return {
        name: tuple(rules[:-1])
        for name, rules in chains.items()
        if name in HOOKS or own_chain(name)
    }


def _is_bare(block: bytearray, position: int, target: int, family: _Family) -> bool:
    """Whether an entry asks nothing of a packet and has a standard target: a verdict or a jump."""
    asks = block[position : position + family.offsets - _NFCACHE_LENGTH]
    return target == family.size and not any(asks) and not block[position + target + _NAME_OFFSET]


def _chain_head(block: bytearray, target: int) -> str | None:
    if not block.startswith(b"ERROR\0", target + _NAME_OFFSET):
        return None
    start = target + _TARGET_HEADER
    return block[start : block.index(0, start)].decode(errors="replace")
