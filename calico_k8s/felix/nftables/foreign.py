"""Other programs' chains that drop what pods send through the node, whatever our policy says.

In: the namespace this runs in.  Out: a sentence for each such chain, with what to do about it.  In
nftables an accept ends the chain it stands in, and no other table's: a policy of drop, or a rule
that drops whatever comes as far as it, is for its owner to open.  Rules with conditions are not
looked at: what they drop is what their owner means to.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.felix.nftables.family import HOOKS, TABLE
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.nftables import (
    FAMILIES,
    BaseChain,
    NftSocket,
    TableFamily,
    is_unconditional_drop,
)

_NAMES: Final[dict[int, str]] = {FAMILIES[4]: "ip", FAMILIES[6]: "ip6", FAMILIES["inet"]: "inet"}
_FAMILY_OF: Final[dict[int, TableFamily]] = {FAMILIES[family]: family for family in (4, 6, "inet")}
_LEGACY_TABLES: Final[dict[Version, Path]] = {
    4: Path("/proc/net/ip_tables_names"),
    6: Path("/proc/net/ip6_tables_names"),
}
_LEGACY_DROP: Final = re.compile(r"^:FORWARD DROP", re.MULTILINE)


def foreign_drops() -> tuple[str, ...]:
    """A sentence for each chain.  Cost: a dump of all chains, some 0.1 ms.

    Raises:
        KernelError: the kernel, or a tool, refused to read.
    """
    with closing(NftSocket()) as socket:
        found = [*_nft_drops(socket)]
    return (*found, *_legacy_drops())


def _nft_drops(socket: NftSocket) -> Iterator[str]:
    for chain in socket.base_chains():
        if chain.place.hook != HOOKS["FORWARD"] or chain.family not in _NAMES:
            continue
        if chain.table == TABLE:
            continue
        name = f"nftables chain {_NAMES[chain.family]} {chain.table} {chain.name}"
        if chain.place.is_dropping:
            yield _sentence(name, "drops by its policy what no rule of it accepts", chain)
        rules = socket.rules(_FAMILY_OF[chain.family], chain.table, chain.name)
        if any(map(is_unconditional_drop, rules)):
            yield _sentence(name, "has a rule that drops whatever comes as far as it", chain)


def _sentence(name: str, what: str, chain: BaseChain) -> str:
    remedy = "have its owner accept pods' packets there"
    if (chain.table, chain.name) == ("filter", "FORWARD"):
        remedy += ", or give --iptables-backend nft, which accepts in that chain what policy allows"
    return f"{name} {what}, pods' packets that policy allows too: {remedy}"


def _legacy_drops() -> Iterator[str]:
    for version, names in _LEGACY_TABLES.items():
        if not names.exists() or "filter" not in names.read_text().split():
            continue  # asking for the table would make it
        if _LEGACY_DROP.search(save(Backend.LEGACY, version, "filter")):
            yield (
                f"chain FORWARD of IPv{version} legacy iptables drops by its policy what no rule of"
                " it accepts, pods' packets that policy allows too: have its owner accept pods'"
                " packets there, or give --iptables-backend legacy, which accepts in that chain"
                " what policy allows"
            )
