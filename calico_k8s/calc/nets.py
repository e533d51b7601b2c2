"""Many nets at once: does one of them hold an address, and where do two lists overlap.

In: canonical nets.  Out: truth values, and nets.  Two CIDRs are disjoint or one lies in the other,
so the intersection of two lists is itself a list of CIDRs taken from them: nothing is ever split.
"""

from collections.abc import Iterable

from calico_k8s.model.addresses import (
    ADDRESS_BITS,
    Address,
    Net,
    Version,
    address_number,
    address_version,
    net_range,
)


class NetTable:
    """Nets of both families, to be asked by address or by net.

    Cost: O(nets) to make; a question is one hash look-up for each distinct prefix length.
    """

    def __init__(self, nets: Iterable[Net] = ()) -> None:
        self.nets = frozenset(nets)
        self._starts: dict[Version, dict[int, set[int]]] = {4: {}, 6: {}}
        for net in self.nets:
            by_length = self._starts[address_version(net)]
            by_length.setdefault(prefix_length(net), set()).add(net_range(net).first)

    def holds(self, address: Address) -> bool:
        """Whether one of the nets holds the address."""
        version = address_version(address)
        return bool(self._starts[version]) and self._covers(
            version, address_number(address), ADDRESS_BITS[version]
        )

    def covers(self, net: Net) -> bool:
        """Whether one of the nets holds the whole of ``net``."""
        return self._covers(address_version(net), net_range(net).first, prefix_length(net))

    def _covers(self, version: Version, first: int, longest: int) -> bool:
        bits = ADDRESS_BITS[version]
        return any(
            length <= longest and first >> (bits - length) << (bits - length) in starts
            for length, starts in self._starts[version].items()
        )


def prefix_length(net: Net) -> int:
    """The number after the slash."""
    return int(net.rpartition("/")[2])


def intersection(some: NetTable, others: NetTable) -> frozenset[Net]:
    """Nets that hold exactly the addresses that both tables hold."""
    return frozenset(net for net in some.nets if others.covers(net)) | frozenset(
        net for net in others.nets if some.covers(net)
    )
