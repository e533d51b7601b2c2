"""What is read from the kernel of a table of backend nft is what its own program saves."""

from contextlib import closing

import pytest

from calico_k8s.felix.iptables.nft import NftReader
from calico_k8s.felix.iptables.plan import HOOKS
from calico_k8s.felix.iptables.programs import Backend, restore
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import TableName
from tests.felix.iptables.saved import MANY_KINDS, held_by_save
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("table", ["raw", "mangle", "filter", "nat"])
def test_every_kind_of_rule_is_read_as_saved(
    namespace: Namespace, version: Version, table: TableName
) -> None:
    family = "inet" if version == 4 else "inet6"
    run("ipset", "create", "cali-s", "hash:ip", "family", family)
    restore(Backend.NFT, version, f"*{table}\n{MANY_KINDS}COMMIT\n")
    with closing(NftReader(version, table)) as reader:
        held = reader.read()
    # iptables-nft-save prints built-in chains that nobody has made yet, too.
    saved = held_by_save(Backend.NFT, version, table)
    assert held == {name: rules for name, rules in saved.items() if rules or name not in HOOKS}
    assert len(held["cali-a"]) == 8
    assert held["OUTPUT"][0] == ""


def test_a_large_table_is_read_whole(namespace: Namespace, version: Version) -> None:
    chains = "".join(f":cali-{n} - [0:0]\n" for n in range(300))
    rules = "".join(
        f'-A cali-{n} -j DROP -m comment --comment "cali:{n:03}-{m:04}"\n'
        for n in range(300)
        for m in range(7)
    )
    restore(Backend.NFT, version, f"*filter\n{chains}{rules}COMMIT\n")
    with closing(NftReader(version, "filter")) as reader:
        held = reader.read()
    saved = held_by_save(Backend.NFT, version, "filter")
    assert held == {name: rules for name, rules in saved.items() if rules or name not in HOOKS}
    assert held["cali-299"] == tuple(f"299-{m:04}" for m in range(7))


def test_a_table_that_is_not_there_is_empty_and_stays_away(
    namespace: Namespace, version: Version
) -> None:
    with closing(NftReader(version, "mangle")) as reader:
        assert reader.read() == {}
    assert held_by_save(Backend.NFT, version, "mangle") == {}
