"""The agent on a real kernel: it restarts, fails, is changed and meddled with, and nothing gives way."""

import contextlib
import fcntl
import os
import random
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from calico_k8s.felix.agent import Agent
from calico_k8s.felix.iptables.programs import Backend, program_name, save
from calico_k8s.felix.kernel import Native, clean_kernel
from calico_k8s.felix.saved import SavedState, save_state
from calico_k8s.model.addresses import Net
from calico_k8s.model.keys import EndpointKey, Key, NodeKey, ReadyKey, SettingKey
from calico_k8s.model.names import EndpointId
from calico_k8s.model.resources import Node, Value, WorkloadEndpoint
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from tests.felix.nodes import (
    NODE,
    NODE_ADDRESS,
    READY,
    Machine,
    PodSite,
    allow,
    connecting,
    connects,
    machine_up,
    reaches,
    rules,
    setting,
    tags,
    until,
    walled,
)
from tests.namespaces import Namespace, ip, run

SO_RCVBUFFORCE = 33

pytestmark = pytest.mark.kernel


@pytest.fixture(params=[Backend.LEGACY, Backend.NFT], ids=str)
def machine(
    namespace: Namespace, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    with machine_up(namespace, tmp_path, request.param) as machine:
        yield machine


@pytest.fixture
def other(machine: Machine) -> PodSite:
    return machine.pod("other", 12)


@pytest.fixture
def walls(machine: Machine, client: PodSite, server: PodSite, other: PodSite) -> Machine:
    """The server takes the client only, and an agent says so."""
    machine.start()
    machine.settle(walled(client, server, other))
    assert stands(client, server, other)
    return machine


every_backend = pytest.mark.parametrize(
    "machine", [*Backend, Native.NFTABLES], indirect=True, ids=str
)
NOT_READY: dict[Key, Value | None] = {ReadyKey(): None}


def gone(pod: PodSite) -> dict[Key, Value | None]:
    return {EndpointKey(pod.id): None}


def stands(client: PodSite, server: PodSite, other: PodSite) -> bool:
    return (
        reaches(client, server)
        and reaches(client, server, 6)
        and not reaches(other, server)
        and not reaches(other, server, 6)
        and reaches(server, other)
    )


def generation() -> int:
    with contextlib.closing(NftSocket()) as tables:
        return tables.generation()


@every_backend
def test_a_restart_with_nothing_to_change_writes_nothing(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    before, count = walls.held(), generation()
    walls.stop()
    agent = walls.start()
    assert until(lambda: agent.is_enforcing)
    assert (walls.held(), generation()) == (before, count)
    assert stands(client, server, other)


@every_backend
def test_what_changed_while_the_agent_was_down_is_in_force_when_it_is_back(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    walls.stop()
    revision = walls.put(tags("friends") | gone(other))
    assert reaches(client, server), "what was enforced stands"
    walls.start()
    assert until(lambda: walls.is_at(revision))
    assert not reaches(client, server)
    assert not reaches(other, server), "an endpoint no more: closed"
    assert not reaches(server, other)


def test_chains_of_another_release_are_rewritten_without_a_gap(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    before = walls.held()
    walls.stop()
    saved = run(program_name(walls.iptables, 4, "save"), "-t", "mangle")
    worded = saved.replace("--ctstate RELATED,ESTABLISHED", "--ctstate ESTABLISHED,RELATED,DNAT")
    worded = re.sub(r"cali:([\w-]{8})", lambda found: f"cali:{found[1][::-1]}", worded)
    run(program_name(walls.iptables, 4, "restore"), stdin=worded)
    with connecting(client, server) as opened:
        agent = walls.start()
        assert until(lambda: agent.is_enforcing)
    assert all(opened)
    assert walls.held() == before


@pytest.mark.parametrize("words", ["-F FORWARD", "-F cali-FORWARD", "-I FORWARD -j ACCEPT"])
def test_a_table_flushed_or_a_jump_displaced_is_mended_and_counted_once(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite, words: str
) -> None:
    before = walls.held()["4"]
    run(program_name(walls.iptables, 4, "x").removesuffix("-x"), "-t", "mangle", *words.split())
    assert until(lambda: walls.held()["4"] == before or is_first(walls))
    assert stands(client, server, other)
    assert until(lambda: (told := walls.status()) is not None and told.drift_repaired == 1)


def test_a_rule_of_ours_replaced_in_place_is_mended_by_the_resync_and_counted(
    machine: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    machine.start(resync_interval_s="1")
    everybody = client.stored("open") | server.stored("closed") | other.stored("open")
    machine.settle(READY | rules("closed") | rules("open", allow()) | everybody)
    assert not reaches(other, server)
    before, tool = machine.held(), program_name(machine.iptables, 4, "x").removesuffix("-x")
    told = machine.status()
    run(tool, "-t", "mangle", "-R", "cali-deny", "1", "-j", "RETURN")
    assert reaches(other, server), "the number of rules is the same"
    assert until(lambda: machine.held() == before)
    assert not reaches(other, server)
    assert told is not None
    drift = told.drift_repaired + 1
    assert until(lambda: (now := machine.status()) is not None and now.drift_repaired == drift)


def is_first(machine: Machine) -> bool:
    """Whether our jump stands before another program's rule in FORWARD."""
    saved = save(machine.iptables, 4, "mangle").splitlines()
    lines = [line for line in saved if line.startswith("-A FORWARD")]
    return len(lines) > 1 and "cali-FORWARD" in lines[0]


def test_an_ipset_emptied_by_somebody_is_filled_again(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    before = walls.held()
    run("ipset", "flush")
    assert not reaches(client, server)
    assert until(lambda: walls.held() == before)
    assert stands(client, server, other)


@every_backend
def test_settings_of_the_datastore_are_applied_while_it_runs(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    assert connects(client.namespace, NODE_ADDRESS, 81) is False
    with contextlib.closing(listen(81)):
        assert connects(client.namespace, NODE_ADDRESS, 81)
        walls.settle(setting("pod-to-host-action", "drop"))
        assert not connects(client.namespace, NODE_ADDRESS, 81)
        walls.settle({SettingKey(None, "pod-to-host-action"): None})
        assert connects(client.namespace, NODE_ADDRESS, 81)
    walls.settle(gone(other))
    assert not reaches(other, client)
    walls.settle(setting("unknown-endpoint-action", "allow"))
    assert until(lambda: reaches(other, client))


def listen(port: int) -> socket.socket:
    return socket.create_server((NODE_ADDRESS, port))


def test_a_setting_that_cannot_be_used_is_told_and_passed_over(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    bad = {"pod-to-host-action": "maybe", "mark-mask": "0xffff", "pod-cidr": "10.1.0.0/33"}
    walls.settle({key: value for each in bad.items() for key, value in setting(*each).items()})
    status = walls.status()
    assert status is not None
    assert any("10.1.0.0/33" in error for error in status.errors)
    assert any("'maybe' is not one of" in error for error in status.errors)
    assert any("mark-mask is a flag's" in error for error in status.errors)
    assert stands(client, server, other)
    walls.settle({SettingKey(None, name): None for name in bad})
    assert until(lambda: (walls.status() or status).errors == ())


def test_a_refused_write_is_told_and_tried_again_with_what_is_stored_by_then(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    """A set of another type stands where ours should be, and a rule keeps it there."""
    run("ipset", "create", "cali4-dst", "bitmap:port", "range", "0-9")
    tool = program_name(machine.iptables, 4, "x").removesuffix("-x")
    rule = ["INPUT", "-m", "set", "--match-set", "cali4-dst", "dst", "-j", "ACCEPT"]
    run(tool, "-A", *rule)
    machine.put(READY | rules("closed") | client.stored("closed") | server.stored("closed"))
    agent = machine.start()
    assert until(lambda: (status := machine.status()) is not None and status.state == "failing")
    status = machine.status()
    assert status is not None
    assert "cali4-dst exists as bitmap:port" in status.errors[0]
    assert not is_enforcing(agent)
    revision = machine.put(rules("closed", allow()))
    run(tool, "-D", *rule)
    assert until(lambda: machine.is_at(revision))
    assert is_enforcing(agent)
    assert reaches(client, server)


def is_enforcing(agent: Agent) -> bool:
    return agent.is_enforcing


@pytest.mark.parametrize("machine", [Backend.LEGACY], indirect=True)
def test_a_lock_that_another_program_holds_is_waited_for(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    machine.put(READY | rules("closed", allow()) | client.stored("closed"))
    with Path(os.environ["XTABLES_LOCKFILE"]).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        machine.start(lock_timeout_s="1")
        assert until(lambda: (told := machine.status()) is not None and told.state == "failing")
        revision = machine.put(server.stored("closed"))
    assert until(lambda: machine.is_at(revision))
    assert reaches(client, server)


def test_an_address_of_the_nodes_pod_nets_is_closed_while_no_agent_has_seen_its_interface(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    pod_nets = (Net("10.1.0.0/24"), Net("fd00:1::/64"))
    walls.settle({NodeKey(NODE): Node(NODE, (NODE_ADDRESS,), pod_cidrs=pod_nets)})
    walls.stop()
    new = walls.pod("new", 13)
    for version in (4, 6):
        assert not reaches(new, client, version)
        assert not reaches(client, new, version)
    assert connects(walls.namespace, new.addresses[0]), "the node's own probe"
    assert stands(client, server, other)
    walls.start()
    walls.settle(new.stored("open"))
    assert reaches(client, new)


@every_backend
def test_a_lost_datastore_changes_nothing_and_a_new_pod_stays_closed(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    """The file is another program's for a while."""
    agent = walls.agent
    assert agent is not None
    agent.is_store_away = True
    before = walls.held()
    new = walls.pod("new", 13)
    assert not until(lambda: reaches(new, client) or reaches(client, new), 1.0)
    assert stands(client, server, other)
    assert walls.held() == before
    assert until(lambda: (told := walls.status()) is not None and told.state == "store-away")
    agent.is_store_away = False
    walls.settle(new.stored("open"))
    assert reaches(client, new)


def test_a_store_that_is_not_complete_leaves_what_an_earlier_run_enforced(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    walls.stop()
    walls.put(NOT_READY | tags("friends"))
    before = walls.held()
    agent = walls.start()
    new = walls.pod("new", 13)
    assert not until(lambda: reaches(new, client) or reaches(client, new), 1.0), "closed"
    assert not agent.is_enforcing
    assert walls.held() == before
    assert stands(client, server, other)
    walls.settle(READY)
    assert not reaches(client, server)


def boot(walls: Machine) -> None:
    """The node has lost what its kernel held, and its disk is of the boot before."""
    walls.stop()
    state = msgspec.msgpack.decode(walls.state_path.read_bytes(), type=SavedState)
    save_state(walls.state_path, msgspec.structs.replace(state, boot_id="another"))
    clean_kernel(10.0, DEFAULT_MARK_MASK)


def test_a_rebooted_node_enforces_what_it_did_until_the_datastore_is_complete(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    boot(walls)
    assert reaches(other, server)
    walls.put(NOT_READY)
    walls.start()
    assert until(lambda: stands(client, server, other))
    walls.settle(READY | tags("friends"))
    assert not reaches(client, server)


@every_backend
def test_a_rebooted_node_enforces_what_it_did_before_any_agent_runs(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    def restore() -> str:
        command = [sys.executable, "-m", "calico_k8s", "felix", "restore"]
        return run(*command, "--state-file", str(walls.state_path))

    assert "holds nothing of an earlier boot" in restore()
    boot(walls)
    assert restore() == "restored what this node enforced before it was booted\n"
    assert stands(client, server, other)
    assert "this node enforces already" in restore()
    assert "cali-egress" in "".join(walls.held().values()), "where its rules were"
    walls.start()
    walls.settle(tags("friends"))
    assert not reaches(client, server)


def test_pods_on_no_interface_or_with_anothers_address_are_told_with_the_reason(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    ip(f"link del {other.link}")
    twin: dict[Key, Value | None] = {
        EndpointKey(EndpointId(NODE, client.id.namespace, "twin")): WorkloadEndpoint(
            EndpointId(NODE, client.id.namespace, "twin"), client.addresses[:1], created=5.0
        )
    }
    walls.settle(twin | server.stored("closed", "gone"))
    told = walls.endpoint_status
    assert until(lambda: (s := told(other)) is not None and s.state == "no-interface")
    of_other, of_client, of_server = told(other), told(client), told(server)
    assert of_other is not None
    assert "no interface of this node leads to 10.1.0.12" in of_other.reason
    assert of_client is not None
    assert of_client.state == "enforced", "its IPv6 address is"
    assert f"{client.addresses[0]} belongs to" in of_client.reason
    assert of_server is not None
    assert of_server.reason == "profile gone is not in the datastore"


def test_pod_ranges_that_overlap_the_nodes_own_subnet_are_an_error_in_status(
    machine: Machine,
) -> None:
    ip("link add eth0 type veth peer name far")
    ip("addr add 10.9.0.1/20 dev eth0")
    for link in ("eth0", "far"):
        ip(f"link set {link} up")
    ip("route add default via 10.9.0.2")
    machine.start()
    node = Node(NODE, (NODE_ADDRESS,), pod_cidrs=(Net("10.9.4.0/24"), Net("10.77.0.0/24")))
    machine.settle(READY | {NodeKey(NODE): node})
    status = machine.status()
    assert status is not None
    (error,) = status.errors
    assert "10.9.4.0/24 overlaps 10.9.0.0/20" in error
    assert "--workload-interfaces" in error
    assert "-s 10.77.0.0/24" in "".join(machine.held().values())
    assert "10.9.4.0/24" not in "".join(machine.held().values()), "the node's neighbours are in it"
    machine.settle({NodeKey(NODE): Node(NODE, (NODE_ADDRESS,))})
    assert until(lambda: (machine.status() or status).errors == ())


def test_status_is_written_when_something_is_new_and_not_otherwise(
    walls: Machine, client: PodSite
) -> None:
    def written() -> int:
        return sum(1 for _ in walls.store.read("/felix/v2/").entries) and revision_of(walls)

    walls.settle(client.stored("open"))
    assert until(lambda: is_still(written, 0.5))


def revision_of(machine: Machine) -> int:
    return machine.store.read("/felix/v2/").revision


def is_still(read: Callable[[], int], wait_s: float) -> bool:
    """Whether it does not change for so long."""
    before = read()
    time.sleep(wait_s)
    return read() == before


def test_lost_network_events_are_made_good_by_reading_everything(
    walls: Machine, client: PodSite, server: PodSite, other: PodSite
) -> None:
    """The socket has room for a few events; a thousand come before the agent looks."""
    agent = walls.agent
    assert agent is not None
    events = agent._kernel.interfaces._events._socket._socket
    events.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2304)
    routes = "".join(f"route add 10.9.{n // 250}.{n % 250}/32 dev lo\n" for n in range(1000))
    run("ip", "-batch", "-", stdin=routes)
    new = walls.pod("new", 13)
    walls.settle(new.stored("open"))
    assert until(lambda: reaches(client, new))
    assert stands(client, server, other)


@every_backend
@pytest.mark.parametrize("seed", range(3))
def test_agents_killed_at_any_moment_of_their_batches_leave_a_kernel_that_the_next_sets_right(
    machine: Machine, client: PodSite, server: PodSite, other: PodSite, seed: int
) -> None:
    chance = random.Random(seed)
    machine.put(
        READY
        | rules("closed", allow("access"))
        | rules("open", allow())
        | tags("friends", "access")
        | server.stored("closed")
    )
    for _ in range(3):
        with machine.process() as process:
            time.sleep(chance.uniform(0.3, 0.6))
            for number in range(8):
                profile = chance.choice(("open", "closed"))
                machine.put(client.stored(profile, "friends") | other.stored(profile))
                machine.put(rules("closed", allow("access", 80 if number % 2 else None)))
                time.sleep(chance.uniform(0, 0.01))
            process.kill()
    machine.start()
    last = client.stored("open", "friends") | other.stored("open")
    machine.settle(rules("closed", allow("access")) | last | setting("log-denied", "false"))
    assert stands(client, server, other)
    assert until(lambda: not unasked(machine)), unasked(machine)


def unasked(machine: Machine) -> set[str]:
    """The sets in the kernel that no rule asks."""
    names = {line.split()[1] for line in run("ipset", "save").splitlines()}
    rules = "".join(text for part, text in machine.held().items() if part != "ipset")
    return {name for name in names if name not in rules}
