"""Whose an address is, against the definition's snapshot."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.owners import Owners
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import WorkloadEndpoint
from calico_k8s.policy.snapshot import Snapshot, claim
from tests.model_strategies import POD_ADDRESSES, endpoint_ids, endpoints

steps = endpoint_ids.flatmap(lambda i: st.tuples(st.just(i), st.none() | endpoints(i)))


@given(st.lists(steps, max_size=20))
def test_owners_are_the_definitions_and_an_update_names_whom_it_touches(
    history: list[tuple[EndpointId, WorkloadEndpoint | None]],
) -> None:
    owners = Owners()
    present: dict[EndpointId, WorkloadEndpoint] = {}

    def owned() -> dict[EndpointId, tuple[Address, ...]]:
        return {i: owners.owned(i, e.addresses) for i, e in present.items()}

    for identity, new in history:
        before, old = owned(), present.pop(identity, None)
        touched = owners.update(
            () if old is None else old.addresses,
            () if new is None else new.addresses,
            None if old is None else claim(old),
            (False, 0.0, "", identity) if new is None else claim(new),
        )
        if new is not None:
            present[identity] = new
        after = owned()
        assert touched == {i for i in present if i != identity and after[i] != before[i]}
    snapshot = Snapshot.from_items({keys.EndpointKey(i): e for i, e in present.items()})
    for address in POD_ADDRESSES:
        owner = snapshot.owner_by_address.get(address)
        assert owners.owner(address) == (None if owner is None else owner.id)
    for identity, addresses in owned().items():
        assert list(addresses) == sorted(a for a in POD_ADDRESSES if owners.owner(a) == identity)
