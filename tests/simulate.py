"""A packet's way through rendered chains, without a kernel.

In: tables and sets as :mod:`calico_k8s.render` makes them, a packet with its hook path.  Out: its
verdict, its marks, and every rule that matched.  :mod:`tests.simulated_rules` reads the rules; a
jump to a chain that is not there is an error.

What it stands for is iptables: a chain's rules in order, ``goto`` does not come back, the end of a
chain returns, ``ACCEPT`` ends one table's hook and ``DROP`` everything.  Other programs' rules are
only a policy, :attr:`Kernel.policy`.  That a real kernel agrees is tests/kernel's business.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from calico_k8s.model.addresses import Address
from calico_k8s.render.tables import HookName, IpsetName, RuleText, Table, TableName
from tests.simulated_rules import Packet, SimulatedIpset, parse_rule

DEPTH_MAX = 64
"""Jumps inside jumps; a chain that reaches itself ends here."""


class Verdict(Enum):
    """What becomes of a packet in one hook of one table."""

    ACCEPT = "accept"
    DROP = "drop"
    POLICY = "policy"
    """It came to the end of the built-in chain."""


class Matched(NamedTuple):
    """A rule that a packet met."""

    table: TableName
    chain: str
    rule: RuleText


@dataclass
class Outcome:
    """What became of a packet on its whole way."""

    is_accepted: bool
    mark: int
    trace: list[Matched] = field(default_factory=list)
    is_ours: bool = False
    """Whether a rule of ours ended it, accepting or dropping; else a policy did."""


@dataclass
class Kernel:
    """The tables of both families, the sets, the interfaces' groups, and the machine's addresses."""

    tables: Iterable[Table]
    ipsets: Mapping[IpsetName, SimulatedIpset]
    link_groups: Mapping[str, int] = field(default_factory=dict)
    own_addresses: frozenset[Address] = frozenset()
    policy: Verdict = Verdict.ACCEPT
    """What other programs' rules and the filter table's policies come to."""

    def forward(self, packet: Packet) -> Outcome:
        """A packet that passes through."""
        return self._pass(
            packet, (*_ARRIVING, ("mangle", "FORWARD"), ("filter", "FORWARD"), _LEAVING)
        )

    def to_host(self, packet: Packet) -> Outcome:
        """A packet for this machine."""
        return self._pass(packet, (*_ARRIVING, ("mangle", "INPUT"), ("filter", "INPUT")))

    def from_host(self, packet: Packet) -> Outcome:
        """A packet that this machine sends."""
        return self._pass(
            packet, (("raw", "OUTPUT"), ("mangle", "OUTPUT"), ("filter", "OUTPUT"), _LEAVING)
        )

    def _pass(self, packet: Packet, hooks: Iterable[tuple[TableName, HookName]]) -> Outcome:
        outcome = Outcome(is_accepted=True, mark=packet.mark)
        before = Verdict.POLICY
        for table_name, hook in hooks:
            for table in self.tables:
                if (table.name, table.version) != (table_name, packet.version):
                    continue
                walk = _Walk(self, table, _as_seen(packet, hook), outcome)
                verdict = walk.through_hook(hook)
                packet = replace(packet, mark=walk.packet.mark, state=walk.packet.state)
                outcome.mark = packet.mark
                before = before if hook == "POSTROUTING" else verdict
                if verdict is Verdict.DROP:
                    outcome.is_accepted, outcome.is_ours = False, True
                    return outcome
        outcome.is_ours = before is Verdict.ACCEPT
        outcome.is_accepted = outcome.is_ours or self.policy is Verdict.ACCEPT
        return outcome


Place = tuple[TableName, HookName]
_ARRIVING: tuple[Place, ...] = (("raw", "PREROUTING"), ("mangle", "PREROUTING"))
_LEAVING: Place = ("mangle", "POSTROUTING")


def _as_seen(packet: Packet, hook: HookName) -> Packet:
    """Interfaces and addresses as a hook sees them: no way out before routing, DNAT after."""
    if hook in ("OUTPUT", "POSTROUTING"):
        return replace(packet, in_interface="")
    if hook == "FORWARD":
        return packet
    if hook == "PREROUTING" and packet.meant is not None:
        packet = replace(packet, dst=packet.meant[0], dport=packet.meant[1])
    return replace(packet, out_interface="")


class _Walk:
    """One packet in one table."""

    def __init__(self, kernel: Kernel, table: Table, packet: Packet, outcome: Outcome) -> None:
        self.kernel = kernel
        self.table = table
        self.packet = packet
        self.outcome = outcome

    def through_hook(self, hook: HookName) -> Verdict:
        rules = (*self.table.first.get(hook, ()), *self.table.last.get(hook, ()))
        return self._through(hook, rules, 0) or Verdict.POLICY

    def _through(self, name: str, rules: Iterable[RuleText], depth: int) -> Verdict | None:
        """The verdict of a chain; None where it returns to whoever jumped into it."""
        if depth > DEPTH_MAX:
            raise AssertionError(f"chain {name} is reached too deep: a cycle")
        for text in rules:
            rule = parse_rule(text, self.table.version)
            if not all(match(self.kernel, self.packet) for match in rule.matches):
                continue
            self.outcome.trace.append(Matched(self.table.name, name, text))
            if rule.chain is not None:
                verdict = self._through(rule.chain, self.table.chains[rule.chain], depth + 1)
                if verdict is not None or rule.is_goto:
                    return verdict
            elif rule.verdict == "RETURN":
                return None
            elif rule.verdict is not None:
                return Verdict[rule.verdict]
            else:
                self.packet = rule.change(self.kernel, self.packet)
        return None
