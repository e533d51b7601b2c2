"""Chains of an iptables-nft table written over netlink, without a process.

In: plans for tables, of either family.  Out: whether they were carried out, in one transaction; if
not, nothing was written and ``iptables-nft-restore`` does it, or says what is wrong.  That program reads every address of the
machine for each port that it is told, and asks the kernel about each extension: 7 ms and more for
a chain, where this takes 0.3.

Taken on are plans for chains of ours alone, every word of which :mod:`.nftrules` knows.  For these
a test compares what both ways leave in the kernel, byte for byte.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.extensions import asked_sets
from calico_k8s.felix.iptables.nftrules import CompatRule, compile_compat
from calico_k8s.felix.iptables.plan import Plan, own_chain
from calico_k8s.felix.iptables.programs import Backend, program_version
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import IpsetSocket
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.netlink.nftwrite import TableMessages
from calico_k8s.netlink.wire import Request
from calico_k8s.render.tables import TableName

SINCE: Final = (1, 8, 9)
"""The iptables whose rules are written here; earlier ones do not read each of them as theirs."""

_LINE: Final = re.compile(r"(?P<verb>:|-A |-X )(?P<chain>\S+)(?: (?P<rest>.*))?")


Compiler = Callable[[str], CompatRule | None]


class TablePlan(NamedTuple):
    """What to write, and where."""

    version: Version
    table: TableName
    plan: Plan


class _Edit(NamedTuple):
    verb: str
    chain: str
    rule: str


class NftWriter:
    """Writes tables of the namespace it is made in.

    Raises:
        NetlinkError: the kernel refused, and nothing was written.
    """

    def __init__(self) -> None:
        self._nft = NftSocket()
        self._ipsets = IpsetSocket()

    @property
    def socket(self) -> NftSocket:
        """Over which it writes."""
        return self._nft

    def close(self) -> None:
        """Release the sockets."""
        self._nft.close()
        self._ipsets.close()

    def write(self, plans: Sequence[TablePlan]) -> bool:
        """Carry plans out in one transaction; False where one of them is not for this way."""
        split = [(each, _split_plan(each.plan)) for each in plans]
        wanted = [(each, edits) for each, edits in split if edits is not None]
        if len(wanted) < len(plans):
            return False
        asked = {name for _, edits in wanted for edit in edits for name in asked_sets(edit.rule)}
        numbers = self._ipsets.indexes(asked)
        requests: list[Request] = []
        for each, edits in wanted:
            messages = TableMessages(each.version, each.table)
            compiler = partial(compile_compat, version=each.version, indexes=numbers)
            made = _requests(messages, edits, compiler)
            if made is None:
                return False
            requests += made
        self._nft.commit(requests)
        return True


def open_writer() -> NftWriter:
    """A writer for the namespace of the caller.  Cost: a process.

    Raises:
        KernelError: this machine's iptables has other rules than are written here.
    """
    version = program_version(Backend.NFT)
    if version < SINCE:
        told, since = (".".join(map(str, each)) for each in (version, SINCE))
        raise IptablesError(f"iptables-nft is {told}, older than {since}")
    return NftWriter()


def _requests(
    messages: TableMessages, edits: list[_Edit], compiled: Compiler
) -> list[Request] | None:
    """Chains are there before the first rule that leads to them, and empty when they go."""
    made: list[Request] = []
    rules: list[Request] = []
    dropped: list[Request] = []
    for verb, chain, text in edits:
        if verb == ":":
            made += (messages.make_chain(chain), messages.flush_chain(chain))
        elif verb == "-X":
            dropped.append(messages.delete_chain(chain))
        elif rule := compiled(text):
            rules.append(messages.add_rule(chain, rule.expressions, protocol=rule.protocol))
        else:
            return None
    return [*made, *rules, *dropped]


def _split_plan(plan: Plan) -> list[_Edit] | None:
    """The plan's lines taken apart; None where one is about a built-in chain."""
    edits: list[_Edit] = []
    for line in (*plan.lines, *plan.deletes):
        found = _LINE.fullmatch(line)
        if found is None or not own_chain(found["chain"]):
            return None
        edits.append(_Edit(found["verb"].strip(), found["chain"], found["rest"] or ""))
    return edits
