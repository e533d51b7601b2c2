"""What is read from the kernel of a table of backend legacy is what its own program saves."""

from contextlib import closing

import pytest

from calico_k8s.felix.iptables.legacy import LegacyReader
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
    restore(Backend.LEGACY, version, f"*{table}\n{MANY_KINDS}COMMIT\n")
    with closing(LegacyReader(version, table)) as reader:
        held = reader.read()
    assert held == held_by_save(Backend.LEGACY, version, table)
    assert len(held["cali-a"]) == 8
    assert held["OUTPUT"][0] == ""


def test_a_large_table_is_read_whole(namespace: Namespace, version: Version) -> None:
    chains = "".join(f":cali-{n} - [0:0]\n" for n in range(300))
    rules = "".join(
        f'-A cali-{n} -j DROP -m comment --comment "cali:{n:03}-{m:04}"\n'
        for n in range(300)
        for m in range(7)
    )
    restore(Backend.LEGACY, version, f"*filter\n{chains}{rules}COMMIT\n")
    with closing(LegacyReader(version, "filter")) as reader:
        held = reader.read()
    assert held == held_by_save(Backend.LEGACY, version, "filter")
    assert held["cali-299"] == tuple(f"299-{m:04}" for m in range(7))


EDITS = (
    "-A cali-a -j ACCEPT",
    "-I OUTPUT 1 -j RETURN",
    "-D OUTPUT 1",
    "-R cali-a 1 -j DROP",
    "-P FORWARD DROP",
    "-N cali-new",
    "-E cali-new cali-old",
    "-X cali-old",
    "-F cali-a",
)


def test_a_reader_that_looks_again_sees_what_a_new_one_sees(
    namespace: Namespace, version: Version
) -> None:
    program = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    family = "inet" if version == 4 else "inet6"
    run("ipset", "create", "cali-s", "hash:ip", "family", family)
    restore(Backend.LEGACY, version, f"*filter\n{MANY_KINDS}COMMIT\n")
    with closing(LegacyReader(version, "filter")) as reader:
        for edit in EDITS:
            before = reader.read()
            assert reader.read() is before, "nothing has changed"
            run(program, *edit.split())
            assert reader.read() == held_by_save(Backend.LEGACY, version, "filter"), edit


def test_packets_that_are_counted_change_nothing(namespace: Namespace, version: Version) -> None:
    program = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    restore(Backend.LEGACY, version, "*filter\n-A OUTPUT -j ACCEPT\nCOMMIT\n")
    with closing(LegacyReader(version, "filter")) as reader:
        before = reader.read()
        run(program, "-Z", "OUTPUT")
        run("ping", "-c", "3", "-i", "0.01", "127.0.0.1" if version == 4 else "::1")
        assert "[0:0] -A OUTPUT" not in run(f"{program}-save", "-c")
        assert reader.read() is before


def test_a_table_that_is_not_there_is_empty_and_stays_away(
    namespace: Namespace, version: Version
) -> None:
    with closing(LegacyReader(version, "mangle")) as reader:
        assert reader.read() == {}
    assert held_by_save(Backend.LEGACY, version, "mangle") == {}
