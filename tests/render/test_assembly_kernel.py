"""Every backend takes every golden table, and gives back exactly the texts that were written.

So a table can be recognised and compared by its text, and no match is spelled in a way that the
kernel would understand otherwise.
"""

from collections.abc import Iterator

import pytest

from calico_k8s.felix.nftables.images import rule_texts
from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import RuleText, Table
from tests.namespaces import Namespace, run
from tests.render.kernels import VERSIONS, as_native, ipset_text, ipsets, restore_text, write_native
from tests.render.states import GOLDEN, tables

pytestmark = pytest.mark.kernel

PROGRAMS = {4: "iptables", 6: "ip6tables"}


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", GOLDEN)
def test_a_table_is_read_back_as_it_was_written(
    namespace: Namespace, name: str, version: Version, backend: str
) -> None:
    state = GOLDEN[name]
    program = f"{PROGRAMS[version]}-{backend}"
    run("ipset", "restore", stdin=ipset_text(ipsets(state), version))
    for table in tables(state, version):
        written = restore_text(table)
        run(f"{program}-restore", stdin=written)
        saved = run(f"{program}-save", "-t", table.name)
        assert appended(saved) == appended(written)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", GOLDEN)
def test_native_tables_are_read_back_as_they_were_written(
    namespace: Namespace, name: str, version: Version
) -> None:
    state = GOLDEN[name]
    written = tables(as_native(state), version)
    held = write_native(state, version)
    chains = {name: rules for table in written for name, rules in native_chains(table)}
    assert {
        name: rule_texts(image) for name, image in held.items() if not name.startswith("cali-m-")
    } == chains


def native_chains(table: Table) -> Iterator[tuple[str, tuple[RuleText, ...]]]:
    prefix = "raw-" if table.name == "raw" else ""
    yield from ((prefix + name, rules) for name, rules in table.chains.items())
    yield from ((f"{table.name}-{hook}", rules) for hook, rules in table.first.items())


def appended(text: str) -> dict[str, list[str]]:
    """Chain by chain, the rules in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            found.setdefault(chain, []).append(rule)
    return found
