"""Edits in process leave in the kernel what iptables-restore would, byte for byte."""

import fcntl
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.entries import compile_entry
from calico_k8s.felix.iptables.extensions import asked_sets
from calico_k8s.felix.iptables.inprocess import (
    LINES_MAX,
    Edit,
    InProcessRefusal,
    edit_table,
    is_lock_held,
    load,
    split_plan,
)
from calico_k8s.felix.iptables.legacy import LegacyReader
from calico_k8s.felix.iptables.plan import Plan
from calico_k8s.felix.iptables.programs import Backend, restore, save
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import IpsetSocket
from calico_k8s.render.tables import TableName
from tests.felix.iptables.ways import deleting, known_plan, random_plans
from tests.namespaces import Namespace, new_namespace, run
from tests.render.kernels import ipset_text, ipsets
from tests.render.states import GOLDEN, tables

COMMENT = ' -m comment --comment "cali:abcdefgh"'

TEXTS: dict[Version, tuple[str, ...]] = {
    4: (
        "-s 10.0.0.0/8 -j cali-b",
        "! -s 10.1.2.3/32 -d 10.16.0.0/13 -i v0 -p tcp -g cali-b",
        "-p icmp -m icmp --icmp-type 8/0 -j DROP",
        "-p icmp -m icmp ! --icmp-type 3 -j DROP",
    ),
    6: (
        "-s fd00::/61 -j cali-b",
        "! -d fd00::1/128 -o v1 -p tcp -m tcp --dport 80 -j RETURN",
        "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN",
        "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/3 -j RETURN",
    ),
}
BOTH = (
    "-j DROP",
    "-j ACCEPT",
    "-j RETURN",
    "-j cali-b",
    "-g cali-b",
    "-i v0 -j DROP",
    "-i v+ -o a23456789012345 -j cali-b",
    "! -i v0 ! -o v1 -g cali-b",
    "-p tcp -m tcp --dport 80 -j ACCEPT",
    "-p tcp -m tcp --sport 1:1023 --dport 8000:9000 -j ACCEPT",
    "-p udp -m udp ! --dport 53 -j DROP",
    "-m mark --mark 0x100/0xff00 -j cali-b",
    "-m mark ! --mark 0x100/0xff00 -j cali-b",
    "-m mark --mark 1 -j DROP",
    "-m set --match-set cali-s src -j DROP",
    "-m set ! --match-set cali-s dst -g cali-b",
    "-m set --match-set cali-i src,src -m set ! --match-set cali-s dst -j RETURN",
    "-p tcp -m set --match-set cali-s src -m tcp --dport 443 -m mark --mark 0x0/0x1 -j ACCEPT",
    "! -p udp -j DROP",  # of IPv6 without IP6T_F_PROTO it would match every protocol
    "-p udplite -j RETURN",
    "-p 99 -g cali-b",
    "-p udp -m udp --sport 68 ! --dport 0:67 -j RETURN",
    "-p sctp -m sctp --sport 7 --dport 80:90 -j RETURN",
    "-p tcp -m multiport --dports 1,2,3:5,7 -m multiport ! --sports 9 -j RETURN",
    '-p tcp -j LOG --log-prefix "calico-packet: " --log-level 5',
    "-m limit --limit 500/sec --limit-burst 500 -j NFLOG --nflog-prefix a-b --nflog-group 7",
)


def prepare(version: Version) -> None:
    family = "inet" if version == 4 else "inet6"
    run("ipset", "create", "cali-s", "hash:ip", "family", family)
    run("ipset", "create", "cali-i", "hash:net,iface", "family", family)
    restore(Backend.LEGACY, version, "*filter\n:cali-b - [0:0]\n-A FORWARD -j DROP\nCOMMIT\n")


def kept(version: Version) -> list[str]:
    saved = save(Backend.LEGACY, version, "filter").splitlines()
    return [line for line in saved if line and line[0] in ":-"]


def edits_of(version: Version, plan: Plan) -> list[Edit]:
    """A plan taken apart, each line of which is known."""
    with closing(IpsetSocket()) as sets:
        asked = {name for line in plan.lines for name in asked_sets(line)}
        edits = split_plan(plan, version, sets.indexes(asked))
    assert edits is not None
    return edits


def entries(version: Version, table: TableName) -> bytes:
    """A whole table as the kernel gives it to iptables."""
    with closing(LegacyReader(version, table)) as reader:
        return bytes(reader.block().data)


def compare(version: Version, table: TableName, plan: Plan) -> None:
    """Write a plan both ways, one after the other, and delete all of it again."""
    restore(Backend.LEGACY, version, plan.restore_text(table))
    expected = entries(version, table)
    restore(Backend.LEGACY, version, deleting(plan).restore_text(table))
    edit_table(version, table, edits_of(version, plan), lock_timeout_s=1)
    assert entries(version, table) == expected
    edit_table(version, table, edits_of(version, deleting(plan)), lock_timeout_s=1)


@pytest.mark.kernel
def test_each_rule_is_the_same_either_way(namespace: Namespace, version: Version) -> None:
    prepare(version)
    texts = [f"{text}{COMMENT}" for text in (*BOTH, *TEXTS[version])]
    appended = tuple(f"-A cali-a {text}" for text in texts)
    compare(version, "filter", Plan((":cali-a - [0:0]", *appended), ()))


@pytest.mark.kernel
@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_known_of_each_table_is_the_same_either_way(
    namespace: Namespace, version: Version, name: str
) -> None:
    run("ipset", "restore", stdin=ipset_text(ipsets(GOLDEN[name]), version))
    for table in tables(GOLDEN[name], version):
        compare(version, table.name, known_plan(compile_entry, version, table.chains))


@pytest.mark.kernel
@settings(max_examples=12)
@given(st.data())
def test_groups_are_the_same_either_way(data: st.DataObject) -> None:
    with new_namespace() as node, node:
        for version, plan in random_plans(compile_entry, data):
            compare(version, "mangle", plan)


@pytest.mark.kernel
def test_chains_are_made_emptied_and_deleted_the_same_either_way(
    namespace: Namespace, version: Version
) -> None:
    plan = Plan(
        (
            ":cali-b - [0:0]",
            ":cali-c - [0:0]",
            "-A cali-c -j DROP" + COMMENT,
            "-A cali-c -j cali-b" + COMMENT,
            "-I FORWARD 1 -j cali-c" + COMMENT,
            "-I FORWARD 2 -i v0 -j cali-c" + COMMENT,
            "-A FORWARD -j ACCEPT" + COMMENT,
        ),
        ("-X cali-d",),
    )
    results = []
    for in_process in (False, True):
        with new_namespace() as other, other:
            prepare(version)
            filled = "*filter\n:cali-d - [0:0]\n-A cali-b -j ACCEPT\nCOMMIT\n"
            restore(Backend.LEGACY, version, filled)
            edits = edits_of(version, plan)
            if in_process:
                edit_table(version, "filter", edits, lock_timeout_s=1)
            else:
                restore(Backend.LEGACY, version, plan.restore_text("filter"))
            results.append(kept(version))
    assert results[0] == results[1]


@pytest.mark.kernel
def test_a_refused_edit_writes_nothing(namespace: Namespace, version: Version) -> None:
    prepare(version)
    before = kept(version)
    edits = edits_of(version, Plan((":cali-a - [0:0]", "-A cali-a -j cali-absent"), ()))
    with pytest.raises(IptablesError, match="in process"):
        edit_table(version, "filter", edits, lock_timeout_s=1)
    assert kept(version) == before


@pytest.mark.kernel
def test_no_table_but_the_edited_one_is_created(namespace: Namespace, version: Version) -> None:
    prepare(version)
    edits = edits_of(version, Plan((":cali-a - [0:0]", "-A cali-a -g cali-b"), ()))
    edit_table(version, "filter", edits, lock_timeout_s=1)
    names = "ip_tables_names" if version == 4 else "ip6_tables_names"
    assert Path("/proc/thread-self/net", names).read_text(encoding="ascii") == "filter\n"


def test_without_its_lock_file_the_edit_is_left_to_iptables_restore(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", "/nonexistent/lock")
    with pytest.raises(InProcessRefusal, match="/nonexistent/lock"):
        edit_table(4, "filter", [], lock_timeout_s=1)


def test_a_lock_of_another_program_is_seen_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    assert not is_lock_held()
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_lock_held()
    assert not is_lock_held()


def test_python_iptables_can_be_used_here() -> None:
    assert load()


@pytest.mark.parametrize(
    "line",
    [
        "-D FORWARD -j cali-a",
        "-R cali-a 1 -j DROP",
        "-A cali-a -m set --match-set absent src -j DROP",
        "cali-a",
    ],
)
def test_what_is_not_known_here_is_left_to_iptables_restore(line: str) -> None:
    assert split_plan(Plan((line,), ()), 4, {}) is None


def test_a_long_plan_is_left_to_iptables_restore() -> None:
    assert split_plan(Plan(("-A cali-a -j DROP",) * LINES_MAX, ()), 4, {}) is not None
    assert split_plan(Plan(("-A cali-a -j DROP",) * LINES_MAX, ("-X cali-b",)), 4, {}) is None
