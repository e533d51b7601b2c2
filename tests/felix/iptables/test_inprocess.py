"""Edits by python-iptables leave in the kernel what iptables-restore would."""

import fcntl
from pathlib import Path

import pytest

from calico_k8s.errors import IptablesError
from calico_k8s.felix.iptables.inprocess import (
    LINES_MAX,
    InProcessRefusal,
    edit_table,
    is_lock_held,
    load,
    split_plan,
)
from calico_k8s.felix.iptables.plan import Plan
from calico_k8s.felix.iptables.programs import Backend, restore, save
from calico_k8s.model.addresses import Version
from tests.namespaces import Namespace, new_namespace, run

COMMENT = ' -m comment --comment "cali:abcdefgh"'

TEXTS = [
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
]


def prepare(version: Version) -> None:
    family = "inet" if version == 4 else "inet6"
    run("ipset", "create", "cali-s", "hash:ip", "family", family)
    run("ipset", "create", "cali-i", "hash:net,iface", "family", family)
    restore(Backend.LEGACY, version, "*filter\n:cali-b - [0:0]\n-A FORWARD -j DROP\nCOMMIT\n")


def kept(version: Version) -> list[str]:
    saved = save(Backend.LEGACY, version, "filter").splitlines()
    return [line for line in saved if line and line[0] in ":-"]


@pytest.mark.kernel
@pytest.mark.parametrize("text", TEXTS)
def test_a_rule_is_the_same_either_way(namespace: Namespace, version: Version, text: str) -> None:
    plan = Plan(
        (":cali-a - [0:0]", f"-A cali-a {text}{COMMENT}", f"-I FORWARD 1 {text}{COMMENT}"), ()
    )
    prepare(version)
    restore(Backend.LEGACY, version, plan.restore_text("filter"))
    expected = kept(version)
    with new_namespace() as other, other:
        prepare(version)
        edits = split_plan(plan)
        assert edits is not None
        edit_table(version, "filter", edits, lock_timeout_s=1)
        assert kept(version) == expected


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
            edits = split_plan(plan)
            assert edits is not None
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
    edits = split_plan(Plan((":cali-a - [0:0]", "-A cali-a -j cali-absent"), ()))
    assert edits is not None
    with pytest.raises(IptablesError, match="in process"):
        edit_table(version, "filter", edits, lock_timeout_s=1)
    assert kept(version) == before


@pytest.mark.kernel
def test_no_table_but_the_edited_one_is_created(namespace: Namespace, version: Version) -> None:
    prepare(version)
    edits = split_plan(Plan((":cali-a - [0:0]", "-A cali-a -g cali-b"), ()))
    assert edits is not None
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
        "-A cali-a -j NFLOG --nflog-group 1",
        "-A cali-a ! -p udp -j DROP",  # printed alike, but of IPv6 it would match every protocol
        "-A cali-a -j MARK --set-xmark 0x1/0x1",
        "-A cali-a -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-A cali-a -s 10.0.0.1/32 -j DROP",
        "-A cali-a -m set --match-set cali-s src --return-nomatch -j DROP",
        "-A cali-a -m tcp --tcp-flags SYN SYN -j DROP",
        "-A cali-a -j OTHERS",
        "-A cali-a -i v0",
        "-A cali-a !",
        "-D FORWARD -j cali-a",
        "-R cali-a 1 -j DROP",
        '-A cali-a -m comment --comment "open -j DROP',
    ],
)
def test_what_is_not_known_here_is_left_to_iptables_restore(line: str) -> None:
    assert split_plan(Plan((line,), ())) is None


def test_a_long_plan_is_left_to_iptables_restore() -> None:
    assert split_plan(Plan(("-A cali-a -j DROP",) * LINES_MAX, ())) is not None
    assert split_plan(Plan(("-A cali-a -j DROP",) * LINES_MAX, ("-X cali-b",))) is None
