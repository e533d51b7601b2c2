"""Where nodes' status is, and what of it can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.names import EndpointId, NamespaceName, NodeName
from calico_k8s.model.status import (
    EndpointStatus,
    StoredStatus,
    decode_status,
    endpoint_status_path,
    parse_status_path,
    status_path,
)

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
dotted = st.lists(names, min_size=1, max_size=3).map(".".join)


@given(dotted.map(NodeName), names.map(NamespaceName), dotted)
def test_a_path_says_whose_status_it_is(
    node: NodeName, namespace: NamespaceName, name: str
) -> None:
    endpoint = EndpointId(node, namespace, name)
    assert parse_status_path(endpoint_status_path(endpoint)) == endpoint
    assert parse_status_path(status_path(node)) == node


@pytest.mark.parametrize(
    "path", ["/felix/v2/host/n1", "/felix/v2/host/n1/newer/thing", "/felix/v2/x", "/v1/Ready"]
)
def test_another_path_is_nobodys(path: str) -> None:
    assert parse_status_path(path) is None


def test_a_newer_versions_state_is_text_like_any_other() -> None:
    told = decode_status(b'{"state": "no-luck", "reason": "r", "since": 5}', EndpointStatus)
    assert told == EndpointStatus("no-luck", "r")
    assert decode_status(b'{"state": 5}', EndpointStatus) is None
    assert decode_status(b"nonsense", StoredStatus) is None
