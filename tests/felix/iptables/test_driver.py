"""The table driver on the real kernel, for both backends and families."""

import contextlib
import fcntl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.driver import TableDriver
from calico_k8s.felix.iptables.nftdirect import NftWriter
from calico_k8s.felix.iptables.programs import Backend, program_name, save
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.render.tables import ChainName, HookName, RuleText, Table
from tests.namespaces import Namespace, run

pytestmark = pytest.mark.kernel

Rules = tuple[str, ...]


def table(
    version: Version,
    chains: dict[str, Rules],
    first: dict[HookName, Rules] | None = None,
    last: dict[HookName, Rules] | None = None,
) -> Table:
    def texts(rules: Rules) -> tuple[RuleText, ...]:
        return tuple(map(RuleText, rules))

    return Table(
        "filter",
        version,
        {ChainName(name): texts(rules) for name, rules in chains.items()},
        {hook: texts(rules) for hook, rules in (first or {}).items()},
        {hook: texts(rules) for hook, rules in (last or {}).items()},
    )


def usual(version: Version) -> Table:
    return table(
        version,
        {
            "cali-FORWARD": (
                "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-i v0 -g cali-group",
            ),
            "cali-group": ("-p tcp -m tcp --dport 80 -j ACCEPT", "-j DROP"),
            "cali-empty": (),
        },
        first={"FORWARD": ("-j cali-FORWARD",), "INPUT": ("-j cali-empty",)},
        last={"FORWARD": ("-m mark --mark 0x1/0x1 -j ACCEPT",)},
    )


class Tool:
    """``iptables`` of one backend and family."""

    def __init__(self, backend: Backend, version: Version) -> None:
        self.backend, self._version = backend, version

    def __call__(self, words: str) -> None:
        run(program_name(self.backend, self._version, "x").removesuffix("-x"), *words.split())

    def chain(self, name: str) -> list[str]:
        """The chain's rules as saved, without the hashes of our comments."""
        lines = save(self.backend, self._version, "filter").splitlines()
        rules = [line.split(" ", 2)[2] for line in lines if line.startswith(f"-A {name} ")]
        return [" ".join(part for part in rule.split(" ") if "cali:" not in part) for rule in rules]

    def chains(self) -> list[str]:
        lines = save(self.backend, self._version, "filter").splitlines()
        return sorted(line[1:].split(" ")[0] for line in lines if line.startswith(":"))


@pytest.fixture
def tool(namespace: Namespace, backend: Backend, version: Version) -> Tool:
    return Tool(backend, version)


@pytest.fixture
def driver(namespace: Namespace, backend: Backend, version: Version) -> Iterator[TableDriver]:
    driver = TableDriver(backend, version, "filter", lock_timeout_s=1)
    with contextlib.closing(NftWriter()) as writer:
        if backend is Backend.NFT:  # as in a running agent
            driver.write_by(writer)
        yield driver
    driver.close()


ALLOW = "-m mark --mark 0x1/0x1 -m comment --comment -j ACCEPT"
JUMP = "-j cali-FORWARD"


def test_a_table_is_written_around_what_others_have_and_left_when_done(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    tool("-N OTHERS")
    tool("-A FORWARD -j OTHERS")
    driver.set_desired(usual(version))
    assert driver.apply() > 0
    assert tool.chain("FORWARD") == [JUMP, "-j OTHERS", ALLOW]
    assert tool.chain("cali-group") == [
        "-p tcp -m tcp --dport 80 -j ACCEPT",
        "-m comment --comment -j DROP",
    ]
    assert driver.apply() == 0
    assert not driver.has_drifted()


def test_what_another_program_undoes_while_it_is_written_is_written_again(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    tool("-A FORWARD -i others -j ACCEPT")
    driver.set_desired(table(version, {"cali-a": ("-j DROP",), "cali-b": ("-j RETURN",)}))
    assert driver.write() > 0
    tool("-F cali-a")
    assert driver.settle() > 0
    assert tool.chain("cali-a") == ["-m comment --comment -j DROP"]
    assert driver.settle() == 0
    assert not driver.has_drifted()


def test_a_restarted_driver_recognises_everything_and_writes_nothing(
    driver: TableDriver, backend: Backend, version: Version
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    restarted = TableDriver(backend, version, "filter")
    restarted.set_desired(usual(version))
    assert not restarted.has_drifted()
    assert restarted.apply() == 0
    restarted.close()


def test_a_restarted_driver_sweeps_what_an_earlier_run_left(
    driver: TableDriver, tool: Tool, backend: Backend, version: Version
) -> None:
    tool("-A FORWARD -i others -j ACCEPT")
    driver.set_desired(usual(version))
    driver.apply()
    restarted = TableDriver(backend, version, "filter")
    wanted = table(version, {"cali-group": ("-j DROP",)}, {"FORWARD": ("-j cali-group",)})
    restarted.set_desired(wanted)
    restarted.apply()
    assert tool.chains() == ["FORWARD", "INPUT", "OUTPUT", "cali-group"]
    assert tool.chain("FORWARD") == [
        "-j cali-group",
        "-i others -j ACCEPT",
    ]
    assert tool.chain("INPUT") == []
    restarted.close()


@pytest.mark.parametrize(
    "damage",
    [
        ["-I FORWARD -j ACCEPT"],
        ["-A FORWARD -j DROP"],
        ["-F"],
        ["-F", "-X"],
        ["-F FORWARD"],
        ["-D FORWARD 1", "-A FORWARD -j cali-FORWARD"],
        ["-D cali-group 1"],
        ["-I cali-group -j ACCEPT"],
        ["-A cali-empty -j ACCEPT"],
        ["-N cali-unknown"],
    ],
    ids="; ".join,
)
def test_what_another_program_changed_is_noticed_and_mended(
    driver: TableDriver, tool: Tool, version: Version, damage: list[str]
) -> None:
    tool("-A FORWARD -i others -j RETURN")
    driver.set_desired(usual(version))
    driver.apply()
    for words in damage:
        tool(words)
    assert driver.has_drifted()
    assert driver.apply() > 0
    assert not driver.has_drifted()
    forward = tool.chain("FORWARD")
    assert (forward[0], forward[-1]) == (JUMP, ALLOW)
    assert tool.chains() == [
        "FORWARD",
        "INPUT",
        "OUTPUT",
        "cali-FORWARD",
        "cali-empty",
        "cali-group",
    ]
    assert len(tool.chain("cali-group")) == 2
    assert tool.chain("cali-empty") == []


def test_a_first_comparison_of_words_writes_nothing(driver: TableDriver, version: Version) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    with contextlib.closing(NftSocket()) as tables:
        before = tables.generation()
        assert driver.mend_words() == 0
        assert tables.generation() == before


@pytest.mark.parametrize("place", [1, 2])
def test_a_rule_replaced_where_it_stands_is_found_by_its_words(
    driver: TableDriver, tool: Tool, version: Version, place: int
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    assert driver.mend_words() == 0
    before = tool.chain("cali-FORWARD"), tool.chain("cali-group")
    tool("-R cali-FORWARD 1 -j ACCEPT")
    tool(f"-R cali-group {place} -s {'10.0.0.0/8' if version == 4 else 'fd00::/8'} -j ACCEPT")
    assert driver.mend_words() == 2
    assert (tool.chain("cali-FORWARD"), tool.chain("cali-group")) == before
    assert driver.mend_words() == 0
    assert driver.apply() == 0


def test_a_rule_that_iptables_spells_otherwise_is_written_once_more_and_then_left(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    driver.set_desired(table(version, {"cali-a": ("-m tcp -p tcp --dport 80 -j DROP", "-j DROP")}))
    driver.apply()
    assert driver.mend_words() == 0, "it is not drift"
    kept = save(tool.backend, version, "filter")
    assert driver.mend_words() == 0
    tool("-R cali-a 1 -p tcp -m tcp --dport 80 -j ACCEPT")
    assert driver.mend_words() == 1
    assert without_counters(save(tool.backend, version, "filter")) == without_counters(kept)


def without_counters(saved: str) -> list[str]:
    return [line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


def test_a_refused_writing_of_a_replaced_rule_is_not_taken_for_its_spelling(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    tool, driver = Tool(Backend.LEGACY, 4), TableDriver(Backend.LEGACY, 4, "filter", 1)
    driver.set_desired(usual(4))
    driver.apply()
    before = tool.chain("cali-FORWARD")
    tool("-R cali-FORWARD 1 -j ACCEPT")
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(IptablesError, match="lock"):
            driver.mend_words()
    assert driver.apply() > 0
    assert tool.chain("cali-FORWARD") == before
    driver.close()


def test_rules_others_added_stay_when_ours_are_mended(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    tool("-I FORWARD -i a -j RETURN")
    tool("-A FORWARD -i b -j RETURN")
    driver.has_drifted()
    driver.apply()
    assert tool.chain("FORWARD") == [JUMP, "-i a -j RETURN", "-i b -j RETURN", ALLOW]


def test_a_change_of_another_program_between_reading_and_writing_is_survived(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    tool("-F FORWARD")  # unknown to the driver: its next delete by text must fail and be redone
    tool("-A FORWARD -i a -j RETURN")
    driver.set_desired(
        table(version, {"cali-group": ("-j DROP",)}, {"FORWARD": ("-j cali-group",)})
    )
    assert driver.apply() > 0
    assert tool.chain("FORWARD") == ["-j cali-group", "-i a -j RETURN"]
    assert not driver.has_drifted()


def test_a_chain_that_others_jump_to_is_emptied_and_goes_when_they_let_go(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    tool("-A FORWARD -i a -j cali-group")
    driver.set_desired(table(version, {}))
    driver.apply()
    assert driver.kept_chains == {"cali-group"}
    assert tool.chains() == ["FORWARD", "INPUT", "OUTPUT", "cali-group"]
    assert tool.chain("cali-group") == []
    assert tool.chain("FORWARD") == ["-i a -j cali-group"]
    assert not driver.has_drifted()


@pytest.mark.parametrize("backend", [Backend.NFT])
def test_chains_of_ours_in_an_nft_table_are_written_without_a_program(
    driver: TableDriver, tool: Tool, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    rules = ("-p tcp -m tcp --dport 443 -j ACCEPT", "-j DROP")
    changed = table(version, {"cali-group": rules, "cali-new": rules}).chains
    chains = {**usual(version).chains, **changed}
    driver.set_desired(msgspec.structs.replace(usual(version), chains=chains))
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        assert driver.apply() > 0
    assert tool.chain("cali-new") == [rules[0], "-m comment --comment -j DROP"]
    assert tool.chain("cali-group") == tool.chain("cali-new")
    assert not driver.has_drifted()
    assert driver.mend_words() == 0
    driver.set_desired(usual(version))
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        assert driver.apply() > 0
    assert "cali-new" not in tool.chains()


def test_a_refused_rule_is_named_and_nothing_of_the_batch_is_written(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    driver.set_desired(usual(version))
    driver.apply()
    before = save(tool.backend, version, "filter").count("\n")
    driver.set_desired(table(version, {"cali-a": ("-j DROP",), "cali-b": ("-p tcp --dprt 1",)}))
    with pytest.raises(IptablesError, match=r"--dprt.*: -A cali-b -p tcp --dprt 1"):
        driver.apply()
    assert save(tool.backend, version, "filter").count("\n") == before
    driver.set_desired(usual(version))
    assert driver.apply() == 0


def test_a_jump_to_a_missing_chain_is_refused_with_its_line(
    driver: TableDriver, version: Version
) -> None:
    driver.set_desired(table(version, {"cali-a": ("-j cali-absent",)}))
    with pytest.raises(IptablesError, match=r"-restore: .*line"):
        driver.apply()


def test_the_lock_is_waited_for_and_its_holder_is_not_run_over(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    driver = TableDriver(Backend.LEGACY, 4, "filter", lock_timeout_s=1)
    driver.set_desired(usual(4))
    holder = subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(IptablesError, match="lock"):
        driver.apply()
    holder.communicate("end\n")
    assert driver.apply() > 0
    driver.close()


def test_reading_a_table_nobody_uses_does_not_create_it(
    driver: TableDriver, backend: Backend, version: Version
) -> None:
    assert not driver.has_drifted()
    assert save(backend, version) == ""


def test_matches_with_binary_data_are_read_past(
    driver: TableDriver, tool: Tool, version: Version
) -> None:
    run("ipset", "create", "cali-s", "hash:ip", "family", "inet" if version == 4 else "inet6")
    rules = (
        "-m set --match-set cali-s src -j DROP",
        "-m set ! --match-set cali-s dst -p udp -m multiport --dports 1,2,3:9 -j ACCEPT",
        '-m bpf --bytecode "1,6 0 0 65535" -j ACCEPT',
        '-j NFLOG --nflog-group 7 --nflog-prefix "cali:12345678" --nflog-size 80',
        '-m comment --comment "other cali:87654321" -j ACCEPT',
        "-m limit --limit 5/sec -j ACCEPT",
    )
    driver.set_desired(table(version, {"cali-x": rules}))
    driver.apply()
    assert not driver.has_drifted()
    assert len(tool.chain("cali-x")) == len(rules)
    assert driver.apply() == 0


def test_no_change_is_lost_when_another_program_writes_all_the_while(
    driver: TableDriver, tool: Tool, backend: Backend, version: Version
) -> None:
    name = program_name(backend, version, "x").removesuffix("-x")
    loop = f"for i in $(seq 40); do {name} -w -I FORWARD -i other$i -j RETURN || exit 1; done"
    other = subprocess.Popen(["sh", "-c", loop], stderr=subprocess.DEVNULL)
    writes = 0
    while other.poll() is None:
        rules = tuple(f"-i v{number} -j DROP" for number in range(writes % 5))
        driver.set_desired(
            table(
                version, {"cali-a": rules}, {"FORWARD": ("-j cali-a",)}, {"FORWARD": ("-j DROP",)}
            )
        )
        driver.has_drifted()
        with contextlib.suppress(IptablesError):  # overtaken four times running: the next does it
            driver.apply()
        writes += 1
    assert other.returncode == 0
    driver.has_drifted()
    driver.apply()
    forward = tool.chain("FORWARD")
    assert len(forward) == 42
    assert sorted(forward[1:-1]) == sorted(f"-i other{n} -j RETURN" for n in range(1, 41))
    assert forward[0].endswith("-j cali-a")
    assert not driver.has_drifted()
