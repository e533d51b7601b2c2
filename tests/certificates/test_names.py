"""Each node is one user, and no node is another user."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.certificates.names import (
    COMMON_NAME_MAX,
    CONTROLLER,
    MEMBER,
    ROOT,
    Holder,
    common_name,
    is_ours,
    node_user,
    users_of,
)
from calico_k8s.model.names import NodeName

# RFC 1123, as Kubernetes takes a node's name: up to 253 characters.
NODES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?", fullmatch=True).map(NodeName)


@given(st.sets(NODES, max_size=5))
def test_no_two_nodes_are_one_user(nodes: set[NodeName]) -> None:
    users = {node_user(node) for node in nodes}
    assert len(users) == len(nodes)
    assert all(len(user) <= COMMON_NAME_MAX and is_ours(user) for user in users)
    assert not users & {CONTROLLER, MEMBER, ROOT}


def test_a_long_name_is_not_the_short_name_of_another_node() -> None:
    long = NodeName("n" * 60)
    assert NodeName(node_user(long).removeprefix("node-")) != long
    assert node_user(NodeName(node_user(long).replace("~", "-"))) != node_user(long)


def test_users_that_others_made_are_not_ours() -> None:
    assert not any(is_ours(user) for user in (ROOT, MEMBER, "backup", "controllers"))


def test_a_node_writes_below_its_own_name_only() -> None:
    users = users_of([NodeName("one"), NodeName("one2")])
    (written,) = (grant.prefix for grant in users["node-one"] if grant.can_write)
    assert written == "/felix/v2/host/one/"
    assert users.keys() == {CONTROLLER, "node-one", "node-one2"}


def test_every_holder_has_a_name() -> None:
    names = {common_name(holder, NodeName("one")) for holder in Holder}
    assert names == {"node-one", CONTROLLER, MEMBER}
