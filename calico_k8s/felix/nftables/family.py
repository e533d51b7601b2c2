"""Our table of one family: the chains that are desired, those it holds, and what differs.

In: tables as the renderer made them, and the marks that maps give.  Out: requests for one
transaction.  The table is ours alone; whoever else writes into it is mended like any other
difference.
"""

import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Final

from calico_k8s.errors import NetlinkError
from calico_k8s.felix.differences import Difference, chain_difference
from calico_k8s.felix.expressions import FlowLimit, Part, PortSet, Queue, TypeOf, compile_rule
from calico_k8s.felix.nftables.batch import Batch
from calico_k8s.felix.nftables.elements import (
    LEAF_MAP,
    PORT_TYPE,
    Marker,
    flow_kind,
    leaf_element,
    parse_marker,
)
from calico_k8s.felix.nftables.images import (
    COUNTED,
    RAW_PREFIX,
    Image,
    Written,
    pack_comment,
    rule_texts,
    unpack_comment,
    write_chain,
)
from calico_k8s.model.addresses import Version
from calico_k8s.netlink import nftexpr as nft
from calico_k8s.netlink.nftables import (
    HookPlace,
    NftSocket,
    SetKind,
    counted_packets,
    rule_identity,
)
from calico_k8s.netlink.nftexpr import Meta
from calico_k8s.netlink.nftwrite import (
    ANONYMOUS,
    ANONYMOUS_NAME,
    CONSTANT,
    INTERVAL,
    TableMessages,
)
from calico_k8s.render.names import ROOTS, is_telling
from calico_k8s.render.tables import ChainName, HookName, RuleText, Table, TableName

TABLE: Final = "calico_k8s"
HOOKS: Final[dict[HookName, int]] = {
    "PREROUTING": 0,
    "INPUT": 1,
    "FORWARD": 2,
    "OUTPUT": 3,
    "POSTROUTING": 4,
}  # enum nf_inet_hooks
PRIORITIES: Final[dict[TableName, int]] = {"raw": -300, "mangle": -150, "nat": 0, "filter": 0}
"""Where iptables has its tables of these names."""
LOOKED_AT_SINGLY: Final = 32
"""Of more chains than this it is quicker to list all."""
FLOWS: Final = "cali-flows"
"""The set of flows for each of which there is a limit; there while rules ask it, and after."""
_MAPS: Final = frozenset(ROOTS.values())

Rules = tuple[RuleText, ...]


class FamilyTable:
    """The table ``calico_k8s`` of one family, in the namespace that the socket is of.

    Raises:
        NetlinkError: from every method that reads.
    """

    def __init__(self, version: Version, socket: NftSocket, type_of: TypeOf) -> None:
        self.version: Version = version
        self.messages = TableMessages(version, TABLE)
        self._socket = socket
        self._type_of = type_of
        self._parts: dict[TableName, Table] = {}
        self._desired: dict[ChainName, tuple[Rules, Written]] = {}
        self._held: dict[str, Image] | None = None
        self._maps: set[str] = set()
        self._deeds: dict[str, tuple[int, ...]] = {}
        """By chain what its rules did when they were read as desired."""
        self._doubted: set[str] = set()

    def set_desired(self, table: Table) -> None:
        """What is ours of an iptables table should be exactly this."""
        self._parts[table.name] = table
        before, self._desired = self._desired, {}
        for part in self._parts.values():
            prefix = _prefix(part.name)
            for name, rules, place in _chains(part):
                known = before.get(name)
                if known is None or known[0] != rules:
                    written = write_chain(name, rules, place)
                    known = (rules, written._replace(prefix=prefix))
                self._desired[name] = known

    def forget(self) -> None:
        """Believe nothing of what the table holds."""
        self._held = None

    def begin_anew(self, batch: Batch) -> None:
        """Have the table deleted and made anew, with nothing in it."""
        messages = self.messages
        batch.tables += (messages.make_table(), messages.delete_table())
        self._held, self._maps, self._deeds = {}, set(), {}
        self._doubted.clear()

    @property
    def held(self) -> Mapping[str, Image]:
        """The chains that the table holds, as far as is known."""
        if self._held is None:
            self.read()
        assert self._held is not None
        return self._held

    def read(self) -> None:
        """Read the table.  Cost: 5 us a rule."""
        before, known = self._held or {}, self._deeds
        places = self._socket.places(self.version, TABLE)
        deeds: dict[str, list[int]] = {name: [] for name in places}
        comments: dict[str, list[str]] = {name: [] for name in places}
        for rule in self._socket.rules(self.version, TABLE) if places else ():
            deed, user_data = rule_identity(rule)
            deeds[rule.chain].append(deed)
            comments[rule.chain].append(unpack_comment(user_data))
        kinds = self._socket.sets(self.version, TABLE) if places else {}
        self._maps = {name for name in _MAPS if kinds.get(name) == LEAF_MAP}
        self._held = {
            name: Image(tuple(comments[name]), self._leaves(name), place)
            for name, place in places.items()
        }
        self._deeds = {name: tuple(found) for name, found in deeds.items()}
        self._doubted |= {
            name
            for name, found in self._deeds.items()
            if self._held[name] == before.get(name) and known.get(name, found) != found
        }

    def learn(self) -> None:
        """Note the rules of chains that were written and that nobody else has touched since."""
        unknown = [name for name in self.held if name not in self._deeds]
        if len(unknown) > LOOKED_AT_SINGLY:
            self.read()
            return
        for name in unknown:
            rules = self._socket.rules(self.version, TABLE, name)
            self._deeds[name] = tuple(rule_identity(rule)[0] for rule in rules)

    def try_rule(self, rule: RuleText) -> None:
        """Have the kernel take a rule, in a table that the same transaction deletes.

        Raises:
            NetlinkError: the kernel does not know what it asks or does.
        """
        scratch, batch = FamilyTable(self.version, self._socket, self._type_of), Batch()
        scratch.messages = TableMessages(self.version, f"{TABLE}_probe")
        batch.tables.append(scratch.messages.make_table())
        batch.chains.append(scratch.messages.make_chain("probe"))
        scratch._add_rule(batch, "probe", "", rule, "")
        self._socket.commit([*batch.requests(), scratch.messages.delete_table()])

    def counted(self) -> Counter[str]:
        """How many packets the rules of each chain that counts have met, by its name in iptables.

        Cost: 2 us a rule.
        """
        found = Counter[str]()
        for rule in self._socket.rules(self.version, TABLE):
            name = rule.chain.removeprefix(RAW_PREFIX)
            if is_telling(name):
                found[name] += counted_packets(rule)
        return found

    def differs(self) -> bool:
        """Whether the chains that are held are other than desired."""
        held = self.held
        if self._doubted or any(
            held.get(name) != written.image for name, (_, written) in self._desired.items()
        ):
            return True
        return any(name not in self._desired and parse_marker(name) is None for name in held)

    def differences(self, place: str) -> Iterator[Difference]:
        """How the chains that are held differ, rule by rule."""
        for name, (wanted, written) in self._desired.items():
            image = self.held.get(name)
            if image is None or image.place == written.image.place:
                held = None if image is None else rule_texts(image) or image.comments
                yield from chain_difference(place, name, wanted, held)
            else:
                yield Difference("hook", place, f"chain {name} stands at another place")
        for each in sorted(self.held.keys() - self._desired.keys()):
            if parse_marker(each) is None:
                yield Difference("chain", place, f"chain {each} is not wanted")

    def write(self, batch: Batch) -> int:
        """Queue what differs; how many rules and leaves that is."""
        held = dict(self.held)
        lines = 0
        for name, (_, written) in self._desired.items():
            image = held.get(name)
            if image != written.image or name in self._doubted:
                lines += self._write_chain(batch, name, written, image)
                held[name] = written.image
        unwanted = [n for n in held if n not in self._desired and parse_marker(n) is None]
        for each in unwanted:
            self._drop_chain(batch, each)
            del held[each]
        self._doubted.clear()
        self._held = held
        return lines + len(unwanted)

    def settle_markers(self, batch: Batch, wanted: Collection[Marker]) -> None:
        """Queue the chains that set marks: those that maps lead to, and no others."""
        held = dict(self.held)
        by_name = {marker.chain: marker for marker in wanted}
        for name, marker in by_name.items():
            written = write_chain(name, (marker.rule,))
            if held.get(name) != written.image:
                self._write_chain(batch, name, written, held.get(name))
                held[name] = written.image
        for each in [n for n in held if parse_marker(n) is not None and n not in by_name]:
            self._drop_chain(batch, each)
            del held[each]
        self._held = held

    def _write_chain(
        self, batch: Batch, name: ChainName, written: Written, image: Image | None
    ) -> int:
        messages, lines = self.messages, 0
        if image is not None and image.place != written.image.place:
            batch.tables += (messages.flush_chain(name), messages.delete_chain(name))
            image = None
        if image is None:
            batch.chains.append(messages.make_chain(name, written.image.place))
        lines += self._write_leaves(batch, name, written, image.leaves if image else {})
        if image is None or image.comments != written.image.comments or name in self._doubted:
            self._deeds.pop(name, None)
            if image is not None:
                batch.rules.append(messages.flush_chain(name))
            for comment, rule in written.rules:
                self._add_rule(batch, name, comment, rule, written.prefix)
            lines += len(written.rules)
        return lines

    def _add_rule(
        self, batch: Batch, chain: str, comment: str, rule: RuleText | int, prefix: str
    ) -> None:
        if isinstance(rule, int):
            expressions = (
                nft.load_meta(Meta.MARK) + nft.mask(nft.host32(rule)) + nft.look_up_verdict(chain)
            )
        else:
            parts = compile_rule(rule, self.version, self._type_of, f"{prefix}{{}}".format)
            expressions = b"".join(self._expression(batch, part) for part in parts)
            if comment.startswith(COUNTED):
                expressions = nft.counter() + expressions
        batch.rules.append(self.messages.add_rule(chain, expressions, pack_comment(comment)))

    def _expression(self, batch: Batch, part: Part) -> bytes:
        if isinstance(part, PortSet):
            return self._ask_ports(batch, part)
        if isinstance(part, FlowLimit):
            kind = flow_kind(self.version)
            batch.sets.append(self.messages.make_flow_set(FLOWS, kind, part.size, part.timeout_ms))
            return nft.each_in_set(FLOWS, nft.limit(part.rate, part.burst))
        if isinstance(part, Queue):
            return nft.queue(part.number) if self._has_queues else nft.queue_target(part.number)
        return part

    @cached_property
    def _has_queues(self) -> bool:
        """Whether the kernel has the expression; asked of it with a table of the moment."""
        messages = TableMessages(self.version, f"{TABLE}-probe")
        rule = messages.add_rule("probe", nft.queue(0), b"")
        chain = messages.make_chain("probe")
        try:
            self._socket.commit((messages.make_table(), chain, rule, messages.delete_table()))
        except NetlinkError:
            return False
        return True

    def _ask_ports(self, batch: Batch, ports: PortSet) -> bytes:
        set_id = batch.next_id()
        flags = ANONYMOUS | CONSTANT | (INTERVAL if ports.has_ranges else 0)
        kind = SetKind(PORT_TYPE, 2, flags)
        batch.rules.append(self.messages.make_set(ANONYMOUS_NAME, kind, set_id))
        batch.rules += self.messages.add_elements(ANONYMOUS_NAME, ports.elements, set_id)
        return nft.look_up(ANONYMOUS_NAME, is_negated=ports.is_negated, set_id=set_id)

    def _write_leaves(
        self, batch: Batch, name: ChainName, written: Written, held: Mapping[int, ChainName]
    ) -> int:
        wanted = written.image.leaves
        if wanted and name not in self._maps:
            batch.sets.append(self.messages.make_set(name, LEAF_MAP, batch.next_id()))
            self._maps.add(name)
        gone = [mark for mark, chain in held.items() if wanted.get(mark) != chain]
        new = [mark for mark, chain in wanted.items() if held.get(mark) != chain]
        batch.elements += self.messages.delete_elements(
            name, [leaf_element(mark, held[mark]) for mark in gone]
        )
        batch.elements += self.messages.add_elements(
            name, [leaf_element(mark, wanted[mark]) for mark in new]
        )
        if not wanted and name in self._maps:
            batch.dropped_sets.append(self.messages.delete_set(name))
            self._maps.discard(name)
        return len(gone) + len(new)

    def _drop_chain(self, batch: Batch, name: str) -> None:
        """Chains lead to one another: all are emptied before the first is deleted."""
        batch.rules.append(self.messages.flush_chain(name))
        batch.dropped_chains.append(self.messages.delete_chain(name))
        self._deeds.pop(name, None)

    def _leaves(self, name: str) -> dict[int, ChainName]:
        if name not in self._maps:
            return {}
        return {
            int.from_bytes(each.key, sys.byteorder): ChainName(each.chain or "")
            for each in self._socket.elements(self.version, TABLE, name)
        }


def _prefix(table: TableName) -> str:
    return RAW_PREFIX if table == "raw" else ""


def _chains(table: Table) -> Iterator[tuple[ChainName, Rules, HookPlace | None]]:
    """The chains that a table of iptables is here; what it has in built-in ones has its own."""
    for name, rules in table.chains.items():
        yield ChainName(_prefix(table.name) + name), rules, None
    for hook in table.first.keys() | table.last.keys():
        rules = (*table.first.get(hook, ()), *table.last.get(hook, ()))
        place = HookPlace(HOOKS[hook], PRIORITIES[table.name])
        yield ChainName(f"{table.name}-{hook}"), rules, place
