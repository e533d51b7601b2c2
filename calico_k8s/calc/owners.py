"""Whose an address is: of the endpoints that claim it, the newest one's.

In: each endpoint's addresses and its claim.  Out: owners, and who is touched by an update.  When
the newest goes, the one before takes the address back.
"""

from calico_k8s.model.addresses import Address
from calico_k8s.model.names import EndpointId

Claim = tuple[bool, float, str, EndpointId]
""":func:`~calico_k8s.policy.snapshot.claim` of an endpoint: the greatest owns."""


class Owners:
    """The claimants of each address, in the order of their claims: the last owns it."""

    def __init__(self) -> None:
        self._claims: dict[Address, Claim] = {}
        """The greatest for each address."""
        self._lesser: dict[Address, list[Claim]] = {}
        """The others, ascending, of addresses with several claimants."""

    def owner(self, address: Address) -> EndpointId | None:
        """The owner of an address; None where no endpoint claims it."""
        claim = self._claims.get(address)
        return None if claim is None else claim[3]

    def owned(self, endpoint: EndpointId, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """Those of the addresses that an endpoint owns now, sorted; as few objects as can be."""
        if len(addresses) == 1:
            return addresses if self.owner(addresses[0]) == endpoint else ()
        return tuple(sorted({a for a in addresses if self.owner(a) == endpoint}))

    def update(
        self, before: tuple[Address, ...], after: tuple[Address, ...], old: Claim | None, new: Claim
    ) -> set[EndpointId]:
        """Replace an endpoint's addresses and claim; the others that lost or gained one by it.

        ``old`` is the claim to what it had before; without any address after, ``new`` is of no
        account.
        """
        touched: set[EndpointId] = set()
        wanted = set(after)
        for address in wanted.union(before):
            previous = self.owner(address)
            if old is not None:
                self._let_go(address, old)
            if address in wanted:
                self._take(address, new)
            current = self.owner(address)
            if current != previous:
                touched.update(i for i in (previous, current) if i is not None)
        touched.discard(new[3])
        return touched

    def _take(self, address: Address, new: Claim) -> None:
        claim = self._claims.get(address)
        if claim is None:
            self._claims[address] = new
            return
        *lesser, greatest = sorted((*self._lesser.get(address, ()), claim, new))
        self._lesser[address], self._claims[address] = lesser, greatest

    def _let_go(self, address: Address, old: Claim) -> None:
        claim = self._claims.get(address)
        if claim is None:
            return
        left = [c for c in (*self._lesser.pop(address, ()), claim) if c[3] != old[3]]
        if left:
            self._claims[address] = left.pop()
        else:
            del self._claims[address]
        if left:
            self._lesser[address] = left
