"""How soon a stored change is a verdict on packets, and what the agent costs, each beside its floor.

A real Felix process on a node of 50 pods in a cluster of 1,000, over SQLite and a real etcd, with
both backends.  A prober sends a datagram every 0.1 ms, each with the time it was sent; when a
change is in force is the time of the first one that passed, or the last.  Floor, with the same
prober: the store's hop, and a member added to an ipset by one netlink message, without us.

Needs root.  Arguments: ``--changes N``, then stores (sqlite, etcd) and backends (legacy, nft,
nftables); all unless given.
"""

import argparse
import select
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Store
from calico_k8s.datastore.syncer import Syncer, SyncState
from calico_k8s.datastore.updates import UpdateQueue
from calico_k8s.errors import StoreError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import Key
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName, ProfileId, TagName
from calico_k8s.model.resources import (
    Action,
    EntityMatch,
    Node,
    Origin,
    PortRange,
    Ready,
    Rule,
    Rules,
    Tags,
    Value,
    WorkloadEndpoint,
)
from tests.bench.bed import NODE, OWN, UPLINK, Bed, Felix, local_address, remote_address, write
from tests.bench.figure import Figure, Floor, report, summary
from tests.bench.floors import convergence_floor
from tests.bench.stamped import PATIENCE_S, PORT
from tests.etcd.servers import etcd_cluster

ELSEWHERE = NodeName("elsewhere")
BACKENDS = ("legacy", "nft", "nftables")
LOCAL, REMOTE, ANNOTATIONS = 50, 950, 100
STARTING_REMOTE = 1000


def pod(
    number: int, *profiles: str, is_local: bool = False, address: Address | None = None
) -> dict[Key, Value]:
    """A pod as the controller stores it."""
    node = NODE if is_local else ELSEWHERE
    own = address or (local_address(number) if is_local else remote_address(number))
    identity = EndpointId(node, NamespaceName("prod"), f"p{number}")
    names = tuple(map(ProfileId, (*profiles, "namespace-labels.prod", "serviceaccount.prod.x")))
    return {keys.EndpointKey(identity): WorkloadEndpoint(identity, (own,), {"app": "x"}, (), names)}


def annotation(number: int) -> Rules:
    """A policy that no other pod has; the first lets UDP in from those labelled."""
    ports = (PortRange(PORT - number, PORT),) if number else ()
    protocol = 17 if not number else 6
    allow = Rule(
        Action.ALLOW,
        Origin("Pod"),
        protocol=protocol,
        src=EntityMatch(tag=TagName("prod_access_backend")),
        dst=EntityMatch(ports=ports),
    )
    return Rules((allow,), (Rule(Action.ALLOW, Origin("Namespace", name="prod")),))


def cluster(remote: int) -> dict[Key, Value]:
    """Fifty pods here with annotations of their own, the others elsewhere, some of them labelled."""
    items: dict[Key, Value] = {
        keys.NodeKey(NODE): Node(NODE, (OWN,)),
        keys.NodeKey(ELSEWHERE): Node(ELSEWHERE, (UPLINK,)),
        keys.ProfileTagsKey(ProfileId("labelled")): Tags((TagName("prod_access_backend"),)),
        keys.ProfileTagsKey(ProfileId("plain")): Tags((TagName("prod_app_x"),)),
    }
    for number in range(ANNOTATIONS):
        items[keys.ProfileRulesKey(ProfileId(f"annotation{number}"))] = annotation(number)
    for number in range(LOCAL):
        items |= pod(number, f"annotation{number}", "plain", is_local=True)
    for number in range(remote):
        profiles = (f"annotation{number % ANNOTATIONS}", "labelled" if number % 4 == 3 else "plain")
        items |= pod(number, *profiles)
    return items | {keys.ReadyKey(): Ready(value=True)}


class Silent:
    """An observer that has nothing to say."""

    def on_state(self, state: SyncState) -> None: ...

    def on_error(self, error: StoreError) -> None: ...


def watch_floor(store: Store, changes: int) -> list[float]:
    """From a write returned to a loop that waits for the store's changes, and does nothing."""
    arrived_ns, has_arrived, is_over = [0], threading.Event(), threading.Event()
    with closing(UpdateQueue()) as queue:
        syncer = Syncer(store, keys.V1, queue, Silent())
        syncer.start()

        def follow() -> None:
            while not is_over.is_set():
                if select.select([queue], [], [], 0.1)[0] and queue.take().values_by_key:
                    arrived_ns[0] = time.monotonic_ns()
                    has_arrived.set()

        thread = threading.Thread(target=follow)
        thread.start()
        time.sleep(0.3)
        times: list[float] = []
        for number in range(changes):
            has_arrived.clear()
            written_ns = write(
                store, pod(1, "plain", address=Address(f"10.3.0.{number % 250 + 1}"))
            )
            has_arrived.wait(PATIENCE_S)
            times.append(max(0, arrived_ns[0] - written_ns) / 1e6)
            time.sleep(0.005)
        is_over.set()
        thread.join()
        syncer.close()
    return times


def alternate(
    bed: Bed, store: Store, opens: Mapping[Key, Value], closes: Mapping[Key, Value], changes: int
) -> list[float]:
    """From a write returned to the verdict, there and back."""
    times: list[float] = []
    for number in range(changes // 2):
        times.append(bed.flow.first_passed(write(store, opens)))
        time.sleep(0.002 * (number % 11))
        times.append(bed.flow.last_passed(write(store, closes)))
        time.sleep(0.002 * (number % 7))
    return times


def bench(
    bed: Bed, store: Store, url: str, felix: Felix, where: str, changes: int
) -> Iterator[Figure]:
    """All figures of one store and backend."""
    write(store, cluster(STARTING_REMOTE))
    floor = convergence_floor(bed, url)
    watch = summary(watch_floor(store, changes))
    write(store, pod(1, "annotation1", "plain"))
    with bed.flow.sending(bed.outside, remote_address(0)):
        time.sleep(0.3)
        bed.flow.first_passed(time.monotonic_ns())
        started_ns = felix.start()
        yield Figure(f"{where}: start to verdicts", bed.flow.last_passed(started_ns), 0)
        felix.wait_in_sync(store)
        felix.stop()
        before = felix.commands()
        started_ns = felix.start()
        in_sync_ms = (felix.wait_in_sync(store) - started_ns) / 1e6
        yield Figure(f"{where}: restart, nothing to change", in_sync_ms, 0)
        yield Figure(f"{where}: ... programs run", felix.commands() - before, 0, unit="")
        labelled = pod(0, "annotation0", "labelled")
        plain = pod(0, "annotation0", "plain")
        time.sleep(2)  # python-iptables is loaded
        cpu_s, before = felix.cpu_s(), felix.commands()
        times = alternate(bed, store, labelled, plain, changes)
        cpu_ms = (felix.cpu_s() - cpu_s) * 1000 / changes
        yield Figure(f"{where}: a label, to verdict", *summary(times), floor)
        yield Figure(f"{where}: ... the store's watch", *watch)
        yield Figure(f"{where}: ... CPU a change", cpu_ms, 0)
        yield Figure(f"{where}: ... programs run", felix.commands() - before, 0, unit="")
        nobody = Address("10.9.9.9")
        times = alternate(
            bed,
            store,
            pod(0, "annotation0", "labelled"),
            pod(0, "annotation0", "labelled", address=nobody),
            changes,
        )
        yield Figure(f"{where}: an address, to verdict", *summary(times), floor)
    yield from bench_joining(bed, store, felix, where, changes, floor)
    yield Figure(f"{where}: resident", felix.resident_mb(), 0, unit="MB")


def bench_joining(
    bed: Bed, store: Store, felix: Felix, where: str, changes: int, floor: Floor
) -> Iterator[Figure]:
    """A pod of this node comes and goes, in a group that others are in."""
    here = pod(1, "annotation2", "labelled", is_local=True)
    away = pod(1, "annotation2", "labelled", is_local=True, address=Address("10.1.0.200"))
    write(store, away)
    with bed.flow.sending(bed.joiner, local_address(1)):
        time.sleep(0.5)
        before = felix.commands()
        times = alternate(bed, store, here, away, changes)
        yield Figure(f"{where}: a pod joins a group, to verdict", *summary(times), floor)
        yield Figure(f"{where}: ... programs run", felix.commands() - before, 0, unit="")


@contextmanager
def stores(kind: str, folder: Path) -> Iterator[tuple[Store, str]]:
    """A store of a kind, and its URL as seen from the node's namespace."""
    if kind == "sqlite":
        url = f"sqlite://{folder}/state.db"
        with closing(open_store(url)) as store:
            yield store, url
        return
    with etcd_cluster(folder / "etcd") as servers, closing(open_store(servers.url())) as store:
        yield store, servers.url()


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--changes", type=int, default=400)
    parser.add_argument("what", nargs="*")
    given = parser.parse_args()
    kinds = [kind for kind in ("sqlite", "etcd") if kind in given.what] or ["sqlite", "etcd"]
    backends = [each for each in BACKENDS if each in given.what] or [*BACKENDS]
    for kind in kinds:
        for backend in backends:
            with ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                bed = Bed(stack, LOCAL)
                stack.enter_context(bed.node)  # where etcd's loopback address is the agent's
                store, url = stack.enter_context(stores(kind, folder))
                felix = Felix(bed, url, backend, folder)
                stack.callback(felix.stop)
                for figure in bench(bed, store, url, felix, f"{kind} {backend}", given.changes):
                    report(figure)


if __name__ == "__main__":
    main()
