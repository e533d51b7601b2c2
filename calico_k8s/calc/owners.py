"""Whose an address is: of the endpoints that claim it, the newest one's.

In: each endpoint's addresses and its claim.  Out: owners, and who is touched by an update.  When
the newest goes, the one before takes the address back.
"""

from calico_k8s.model.addresses import Address
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import WorkloadEndpoint
from calico_k8s.policy.snapshot import claim


class Owners:
    """The claimants of each address, in the order of their claims: the last owns it."""

    def __init__(self) -> None:
        self._claimants: dict[Address, tuple[WorkloadEndpoint, ...]] = {}

    def owner(self, address: Address) -> EndpointId | None:
        """The owner of an address; None where no endpoint claims it."""
        claimants = self._claimants.get(address)
        return None if claimants is None else claimants[-1].id

    def owned(self, endpoint: WorkloadEndpoint) -> tuple[Address, ...]:
        """The addresses of an endpoint that are its own now, sorted."""
        mine = {a for a in endpoint.addresses if self.owner(a) == endpoint.id}
        return tuple(sorted(mine)) if len(mine) > 1 else tuple(mine)

    def update(self, old: WorkloadEndpoint | None, new: WorkloadEndpoint | None) -> set[EndpointId]:
        """Replace an endpoint; the other endpoints that lost or gained an address by it."""
        before = set(old.addresses) if old is not None else set()
        after = set(new.addresses) if new is not None else set()
        mine = old if old is not None else new
        touched: set[EndpointId] = set()
        for address in before | after:
            claimants = self._claimants.get(address, ())
            previous = self.owner(address)
            rest = [c for c in claimants if mine is None or c.id != mine.id]
            if new is not None and address in after:
                rest.append(new)
            if rest:
                self._claimants[address] = tuple(sorted(rest, key=claim))
            else:
                del self._claimants[address]
            current = self.owner(address)
            if current != previous:
                touched.update(i for i in (previous, current) if i is not None)
        if mine is not None:
            touched.discard(mine.id)
        return touched
