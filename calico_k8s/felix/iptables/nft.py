"""What a table of iptables-nft holds, read over netlink without a process.

In: a family and a table's name.  Out: :data:`~calico_k8s.felix.iptables.plan.Held`, and the
generation that tells when it need not be read again.
"""

from calico_k8s.felix.iptables.hashes import FOREIGN, RuleHash, jump_hash
from calico_k8s.felix.iptables.legacy import COMMENT
from calico_k8s.felix.iptables.plan import HOOKS, Held, own_chain
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.nftables import NftRule, NftSocket, bare_jump
from calico_k8s.render.tables import TableName


class NftReader:
    """Reads one table of the namespace it is made in.

    Raises:
        NetlinkError: the kernel refused.
    """

    def __init__(self, version: Version, table: TableName) -> None:
        self._version = version
        self._table = table
        self._socket = NftSocket()

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def stamp(self) -> int:
        """Equal stamps: no program changed any nftables between.  Cost: 10 us."""
        return self._socket.generation()

    def read(self) -> Held:
        """What the table holds now.  Cost: 4 us a rule."""
        chains: dict[str, list[RuleHash]] = {
            name: []
            for name in self._socket.chains(self._version, self._table)
            if name in HOOKS or own_chain(name)
        }
        for rule in self._socket.rules(self._version, self._table):
            rules = chains.get(rule.chain)
            if rules is not None:
                rules.append(_rule_hash(rule))
        return {name: tuple(rules) for name, rules in chains.items()}


def _rule_hash(rule: NftRule) -> RuleHash:
    found = COMMENT.search(rule.attributes)
    if found:
        return RuleHash(found[1].decode())
    jumped = bare_jump(rule) if rule.chain in HOOKS else None
    return jump_hash(f"-j {jumped}") if jumped and own_chain(jumped) else FOREIGN
