"""How soon a change in a live cluster is a verdict on packets, each kind beside its floors.

A real API server, an etcd of three members over mutual TLS, two controllers of which one writes,
and a Felix on each of two nodes; 1,000 pods with 100 annotations, 50 of them on one node.  A pod of
the other node sends one there a datagram every quarter of a millisecond, each with the time it was
sent, and each is judged as a new flow.  One change at a time, with nothing else going on.  Out:
milliseconds from the API server's answer to the first datagram that passed, or to the last.

Floors, in the same run: from the API server's answer to a bare watch of it; a put in that etcd to
a watcher of it; a member of an ipset to the verdict.

Needs root.  Arguments: ``--changes N``, 150 unless given; ``--members N`` of etcd, 3 unless given.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from calico_k8s.controller.kube import KubeApi, Query, connect
from calico_k8s.datastore.store import Put, Store
from calico_k8s.errors import KubeUnavailable
from calico_k8s.lab.netns import Namespace, entered
from calico_k8s.lab.plan import PodId
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from calico_k8s.netlink.ipset import Edit, IpsetSocket, MemberCommand
from calico_k8s.render.tables import IpsetName, KernelIpset, KernelMember
from tests.bench.figure import Figure, Floor, report, summary
from tests.bench.stamped import PATIENCE_S, PORT, StampedFlow
from tests.cluster.live import NODE_1, NODE_2, LiveCluster, PolicyStore, live_cluster
from tests.cluster.objects import Document, KubeObjects, pod_path
from tests.namespaces import run

PODS, LOCAL, ANNOTATIONS, OTHER_NODES = 1_000, 50, 100, 18
NAMESPACE, HEARS, SPEAKS, BESIDE = "prod", "hears", "speaks", "beside"
HEARS_AT, SPEAKS_AT, BESIDE_AT = "10.244.1.250", "10.244.2.250", "10.244.2.251"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
QUIET_S = 0.15
"""Between the end of one change and the next: by then the nodes have told that it is in force."""
FLOOR_QUIET_S = 0.05
ETCD_TIMES = ("--heartbeat-interval", "100", "--election-timeout", "1000")
"""etcd's own, as manifests/ has them; tests have shorter ones."""

Change = Callable[[KubeObjects], object]


class Bed(NamedTuple):
    """A cluster, and a connection of its own to the API server, with nobody between."""

    cluster: LiveCluster
    api: KubeApi

    def write(self, change: Change) -> int:
        """Makes a change; nanoseconds of the monotonic clock at the answer."""
        with entered(self.cluster.network.control):
            change(KubeObjects(self.api))
        return time.monotonic_ns()

    def namespace(self, pod: str) -> Namespace:
        """Where a pod is."""
        return self.cluster.network.pods[PodId(f"{NAMESPACE}/{pod}")].namespace


def policy(number: int) -> str:
    """One of many; the first is the one that decides what is measured."""
    if number == 0:
        return f"allow udp from label access=yes to port {PORT}"
    return f"allow tcp from label app=app-{number % 7} to port {8000 + number}"


def make(objects: KubeObjects, name: str, node: NodeName, number: int, **labels: str) -> None:
    """A pod that is to run."""
    annotations = {"policy": policy(number % ANNOTATIONS)}
    spec = {"nodeName": node}
    objects.pod(NAMESPACE, name, labels=labels, annotations=annotations, spec=spec)


def make_speaker(objects: KubeObjects) -> None:
    """The pod that sends, without an address, and with the label that lets it in."""
    make(objects, SPEAKS, NODE_2, 1, app="speaks", access="yes")


def fill(bed: Bed) -> None:
    """The pods: those of the two nodes run, the others are on nodes that are not there."""
    bed.write(write_all)
    for name, address in (
        (HEARS, HEARS_AT),
        (SPEAKS, SPEAKS_AT),
        (BESIDE, BESIDE_AT),
        *((f"p{number}", f"10.244.1.{number}") for number in range(3, LOCAL)),
    ):
        bed.cluster.run_pod(NAMESPACE, name, address)
    for site in bed.cluster.network.nodes.values():
        with entered(site.namespace):
            # So that each datagram is judged as a new flow, and none is cut and restored as one.
            match = ("PREROUTING", "-p", "udp", "--dport", str(PORT))
            run("iptables-nft", "-t", "raw", "-A", *match, "-j", "CT", "--notrack")
    bed.cluster.wait_in_force()


def write_all(objects: KubeObjects) -> None:
    """What the API server is told before anything runs."""
    objects.namespace(NAMESPACE, annotations={"projectcalico-policy": "closed"})
    make(objects, HEARS, NODE_1, 0, app="hears")
    make_speaker(objects)
    make(objects, BESIDE, NODE_2, 1, app="speaks")  # so that the speaker's policy is there already
    for number in range(3, PODS):
        node = NODE_1 if number < LOCAL else NodeName(f"other-{number % OTHER_NODES}")
        name, access = f"p{number}", {"access": "yes"} if number % 4 == 3 else {}
        make(objects, name, node, number, app=f"app-{number % 20}", **access)
        if number >= LOCAL:
            address = f"10.{100 + number // 250}.0.{number % 250 + 1}"
            objects.pod_status(NAMESPACE, name, [address])
    service: Document = {
        "metadata": {"name": HEARS, "namespace": NAMESPACE},
        "spec": {"selector": {"app": "hears"}, "ports": [{"port": PORT, "protocol": "UDP"}]},
    }
    objects.api.create(SERVICES, service)


# Changes.


def label(value: str | None) -> Change:
    """The speaker's label that lets it in."""
    return lambda objects: objects.change(pod_path(NAMESPACE, SPEAKS), labels={"access": value})


def service_label(value: str | None) -> Change:
    """The service's that lets everybody in."""
    labels = {"projectcalico-policy": value}
    return lambda objects: objects.change(f"{SERVICES}/{HEARS}", labels=labels)


def starts(objects: KubeObjects) -> None:
    """The speaker has its address: both nodes learn of it."""
    objects.pod_status(NAMESPACE, SPEAKS, [SPEAKS_AT])


def ends(objects: KubeObjects) -> None:
    """The speaker is deleted."""
    objects.end_pod(NAMESPACE, SPEAKS)


def alternate(
    bed: Bed,
    flow: StampedFlow,
    changes: int,
    opens: Change,
    closes: Change,
    prepare: Change | None = None,
) -> tuple[float, float]:
    """Median and 99th percentile of both directions; ``prepare`` comes before each opening."""
    times: list[float] = []
    for number in range(changes // 2):
        if prepare is not None:
            bed.write(prepare)
            time.sleep(QUIET_S)
        times.append(flow.first_passed(bed.write(opens)))
        time.sleep(QUIET_S + 0.002 * (number % 11))
        times.append(flow.last_passed(bed.write(closes)))
        time.sleep(QUIET_S + 0.002 * (number % 7))
    return summary(times)


# Floors.


class Arrivals:
    """When a thread that watches has seen something last, until what it watches is closed."""

    def __init__(self, events: Iterable[object]) -> None:
        self._news = threading.Condition()
        self._seen_ns = 0
        threading.Thread(target=self._follow, args=(events,), daemon=True).start()
        time.sleep(0.5)

    def wait_ms(self, since_ns: int, before_ns: int) -> float:
        """Milliseconds from ``since_ns`` to the first arrival after ``before_ns``."""
        with self._news:
            assert self._news.wait_for(lambda: self._seen_ns > before_ns, PATIENCE_S)
            return (self._seen_ns - since_ns) / 1e6

    def _follow(self, events: Iterable[object]) -> None:
        with suppress(KubeUnavailable):  # a watch of the API server that is closed
            for _ in events:
                with self._news:
                    self._seen_ns = time.monotonic_ns()
                    self._news.notify()


def watch_floor(bed: Bed, changes: int) -> list[float]:
    """From an answer of the API server to a bare watch: often before the answer."""
    query: Query = {"watch": "true", "resourceVersion": "", "timeoutSeconds": 600}
    with entered(bed.cluster.network.control):
        stream = bed.api.follow("/api/v1/pods", query, 600)
    # What follows would else be measured with a watcher too many, awake when the controller is.
    with closing(stream):
        arrivals, spare = Arrivals(stream), pod_path(NAMESPACE, f"p{PODS - 1}")
        times: list[float] = []
        for number in range(changes):
            change: Document = {"labels": {"bench": f"r{number}"}}
            before_ns = time.monotonic_ns()
            answered_ns = bed.write(lambda objects, change=change: objects.change(spare, **change))  # type: ignore[misc]  # mypy cannot infer it
            times.append(arrivals.wait_ms(answered_ns, before_ns))
            time.sleep(FLOOR_QUIET_S)
    return times


def store_floor(store: Store, changes: int) -> list[float]:
    """From just before a put to a watcher of it, through the lab's forwarders."""
    with closing(store.watch("/floor/", store.read("/floor/").revision)) as watcher:
        arrivals, times = Arrivals(each for batch in watcher for each in batch.changes), []
        for number in range(changes):
            before_ns = time.monotonic_ns()
            store.transact([Put("/floor/key", b"%d" % number)])
            times.append(arrivals.wait_ms(before_ns, before_ns))
            time.sleep(FLOOR_QUIET_S)
    return times


def ipset_floor(bed: Bed, flow: StampedFlow, changes: int) -> list[float]:
    """From just before a netlink message to a verdict: a member of a set that one rule asks."""
    ipset = KernelIpset(IpsetName("floor"), "hash:net", 4)
    member = [KernelMember(Address(SPEAKS_AT))]
    match = ("-m", "set", "!", "--match-set", ipset.name, "src")
    rule = ("FORWARD", "-i", "eth0", *match, "-j", "DROP")
    times: list[float] = []
    with entered(bed.cluster.network.nodes[NODE_1].namespace), closing(IpsetSocket()) as sets:
        sets.create(ipset)
        run("iptables-nft", "-I", *rule)
        for _ in range(changes // 2):
            start_ns = time.monotonic_ns()
            sets.edit([Edit(ipset, MemberCommand.ADD, member)])
            times.append(flow.first_passed(start_ns))
            start_ns = time.monotonic_ns()
            sets.edit([Edit(ipset, MemberCommand.DELETE, member)])
            times.append(flow.last_passed(start_ns))
        run("iptables-nft", "-D", *rule)
        time.sleep(0.1)
        sets.destroy([ipset.name])
    return times


def bench(bed: Bed, flow: StampedFlow, changes: int) -> Iterator[Figure]:
    """All figures; the speaker is let in at first."""
    watch = summary(watch_floor(bed, changes))
    yield Figure("floor: API server's answer to a bare watch", *watch)
    store = summary(store_floor(bed.cluster.store.store, changes))
    yield Figure("floor: etcd put to watcher", *store)
    with flow.sending(entered(bed.namespace(SPEAKS)), SPEAKS_AT):
        flow.first_passed(time.monotonic_ns())
        member = summary(ipset_floor(bed, flow, changes))
        yield Figure("floor: ipset member to verdict", *member)
        flow.last_passed(bed.write(label(None)))
        time.sleep(1)
        found = {"a label": alternate(bed, flow, changes, label("yes"), label(None))}
        opens, closes = service_label("open"), service_label(None)
        found["a service opened or closed"] = alternate(bed, flow, changes, opens, closes)
        bed.write(ends)
        found["a pod starts or ends"] = alternate(bed, flow, changes, starts, ends, make_speaker)
    # The event is there before the API server answers: then its watch takes nothing.
    way = [max(0.0, part) for part in map(sum, zip(watch, store, member, strict=True))]
    floor = Floor("API watch + etcd watch + ipset add", *way)
    for name, (median, p99) in found.items():
        figure = f"{name}, answer to verdict"
        yield Figure(figure, median, p99, floor, goal=3)


def main() -> None:
    """Everything, on one cluster."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=150)
    parser.add_argument("--members", type=int, default=3)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        live_cluster(
            Path(folder), listen=(), policy_store=PolicyStore(given.members, ETCD_TIMES)
        ) as cluster,
        closing(connect(str(cluster.kube.kubeconfig()))) as api,
    ):
        bed = Bed(cluster, api)
        fill(bed)
        with entered(bed.namespace(HEARS)):
            flow = StampedFlow(HEARS_AT)
        with closing(flow):
            for figure in bench(bed, flow, given.changes):
                report(figure)


if __name__ == "__main__":
    main()
