"""Cluster IPs by real DNAT on every node, and what kube-proxy does around it.

In: a plan's services.  Out: rules in three chains of each node, replaced whole and at once while
packets pass.  No node ports, no session affinity.

::

    nat     PREROUTING, OUTPUT  -> LAB-SERVICES     cluster IP and port -> a backend, each as likely
            POSTROUTING         -> LAB-POSTROUTING  a backend that reached itself is masqueraded
    filter  FORWARD, OUTPUT     -> LAB-SERVICES     a port without backends is refused

A backend that reached itself is recognised by its addresses and the DNAT, not by a mark as
kube-proxy does it: the lab takes no bit of the mark from whoever is tested in it.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from calico_k8s.errors import IptablesError, UnavailableError
from calico_k8s.lab.cluster import NodeSite
from calico_k8s.lab.netns import entered
from calico_k8s.lab.plan import Backend, LabService, versions
from calico_k8s.model.addresses import Address, Version, address_version
from calico_k8s.model.names import NodeName
from calico_k8s.model.resources import PROTOCOL_NAMES, PROTOCOL_NUMBERS, Protocol

IptablesFlavour = Literal["legacy", "nft"]
FelixBackend = Literal["legacy", "nft", "nftables"]
"""What a node's Felix writes; beside the native one, other programs use iptables-nft."""

_RESTORES: Mapping[Version, str] = {4: "iptables", 6: "ip6tables"}
_HOOKS = (
    "*nat\n-I PREROUTING -j LAB-SERVICES\n-I OUTPUT -j LAB-SERVICES\n"
    "-I POSTROUTING -j LAB-POSTROUTING\nCOMMIT\n"
    "*filter\n-I FORWARD -m conntrack --ctstate NEW -j LAB-SERVICES\n"
    "-I OUTPUT -m conntrack --ctstate NEW -j LAB-SERVICES\nCOMMIT\n"
)
_LOCK_WAIT_S = 10


class _Front(NamedTuple):
    """What clients connect to."""

    address: Address
    protocol: Protocol
    port: int


class KubeProxy:
    """Keeps the services of some nodes; one iptables flavour on all of them."""

    def __init__(self, nodes: Mapping[NodeName, NodeSite], flavour: IptablesFlavour) -> None:
        self._nodes = nodes
        self._flavour = flavour
        self._backends_by_front: dict[_Front, tuple[Backend, ...]] = {}
        self._hooked: set[tuple[NodeName, Version]] = set()

    def apply(self, services: Sequence[LabService]) -> None:
        """Makes these the services of every node, and ends UDP flows to backends that are gone.

        Raises:
            IptablesError: a node refused; nodes before it have the new services.
            UnavailableError: iptables or conntrack is not installed.
        """
        wanted = dict(_fronts(services))
        for name, node in self._nodes.items():
            for version in sorted(versions(node.addresses)):
                is_hooked = (name, version) in self._hooked
                text = render_services(services, version) + ("" if is_hooked else _HOOKS)
                self._restore(node, version, text)
                self._hooked.add((name, version))
        before, self._backends_by_front = self._backends_by_front, wanted
        stale = list(_stale_flows(before, wanted))
        for node in self._nodes.values():
            for arguments in stale:
                _run(node, ["conntrack", "-D", *arguments], "", package="conntrack")

    def _restore(self, node: NodeSite, version: Version, text: str) -> None:
        program = f"{_RESTORES[version]}-{self._flavour}-restore"
        command = [program, "--noflush", "--wait", str(_LOCK_WAIT_S)]
        done = _run(node, command, text, package="iptables")
        if done.returncode:
            raise IptablesError(f"{program} in {node.namespace.name}: {done.stderr.strip()}")


def render_services(services: Iterable[LabService], version: Version) -> str:
    """The chains of one family, as input of iptables-restore; empty chains where there is none."""
    nat: list[str] = []
    refused: list[str] = []
    hairpins: set[Address] = set()
    for front, backends in _fronts(services):
        if address_version(front.address) != version:
            continue
        name = PROTOCOL_NAMES[front.protocol]
        match = f"-A LAB-SERVICES -d {front.address} -p {name} -m {name} --dport {front.port}"
        if not backends:
            refused.append(f"{match} -j REJECT")
        for number, backend in enumerate(backends):
            left = len(backends) - number
            chance = (
                f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            )
            nat.append(f"{match}{chance} -j DNAT --to-destination {_socket_text(backend)}")
            hairpins.add(backend.address)
    masquerades = [
        f"-A LAB-POSTROUTING -s {address} -d {address} -m conntrack --ctstate DNAT -j MASQUERADE"
        for address in sorted(hairpins)
    ]
    lines = ["*nat", ":LAB-SERVICES - [0:0]", ":LAB-POSTROUTING - [0:0]", *nat, *masquerades]
    lines += ["COMMIT", "*filter", ":LAB-SERVICES - [0:0]", *refused, "COMMIT"]
    return "\n".join(lines) + "\n"


def _fronts(services: Iterable[LabService]) -> Iterator[tuple[_Front, tuple[Backend, ...]]]:
    """Every cluster IP and port, with its backends of that family."""
    for service in services:
        for address in service.cluster_ips:
            version = address_version(address)
            for port in service.ports:
                backends = [
                    each for each in port.backends if address_version(each.address) == version
                ]
                yield _Front(address, port.protocol, port.port), tuple(backends)


def _stale_flows(
    before: Mapping[_Front, tuple[Backend, ...]], after: Mapping[_Front, tuple[Backend, ...]]
) -> Iterator[list[str]]:
    """Arguments that select UDP flows which would go on to where the services no longer lead.

    A TCP connection to a backend that is gone ends by itself; UDP has nothing that would.
    """
    for front, backends in before.items():
        if front.protocol != PROTOCOL_NUMBERS["udp"]:
            continue
        family = "ipv6" if address_version(front.address) == 6 else "ipv4"
        flow = ["-f", family, "-p", "udp", "--orig-dst", front.address]
        flow += ["--orig-port-dst", str(front.port)]
        for backend in backends:
            if backend not in after.get(front, ()):
                yield [*flow, "--reply-src", backend.address]
        if not backends and after.get(front):
            yield flow


def _socket_text(backend: Backend) -> str:
    is_v6 = address_version(backend.address) == 6
    return f"[{backend.address}]:{backend.port}" if is_v6 else f"{backend.address}:{backend.port}"


def _run(
    node: NodeSite, command: list[str], text: str, *, package: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XTABLES_LOCKFILE": str(node.xtables_lockfile)}
    with entered(node.namespace):
        try:
            return subprocess.run(
                command,
                input=text,
                env=environment,
                check=False,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            message = f"{command[0]} is not installed: run `apt-get install {package}`"
            raise UnavailableError(message) from None
