"""Each denied packet is told once, with the words that ``explain`` has for it: with real packets.

One cluster has every kind of denial; a single packet is sent for each, and what the nodes' agents
tell of it is held to the definition.
"""

import json
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import pytest

from calico_k8s.felix.local_socket import ask as ask_agent
from calico_k8s.lab.agents import denials_path
from calico_k8s.lab.kubeproxy import IptablesFlavour
from calico_k8s.lab.netns import entered
from calico_k8s.lab.run import Lab, LabOptions, lab_up
from calico_k8s.model.addresses import address_version
from calico_k8s.model.denial import Denial, Denials
from calico_k8s.model.resources import PROTOCOL_NUMBERS
from calico_k8s.query.explain import headline
from calico_k8s.query.reach import Service, ask, find_party
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, expand

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(60)]

UDP = PROTOCOL_NUMBERS["udp"]
PATIENCE_S = 20.0


class Case(NamedTuple):
    """A packet, and what is told of it."""

    src: str
    dst: str
    port: int
    words: str


CASES = {
    "statement": Case("open/a", "web/annotated", 53, "annotation of pod web/annotated, rule 1"),
    "annotation": Case("open/a", "web/annotated", 55, "end of annotation of pod web/annotated"),
    "closed namespace": Case("open/a", "closed/inside", 53, "end of Namespace closed"),
    "service": Case("open/a", "closed/exposed", 81, "end of Namespace closed"),
    "NetworkPolicy": Case("open/a", "web/isolated", 53, "end of tier default"),
    "Calico's policy": Case(
        "open/a", "web/guarded", 53, "GlobalNetworkPolicy security.guard, rule 1"
    ),
    "tier": Case("open/a", "web/guarded", 55, "end of tier security"),
    "egress": Case("web/silent", "open/a", 53, "end of tier default"),
    "ClusterNetworkPolicy": Case(
        "open/a", "web/ruled", 53, "ClusterNetworkPolicy rule, rule 1 'no-dns'"
    ),
    "a rule behind Log": Case("open/a", "web/logged", 53, "CalicoNetworkPolicy web/logged, rule 2"),
}
LOGGED = "CalicoNetworkPolicy web/logged, rule 1"


def pods() -> str:
    """Namespaces and pods, as YAML."""

    def pod(path: str, policy: str = "") -> dict[str, object]:
        namespace, name = path.split("/")
        annotations = {"annotations": {"policy": policy}} if policy else {}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}}
            | annotations,
            "spec": {"containers": [{"name": "main", "ports": [{"containerPort": 80}]}]},
        }

    def namespace(name: str, flag: str = "open") -> dict[str, object]:
        labels = {"projectcalico-policy": flag}
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        }

    objects = [
        *(namespace("open"), namespace("web"), namespace("closed", "closed")),
        *map(pod, ("open/a", "closed/inside", "closed/exposed")),
        *map(pod, ("web/isolated", "web/guarded", "web/silent", "web/ruled", "web/logged")),
        pod("web/annotated", "deny udp to port 53; allow udp to port 54"),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


POLICIES = """
apiVersion: v1
kind: Service
metadata: {name: exposed, namespace: closed, labels: {projectcalico-policy: open}}
spec: {selector: {app: exposed}, ports: [{port: 80, protocol: UDP}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: isolated, namespace: web}
spec: {podSelector: {matchLabels: {app: isolated}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: silent, namespace: web}
spec: {podSelector: {matchLabels: {app: silent}}, policyTypes: [Egress]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.guard}
spec:
  tier: security
  selector: app == 'guarded'
  types: [Ingress]
  ingress:
    - {action: Deny, protocol: UDP, destination: {ports: [53]}}
    - {action: Pass, protocol: UDP, destination: {ports: [54]}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: logged, namespace: web}
spec:
  selector: app == 'logged'
  types: [Ingress]
  ingress:
    - {action: Log, protocol: UDP}
    - {action: Deny, protocol: UDP, destination: {ports: [53]}}
    - {action: Allow}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: rule}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: ruled}}}}
  ingress:
    - name: no-dns
      action: Deny
      from: [{namespaces: {}}]
      protocols: [{udp: {destinationPort: {number: 53}}}]
"""


def cluster() -> ClusterObjects:
    readings = [read_text(text, "test.yaml") for text in (pods(), POLICIES)]
    assert not any(reading.errors for reading in readings)
    found = [manifest for reading in readings for manifest in reading.manifests]
    return expand(found, ExpandOptions(2, families=(4, 6)))


@pytest.fixture(scope="module", params=["legacy", "nft"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    backend: IptablesFlavour = request.param
    with lab_up(cluster(), LabOptions(backend=backend, felix=("--denials", "on"))) as up:
        yield up


def told(lab: Lab) -> list[Denial]:
    """What all agents tell."""
    answers = [ask_agent(denials_path(lab.cluster.directory, node)) for node in lab.cluster.nodes]
    return [each for raw in answers for each in msgspec.json.decode(raw, type=Denials).denials]


def send(lab: Lab, case: Case, version: int) -> None:
    """One packet."""
    addresses = next(
        endpoint.addresses
        for endpoint in lab.snapshot.endpoints.values()
        if endpoint.id.pod == case.dst
    )
    (address,) = (each for each in addresses if address_version(each) == version)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    (site,) = (site for name, site in lab.cluster.pods.items() if str(name) == case.src)
    with entered(site.namespace), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"?", (address, case.port))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", CASES)
def test_a_denied_packet_is_told_once_in_the_words_of_explain(
    lab: Lab, name: str, version: int
) -> None:
    case = CASES[name]
    src, dst = (find_party(lab.snapshot, pod) for pod in (case.src, case.dst))
    explained = headline(ask(lab.snapshot, src, dst, Service(UDP, case.port)), case.src, case.dst)
    assert explained == f"denied: {case.src} → {case.dst}, udp {case.port}: {case.words}"
    send(lab, case, version)
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := of_case(told(lab), case, version)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    denials = [each for each in found if each.action == "deny"]
    assert [(each.why, each.packets) for each in denials] == [(case.words, 1)]
    logged = [(each.why, each.packets) for each in found if each.action == "log"]
    assert logged == ([(LOGGED, 1)] if case.dst == "web/logged" else [])


def of_case(denials: list[Denial], case: Case, version: int) -> list[Denial]:
    """What is told of a case's packet; nothing before the denial is."""
    found = [
        each
        for each in denials
        if (each.src_pod, each.dst_pod, each.port) == (case.src, case.dst, case.port)
        and address_version(each.src) == version
    ]
    return found if any(each.action == "deny" for each in found) else []
