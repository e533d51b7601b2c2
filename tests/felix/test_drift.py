"""What differs in a node's kernel is found, whatever it is; what is as it should be is not.

Each meddling is done while the agent is down, so that nobody mends it, and found by the command.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calico_k8s.felix import drift as drifts
from calico_k8s.felix.conntrack import FlowCutter
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.drift import DriftFinder
from calico_k8s.felix.iptables.programs import Backend, program_name
from calico_k8s.model.keys import TierKey
from calico_k8s.model.resources import Direction, HostHook, Tier
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from tests.cli.test_present_json import check
from tests.felix.nodes import (
    NODE,
    PORT,
    READY,
    Machine,
    machine_up,
    reaches,
    rules,
    tags,
    until,
    walled,
)
from tests.felix.test_agent_hosts import ALLOW_ALL, TIER, host, policy
from tests.namespaces import Namespace, ip, run

pytestmark = pytest.mark.kernel


@pytest.fixture(params=[Backend.LEGACY, Backend.NFT], ids=str)
def machine(
    namespace: Namespace,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machine]:
    monkeypatch.setattr(drifts, "SETTLE_S", 0.0)
    monkeypatch.setattr(drifts, "SETTLE_SETS_S", 0.0)
    with machine_up(namespace, tmp_path, request.param) as machine:
        yield machine


@pytest.fixture
def walls(machine: Machine) -> Machine:
    """A server that takes one client only, and nobody who keeps it so."""
    client, server, other = (
        machine.pod("client", 10),
        machine.pod("server", 11),
        machine.pod("other", 12),
    )
    machine.start()
    machine.settle(walled(client, server, other))
    assert reaches(client, server)
    machine.stop()
    return machine


def found(machine: Machine) -> drifts.Drift:
    return DriftFinder(NODE, (), machine.store, machine.backend).find()


def iptables(machine: Machine, words: str) -> None:
    run(program_name(machine.iptables, 4, "x").removesuffix("-x"), *words.split())


def other(backend: Backend) -> Backend:
    return Backend.NFT if backend is Backend.LEGACY else Backend.LEGACY


def entry(machine: Machine, ipset: str, address: str) -> str:
    lines = run("ipset", "save", ipset).splitlines()
    return next(line for line in lines if f" {address}" in line).removeprefix(f"add {ipset} ")


Meddle = Callable[[Machine], object]


def replace_a_rule(machine: Machine) -> None:
    iptables(machine, "-t mangle -R cali-FORWARD 1 -j ACCEPT")


def forget_a_member(machine: Machine) -> None:
    run("ipset", "del", "cali4-dst", entry(machine, "cali4-dst", "10.1.0.11").split()[0])


def mark_a_member(machine: Machine) -> None:
    member = entry(machine, "cali4-src", "10.1.0.11").split()[0]
    run("ipset", "-exist", "add", "cali4-src", member, "skbmark", "0x10000/0x10000")


def leave_rules_in_the_other(machine: Machine) -> None:
    program = program_name(other(machine.iptables), 4, "x").removesuffix("-x")
    run(program, "-t", "mangle", "-N", "cali-old")


def cut_a_flow(machine: Machine) -> None:
    cutter = FlowCutter(mark_layout(DEFAULT_MARK_MASK).cut)
    cut = cutter.judge(cutter.all_flows(), lambda flow: flow.src == "10.1.0.10").cut
    cutter.close()
    assert cut


MEDDLINGS: list[tuple[Meddle, str, str]] = [
    (replace_a_rule, "chain", "chain cali-FORWARD has other rules"),
    (lambda m: iptables(m, "-t mangle -F cali-INPUT"), "chain", "cali-INPUT has other rules"),
    (lambda m: iptables(m, "-t mangle -N cali-spare"), "chain", "cali-spare is not wanted"),
    (lambda m: iptables(m, "-t mangle -D INPUT 1"), "hook", "INPUT has other rules of ours"),
    (lambda m: iptables(m, "-t mangle -I FORWARD -j ACCEPT"), "hook", "not first: 1 of others"),
    (lambda m: iptables(m, "-t filter -A FORWARD -j DROP"), "hook", "not last: 1 of others"),
    (forget_a_member, "member", "has other members"),
    (mark_a_member, "member", "has other members"),
    (lambda _: run("ipset", "create", "cali4-x", "hash:ip"), "ipset", "is not wanted"),
    (lambda _: ip("link set cali11 group 0"), "interface", "is not marked"),
    (leave_rules_in_the_other, "leftover", "chain cali-old is left"),
    (cut_a_flow, "flow", "is cut and not denied"),
]


def test_each_thing_that_differs_is_found_and_nothing_else_is(walls: Machine) -> None:
    before: set[Difference] = set()
    assert found(walls).findings == ()
    for meddle, kind, words in MEDDLINGS:
        meddle(walls)
        held = walls.held()
        after = set(found(walls).findings)
        assert walls.held() == held, "looking writes nothing"
        (finding,) = after - before
        assert (finding.kind, words in finding.problem) == (kind, True), finding
        assert before < after
        before = after


def test_a_rule_that_was_replaced_is_shown_beside_what_should_be_there(walls: Machine) -> None:
    replace_a_rule(walls)
    (finding,) = found(walls).findings
    assert finding.held == ("-j ACCEPT",)
    (wanted,) = finding.wanted
    assert "--ctstate" in wanted or "-m " in wanted
    assert "cali:" not in wanted


def test_what_an_agent_has_not_yet_written_is_found_until_it_has(walls: Machine) -> None:
    walls.put(tags("friends"))
    assert {finding.kind for finding in found(walls).findings} == {"member", "flow"}
    walls.start()
    assert until(lambda: not found(walls).findings)


def test_a_flow_that_is_denied_now_and_lives_is_found(walls: Machine) -> None:
    walls.start(cut_connections="false")
    walls.settle(rules("closed"))
    flows = [each for each in found(walls).findings if each.kind == "flow"]
    assert flows
    assert all("is denied and not cut" in flow.problem for flow in flows)
    assert all(f":{PORT}, protocol 6" in flow.place for flow in flows)


def test_what_guards_the_node_itself_is_known(walls: Machine) -> None:
    items = host(interface="lo") | {TierKey(TIER): Tier(TIER, 1.0)}
    for hook in HostHook:
        items |= policy(ALLOW_ALL, name=hook.name.lower(), hook=hook, types=(Direction.INGRESS,))
    walls.start()
    walls.settle(items)
    walls.stop()
    assert found(walls).findings == ()
    hosts = [line for line in walls.held()["4"].splitlines() if "cali-" in line and " lo " in line]
    assert hosts, "something guards it"


def test_what_is_mended_between_two_looks_is_no_finding(
    walls: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_a_member(walls)

    def mend(_seconds: float) -> None:
        agent = walls.start()
        assert until(lambda: agent.is_enforcing)

    monkeypatch.setattr(drifts, "wait", mend)
    drift = found(walls)
    assert drift.findings == ()
    assert [each.problem for each in drift.mended] == ["has other members"]


def calico(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command, on the machine."""
    command = [sys.executable, "-m", "calico_k8s", "felix", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def drift_words(machine: Machine) -> tuple[str, ...]:
    backend = ("--iptables-backend", machine.backend.value)
    return ("drift", "--node", NODE, "--datastore", machine.url, *backend)


only_nft = pytest.mark.parametrize("machine", [Backend.NFT], indirect=True)


@only_nft
def test_the_command_says_no_by_its_exit_code_and_prints_both_sides(walls: Machine) -> None:
    code, out, _ = calico(*drift_words(walls))
    revision = walls.store.read("/").revision
    assert (code, out) == (0, f"n1, nft, revision {revision}: the kernel holds what it should\n")
    replace_a_rule(walls)
    code, out, _ = calico(*drift_words(walls))
    assert code == 1
    assert out.startswith("IPv4 nft mangle: chain cali-FORWARD has other rules\n  - ")
    assert out.endswith(f"\n  + -j ACCEPT\nn1, nft, revision {revision}: 1 difference\n")


@only_nft
def test_a_store_that_nobody_has_filled_says_so(machine: Machine) -> None:
    code, _, err = calico(*drift_words(machine))
    assert (code, "no controller has written a whole state yet" in err) == (3, True)
    machine.put(READY)
    code, out, _ = calico(*drift_words(machine), "-o", "json")
    assert code == 1, "an agent has never run here"
    said = json.loads(out)
    check("felix drift", said)
    assert {"hook", "chain", "ipset"} <= {each["kind"] for each in said["findings"]}
