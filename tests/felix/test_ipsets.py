"""The ipset driver on the real kernel: differences only, phases, full sets, our names only."""

import time
from collections.abc import Iterator

import pytest

from calico_k8s.errors import KernelError, NetlinkError
from calico_k8s.felix.ipsets import IpsetDriver, clean_ipsets
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import IpsetSocket
from calico_k8s.render.tables import IpsetName, IpsetType, KernelIpset, KernelMember
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel


def ipset(name: str, kind: IpsetType = "hash:ip", version: Version = 4) -> KernelIpset:
    return KernelIpset(IpsetName(name), kind, version)


def members(*texts: str) -> list[KernelMember]:
    return [KernelMember(text) for text in texts]


def listed(name: str) -> list[str]:
    """What ``ipset`` itself shows in the set."""
    lines = run("ipset", "list", name).split("Members:\n")[1].split("\n")
    return sorted(line for line in lines if line)


def names() -> list[str]:
    return sorted(run("ipset", "list", "-n").split())


def apply_all(driver: IpsetDriver) -> int:
    """Every phase in its order; how much was written."""
    written = driver.apply_creates() + driver.apply_adds() + driver.apply_removes()
    assert driver.apply_destroys() == frozenset()
    return written


@pytest.fixture
def driver(namespace: Namespace) -> Iterator[IpsetDriver]:
    driver = IpsetDriver()
    yield driver
    driver.close()


def test_sets_and_members_come_and_go_by_phase(driver: IpsetDriver) -> None:
    driver.set_ipset(ipset("cali4-a"), members("10.0.0.1", "10.0.0.2"))
    assert driver.apply_creates() == 1
    assert listed("cali4-a") == []
    assert driver.apply_adds() == 2
    driver.add_members(IpsetName("cali4-a"), members("10.0.0.3"))
    driver.remove_members(IpsetName("cali4-a"), members("10.0.0.1"))
    assert driver.apply_adds() == 1
    assert listed("cali4-a") == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert driver.apply_removes() == 1
    assert listed("cali4-a") == ["10.0.0.2", "10.0.0.3"]
    driver.drop_ipset(IpsetName("cali4-a"))
    assert names() == ["cali4-a"]
    assert driver.apply_destroys() == frozenset()
    assert names() == []
    assert driver.is_in_sync


def test_phases_may_be_asked_for_some_sets_first(driver: IpsetDriver) -> None:
    for name in ("cali4-allow", "cali4-deny"):
        driver.set_ipset(ipset(name), members("10.0.0.1"))
    driver.apply_creates()
    assert driver.apply_adds([IpsetName("cali4-deny")]) == 1
    assert listed("cali4-allow") == []
    assert driver.apply_adds() == 1
    assert listed("cali4-allow") == ["10.0.0.1"]


def test_a_restart_writes_nothing_where_nothing_differs_and_sweeps_what_is_left_over(
    driver: IpsetDriver,
) -> None:
    marked = KernelIpset(IpsetName("cali4-m"), "hash:net,iface", 4, has_marks=True)
    wanted = [KernelMember("10.0.0.1,v0", 0x100, 0xFF00), KernelMember("10.1.0.0/16,v1", 0, 0xFF00)]
    driver.set_ipset(marked, wanted)
    driver.set_ipset(ipset("cali6-n", "hash:net", 6), members("::/0", "fd00::/8", "fd00::1/128"))
    driver.set_ipset(ipset("cali4-old"), members("10.0.0.1"))
    apply_all(driver)
    run("ipset", "create", "others", "hash:ip")

    restarted = IpsetDriver()
    restarted.set_ipset(marked, wanted)
    restarted.set_ipset(ipset("cali6-n", "hash:net", 6), members("::/0", "fd00::/8", "fd00::1/128"))
    assert apply_all(restarted) == 0
    assert restarted.is_in_sync
    assert names() == ["cali4-m", "cali6-n", "others"]
    assert listed("cali6-n") == ["8000::/1", "::/1", "fd00::/8", "fd00::1"]
    restarted.close()


def test_what_another_program_changed_is_counted_and_mended(driver: IpsetDriver) -> None:
    driver.set_ipset(ipset("cali4-a"), members("10.0.0.1", "10.0.0.2"))
    driver.set_ipset(ipset("cali4-b"), members("10.0.0.1"))
    apply_all(driver)
    run("ipset", "del", "cali4-a", "10.0.0.1")
    run("ipset", "add", "cali4-a", "10.0.0.9")
    run("ipset", "destroy", "cali4-b")
    assert driver.resync() == 4
    assert apply_all(driver) == 4
    assert listed("cali4-a") == ["10.0.0.1", "10.0.0.2"]
    assert listed("cali4-b") == ["10.0.0.1"]


def test_a_set_that_vanished_is_an_error_once_and_made_again_by_the_retry(
    driver: IpsetDriver,
) -> None:
    driver.set_ipset(ipset("cali4-a"), members("10.0.0.1"))
    apply_all(driver)
    run("ipset", "destroy", "cali4-a")
    driver.add_members(IpsetName("cali4-a"), members("10.0.0.2"))
    with pytest.raises(NetlinkError, match=r"ipset add cali4-a 10\.0\.0\.2"):
        driver.apply_adds()
    assert apply_all(driver) == 3
    assert listed("cali4-a") == ["10.0.0.1", "10.0.0.2"]


def test_a_full_set_is_rebuilt_larger_while_rules_use_it(namespace: Namespace) -> None:
    driver = IpsetDriver(maxelem=4)
    texts = [f"10.0.0.{number}" for number in range(1, 5)]
    driver.set_ipset(ipset("cali4-a"), members(*texts))
    apply_all(driver)
    run("iptables-nft", "-A", "FORWARD", "-m", "set", "--match-set", "cali4-a", "src")
    driver.remove_members(IpsetName("cali4-a"), members("10.0.0.1"))
    driver.add_members(IpsetName("cali4-a"), members("10.0.1.1", "10.0.1.2"))
    assert driver.apply_adds() == 2
    assert listed("cali4-a") == sorted([*texts, "10.0.1.1", "10.0.1.2"]), "removes come later"
    assert driver.apply_removes() == 1
    assert names() == ["cali4-a"]
    assert "maxelem 12" in run("ipset", "list", "-t", "cali4-a")
    driver.close()


def test_a_set_that_a_rule_uses_stays_until_the_rule_is_gone(driver: IpsetDriver) -> None:
    driver.set_ipset(ipset("cali4-a"), [])
    apply_all(driver)
    rule = ("FORWARD", "-m", "set", "--match-set", "cali4-a", "src")
    run("iptables-legacy", "-A", *rule)
    driver.drop_ipset(IpsetName("cali4-a"))
    assert driver.apply_destroys() == {"cali4-a"}
    assert not driver.is_in_sync
    run("iptables-legacy", "-D", *rule)
    assert driver.apply_destroys() == frozenset()
    assert names() == []


def test_a_set_asked_for_again_before_it_was_destroyed_is_changed_and_not_made_anew(
    driver: IpsetDriver,
) -> None:
    driver.set_ipset(ipset("cali4-a"), members("10.0.0.1", "10.0.0.3"))
    apply_all(driver)
    driver.drop_ipset(IpsetName("cali4-a"))
    driver.set_ipset(ipset("cali4-a"), members("10.0.0.2", "10.0.0.3"))
    assert not driver.needs_resync
    assert apply_all(driver) == 2
    assert listed("cali4-a") == ["10.0.0.2", "10.0.0.3"]
    assert driver.is_in_sync


def test_a_set_asked_for_with_another_type_replaces_the_old_one(driver: IpsetDriver) -> None:
    driver.set_ipset(ipset("cali4-a"), members("10.0.0.1"))
    apply_all(driver)
    driver.set_ipset(ipset("cali4-a", "hash:net"), members("10.0.0.0/8"))
    apply_all(driver)
    assert listed("cali4-a") == ["10.0.0.0/8"]


def test_a_net_of_length_zero_shares_its_halves_with_whoever_asks_for_them(
    driver: IpsetDriver,
) -> None:
    name = IpsetName("cali4-n")
    driver.set_ipset(ipset("cali4-n", "hash:net"), members("0.0.0.0/0", "128.0.0.0/1"))
    apply_all(driver)
    driver.remove_members(name, members("0.0.0.0/0"))
    apply_all(driver)
    assert listed("cali4-n") == ["128.0.0.0/1"]
    driver.add_members(name, members("0.0.0.0/0"))
    driver.remove_members(name, members("128.0.0.0/1"))
    apply_all(driver)
    assert listed("cali4-n") == ["0.0.0.0/1", "128.0.0.0/1"]


def test_a_set_of_another_type_gives_way_or_says_why_it_cannot(driver: IpsetDriver) -> None:
    run("ipset", "create", "cali4-a", "hash:net")
    driver.set_ipset(ipset("cali4-a"), members("10.0.0.1"))
    apply_all(driver)
    assert listed("cali4-a") == ["10.0.0.1"]
    run("ipset", "create", "cali4-b", "hash:net")
    run("iptables-nft", "-A", "FORWARD", "-m", "set", "--match-set", "cali4-b", "src")
    driver.needs_resync = True
    driver.set_ipset(ipset("cali4-b"), members("10.0.0.1"))
    with pytest.raises(KernelError, match=r"cali4-b exists as hash:net .* 1 rules use it"):
        driver.apply_creates()


def test_clean_destroys_what_is_ours_and_nothing_else(driver: IpsetDriver) -> None:
    for name in ("cali4-a", "cali6-b", "calico", "others"):
        run("ipset", "create", name, "hash:ip")
    assert clean_ipsets() == frozenset()
    assert names() == ["calico", "others"]


def test_iptables_nft_lets_go_of_a_set_within_the_retries_of_a_second(driver: IpsetDriver) -> None:
    driver.set_ipset(ipset("cali4-a"), [])
    apply_all(driver)
    rule = ("FORWARD", "-m", "set", "--match-set", "cali4-a", "src")
    run("iptables-nft", "-A", *rule)
    run("iptables-nft", "-D", *rule)
    driver.drop_ipset(IpsetName("cali4-a"))
    end = time.monotonic() + 1
    while driver.apply_destroys() and time.monotonic() < end:
        time.sleep(0.005)
    assert names() == []


def test_many_sets_are_edited_in_one_call(driver: IpsetDriver) -> None:
    for number in range(100):
        driver.set_ipset(ipset(f"cali4-{number}"), members(f"10.0.0.{number}"))
    assert apply_all(driver) == 200
    socket = IpsetSocket()
    assert len(socket.headers()) == 100
    socket.close()
    assert listed("cali4-99") == ["10.0.0.99"]
