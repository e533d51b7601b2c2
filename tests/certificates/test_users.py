"""What each user of etcd may do, and that etcd is kept so."""

import threading
from pathlib import Path

import pytest

from calico_k8s.certificates import users
from calico_k8s.certificates.names import CONTROLLER, MEMBER
from calico_k8s.certificates.users import UserKeeper, is_ours, users_of
from calico_k8s.datastore.etcd.rights import ROOT_USER, EtcdRights
from calico_k8s.datastore.location import EtcdLocation, parse_url
from calico_k8s.model.names import NodeName
from tests.datastore.followers import wait_until
from tests.etcd.certificates import Authority
from tests.etcd.servers import EtcdCluster, etcd_cluster

ONE, TWO = NodeName("one"), NodeName("two")


def test_users_that_others_made_are_not_ours() -> None:
    assert not any(is_ours(user) for user in (ROOT_USER, MEMBER, "backup", "controllers"))


def test_a_node_writes_below_its_own_name_only() -> None:
    found = users_of([NodeName("one"), NodeName("one2")])
    (written,) = (grant.prefix for grant in found["node-one"] if grant.can_write)
    assert written == "/felix/v2/host/one/"
    assert found.keys() == {CONTROLLER, "node-one", "node-one2"}


def rights(cluster: EtcdCluster, authority: Authority) -> EtcdRights:
    location = parse_url(cluster.url())
    assert isinstance(location, EtcdLocation)
    return EtcdRights(location, authority.issue("root"))


@pytest.mark.etcd
def test_users_follow_the_nodes_through_an_etcd_that_is_away_and_one_that_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "CHECK_S", 0.3)
    authority, told = Authority(tmp_path), threading.Event()
    with etcd_cluster(tmp_path / "etcd", authority=authority) as cluster:
        (member,) = cluster.members
        member.kill()
        empty = tmp_path / "empty"
        member.back_up(empty)
        keeper = UserKeeper(rights(cluster, authority), told.set)
        keeper.start()
        try:
            keeper.set_nodes([ONE])
            wait_until(lambda: "no member of etcd" in (keeper.problem or ""), "the refusal")
            assert not keeper.is_known("node-one")
            member.restart()
            wait_until(lambda: keeper.is_known("node-one"), "the node's user")
            assert told.is_set()
            assert keeper.problem is None
            keeper.set_nodes([TWO])
            wait_until(lambda: keeper.is_known("node-two"), "the other node's user")
            assert not keeper.is_known("node-one")
            member.kill()
            member.restore(empty)
            member.restart()
            asker = rights(cluster, authority)
            wait_until(lambda: asker.state().is_enforced, "the new etcd to ask for users")
            asker.bring_to({}, is_ours)  # somebody meddles
            wait_until(lambda: "node-two" in asker.bring_to({}, lambda _user: False), "the user")
            asker.close()
            assert keeper.is_alive
        finally:
            keeper.close()
        assert not keeper.is_alive
