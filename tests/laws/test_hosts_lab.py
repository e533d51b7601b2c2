"""What queries say of nodes is what packets do: host endpoints written, and made for each node.

One lab of each kind runs; policies of host endpoints follow one another in it.  Connections are
tried between pods, between nodes, and between the two, in both families, and each passes exactly if
``matrix --hosts`` says so.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from calico_k8s.lab.netns import Namespace, entered
from calico_k8s.lab.plan import PodNetwork
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.model.addresses import address_version
from calico_k8s.model.names import NodeName
from calico_k8s.query.matrix import Cell, compare, compute_matrix
from calico_k8s.query.reach import Service
from calico_k8s.translate.namespaces import TranslateSettings
from tests.lab.clusters import Object, expanded
from tests.lab.plans import TCP

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

PORTS = (22, 8080, 8081)
"""The first stays open whatever policy says."""
SERVICES = tuple(Service(TCP, port) for port in PORTS)
KINDS = {"ptp-nft": (PodNetwork.PTP, "nft"), "bridge-nftables": (PodNetwork.BRIDGE, "nftables")}
NODES = ("node-1", "node-2")
DENIED_S, PATIENCE_S = 0.3, 20.0
"""Who has no answer by then is denied, and how long a cell may be asked again."""


def pod(name: str, node: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main"}]},
    }


def node(number: int) -> Object:
    addresses = (f"192.168.9.{number}", f"fd00:9::{number}")
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": {"role": "node"}},
        "status": {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]},
    }


def uplink(*profiles: str, expected: bool = True) -> Object:
    spec = {"node": "node-1", "interfaceName": "eth0", "profiles": list(profiles)}
    spec |= {"expectedIPs": ["192.168.9.1", "fd00:9::1"]} if expected else {}
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "HostEndpoint",
        "metadata": {"name": "uplink", "labels": {"role": "node"}},
        "spec": spec,
    }


def policy(**spec: object) -> Object:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "nodes"},
        "spec": {"selector": "role == 'node'", **spec},
    }


def rule(action: str, port: int, **more: object) -> Object:
    return {"action": action, "protocol": "TCP", "destination": {"ports": [port], **more}}


ANY: Object = {"action": "Allow"}
OPEN = "projectcalico-default-allow"
FORWARD = {"applyOnForward": True}
CLUSTERS: dict[str, list[Object]] = {
    "nothing": [],
    "what a node takes": [policy(ingress=[rule("Allow", 8080)])],
    "what a node sends": [policy(egress=[rule("Deny", 8080), ANY])],
    "what passes, too": [
        policy(**FORWARD, ingress=[rule("Deny", 8080), ANY], egress=[rule("Deny", 8081), ANY])
    ],
    "who it is from": [
        policy(ingress=[ANY | {"source": {"selector": "app == 'a'"}}, rule("Allow", 8081)])
    ],
    "before DNAT": [policy(**FORWARD, preDNAT=True, ingress=[rule("Deny", 8081)])],
    "an interface alone": [uplink()],
    "with the built-in profile": [uplink(OPEN)],
    "with a policy before it": [uplink(OPEN), policy(ingress=[rule("Deny", 8080), {"action": "Pass"}])],
    "untracked": [
        uplink(OPEN, expected=False),
        policy(**FORWARD, doNotTrack=True, ingress=[rule("Deny", 8080)], egress=[rule("Deny", 8081)]),
    ],
}  # fmt: skip
BASE = [node(1), node(2), pod("a", "node-1"), pod("b", "node-1"), pod("c", "node-2")]


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS), scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    network, backend = request.param
    auto = TranslateSettings(auto_host_endpoints=True)
    options = LabOptions(network, backend, services=SERVICES, settings=auto)
    with lab_up(expanded(BASE), options) as up, contextlib.ExitStack() as ends:
        for site in up.cluster.nodes.values():
            for address in site.addresses:
                for port in PORTS:
                    with entered(site.namespace):
                        family = socket.AF_INET6 if ":" in address else socket.AF_INET
                        listener = socket.create_server((address, port), family=family, backlog=64)
                        ends.enter_context(listener)
        yield up


@pytest.mark.parametrize("name", CLUSTERS)
def test_packets_from_to_and_through_nodes_pass_as_the_matrix_says(lab: Lab, name: str) -> None:
    lab.apply(expanded([*BASE, *CLUSTERS[name]], before=lab.objects))
    computed = compute_matrix(lab.snapshot, SERVICES, with_hosts=True)
    pods_only = compute_matrix(lab.snapshot, SERVICES)
    assert compare(pods_only, lab.matrix(SERVICES)) == ()
    of_nodes = [cell for cell in computed.probes if "node/" in cell.src + cell.dst]
    wrong = list(of_nodes)

    def agree() -> bool:
        answers = asked(lab, wrong)
        wrong[:] = [cell for cell in wrong if answers[cell] != (cell.verdict == "allow")]
        return not wrong

    assert until(agree), wrong
    verdicts = {cell.verdict for cell in computed.probes}
    assert verdicts == (
        {"allow"} if name in ("nothing", "with the built-in profile") else {"allow", "deny"}
    )
    ssh = [c for c in of_nodes if c.port == 22 and not c.src.startswith("node/")]
    assert {cell.verdict for cell in ssh} == {"allow"}


def until(is_so: Callable[[], bool]) -> bool:
    """Whether it becomes so: a packet may be late on a busy machine."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end_s:
            return False
    return True


def asked(lab: Lab, cells: list[Cell]) -> dict[Cell, bool]:
    """Whether each connects, all at once."""
    answers = dict.fromkeys(cells, False)
    with contextlib.ExitStack() as ends:
        waiting: dict[int, tuple[Cell, socket.socket]] = {}
        poll = select.poll()
        for cell in cells:
            namespace, address = (
                place(lab, cell.src, cell.family)[0],
                place(lab, cell.dst, cell.family)[1],
            )
            with entered(namespace):
                made = socket.socket(socket.AF_INET6 if cell.family == 6 else socket.AF_INET)
            ends.enter_context(made).setblocking(False)
            made.bind((place(lab, cell.src, cell.family)[1], 0))
            made.connect_ex((address, cell.port))
            waiting[made.fileno()] = (cell, made)
            poll.register(made, select.POLLOUT)
        end_s = time.monotonic() + DENIED_S
        while waiting and (left_s := end_s - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(1000 * left_s):
                cell, made = waiting.pop(descriptor)
                poll.unregister(descriptor)
                answers[cell] = not made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return answers


def place(lab: Lab, name: str, version: int) -> tuple[Namespace, str]:
    """Where a pod or node is, and its address."""
    if name.startswith("node/"):
        site = lab.cluster.nodes[NodeName(name.removeprefix("node/"))]
        return site.namespace, next(a for a in site.addresses if address_version(a) == version)
    (pod_site,) = (site for pod_id, site in lab.cluster.pods.items() if str(pod_id) == name)
    address = next(a for a in pod_site.pod.addresses if address_version(a) == version)
    return pod_site.namespace, address
