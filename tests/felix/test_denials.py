"""What a node tells of the packets that it denies: real packets, real rules, each backend."""

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.felix.kernel import Native
from calico_k8s.felix.local_socket import ask
from calico_k8s.model.addresses import Version
from calico_k8s.model.denial import Deciding, Denial, Denials
from calico_k8s.model.keys import HostEndpointKey, Key, PolicyKey, TierKey
from calico_k8s.model.names import PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    Action,
    Direction,
    EntityMatch,
    HostEndpoint,
    HostHook,
    Origin,
    Policy,
    PortRange,
    Rule,
    StagedAction,
    Tier,
    Value,
)
from tests.felix.nodes import (
    NODE_ADDRESS,
    PORT,
    READY,
    Machine,
    PodSite,
    allow,
    connects,
    machine_up,
    reaches,
    rules,
    setting,
    until,
)
from tests.namespaces import Namespace
from tests.test_telemetry import ask as ask_page

METRICS_PORT = 9095

pytestmark = pytest.mark.kernel

OWNER = Origin("Pod", namespace="ns")
"""Of an annotation's profile: the pod is whoever has it."""


@pytest.fixture(params=[*Backend, Native.NFTABLES], ids=str)
def machine(
    namespace: Namespace, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    with machine_up(namespace, tmp_path, request.param) as machine:
        yield machine


def stored(client: PodSite, server: PodSite, *ingress: Rule) -> dict[Key, Value | None]:
    """The server takes what these rules say."""
    closed = rules("closed", *ingress)
    return READY | rules("open", allow()) | closed | client.stored("open") | server.stored("closed")


def deny(index: int) -> Rule:
    return Rule(Action.DENY, msgspec.structs.replace(OWNER, index=index), protocol=6)


def told(machine: Machine) -> tuple[Denial, ...]:
    assert machine.agent is not None
    return machine.agent.denials.records


def one_told(machine: Machine) -> Denial:
    """What is told, once something is."""
    assert until(lambda: bool(told(machine)))
    (denial,) = told(machine)
    return denial


@pytest.mark.parametrize("version", [4, 6])
def test_a_denied_packet_is_told_with_its_rule_and_who_it_was_between(
    machine: Machine, client: PodSite, server: PodSite, version: Version
) -> None:
    machine.start(denials="on")
    machine.settle(stored(client, server, deny(1)))
    assert not reaches(client, server, version)
    denial = one_told(machine)
    assert (denial.src_pod, denial.dst_pod) == ("ns/client", "ns/server")
    assert denial.src == client.addresses[version == 6]
    assert (denial.protocol, denial.port, denial.packets) == ("tcp", PORT, 1)
    assert (denial.action, denial.direction) == ("deny", "ingress")
    assert denial.why == "annotation of pod ns/server, rule 2"
    assert denial.deciding == Deciding("Pod", "ns", "server", 2)


def test_what_passes_is_not_told_and_equal_packets_are_one_record(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    machine.start(denials="on")
    machine.settle(stored(client, server, allow()))
    assert reaches(client, server)
    with client.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(5):
            sender.sendto(b"x", (server.addresses[0], 53))
    assert until(lambda: one_told(machine).packets == 5)
    denial = one_told(machine)
    assert (denial.protocol, denial.port) == ("udp", 53)
    assert denial.why == "end of profiles"


def test_an_unknown_endpoint_is_told_as_one(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    machine.start(denials="on", workload_interfaces="cali*")
    machine.settle(stored(client, server, allow()) | dict.fromkeys(client.stored("open")))
    assert not reaches(client, server)
    denial = one_told(machine)
    assert (denial.src_pod, denial.dst_pod) == ("", "ns/server")
    assert denial.why == "it came from a workload, and its source is no known pod's address there"
    assert denial.deciding is None


def test_a_pod_that_may_not_talk_to_its_node_is_told(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    machine.start(denials="on", pod_to_host_action="drop")
    machine.settle(stored(client, server, allow()))
    assert not connects(client.namespace, NODE_ADDRESS, 22)
    assert one_told(machine).why.endswith("by the setting pod-to-host-action")


def test_without_the_setting_no_rule_tells_and_it_can_be_turned_on_and_off(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    machine.start()
    machine.settle(stored(client, server, deny(0)))
    assert not reaches(client, server)
    assert "NFLOG" not in "".join(machine.held().values())
    machine.settle(setting("denials", "on"))
    assert not reaches(client, server)
    assert one_told(machine).packets == 1
    machine.settle(setting("denials", "off"))
    assert not reaches(client, server)
    assert until(lambda: "NFLOG" not in "".join(machine.held().values()))


def test_programs_of_the_machine_can_ask(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    path = machine.folder / "denials"
    machine.start(denials="on")
    machine.settle(stored(client, server, deny(0)))
    assert not reaches(client, server)
    denial = one_told(machine)
    answer = msgspec.json.decode(ask(path), type=Denials)
    assert answer == Denials(client.id.node, (denial,))
    assert path.stat().st_mode & 0o777 == 0o600
    machine.stop()
    assert not path.exists()


def wall(*ingress: Rule) -> dict[Key, Value | None]:
    """A staged policy that would let these in, and nothing else."""
    name = PolicyId("StagedGlobalNetworkPolicy", "", "wall")
    tier = TierName("default")
    return {
        TierKey(tier): Tier(tier),
        PolicyKey(tier, name): Policy(
            name,
            tier,
            SelectorText("all()"),
            (Direction.INGRESS,),
            ingress=ingress,
            staged=StagedAction.SET,
        ),
    }


def test_what_a_staged_policy_would_do_is_told_and_counted_and_every_packet_goes_on(
    machine: Machine, client: PodSite, server: PodSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico_k8s.felix.agent.COUNT_AFTER_S", 0.5)
    agent = machine.start(denials="on")
    origin = Origin("StagedGlobalNetworkPolicy", name="wall", index=0)
    names = EntityMatch(ports=(PortRange(53, 53),))
    lets_ask = Rule(Action.ALLOW, origin, protocol=17, dst=names)
    open_both = stored(client, server, allow())
    machine.settle(open_both | wall(lets_ask))
    assert reaches(client, server)
    flood = 1500
    with client.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port, packets in ((53, 5), (54, flood)):
            for _ in range(packets):
                sender.sendto(b"x", (server.addresses[0], port))

    def counted() -> tuple[tuple[str, int, int], ...]:
        found = agent.denials.staged
        return tuple((each.policy, each.would_allow, each.would_deny) for each in found)

    wanted = (("StagedGlobalNetworkPolicy/wall", 5, flood + 1),)
    assert until(lambda: counted() == wanted, 20), counted()
    kinds = {(d.action, d.protocol, d.port, d.why) for d in agent.denials.rehearsed}
    end = "end of StagedGlobalNetworkPolicy wall"
    assert kinds == {
        ("would-allow", "udp", 53, "StagedGlobalNetworkPolicy wall, rule 1"),
        ("would-deny", "udp", 54, end),
        ("would-deny", "tcp", PORT, end),
    }
    denied = {("deny", 53, 5), ("deny", 54, flood)}
    assert until(lambda: {(d.action, d.port, d.packets) for d in told(machine)} == denied, 20)
    answer = msgspec.json.decode(ask(machine.folder / "denials"), type=Denials)
    assert answer.staged == agent.denials.staged
    machine.settle(dict.fromkeys(wall()) | open_both)
    with client.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (server.addresses[0], 55))
    assert until(lambda: 55 in {d.port for d in told(machine)})
    assert counted() == wanted


def test_a_restart_goes_on_rehearsing_and_ends_it_where_the_policy_has_gone(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    machine.start(denials="on")
    machine.settle(stored(client, server, allow()) | wall())
    held = machine.held()
    machine.stop()
    agent = machine.start(denials="on")
    assert until(lambda: agent.is_enforcing)
    assert machine.held() == held
    assert reaches(client, server)
    assert until(lambda: [each.would_deny for each in agent.denials.staged] == [1])
    machine.stop()
    revision = machine.put(dict.fromkeys(wall()))
    agent = machine.start(denials="on")
    assert until(lambda: machine.is_at(revision))
    assert reaches(client, server)
    with client.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (server.addresses[0], 55))
    assert one_told(machine).port == 55
    assert agent.denials.staged == ()


def test_without_the_setting_nothing_is_rehearsed_in_the_kernel(
    machine: Machine, client: PodSite, server: PodSite
) -> None:
    machine.start()
    machine.settle(stored(client, server, allow()))
    machine.settle(wall())
    assert reaches(client, server)
    held = "".join(machine.held().values())
    assert "-I0-" not in held
    assert "-si-" not in held


@pytest.mark.parametrize("machine", [*Backend, Native.NFTABLES], indirect=True, ids=str)
def test_a_flood_is_told_in_part_and_counted_whole(
    machine: Machine, client: PodSite, server: PodSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico_k8s.felix.agent.COUNT_AFTER_S", 0.5)
    machine.start(metrics_port=METRICS_PORT, denials="on")
    machine.settle(stored(client, server, allow()))
    flood, one = 5000, 1
    with client.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port, packets in ((53, flood), (54, one)):
            for _ in range(packets):
                sender.sendto(b"x", (server.addresses[0], port))
    expected = {(53, flood, True), (54, one, False)}
    assert until(lambda: {(d.port, d.packets, d.sampled) for d in told(machine)} == expected, 20), (
        told(machine)
    )
    counted = "calico_k8s_felix_denied_packets_total"
    told_too = ask_page(METRICS_PORT, "/metrics")[1]
    assert f'\n{counted}{{direction="ingress"}} {flood + one}.0\n' in told_too
    assert f'\n{counted}{{direction="egress"}} 0.0\n' in told_too


@pytest.mark.parametrize("machine", list(Backend), indirect=True, ids=str)
def test_where_the_kernel_cannot_tell_policy_is_enforced_and_one_sentence_says_so(
    machine: Machine,
    client: PodSite,
    server: PodSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extension is taken away where the programs look for it, as with a kernel without it."""
    folder = tmp_path / "xtables"
    folder.mkdir()
    for library in extensions_folder().iterdir():
        if library.name != "libxt_NFLOG.so":
            (folder / library.name).symlink_to(library)
    monkeypatch.setenv("XTABLES_LIBDIR", str(folder))
    machine.start(denials="on")
    machine.settle(stored(client, server, allow()))
    assert reaches(client, server)
    machine.settle(stored(client, server, deny(0)))
    assert until(lambda: not reaches(client, server))
    assert machine.agent is not None
    (problem,) = machine.agent.denials.problems
    assert problem.startswith(
        "denials are not told: the kernel, or iptables, is without xt_NFLOG, xt_limit or "
        f"xt_hashlimit: iptables-{machine.backend}-restore: "
    )
    assert "NFLOG" in problem.partition("restore: ")[2]
    assert not any("NFLOG" in text or "cali-probe" in text for text in machine.held().values())


def extensions_folder() -> Path:
    """Where iptables' programs have their extensions."""
    found = sorted(Path("/usr/lib").glob("*/xtables/libxt_NFLOG.so"))
    return found[0].parent if found else Path("/usr/lib/xtables")


@pytest.mark.parametrize("machine", [*Backend, Native.NFTABLES], indirect=True, ids=str)
def test_a_flood_that_is_denied_before_any_connection_is_counted_whole_too(
    machine: Machine, client: PodSite, server: PodSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico_k8s.felix.agent.COUNT_AFTER_S", 0.5)
    tier, name = TierName("default"), PolicyId("GlobalNetworkPolicy", "", "early")
    rule = Rule(Action.DENY, Origin(name.kind, name=name.name, index=0), protocol=17)
    early = Policy(
        name,
        tier,
        SelectorText('role == "host"'),
        (Direction.INGRESS,),
        ingress=(rule,),
        host_hook=HostHook.UNTRACKED,
    )
    host = HostEndpoint(client.id.node, "link", client.link, labels={"role": "host"})
    machine.start(denials="on")
    machine.settle(
        stored(client, server, allow())
        | {TierKey(tier): Tier(tier), PolicyKey(tier, name): early}
        | {HostEndpointKey(host.node, host.name): host}
    )
    flood = 3000
    with client.namespace, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(flood):
            sender.sendto(b"x", (server.addresses[0], 53))
    wanted = {("GlobalNetworkPolicy early, rule 1", flood, True)}
    assert until(lambda: {(d.why, d.packets, d.sampled) for d in told(machine)} == wanted, 20), (
        told(machine)
    )
