"""A small cluster with walls for tests of the running engine, and ways to look at it."""

import copy
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from calico_k8s.felix.iptables.programs import Backend
from calico_k8s.lab.beats import verdict_runs
from calico_k8s.lab.cluster import NodeSite
from calico_k8s.lab.kernelview import kernel_text
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import Place, PodId
from calico_k8s.lab.probe import Prober
from calico_k8s.lab.question import Probe
from calico_k8s.lab.run import Lab
from calico_k8s.lab.stream import Stream
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import Action
from calico_k8s.query.matrix import compare, compute_matrix
from calico_k8s.query.reach import Service
from calico_k8s.sources.expand import ClusterObjects
from tests.lab.clusters import Object, expanded
from tests.lab.plans import TCP, UDP

ROOT = Path(__file__).parents[2]
NODE_1, NODE_2 = NodeName("node-1"), NodeName("node-2")
WEB, API, DNS = Service(TCP, 80), Service(TCP, 4001), Service(UDP, 53)
SERVICES = (WEB, API, DNS)
BEATS_MIN = 10
PATIENCE_S = 30.0
"""For what a machine with other things to do is slow at; mostly it takes a second at most."""

ALLOWED_ON_BACK = "allow tcp from label access=yes to port 4001; allow udp from label access=yes"


def pod(name: str, node: str, policy: str | None = None, **labels: str) -> Object:
    """Pod ``namespace/name``."""
    namespace, _, short = name.partition("/")
    metadata: Object = {"name": short, "namespace": namespace, "labels": labels}
    if policy is not None:
        metadata["annotations"] = {"policy": policy}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}}


def namespace(name: str, flag: str) -> Object:
    """A namespace with a flag."""
    metadata = {"name": name, "annotations": {"projectcalico-policy": flag}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


OBJECTS: list[Object] = [
    namespace("web", "closed"),
    namespace("ops", "open"),
    pod("web/front", "node-1", app="front", access="yes"),
    pod("web/plain", "node-2", app="plain"),
    pod("web/back", "node-1", ALLOWED_ON_BACK, app="back"),
    pod("web/rear", "node-2", ALLOWED_ON_BACK, app="back"),
    pod("web/sealed", "node-1", "deny", app="sealed"),
    pod("ops/near", "node-1", app="ops"),
    pod("ops/far", "node-2", app="ops"),
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "sealed", "namespace": "web"},
        "spec": {"selector": {"app": "sealed"}, "ports": [{"port": 80}]},
    },
]


def with_policy(name: str, policy: str, objects: list[Object] | None = None) -> list[Object]:
    """The objects, one pod with another policy."""
    made = copy.deepcopy(OBJECTS if objects is None else objects)
    for each in made:
        if each["kind"] == "Pod" and _pod_name(each) == name:
            each["metadata"]["annotations"] = {"policy": policy}
    return made


def _pod_name(value: Object) -> str:
    return f"{value['metadata']['namespace']}/{value['metadata']['name']}"


def cluster(objects: list[Object], lab: Lab | None = None) -> ClusterObjects:
    """The objects as a cluster, in which what the lab has keeps its place."""
    return expanded(objects, lab.objects if lab is not None else None)


def address(lab: Lab, name: str, version: int = 4) -> Address:
    """The pod's address of a family."""
    addresses = lab.cluster.pods[PodId(name)].pod.addresses
    return next(each for each in addresses if address_version(each) == version)


def question(lab: Lab, src: str, dst: str, service: Service, version: int = 4) -> Probe:
    """A packet of a pod, or node, to a pod."""
    return Probe(Place(src), address(lab, dst, version), service.port, service.protocol)


def is_as_defined(lab: Lab) -> bool:
    """Whether every packet passes, or not, as the definition says."""
    return compare(compute_matrix(lab.snapshot, SERVICES), lab.matrix(SERVICES)) == ()


def assert_as_defined(lab: Lab) -> None:
    """Every packet passes, or not, as the definition says."""
    assert compare(compute_matrix(lab.snapshot, SERVICES), lab.matrix(SERVICES)) == ()


@contextmanager
def held(
    prober: Prober, expected: Iterable[tuple[Probe, Action]], interval_s: float
) -> Iterator[None]:
    """The block changes no verdict of a new connection: not one passes, not one is lost."""
    streams = [
        (prober.stream(probe, interval_s=interval_s), verdict) for probe, verdict in expected
    ]
    try:
        yield
        wait_for_beats([stream for stream, _ in streams])
    finally:
        for stream, _ in streams:
            prober.stop(stream)
    for stream, verdict in streams:
        runs = verdict_runs(stream.beats())
        assert [run.verdict for run in runs] == [verdict], (stream.probe, runs)


def wait_for_beats(streams: Iterable[Stream], since_s: float = 0.0) -> None:
    """Returns when what was sent until now is known, and ten beats sent since then at least."""
    now_s = time.monotonic()
    for stream in streams:
        while True:
            beats = stream.beats(since_s)
            if len(beats) >= BEATS_MIN and beats[-1].sent_s >= now_s:
                break
            assert time.monotonic() < now_s + PATIENCE_S, f"no beats: {stream.probe}"
            time.sleep(0.01)


def backend(lab: Lab) -> Backend:
    """What the lab's agents write to."""
    return Backend(lab.options.backend)


def kernels(lab: Lab) -> dict[NodeName, str]:
    """The rules and sets of every node."""
    return {name: kernel_text(site, backend(lab)) for name, site in lab.cluster.nodes.items()}


def on_node(lab: Lab, node: NodeName, *command: str) -> str:
    """What a program printed that ran on a node."""
    return on_site(lab.cluster.nodes[node], *command)


def on_site(site: NodeSite, *command: str) -> str:
    """The same, of a node of any cluster."""
    environment = {"XTABLES_LOCKFILE": str(site.xtables_lockfile), "PATH": "/usr/sbin:/usr/bin"}
    with entered(site.namespace):
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT
        )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def felix_clean(lab: Lab, node: NodeName, *options: str) -> str:
    """``felix clean`` on a node."""
    return on_node(lab, node, sys.executable, "-m", "calico_k8s", "felix", "clean", *options)


def answers(lab: Lab, src: str, to: Address, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a pod gets a TCP connection to an address, which may be a service's."""
    with entered(lab.cluster.pods[PodId(src)].namespace):
        try:
            socket.create_connection((to, port), timeout_s).close()
        except OSError:
            return False
    return True


_TRANSPARENT, _TRANSPARENT_6 = 19, 75  # linux/in.h, linux/in6.h; root may send as anybody


def arrives(lab: Lab, src: str, source: Address, dst: str) -> bool:
    """Whether a datagram of a pod arrives at another with that source address."""
    version = address_version(source)
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    target = address(lab, dst, version)
    payload = f"spoof {time.monotonic_ns()}".encode()
    with entered(lab.cluster.pods[PodId(dst)].namespace):
        hearing = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    with entered(lab.cluster.pods[PodId(src)].namespace):
        speaking = socket.socket(family, socket.SOCK_DGRAM)
    with closing(hearing), closing(speaking):
        if version == 6:
            speaking.setsockopt(socket.IPPROTO_IPV6, _TRANSPARENT_6, 1)
        else:
            speaking.setsockopt(socket.IPPROTO_IP, _TRANSPARENT, 1)
        speaking.bind((source, 0))
        deadline_s = time.monotonic() + 0.3
        for _ in range(2):
            speaking.sendto(payload, (target, DNS.port))
        hearing.settimeout(0.05)
        while time.monotonic() < deadline_s:
            try:
                if hearing.recv(65536).endswith(payload):
                    return True
            except TimeoutError:
                continue
    return False
