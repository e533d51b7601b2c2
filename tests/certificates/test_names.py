"""Each node is one user, and no node is another user."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.certificates.names import (
    COMMON_NAME_MAX,
    CONTROLLER,
    MEMBER,
    NODES,
    Holder,
    common_name,
    node_user,
)
from calico_k8s.datastore.etcd.rights import ROOT_USER
from calico_k8s.model.names import NodeName

# RFC 1123, as Kubernetes takes a node's name: up to 253 characters.
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True).map(NodeName)


@given(st.sets(NAMES, max_size=5))
def test_no_two_nodes_are_one_user(nodes: set[NodeName]) -> None:
    users = {node_user(node) for node in nodes}
    assert len(users) == len(nodes)
    assert all(len(user) <= COMMON_NAME_MAX and user.startswith(NODES) for user in users)
    assert not users & {CONTROLLER, MEMBER, ROOT_USER}


def test_a_long_name_is_not_the_short_name_of_another_node() -> None:
    long = NodeName("n" * 60)
    assert NodeName(node_user(long).removeprefix("node-")) != long
    assert node_user(NodeName(node_user(long).replace("~", "-"))) != node_user(long)


def test_every_holder_has_a_name() -> None:
    names = {common_name(holder, NodeName("one")) for holder in Holder}
    assert names == {"node-one", CONTROLLER, MEMBER, ""}
