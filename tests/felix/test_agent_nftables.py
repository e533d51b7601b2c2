"""The agent over its native nftables tables: who meddles with them is mended, all at once."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from calico_k8s.felix import drift as drifts
from calico_k8s.felix.drift import DriftFinder
from calico_k8s.felix.kernel import Native, clean_kernel
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from tests.felix.nodes import (
    NODE,
    Machine,
    PodSite,
    connecting,
    machine_up,
    reaches,
    tags,
    until,
    walled,
)
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel

Pods = tuple[PodSite, PodSite, PodSite]
MEDDLINGS = (
    "flush chain ip calico_k8s mangle-FORWARD",
    "flush chain ip6 calico_k8s cali-FORWARD",
    "insert rule ip calico_k8s mangle-FORWARD accept",
    "add chain ip calico_k8s mangle-FORWARD { policy drop; }",
    "add chain ip calico_k8s somebodys",
    "flush map ip calico_k8s cali-ingress",
    "delete table ip6 calico_k8s",
    "flush ruleset",
)


@pytest.fixture
def machine(namespace: Namespace, tmp_path: Path) -> Iterator[Machine]:
    with machine_up(namespace, tmp_path, Native.NFTABLES) as machine:
        yield machine


@pytest.fixture
def pods(machine: Machine) -> Pods:
    """The second takes the first only, and an agent says so."""
    client, server, other = (machine.pod(f"pod-{n}", n) for n in (10, 11, 12))
    machine.start(resync_interval_s="1")
    machine.settle(walled(client, server, other))
    assert stands(client, server, other)
    return client, server, other


def stands(client: PodSite, server: PodSite, other: PodSite) -> bool:
    return all(
        reaches(client, server, version) and not reaches(other, server, version)
        for version in (4, 6)
    )


def test_whatever_somebody_does_to_our_tables_is_mended(machine: Machine, pods: Pods) -> None:
    before = machine.held()
    for words in MEDDLINGS:
        run("nft", words)
        assert until(lambda: machine.held() == before), words
        assert stands(*pods), words
    assert until(lambda: drift(machine) >= len(MEDDLINGS))


def drift(machine: Machine) -> int:
    status = machine.status()
    return 0 if status is None else status.drift_repaired


def test_a_rule_replaced_in_place_under_its_own_comment_is_mended(
    machine: Machine, pods: Pods
) -> None:
    before = machine.held()
    listed = run("nft", "--handle", "list", "chain", "ip", "calico_k8s", "cali-deny")
    (rule,) = (line for line in listed.splitlines() if "drop" in line)
    handle = rule.rpartition("# handle ")[2]
    text = 'accept comment "-j DROP"'
    run("nft", f"replace rule ip calico_k8s cali-deny handle {handle} {text}")
    assert until(lambda: machine.held() == before)
    assert stands(*pods)


def test_a_set_emptied_by_somebody_is_filled_by_the_resync(machine: Machine, pods: Pods) -> None:
    before = machine.held()
    run("nft", "flush", "map", "ip", "calico_k8s", "cali4-src")
    run("nft", "flush", "set", "ip6", "calico_k8s", "cali6-same")
    assert not reaches(pods[0], pods[1])
    assert until(lambda: machine.held() == before)
    assert stands(*pods)


def test_a_change_is_one_transaction_whatever_it_is_about(machine: Machine, pods: Pods) -> None:
    client, server, other = pods
    machine.stop()
    machine.start()
    assert until(lambda: machine.is_at(1))
    with closing(NftSocket()) as tables:
        before = tables.generation()
        machine.settle(other.stored("open", "friends") | tags("friends", "access"))
        assert tables.generation() == before + 1
    assert reaches(other, server)
    assert reaches(client, server)


def test_clean_removes_our_tables_and_no_other(machine: Machine, pods: Pods) -> None:
    machine.stop()
    run("nft", "add table ip others; add chain ip others calico_k8s")
    with connecting(pods[0], pods[1]) as opened:
        assert clean_kernel(10, DEFAULT_MARK_MASK) == ()
    assert all(opened)
    assert run("nft", "list", "tables").split() == ["table", "ip", "others"]
    assert reaches(pods[2], pods[1])


FIREWALLS = {
    "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }": (
        "chain ip filter FORWARD drops by its policy",
        "--iptables-backend nft",
    ),
    "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }; "
    "add rule inet firewalld filter_FORWARD iifname eth9 drop; "
    "add rule inet firewalld filter_FORWARD counter reject": (
        "chain inet firewalld filter_FORWARD has a rule that drops",
        "have its owner accept",
    ),
}


def test_chains_of_others_that_drop_what_policy_allows_are_named_with_the_remedy(
    machine: Machine, pods: Pods
) -> None:
    run("iptables-legacy", "-P", "FORWARD", "DROP")
    for words in FIREWALLS:
        family, table = words.split()[2:4]
        run("nft", f"add table {family} {table}; {words}")
    assert not reaches(pods[0], pods[1]), "an accept of ours ends nothing of theirs"
    wanted = (*FIREWALLS.values(), ("FORWARD of IPv4 legacy", "--iptables-backend legacy"))
    assert until(lambda: len(errors(machine)) == len(wanted))
    for parts in wanted:
        assert any(all(part in error for part in parts) for error in errors(machine)), parts
    run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
    for words in FIREWALLS:
        run("nft", "delete table {} {}".format(*words.split()[2:4]))
    assert until(lambda: errors(machine) == ())
    assert reaches(pods[0], pods[1])


def errors(machine: Machine) -> tuple[str, ...]:
    status = machine.status()
    return () if status is None else status.errors


DRIFTS = {
    "insert rule ip calico_k8s cali-FORWARD accept": "chain cali-FORWARD has other rules",
    "add chain ip6 calico_k8s mangle-INPUT { policy drop; }": "stands at another place",
    "add chain ip calico_k8s somebodys": "chain somebodys is not wanted",
    "flush map ip calico_k8s cali-ingress": "chain cali-ingress has other rules",
    "flush map ip6 calico_k8s cali6-dst": "has other members",
}


def test_each_thing_that_differs_is_found_and_nothing_else_is(
    machine: Machine, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drifts, "SETTLE_S", 0.0)
    machine.stop()
    finder = DriftFinder(NODE, (), machine.store, Native.NFTABLES)
    assert finder.find().findings == ()
    for words in DRIFTS:
        run("nft", words)
    run("iptables-nft", "-N", "cali-old")
    before = machine.held()
    problems = [f"{each.place} {each.problem}" for each in finder.find().findings]
    for problem in (*DRIFTS.values(), "chain cali-old is left"):
        assert any(problem in each for each in problems), problem
    assert len(problems) == len(DRIFTS) + 1
    assert machine.held() == before, "nothing is written"
