"""Whose an address is, against the definition's snapshot."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.owners import Owners
from calico_k8s.model import keys
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import WorkloadEndpoint
from calico_k8s.policy.snapshot import Snapshot
from tests.model_strategies import POD_ADDRESSES, endpoint_ids, endpoints

steps = endpoint_ids.flatmap(lambda i: st.tuples(st.just(i), st.none() | endpoints(i)))


@given(st.lists(steps, max_size=20))
def test_owners_are_the_definitions_and_an_update_names_whom_it_touches(
    history: list[tuple[EndpointId, WorkloadEndpoint | None]],
) -> None:
    owners = Owners()
    present: dict[EndpointId, WorkloadEndpoint] = {}
    for identity, new in history:
        before = {i: owners.owned(e) for i, e in present.items()}
        touched = owners.update(present.get(identity), new)
        if new is None:
            present.pop(identity, None)
        else:
            present[identity] = new
        others = present.keys() - {identity}
        assert touched == {i for i in others if owners.owned(present[i]) != before[i]}
    snapshot = Snapshot.from_items({keys.EndpointKey(i): e for i, e in present.items()})
    for address in POD_ADDRESSES:
        owner = snapshot.owner_by_address.get(address)
        assert owners.owner(address) == (None if owner is None else owner.id)
    for endpoint in present.values():
        assert list(owners.owned(endpoint)) == sorted(
            a for a in POD_ADDRESSES if owners.owner(a) == endpoint.id
        )
