"""A cluster's network comes up on its own, joins everything to everything, and leaves nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calico_k8s.errors import InputError
from calico_k8s.lab import netns
from calico_k8s.lab.cluster import RUN_DIRECTORY, Cluster, cluster_up, sweep_dead_runs
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import LabNode, LabPlan, LabPod, PodId, PodNetwork, place_of
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from tests.lab.plans import node, plan, pod

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parent.parent.parent


def machine() -> dict[str, object]:
    """What the machine's own namespace holds that a lab must not touch.

    What changes there by itself is left out: packets that are counted, seconds that run out.
    """
    found: dict[str, object] = {}
    for name in ("link", "address", "route show table all"):
        output = output_on_machine("ip", "-j", *name.split())
        found[name] = json.loads(output, object_hook=_without_seconds)
    saved = output_on_machine("iptables-legacy-save").splitlines()
    found["rules"] = [COUNTED.sub("", line) for line in saved if not line.startswith("#")]
    found["rules of nft"] = output_on_machine("nft", "--stateless", "list", "ruleset")
    for setting in ("ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv6/conf/all/forwarding"):
        found[setting] = Path(f"/proc/sys/net/{setting}").read_text(encoding="ascii")
    return found


COUNTED = re.compile(r" \[\d+:\d+\]$")
"""What a chain's policy has decided."""


def output_on_machine(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _without_seconds(found: dict[str, object]) -> dict[str, object]:
    running_out = {"valid_life_time", "preferred_life_time", "expires"}
    return {name: value for name, value in found.items() if name not in running_out}


def left_of(process: int) -> list[str]:
    """What is left of the runs of a process: namespaces and directories."""
    names = [path.name for path in netns.NETNS_DIRECTORY.glob(f"{netns.PREFIX}{process}.*")]
    return names + [path.name for path in RUN_DIRECTORY.glob(f"{process}.*")]


def output_of(cluster: Cluster, place: PodId | NodeName, *command: str) -> str:
    with entered(cluster.places()[place_of(place)]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


def reaches(cluster: Cluster, place: PodId | NodeName, address: Address) -> bool:
    return ", 0% packet loss" in output_of(
        cluster, place, "ping", "-c", "1", "-W", "1", "-n", address
    )


@pytest.fixture(params=list(PodNetwork), scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster_up(plan(4), request.param) as up:
        yield up


def test_the_first_packet_reaches_every_pod_and_node_without_delay(cluster: Cluster) -> None:
    for source in ("default/p0", "default/p3"):
        for target in (node(0), node(1), pod(1, 1), pod(2, 0), pod(3, 1)):
            for address in target.addresses:
                assert reaches(cluster, PodId(source), address), (source, address)


def test_nodes_reach_pods_and_the_control_plane_and_not_each_other_through_it(
    cluster: Cluster,
) -> None:
    first = NodeName("node0")
    assert reaches(cluster, first, pod(1, 1).addresses[0])
    assert reaches(cluster, first, cluster.control_address)
    other = cluster.nodes[NodeName("node1")].management_address
    assert not reaches(cluster, first, other)


def test_there_is_no_way_out(cluster: Cluster) -> None:
    assert not reaches(cluster, PodId("default/p0"), Address("192.0.2.1"))
    with entered(cluster.control):
        routes = subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout
    assert "default" not in routes


def test_a_packet_between_nodes_keeps_its_addresses(cluster: Cluster) -> None:
    path = output_of(cluster, PodId("default/p0"), "ip", "route", "get", pod(1, 1).addresses[0])
    assert f"src {pod(0, 0).addresses[0]}" in path
    back = output_of(cluster, NodeName("node1"), "ip", "route", "get", pod(0, 0).addresses[0])
    assert "dev eth0" in back


def test_a_pod_is_attached_as_its_network_says(cluster: Cluster) -> None:
    site = cluster.pods[PodId("default/p0")]
    details = json.loads(
        output_of(cluster, NodeName("node0"), "ip", "-j", "-d", "link", "show", site.host_interface)
    )[0]
    assert details["address"] == "ee:ee:ee:ee:ee:ee" or cluster.network is PodNetwork.BRIDGE
    if cluster.network is PodNetwork.PTP:
        assert "master" not in details
        return
    assert details["master"] == "cbr0"
    assert details["linkinfo"]["info_slave_data"]["hairpin"] is True
    bridge = json.loads(
        output_of(cluster, NodeName("node0"), "ip", "-j", "-d", "link", "show", "cbr0")
    )[0]["linkinfo"]["info_data"]
    assert (bridge["nf_call_iptables"], bridge["nf_call_ip6tables"]) == (1, 1)
    for family in ("iptables", "ip6tables"):
        path = f"/proc/sys/net/bridge/bridge-nf-call-{family}"
        assert output_of(cluster, NodeName("node0"), "cat", path) == "0\n"


def test_pods_come_and_go_while_it_runs(cluster: Cluster) -> None:
    inside = pod(8, 1)
    outside = LabPod(
        PodId("other/far"), NodeName("node0"), (Address("172.20.1.1"), Address("fd00:20::1"))
    )
    cluster.add_pods([inside, outside])
    for source, target in (("default/p0", inside), ("default/p1", outside), ("other/far", inside)):
        for address in target.addresses:
            assert reaches(cluster, PodId(source), address), (source, address)
    namespace = cluster.pods[outside.id].namespace
    running = subprocess.Popen(["ip", "netns", "exec", namespace.name, "sleep", "60"])
    while netns_of(running.pid) != namespace.path.stat().st_ino:
        time.sleep(0.01)
    for gone in (inside, outside):
        cluster.remove_pod(gone.id)
        assert not reaches(cluster, PodId("default/p1"), gone.addresses[0])
    assert running.wait(60) == -signal.SIGKILL
    assert not namespace.path.exists()
    cluster.add_pods([outside])
    assert reaches(cluster, PodId("default/p1"), outside.addresses[0])
    cluster.remove_pod(outside.id)


def netns_of(process: int) -> int:
    return Path(f"/proc/{process}/ns/net").stat().st_ino


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (pod(0, 0), "is in the lab already"),
        (LabPod(PodId("a/b"), NodeName("node0"), pod(1, 1).addresses), "is taken"),
        (LabPod(PodId("a/b"), NodeName("elsewhere"), pod(9, 1).addresses), "does not exist"),
    ],
)
def test_a_pod_that_does_not_fit_is_refused(cluster: Cluster, wrong: LabPod, says: str) -> None:
    with pytest.raises(InputError, match=says):
        cluster.add_pods([wrong])
    assert set(cluster.pods) == {each.id for each in plan(4).pods}


def test_a_pod_that_does_not_exist_cannot_be_removed(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="there is no pod a/b"):
        cluster.remove_pod(PodId("a/b"))


def test_each_node_has_its_own_iptables_lock(cluster: Cluster) -> None:
    locks = {site.xtables_lockfile for site in cluster.nodes.values()}
    assert len(locks) == 2
    assert {lock.parent for lock in locks} == {cluster.directory}


def test_pods_too_many_for_the_kernels_neighbours_know_each_other() -> None:
    crowd = LabPlan(nodes=(node(0),), pods=tuple(pod(number, 0) for number in range(27)))
    with cluster_up(crowd, PodNetwork.BRIDGE) as up:
        known = output_of(up, PodId("default/p0"), "ip", "neigh", "show", "nud", "permanent")
        assert len(known.splitlines()) == 26 * 2
        up.add_pods([pod(30, 0)])
        for source, target in (("default/p0", pod(30, 0)), ("default/p30", pod(0, 0))):
            for address in target.addresses:
                assert reaches(up, PodId(source), address)
        assert pod(30, 0).addresses[0] in output_of(
            up, PodId("default/p0"), "ip", "neigh", "show", "nud", "permanent"
        )


def test_a_cluster_of_one_family_works() -> None:
    only = LabPlan(
        nodes=(LabNode(NodeName("node0"), (Address("fd00:9::1"),)),),
        pods=tuple(
            LabPod(PodId(f"a/p{n}"), NodeName("node0"), (Address(f"fd00::{n}"),)) for n in (1, 2)
        ),
    )
    for network in PodNetwork:
        with cluster_up(only, network) as up:
            assert reaches(up, PodId("a/p1"), Address("fd00::2"))


def test_the_machines_own_namespace_stays_as_it_was() -> None:
    before = machine()
    for network in PodNetwork:
        with cluster_up(plan(2), network):
            assert machine() == before
    assert machine() == before


def build(wrong: LabPlan, network: PodNetwork) -> None:
    with cluster_up(wrong, network):
        pass


def fail_inside(before: set[str]) -> None:
    with cluster_up(plan(2)):
        assert set(left_of(os.getpid())) > before
        raise ZeroDivisionError


def test_an_exception_leaves_nothing_behind() -> None:
    before = set(left_of(os.getpid()))
    with pytest.raises(ZeroDivisionError):
        fail_inside(before)
    assert set(left_of(os.getpid())) == before


def test_a_plan_that_cannot_be_built_leaves_nothing_behind() -> None:
    before = set(left_of(os.getpid()))
    lonely = LabNode(NodeName("n"), (Address("192.168.9.1"),))
    bridge = LabPod(PodId("a/b"), NodeName("n"), (Address("169.254.1.1"),))
    with pytest.raises(InputError, match="is its node's bridge"):
        build(LabPlan((lonely,), (bridge,)), PodNetwork.BRIDGE)
    assert set(left_of(os.getpid())) == before


SCRIPT = textwrap.dedent(
    """
    import sys, time
    from calico_k8s.lab.cluster import cluster_up
    from tests.lab.plans import plan
    how = sys.argv[1]
    context = cluster_up(plan(2))
    with context:
        print("up", flush=True)
        if how == "exit":
            sys.exit(7)
        time.sleep(60)
    """
)


@contextmanager
def lab_process(how: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process with a lab that is up."""
    command = [sys.executable, "-c", SCRIPT, how]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(number: signal.Signals) -> None:
    with lab_process("sleep") as process:
        assert left_of(process.pid)
        process.send_signal(number)
        assert process.wait(60) in (128 + number, -number)
    assert not left_of(process.pid)


def test_the_end_of_the_process_leaves_nothing_behind() -> None:
    with lab_process("exit") as process:
        assert process.wait(60) == 7
    assert not left_of(process.pid)


def test_what_a_killed_run_left_is_swept_and_what_lives_is_not(cluster: Cluster) -> None:
    with lab_process("sleep") as process:
        name = next(each for each in left_of(process.pid) if "-pod." in each)
        inside = subprocess.Popen(["ip", "netns", "exec", name, "sleep", "60"])
        while netns_of(inside.pid) != (netns.NETNS_DIRECTORY / name).stat().st_ino:
            time.sleep(0.01)
        process.kill()
        process.wait(60)
    assert left_of(process.pid)
    assert str(process.pid) in [run.partition(".")[0] for run in sweep_dead_runs()]
    assert not left_of(process.pid)
    assert inside.wait(60) == -signal.SIGKILL
    assert reaches(cluster, PodId("default/p0"), pod(1, 1).addresses[0])
