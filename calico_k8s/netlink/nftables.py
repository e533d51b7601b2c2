"""What the kernel's nftables hold, as far as a watcher of iptables-nft needs: generation, rules.

In: a family and a table's name.  Out: chains, rules with handle and raw expressions.  Nothing
is written here: that is ``iptables-nft-restore`` and ``nft``.

Source: ``linux/netfilter/nf_tables.h``.
"""

from typing import Final, NamedTuple

from calico_k8s.model.addresses import Version
from calico_k8s.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from calico_k8s.netlink.wire import (
    BE32,
    BE64,
    Request,
    attribute_map,
    attribute_text,
    netfilter_request,
    text_attribute,
)

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETGEN = 4, 7, 16
NFTA_GEN_ID = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME = 1, 3
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_EXPRESSIONS = 1, 2, 3, 4
_FAMILIES: Final = {4: 2, 6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6


class NftRule(NamedTuple):
    """A rule: ``handle`` is never given again, ``expressions`` hold its counters too."""

    chain: str
    handle: int
    expressions: memoryview


class NftSocket:
    """The nftables of one network namespace.

    Raises:
        NetlinkError: from every method.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def generation(self) -> int:
        """A number that grows by one with each transaction of any program.  Cost: 10 us."""
        request = netfilter_request(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, 0, 0, b"")
        for answer in self._socket.request(request, "nftables generation"):
            data = attribute_map(memoryview(answer)[4:]).get(NFTA_GEN_ID)
            if data is not None:
                return int(BE32.unpack(data)[0])
        return 0

    def chains(self, version: Version, table: str) -> list[str]:
        """The names of a table's chains; none when there is no such table."""
        body = text_attribute(NFTA_CHAIN_TABLE, table)
        found: list[str] = []
        for message in self._socket.dump(_request(NFT_MSG_GETCHAIN, version, body), "nft chains"):
            attributes = attribute_map(message.body[4:])
            if attribute_text(attributes[NFTA_CHAIN_TABLE]) == table:
                found.append(attribute_text(attributes[NFTA_CHAIN_NAME]))
        return found

    def rules(self, version: Version, table: str) -> list[NftRule]:
        """A table's rules, in order within each chain."""
        body = text_attribute(NFTA_RULE_TABLE, table)
        found: list[NftRule] = []
        for message in self._socket.dump(_request(NFT_MSG_GETRULE, version, body), "nft rules"):
            attributes = attribute_map(message.body[4:])
            if attribute_text(attributes[NFTA_RULE_TABLE]) == table:
                (handle,) = BE64.unpack(attributes[NFTA_RULE_HANDLE])
                expressions = attributes.get(NFTA_RULE_EXPRESSIONS, memoryview(b""))
                chain = attribute_text(attributes[NFTA_RULE_CHAIN])
                found.append(NftRule(chain, handle, expressions))
        return found


def _request(command: int, version: Version, body: bytes) -> Request:
    return netfilter_request(NFNL_SUBSYS_NFTABLES, command, 0, _FAMILIES[version], body)
