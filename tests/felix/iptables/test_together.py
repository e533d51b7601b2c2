"""Both families' tables of iptables-nft in one transaction, or each alone where that is refused."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.nftdirect import NftWriter
from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.felix.iptables.together import Together
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.render.tables import ChainName, RuleText, Table
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel

VERSIONS: tuple[Version, ...] = (4, 6)
CHAIN = ChainName("cali-a")


class Tables(NamedTuple):
    together: Together
    drivers: Mapping[Version, TableDriver]
    nft: NftSocket

    def desire(self, rules: Mapping[Version, str]) -> None:
        """In each family a chain of this one rule."""
        for version, rule in rules.items():
            chains = {CHAIN: (RuleText(rule),)}
            self.drivers[version].set_desired(Table("mangle", version, chains))

    def apply(self, rules: Mapping[Version, str]) -> int:
        """Write it; how many transactions that took."""
        before = self.nft.generation()
        self.desire(rules)
        assert self.together.write()
        return self.nft.generation() - before


@pytest.fixture
def tables(namespace: Namespace) -> Iterator[Tables]:
    """As in a running agent: what was there at its start, the program has written."""
    with ExitStack() as stack:
        drivers = {version: TableDriver(Backend.NFT, version, "mangle", 1) for version in VERSIONS}
        for driver in drivers.values():
            stack.callback(driver.close)
        nft = stack.enter_context(closing(NftSocket()))
        tables = Tables(Together(drivers.values()), drivers, nft)
        tables.apply(both("-j DROP"))
        tables.together.open(stack.enter_context(closing(NftWriter())))
        yield tables


def both(rule: str) -> dict[Version, str]:
    return dict.fromkeys(VERSIONS, rule)


def target(version: Version) -> str:
    """The last word of our chain's rule."""
    lines = save(Backend.NFT, version, "mangle").splitlines()
    (rule,) = [line for line in lines if line.startswith(f"-A {CHAIN} ")]
    return rule.split()[-1]


def test_both_families_are_one_transaction_after_which_neither_is_read(tables: Tables) -> None:
    for rule in ("RETURN", "ACCEPT", "DROP"):
        assert tables.apply(both(f"-j {rule}")) == 1
        assert [target(version) for version in VERSIONS] == [rule, rule]
        for driver in tables.drivers.values():
            assert not driver.is_doubtful
            assert driver.stamp == tables.nft.generation()
    assert tables.together.write() == 0


def test_a_write_of_one_family_leaves_the_other_known(tables: Tables) -> None:
    assert tables.apply({4: "-j RETURN", 6: "-j DROP"}) == 1
    assert tables.apply({4: "-j RETURN", 6: "-j RETURN"}) == 1
    assert {driver.stamp for driver in tables.drivers.values()} == {tables.nft.generation()}


def test_who_was_refused_is_told_and_the_other_family_is_written(tables: Tables) -> None:
    tables.desire({4: "-j RETURN", 6: "-m set --match-set cali-absent src -j RETURN"})
    with pytest.raises(IptablesError, match="ip6tables"):
        tables.together.write()
    assert [target(version) for version in VERSIONS] == ["RETURN", "DROP"]
    tables.desire(both("-j ACCEPT"))
    tables.together.write()
    assert [target(version) for version in VERSIONS] == ["ACCEPT", "ACCEPT"]


def test_what_is_not_for_netlink_is_left_to_the_program(tables: Tables) -> None:
    assert tables.apply({4: "-j RETURN", 6: "-m hl --hl-eq 1 -j DROP"}) == 2
    assert [target(version) for version in VERSIONS] == ["RETURN", "DROP"]


def test_what_another_program_does_meanwhile_is_found(tables: Tables) -> None:
    run("ip6tables-nft", "-t", "mangle", "-F", CHAIN)
    tables.apply({4: "-j RETURN", 6: "-j DROP"})
    assert tables.drivers[6].has_drifted()
    tables.together.write()
    assert [target(version) for version in VERSIONS] == ["RETURN", "DROP"]
