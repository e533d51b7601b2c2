"""Whole tables: golden files, and what every table of ours must be whatever the state."""

from pathlib import Path

import pytest

from calico_k8s.model.addresses import Version
from calico_k8s.render.tables import CHAIN_NAME_MAX, CHAIN_PREFIX, IPSET_NAME_MAX, Table
from tests.render.kernels import VERSIONS, ipset_text, ipsets, restore_text
from tests.render.states import GOLDEN, State, tables
from tests.simulated_rules import parse_rule

FOLDER = Path(__file__).parent.parent / "golden"

both_families = pytest.mark.parametrize("version", VERSIONS)
every_state = pytest.mark.parametrize("name", GOLDEN)


def golden_text(state: State, version: Version) -> str:
    """The file: what the state allows, its sets, its tables."""
    words = state.says.split()
    lines, line = [], "#"
    for word in words:
        if len(line) + len(word) > 98:
            lines.append(line)
            line = "#"
        line += f" {word}"
    sets = ipset_text(ipsets(state), version).splitlines()
    parts = [*lines, line, "", *(f"# ipset {text}" for text in sets), ""]
    return "\n".join((*parts, *map(restore_text, tables(state, version))))


@both_families
@every_state
def test_a_state_renders_as_its_golden_file_says(
    name: str, version: Version, update_golden: bool
) -> None:
    path = FOLDER / f"{name}-ipv{version}.iptables"
    made = golden_text(GOLDEN[name], version)
    if update_golden:
        path.write_text(made)
    assert made == path.read_text(), "review the difference, then --update-golden"


def test_every_golden_file_has_its_state() -> None:
    expected = {f"{name}-ipv{version}.iptables" for name in GOLDEN for version in VERSIONS}
    assert {path.name for path in FOLDER.glob("*.iptables")} == expected


def jumps(table: Table) -> dict[str, list[str]]:
    """Where each chain leads."""
    return {
        name: [
            parsed.chain
            for rule in rules
            if (parsed := parse_rule(rule, table.version)).chain is not None
        ]
        for name, rules in table.chains.items()
    }


def check_table(table: Table) -> None:
    """What holds for every table of ours."""
    for name, rules in table.chains.items():
        assert name.startswith(CHAIN_PREFIX)
        assert len(name) <= CHAIN_NAME_MAX
        last = parse_rule(rules[-1], table.version)
        ends = not last.matches and (last.verdict is not None or last.is_goto)
        assert ends, f"{name} runs out: its hash would be asked of every packet"
    for hook, rules in (*table.first.items(), *table.last.items()):
        for rule in rules:
            parsed = parse_rule(rule, table.version)
            assert parsed.chain in table.chains, f"{hook} jumps to nothing"
            assert not parsed.matches, "a hook's rule is recognised by its jump alone"
            assert not parsed.is_goto, "what returns goes on in the other programs' rules"
    leads = jumps(table)
    for chain, targets in leads.items():
        assert set(targets) <= set(leads), f"{chain} jumps to a chain that is not there"
    depths: dict[str, int] = {}
    for chain in leads:
        depth_of(chain, leads, depths, ())
    unused = set(leads) - reached_from_hooks(table, leads)
    groups = {chain for chain in unused if chain.startswith(("cali-e0-", "cali-i0-"))}
    assert unused - groups <= {"cali-deny"}, "only groups that allow all have a chain in reserve"


def reached_from_hooks(table: Table, leads: dict[str, list[str]]) -> set[str]:
    """The chains that some packet may come through."""
    reached: set[str] = set()
    waiting: list[str] = [
        entry
        for rules in (*table.first.values(), *table.last.values())
        for rule in rules
        if (entry := parse_rule(rule, table.version).chain) is not None
    ]
    while waiting:
        chain = waiting.pop()
        if chain not in reached:
            reached.add(chain)
            waiting += leads[chain]
    return reached


def depth_of(
    name: str, leads: dict[str, list[str]], known: dict[str, int], above: tuple[str, ...]
) -> int:
    assert name not in above, f"a cycle: {' > '.join((*above, name))}"
    if name not in known:
        known[name] = 1 + max(
            (depth_of(target, leads, known, (*above, name)) for target in leads[name]), default=0
        )
    return known[name]


@both_families
@every_state
def test_every_table_is_sound(name: str, version: Version) -> None:
    for table in tables(GOLDEN[name], version):
        check_table(table)


@both_families
@every_state
def test_every_set_that_rules_ask_is_there_under_a_name_that_fits(
    name: str, version: Version
) -> None:
    made = ipsets(GOLDEN[name])
    asked = {
        words[words.index(option) + 1]
        for table in tables(GOLDEN[name], version)
        for rules in table.chains.values()
        for words in (rule.split() for rule in rules)
        for option in ("--match-set", "--map-set")
        if option in words
    }
    assert asked <= set(made)
    assert all(len(name) <= IPSET_NAME_MAX for name in asked)
