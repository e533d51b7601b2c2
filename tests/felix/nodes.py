"""A node with pods and an agent, in namespaces of their own, over a SQLite file.

In: stored items.  Out: what packets really do, and what the kernel really holds.  The body of a
test that uses it is inside the node's namespace; its agent is a thread, stopped and started at
will.
"""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from calico_k8s.config import Layer
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Delete, Operation, Put, Store, transact_in_order
from calico_k8s.felix.agent import Agent, Identity
from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.felix.kernel import AnyBackend, Native
from calico_k8s.felix.process import running_parts
from calico_k8s.model import codec
from calico_k8s.model.addresses import Address, Version
from calico_k8s.model.keys import (
    EndpointKey,
    Key,
    NodeKey,
    ProfileRulesKey,
    ProfileTagsKey,
    ReadyKey,
    SettingKey,
    key_path,
)
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
    Setting,
    Tags,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.model.status import EndpointStatus, StoredStatus, endpoint_status_path, status_path
from tests.namespaces import Namespace, ip, new_namespace, run

NODE = NodeName("n1")
NODE_ADDRESS = Address("192.168.0.1")
PATIENCE_S = 30.0
NO_LABELS: Mapping[str, str] = {}
PORT = 80
QUICK = {"place-check-interval-s": "0.2", "status-interval-s": "0.2", "resync-interval-s": "5"}


class PodSite:
    """A pod that is up: a namespace behind a routed veth, with a listener on :data:`PORT`."""

    def __init__(self, name: str, number: int, ends: contextlib.ExitStack) -> None:
        self.id = EndpointId(NODE, NamespaceName("ns"), name)
        self.link = f"cali{number}"
        self.addresses = (Address(f"10.1.0.{number}"), Address(f"fd00:1::{number:x}"))
        self.namespace = ends.enter_context(new_namespace())
        self._attach()
        with self.namespace:
            for address in self.addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                ends.enter_context(socket.create_server((address, PORT), family=family, backlog=64))

    def _attach(self) -> None:
        v4, v6 = self.addresses
        ip(f"link add {self.link} type veth peer name eth0 netns {self.namespace.path}")
        ip(f"link set {self.link} address ee:ee:ee:ee:ee:ee")
        ip(f"link set {self.link} up")
        Path(f"/proc/sys/net/ipv4/conf/{self.link}/proxy_arp").write_text("1")
        with self.namespace:
            run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
            ip("link set eth0 up")
            ip(f"addr add {v4}/32 dev eth0")
            ip(f"-6 addr add {v6}/128 dev eth0 nodad")
            ip("route add 169.254.1.1 dev eth0")
            ip("route add default via 169.254.1.1 dev eth0")
            ip("neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0")
            ip("-6 route add fe80::1 dev eth0")
            ip("-6 route add default via fe80::1 dev eth0")
            ip("-6 neigh add fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0")
        ip(f"route add {v4}/32 dev {self.link}")
        ip(f"-6 route add {v6}/128 dev {self.link}")
        with self.namespace:
            lladdr = run("ip", "-o", "link", "show", "eth0").split("link/ether ")[1].split()[0]
        ip(f"neigh replace {v4} lladdr {lladdr} dev {self.link}")
        ip(f"-6 neigh replace {v6} lladdr {lladdr} dev {self.link}")

    def replug(self) -> None:
        """Take its veth away and give it another of the same name."""
        ip(f"link del {self.link}")
        self._attach()

    def stored(
        self, *profiles: str, created: float = 0.0, labels: Mapping[str, str] = NO_LABELS
    ) -> dict[Key, Value | None]:
        """The pod as the controller would store it."""
        endpoint = WorkloadEndpoint(
            self.id,
            self.addresses,
            labels=dict(labels),
            profiles=tuple(map(ProfileId, profiles)),
            created=created,
        )
        return {EndpointKey(self.id): endpoint}


class Machine:
    """The node: pods, a store, and an agent that can be stopped and started."""

    def __init__(
        self, namespace: Namespace, folder: Path, backend: AnyBackend, ends: contextlib.ExitStack
    ) -> None:
        self.namespace = namespace
        self.folder = folder
        self.backend = backend
        self.url = f"sqlite://{folder}/state.db"
        self.store: Store = ends.enter_context(contextlib.closing(open_store(self.url)))
        self.state_path = folder / "felix.state"
        self.agent: Agent | None = None
        self._ends = ends
        self._running = ends.enter_context(contextlib.ExitStack())
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        for setting in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            run("sysctl", "-qw", f"net.{setting}=1")
        ip(f"addr add {NODE_ADDRESS}/32 dev lo")

    @property
    def iptables(self) -> Backend:
        """The iptables that the agent writes; beside native tables, the one that others use."""
        return Backend.NFT if self.backend is Native.NFTABLES else Backend(self.backend)

    def pod(self, name: str, number: int) -> PodSite:
        """Start a pod."""
        return PodSite(name, number, self._ends)

    def put(self, items: Mapping[Key, Value | None]) -> int:
        """Store items, or take those away that are None; the revision that has them."""
        operations: list[Operation] = [
            Delete(key_path(key)) if value is None else Put(key_path(key), codec.encode(value))
            for key, value in items.items()
        ]
        return transact_in_order(self.store, operations) or 0

    def start(self, metrics_port: int = 0, **settings: str) -> Agent:
        """Start the agent; settings by name, with ``_`` for ``-``."""
        given = QUICK | {name.replace("_", "-"): text for name, text in settings.items()}
        layer = Layer("command line", {"iptables-backend": self.backend.value, **given})
        identity = Identity(NODE, (layer,), self.state_path, self.folder / "denials")
        running = contextlib.ExitStack()
        agent = self.agent = running.enter_context(
            running_parts(identity, self.store, metrics_port)
        )
        self._thread = threading.Thread(target=self._run, args=(agent,), name="agent")
        self._thread.start()
        self._running = self._ends.enter_context(running)
        self._running.callback(self._join)
        return agent

    def _run(self, agent: Agent) -> None:
        try:
            agent.run()
        except BaseException as error:  # whoever joins the thread is told, whatever ended it
            self._failure = error
            raise

    def _join(self) -> None:
        if self.agent is not None and self._thread is not None:
            self.agent.stop()
            self._thread.join(20)
            assert not self._thread.is_alive()
            self.agent = None
            assert self._failure is None

    def stop(self) -> None:
        """Stop the agent; the kernel keeps its state."""
        self._running.close()

    @contextlib.contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """An agent as a process, for killing; killed at the end at the latest."""
        command = (sys.executable, "-m", "calico_k8s", "felix", "--node", NODE)
        options = ("--datastore", self.url, "--iptables-backend", self.backend.value)
        with (self.folder / "felix.log").open("ab") as log:
            process = subprocess.Popen(
                (
                    *(*command, *options, "--state-file", str(self.state_path)),
                    *("--denials-socket", str(self.folder / "denials")),
                ),
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def status(self) -> StoredStatus | None:
        """What the agent has told of the node."""
        entry = self.store.get(status_path(NODE))
        return None if entry is None else msgspec.json.decode(entry.value, type=StoredStatus)

    def endpoint_status(self, pod: PodSite) -> EndpointStatus | None:
        """What the agent has told of a pod."""
        return self.status_of(pod.id)

    def status_of(self, endpoint: EndpointId) -> EndpointStatus | None:
        """The same, of one that is not up."""
        entry = self.store.get(endpoint_status_path(endpoint))
        return None if entry is None else msgspec.json.decode(entry.value, type=EndpointStatus)

    def is_at(self, revision: int) -> bool:
        """Whether the agent says that it enforces what the revision has."""
        status = self.status()
        return status is not None and status.state == "in-sync" and status.revision >= revision

    def settle(self, items: Mapping[Key, Value | None]) -> None:
        """Store items, and wait until they are enforced."""
        revision = self.put(items)
        assert until(lambda: self.is_at(revision)), self.status()

    def held(self) -> dict[str, str]:
        """Everything of iptables and ipset, or of nftables, without counters."""
        if self.backend is Native.NFTABLES:
            return native_ruleset()
        versions: tuple[Version, ...] = (4, 6)
        tables = {
            str(version): "\n".join(
                line.split(" [")[0]
                for line in save(self.iptables, version).splitlines()
                if not line.startswith("#")
            )
            for version in versions
        }
        return tables | {"ipset": "\n".join(sorted(run("ipset", "save").splitlines()))}


def native_ruleset() -> dict[str, str]:
    """All of nftables: each chain's rules in order, each set's elements sorted."""
    listed = json.loads(run("nft", "--stateless", "--json", "list", "ruleset"))
    found: dict[str, list[str]] = {}
    for (kind, item), *_ in (each.items() for each in listed["nftables"]):
        item.pop("handle", None)
        if "elem" in item:
            item["elem"] = sorted(map(str, item["elem"]))
        if kind != "metainfo":
            place = (item.get("table"), item.get("chain", item.get("name", "")))
            found.setdefault(f"{item['family']} {place}", []).append(f"{kind} {item}")
    return {place: "\n".join(lines) for place, lines in found.items()}


def reaches(source: PodSite, target: PodSite, version: Version = 4, port: int = PORT) -> bool:
    """Whether a connection opens within 0.3 s."""
    return connects(source.namespace, target.addresses[version == 6], port)


def connects(source: Namespace, address: Address, port: int = PORT, wait_s: float = 0.3) -> bool:
    """Whether a connection opens in time, from a namespace to an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with source, socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(wait_s)
        return client.connect_ex((address, port)) == 0


@contextlib.contextmanager
def connecting(client: PodSite, server: PodSite) -> Iterator[list[bool]]:
    """New connections all the time; whether each opened."""
    opened: list[bool] = []
    is_over = threading.Event()

    def connect() -> None:
        while not is_over.is_set():
            opened.append(reaches(client, server))
            is_over.wait(0.002)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield opened
    finally:
        is_over.set()
        thread.join()


def until(condition: Callable[[], bool], wait_s: float = PATIENCE_S) -> bool:
    """Whether the condition came true in time."""
    end_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() >= end_s:
            return False
        time.sleep(0.01)
    return True


def rules(name: str, *ingress: Rule) -> dict[Key, Value | None]:
    """A profile with these ingress rules, and open egress."""
    everything = (Rule(Action.ALLOW, Origin("Namespace", name="ns")),)
    return {ProfileRulesKey(ProfileId(name)): Rules(ingress, everything)}


def allow(tag: str | None = None, port: int | None = None) -> Rule:
    """An allow rule for TCP."""
    return Rule(
        Action.ALLOW,
        Origin("Pod"),
        protocol=6,
        src=EntityMatch(tag=TagName(tag) if tag else None),
        dst=EntityMatch(ports=(PortRange(port, port),) if port else ()),
    )


def tags(profile: str, *names: str) -> dict[Key, Value | None]:
    """A profile that gives tags."""
    return {ProfileTagsKey(ProfileId(profile)): Tags(tuple(map(TagName, names)))}


def setting(name: str, text: str) -> dict[Key, Value | None]:
    """A global setting."""
    return {SettingKey(None, name): Setting(text)}


READY: dict[Key, Value | None] = {
    ReadyKey(): Ready(value=True),
    NodeKey(NODE): Node(NODE, (NODE_ADDRESS,)),
}


def walled(client: PodSite, server: PodSite, other: PodSite) -> dict[Key, Value | None]:
    """A whole store in which the server takes the client only."""
    return (
        READY
        | rules("closed", allow("access"))
        | rules("open", allow())
        | tags("friends", "access")
        | client.stored("open", "friends")
        | server.stored("closed")
        | other.stored("open")
    )


@contextlib.contextmanager
def machine_up(namespace: Namespace, folder: Path, backend: AnyBackend) -> Iterator[Machine]:
    """A node without pods; everything of it goes at the end."""
    with contextlib.ExitStack() as ends:
        yield Machine(namespace, folder, backend, ends)
