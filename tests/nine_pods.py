"""Three namespaces of three pods each: the world in which truth tables of policies are written.

In: policies as YAML.  Out: who reaches whom, by the definition.  Namespaces ``x``, ``y``, ``z``
carry the label ``ns``, pods ``a``, ``b``, ``c`` the label ``pod``, both with their own name.  Every
pod has an address of each family and listens on ports 80 and 81; port 80/tcp is named ``http`` on
all, except on pods ``c``, where 81/tcp is.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import product
from typing import Any

from calico_k8s.model.addresses import Address, address_version, parse_address
from calico_k8s.model.resources import PROTOCOL_NUMBERS, IcmpMatch
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import Verdict, judge
from calico_k8s.sources.documents import Manifest, read_text
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, expand
from calico_k8s.translate.cluster import Translation, translate_all
from tests import kube_oracle

Object = dict[str, Any]  # Any: what JSON can say

NAMESPACES, PODS = ("x", "y", "z"), ("a", "b", "c")
PORTS = (80, 81)
PROTOCOLS = ("tcp", "udp", "sctp")
NODES = ("node-1", "node-2")
OUTSIDE = {4: "198.51.100.7", 6: "2001:db8::7"}


def addresses_of(namespace: str, pod: str) -> tuple[str, str]:
    """The addresses of a pod: 10.0.NAMESPACE.POD and fd00::NAMESPACE:POD, counted from 1."""
    numbers = NAMESPACES.index(namespace) + 1, PODS.index(pod) + 1
    return f"10.0.{numbers[0]}.{numbers[1]}", f"fd00::{numbers[0]}:{numbers[1]}"


def _pod(namespace: str, name: str) -> Object:
    named = 81 if name == "c" else 80
    ports = [
        {"containerPort": port, "protocol": protocol.upper()}
        | ({"name": "http"} if (protocol, port) == ("tcp", named) else {})
        for protocol, port in product(PROTOCOLS, PORTS)
    ]
    number = NAMESPACES.index(namespace) + PODS.index(name)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"pod": name}},
        "spec": {
            "nodeName": NODES[number % len(NODES)],
            "serviceAccountName": f"account-{name}",
            "containers": [{"name": "main", "ports": ports}],
        },
        "status": {"podIPs": [{"ip": each} for each in addresses_of(namespace, name)]},
    }


def _namespace(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"ns": name}},
    }


NINE: tuple[Object, ...] = (
    *map(_namespace, NAMESPACES),
    *(_pod(namespace, pod) for namespace, pod in product(NAMESPACES, PODS)),
)


def manifests(*texts: str) -> tuple[Manifest, ...]:
    """The nine pods, and more objects as YAML; of two of one name the later holds."""
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": NINE})
    readings = [read_text(text, "test.yaml") for text in (whole, *texts)]
    errors = [str(error) for reading in readings for error in reading.errors]
    assert not errors, errors
    return tuple(manifest for reading in readings for manifest in reading.manifests)


class World:
    """The nine pods under some policies."""

    def __init__(self, *texts: str) -> None:
        self._manifests = manifests(*texts)

    @cached_property
    def cluster(self) -> ClusterObjects:
        """Everything there is."""
        return expand(self._manifests, ExpandOptions(families=(4, 6)))

    @cached_property
    def translation(self) -> Translation:
        """What it becomes."""
        return translate_all(self.cluster.objects())

    @cached_property
    def snapshot(self) -> Snapshot:
        """The same, to be asked."""
        return Snapshot.from_items(self.translation.items)

    @property
    def codes(self) -> list[str]:
        """What was found wrong."""
        return [str(finding.code) for finding in self.translation.findings]

    @property
    def messages(self) -> str:
        """The same in words."""
        return "\n".join(finding.message for finding in self.translation.findings)

    def ask(
        self, src: str, dst: str, service: str = "tcp/80", family: int = 4
    ) -> tuple[Flow, Verdict]:
        """A flow and its verdict; an end is ``x/a``, an address, or ``outside``."""
        protocol, _, port = service.partition("/")
        ends = _address(src, family), _address(dst, family)
        icmp = IcmpMatch(int(port)) if protocol.startswith("icmp") else None
        number = PROTOCOL_NUMBERS.get(protocol) or int(protocol)
        ports = (40000, int(port)) if port and icmp is None else (0, 0)
        flow = Flow(*ends, number, *ports, icmp)
        return flow, judge(self.snapshot, flow)

    def judge(self, src: str, dst: str, service: str = "tcp/80", family: int = 4) -> Verdict:
        """The verdict alone."""
        return self.ask(src, dst, service, family)[1]

    def allows(self, src: str, dst: str, service: str = "tcp/80", family: int = 4) -> bool:
        """Whether a new connection is allowed."""
        return self.judge(src, dst, service, family).allowed

    def sources(self, dst: str, service: str = "tcp/80", family: int = 4) -> str:
        """Who reaches a pod, itself aside, in words: ``x/b y/a outside``."""
        everybody = [f"{n}/{p}" for n, p in product(NAMESPACES, PODS)] + ["outside"]
        return " ".join(
            src for src in everybody if src != dst and self.allows(src, dst, service, family)
        )

    def targets(self, src: str, service: str = "tcp/80", family: int = 4) -> str:
        """Whom a pod reaches, itself aside."""
        everybody = [f"{n}/{p}" for n, p in product(NAMESPACES, PODS)] + ["outside"]
        return " ".join(
            dst for dst in everybody if dst != src and self.allows(src, dst, service, family)
        )


def _address(end: str, family: int) -> Address:
    if end == "outside":
        return parse_address(OUTSIDE[family])
    if "/" not in end:
        return parse_address(end)
    namespace, pod = end.split("/")
    found = map(parse_address, addresses_of(namespace, pod))
    return next(address for address in found if address_version(address) == family)


def oracle_pods(objects: Iterable[Object] = NINE) -> Mapping[str, kube_oracle.Pod]:
    """The pods as the oracle knows them, by ``namespace/name``."""
    labels = {
        o["metadata"]["name"]: o["metadata"].get("labels") or {}
        for o in objects
        if o["kind"] == "Namespace"
    }
    return {
        f"{meta['namespace']}/{meta['name']}": kube_oracle.Pod(
            namespace=meta["namespace"],
            namespace_labels={
                **labels.get(meta["namespace"], {}),
                "kubernetes.io/metadata.name": meta["namespace"],
            },
            labels=meta.get("labels") or {},
            addresses=tuple(each["ip"] for each in value["status"]["podIPs"]),
            named_ports={
                (port["name"], port.get("protocol") or "TCP"): port["containerPort"]
                for container in value["spec"]["containers"]
                for port in container["ports"]
                if port.get("name")
            },
        )
        for value in objects
        if value["kind"] == "Pod"
        for meta in (value["metadata"],)
    }
