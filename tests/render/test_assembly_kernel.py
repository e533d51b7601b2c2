"""Both iptables backends take every golden table, and print exactly the texts that were written.

So a table can be recognised and compared by its text, and no match is spelled in a way that the
kernel would understand otherwise.
"""

import pytest

from calico_k8s.model.addresses import Version
from tests.namespaces import Namespace, run
from tests.render.kernels import VERSIONS, ipset_text, ipsets, restore_text
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


def appended(text: str) -> dict[str, list[str]]:
    """Chain by chain, the rules in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            found.setdefault(chain, []).append(rule)
    return found
