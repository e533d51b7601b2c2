"""What an agent tells over HTTP, on a real kernel: numbers, whether it lives, whether it is ready."""

import fcntl
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

import pytest

from calico_k8s.errors import UnavailableError
from calico_k8s.felix import agent as agents
from calico_k8s.felix import kernel as kernels
from calico_k8s.felix import process
from calico_k8s.felix.agent import Identity
from calico_k8s.felix.ipsets import IpsetDriver
from calico_k8s.felix.iptables.programs import Backend, program_name
from calico_k8s.felix.status import StatusWriter
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import EndpointKey, Key
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, ProfileId
from calico_k8s.model.resources import Value, WorkloadEndpoint
from calico_k8s.netlink import socket as netlink_socket
from tests.felix.nodes import (
    READY,
    Machine,
    allow,
    machine_up,
    reaches,
    rules,
    tags,
    until,
)
from tests.namespaces import Namespace, ip, run
from tests.test_telemetry import ask

PORT = 9095

pytestmark = pytest.mark.kernel


@pytest.fixture
def machine(namespace: Namespace, tmp_path: Path) -> Iterator[Machine]:
    with machine_up(namespace, tmp_path, Backend.LEGACY) as machine:
        yield machine


@pytest.fixture
def lock(machine: Machine) -> Iterator[TextIO]:
    """What legacy iptables programs of this test lock."""
    with Path(os.environ["XTABLES_LOCKFILE"]).open("a") as file:
        yield file


def metric(name: str) -> float:
    """The value of a metric of ours; its labels are part of the name."""
    (line,) = (
        line
        for line in ask(PORT, "/metrics")[1].splitlines()
        if line.startswith(f"calico_k8s_felix_{name} ")
    )
    return float(line.split()[1])


def fault(kind: str) -> float:
    """How often the kernel has refused or lost something of a kind."""
    return metric(f'kernel_faults_total{{kind="{kind}"}}')


def elsewhere(count: int) -> dict[Key, Value | None]:
    """Pods of another node that have the profile ``friends``."""
    found: dict[Key, Value | None] = {}
    for number in range(1, count + 1):
        pod = EndpointId(NodeName("n2"), NamespaceName("ns"), f"pod-{number}")
        address = Address(f"10.2.0.{number}")
        found[EndpointKey(pod)] = WorkloadEndpoint(
            pod, (address,), profiles=(ProfileId("friends"),)
        )
    return found


def test_an_agent_tells_what_it_does(machine: Machine) -> None:
    client, server = machine.pod("client", 10), machine.pod("server", 11)
    machine.start(metrics_port=PORT)
    assert until(
        lambda: ask(PORT, "/readyz") == (503, "the datastore's first snapshot is not in\n")
    )
    assert ask(PORT, "/healthz") == (200, "ok\n")
    machine.settle(READY | rules("closed", allow("access")) | rules("open", allow()))
    assert until(lambda: ask(PORT, "/readyz") == (200, "ok\n"))
    machine.settle(tags("friends", "access") | client.stored("open") | server.stored("closed"))
    assert not reaches(client, server)
    machine.settle(client.stored("open", "friends"))
    assert reaches(client, server)
    assert until(lambda: metric('endpoints{state="enforced"}') == 2)
    assert metric("policy_groups") == 4  # two for each direction
    assert metric("ipset_members") >= 8
    assert metric("datastore_revision_reached") == metric("datastore_revision_seen") > 1
    assert metric("apply_latency_seconds_count") >= 2
    assert metric("apply_duration_seconds_count") >= 2
    assert metric("oldest_change_seconds") == 0
    assert metric("enforcing") == metric("datastore_in_sync") == 1
    ip(f"link del {client.link}")
    assert until(lambda: metric('endpoints{state="no-interface"}') == 1)
    run(program_name(machine.iptables, 4, "x").removesuffix("-x"), "-t", "mangle", "-F")
    assert until(lambda: metric('drift_repaired_total{kind="tables"}') >= 1)


def test_a_kernel_that_refuses_is_not_ready_and_its_change_is_seen_to_wait(
    machine: Machine, lock: TextIO
) -> None:
    server = machine.pod("server", 11)
    machine.start(metrics_port=PORT, lock_timeout_s="0.2")
    machine.settle(READY | rules("closed", allow("access")))
    assert ask(PORT, "/readyz") == (200, "ok\n")
    fcntl.flock(lock, fcntl.LOCK_EX)
    machine.put(server.stored("closed"))
    assert until(lambda: ask(PORT, "/readyz")[0] == 503)
    assert "lock" in ask(PORT, "/readyz")[1]
    assert until(lambda: metric("apply_errors_total") >= 2)
    assert metric("oldest_change_seconds") > 0.2
    assert metric('problems{kind="kernel"}') == 1
    assert fault("lock-held") >= 2
    fcntl.flock(lock, fcntl.LOCK_UN)
    assert until(lambda: ask(PORT, "/readyz") == (200, "ok\n"))
    assert metric("apply_latency_seconds_sum") > 0.2


def test_a_set_at_its_limit_is_made_larger_and_counted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "IpsetDriver", partial(IpsetDriver, maxelem=8))
    client, server = machine.pod("client", 10), machine.pod("server", 11)
    machine.start(metrics_port=PORT)
    open_and_closed = rules("closed", allow("access")) | rules("open", allow())
    machine.settle(READY | open_and_closed | tags("friends", "access"))
    machine.settle(elsewhere(8) | server.stored("closed"))
    assert fault("ipset-full") == 0, "eight is its limit"
    machine.settle(client.stored("open", "friends"))
    assert fault("ipset-full") >= 1
    assert metric("enforcing") == 1
    assert reaches(client, server)
    machine.settle(client.stored("open"))
    assert not reaches(client, server)


def test_events_that_find_no_room_are_counted_and_nothing_is_missed(
    machine: Machine, lock: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop waits for a lock while the network changes more often than its socket has room for."""
    monkeypatch.setattr(netlink_socket, "BUFFER_BYTES", 512 * 1024)  # an eighth: some 1,000 events
    client, server = machine.pod("client", 10), machine.pod("server", 11)
    machine.start(metrics_port=PORT, lock_timeout_s="60")
    machine.settle(READY | rules("open", allow()) | client.stored("open") | server.stored("open"))
    assert reaches(client, server)
    fcntl.flock(lock, fcntl.LOCK_EX)
    machine.put(rules("shut") | server.stored("shut"))
    assert until(lambda: metric("oldest_change_seconds") > 0.2)
    flood = tmp_path / "flood"
    lines = (
        f"neigh replace 10.9.9.9 lladdr 02:00:00:00:00:0{n % 2} dev {client.link}\n"
        for n in range(4000)
    )
    flood.write_text("".join(lines))
    run("ip", "-batch", str(flood))
    server.replug()
    fcntl.flock(lock, fcntl.LOCK_UN)
    assert until(lambda: fault("events-lost") >= 1)
    machine.settle(server.stored("open"))
    assert until(lambda: reaches(client, server))
    assert reaches(server, client), "its new interface is known as a workload's"


def test_a_loop_that_hangs_is_not_alive_and_lives_again_when_it_goes_on(
    machine: Machine, lock: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop waits for another program's lock; such a wait counts as a hang here after 1 s."""
    monkeypatch.setattr(agents.Agent, "longest_turn_s", 1.0)
    server = machine.pod("server", 11)
    machine.start(metrics_port=PORT, lock_timeout_s="60")
    machine.settle(READY | rules("closed", allow("access")))
    assert ask(PORT, "/healthz") == (200, "ok\n")
    fcntl.flock(lock, fcntl.LOCK_EX)
    machine.put(server.stored("closed"))
    assert until(lambda: ask(PORT, "/healthz")[0] == 503)
    assert "the loop has not come round for" in ask(PORT, "/healthz")[1]
    assert ask(PORT, "/readyz")[0] == 503
    fcntl.flock(lock, fcntl.LOCK_UN)
    assert until(lambda: ask(PORT, "/healthz") == (200, "ok\n"))
    assert until(lambda: ask(PORT, "/readyz") == (200, "ok\n"))


def test_a_loop_with_nothing_to_do_for_long_lives(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "BEAT_S", 0.1)
    agent = machine.start(metrics_port=PORT, status_interval_s="80000")
    before_s = agent.beat_s
    assert until(lambda: agent.beat_s > before_s + 0.3)


def test_a_thread_that_has_ended_is_not_alive(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.start(metrics_port=PORT)
    assert ask(PORT, "/healthz") == (200, "ok\n")
    monkeypatch.setattr(StatusWriter, "is_alive", property(lambda _: False))
    status, text = ask(PORT, "/healthz")
    assert (status, "the thread that tells status has ended" in text) == (503, True)


def test_that_the_node_enforces_is_told_at_once_however_large_the_cluster(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "TELL_EVERY_ENDPOINTS_S", 80_000.0)
    remote = EndpointId(NodeName("n2"), NamespaceName("ns"), "remote")
    pod = WorkloadEndpoint(remote, (Address("10.9.0.1"),))
    revision = machine.put(READY | {EndpointKey(remote): pod})
    machine.start(status_interval_s="80000")
    assert until(lambda: machine.is_at(revision)), machine.status()


def test_a_port_that_is_taken_is_said_before_anything_is_done(machine: Machine) -> None:
    machine.start(metrics_port=PORT)
    with (
        pytest.raises(UnavailableError, match=f"{PORT}.*--metrics-port"),
        process.running_parts(Identity(NodeName("other")), machine.store, PORT),
    ):
        pass
