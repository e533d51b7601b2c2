"""What else runs in a cluster: the scheduler, controllers of workloads and namespaces, kubelets.

In: a cluster without them.  Out: each time it is asked, everything that they would have done by
then: pods of Deployments, bound, running and replaced, ours as processes and others as places that
the prober asks; and their workloads' status.  Namespaces that end are ended all the while.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import msgspec

from calico_k8s.controller.kube import KubeApi, connect
from calico_k8s.errors import KubeError, KubeNotFound
from calico_k8s.lab.plan import LabPod, PodId
from calico_k8s.lab.probe import Prober
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from tests.cluster.controllers import wait_for
from tests.cluster.installation import NAMESPACE, Installation
from tests.cluster.installation import NODES as SITES
from tests.cluster.kubelet import Pod, Workload
from tests.cluster.objects import Document, KubeObjects, pod_path

OURS: tuple[tuple[Workload, str, tuple[int, ...]], ...] = (
    ("deployments", "calico-k8s-signer", (3,)),
    ("statefulsets", "calico-k8s-etcd", (1, 2, 3)),
    ("deployments", "calico-k8s-controller", (1, 2)),
    ("daemonsets", "calico-k8s-felix", (1, 2, 3)),
    ("daemonsets", "calico-k8s-clean", (1, 2, 3)),
)
"""Our workloads, and the nodes that a scheduler would choose."""
NODES = (1, 2)
"""Where applications' pods go, in turn."""


class Upkeep:
    """One cluster's; for one thread."""

    def __init__(self, site: Installation, prober: Prober) -> None:
        self._site = site
        self._prober = prober
        self._api = site.objects.api
        self._ours: dict[str, list[Pod]] = {}
        self._templates: dict[str, Document | None] = {}
        """What they were made of."""
        self._pods: dict[PodId, str] = {}
        """Applications' pods that run, with their UID."""
        self._count = 0

    def settle(self) -> None:
        """Does all there is to do, and returns when it is done."""
        wanted = {(kind, name) for kind in _COUNTS for name in self._names(kind, NAMESPACE)}
        for kind, name, _ in reversed(OURS):
            is_other = name in self._ours and self._template(kind, name) != self._templates[name]
            if (kind, name) not in wanted or is_other:
                self._stop(name)
        fresh = [each for each in OURS if each[:2] in wanted and each[1] not in self._ours]
        for kind, name, numbers in fresh:
            # One after the other, though nothing needs that: so no start takes a busy machine's
            # processors from another that is waited for.
            self._templates[name] = self._template(kind, name)
            self._ours[name] = self._site.make(kind, name, *numbers)
            self._site.kubelet.start(self._ours[name])
        for kind, name, _ in fresh:
            self._tell_ready(kind, name)
            self._tell_endpoints(name, numbers)
        self._settle_applications()

    def _template(self, kind: Workload, name: str) -> Document | None:
        """What a workload's pods are made of; None where it is gone."""
        with suppress(KubeNotFound):
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/{kind}/{name}"
            template: Document = _decoded(self._api.get(path))["spec"]["template"]
            return template
        return None

    def _tell_endpoints(self, name: str, numbers: Sequence[int]) -> None:
        """What the controller of EndpointSlices says of the Services of a workload of ours."""
        for service in self._list(f"/api/v1/namespaces/{NAMESPACE}/services"):
            spec, own = service["spec"], service["metadata"]["name"]
            if (spec.get("selector") or {}).get("app.kubernetes.io/name") != name:
                continue
            template = self._templates[name] or {}
            ports = {
                port["name"]: port["containerPort"]
                for container in template["spec"]["containers"]
                for port in container.get("ports", ())
            }
            slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
            with suppress(KubeNotFound):
                self._api.delete(f"{slices}/{own}")
            addresses = [node.addresses[0] for node in SITES if int(node.name[-1]) in numbers]
            document = {
                "metadata": {"name": own, "labels": {"kubernetes.io/service-name": own}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
                "ports": [
                    {"name": each["name"], "port": ports[each["targetPort"]], "protocol": "TCP"}
                    for each in spec["ports"]
                ],
            }
            self._api.create(slices, document)

    def run_in(self, workload: str, container: str, command: Sequence[str]) -> tuple[int, str]:
        """``kubectl exec``: exit code and output, of the workload's first pod."""
        return self._ours[workload][0][container].run(command)

    def log(self, workload: str) -> str:
        """The end of what all pods of a workload of ours have said."""
        return "\n".join(pod.log for pod in self._ours.get(workload, ()))

    def _stop(self, name: str) -> None:
        for pod in self._ours.pop(name, ()):
            pod.stop()
            with suppress(KubeNotFound):  # its namespace has ended
                self._site.objects.end_pod(NAMESPACE, pod.name)

    def _tell_ready(self, kind: Workload, name: str) -> None:
        """Waits until each pod's probes say yes, and says so in the workload's status."""
        pods = self._ours[name]
        for pod in pods:
            wait_for(partial(_is_ready, pod), partial(getattr, pod, "log"))
        self._tell_status(kind, NAMESPACE, name, len(pods))

    def _tell_status(self, kind: Workload, namespace: str, name: str, count: int) -> None:
        path = f"/apis/apps/v1/namespaces/{namespace}/{kind}/{name}"
        generation = _decoded(self._api.get(path))["metadata"]["generation"]
        counts = dict.fromkeys(_COUNTS[kind], count)
        status = {"observedGeneration": generation, **counts}
        if kind == "daemonsets":
            status["numberMisscheduled"] = 0
        self._api.merge(f"{path}/status", {"status": status})

    def _settle_applications(self) -> None:
        found = self._list("/api/v1/pods")
        wanted: set[PodId] = set()
        for namespace in self._applications():
            for deployment in self._list(f"/apis/apps/v1/namespaces/{namespace}/deployments"):
                wanted.add(self._settle_deployment(deployment, found))
            bare = (pod for pod in found if pod["metadata"]["namespace"] == namespace)
            for pod in bare:
                if "ownerReferences" not in pod["metadata"] and "nodeName" not in pod["spec"]:
                    self._run(namespace, pod["metadata"]["name"])
                if "ownerReferences" not in pod["metadata"]:
                    wanted.add(PodId(f"{namespace}/{pod['metadata']['name']}"))
        for gone in [pod for pod in self._pods if pod not in wanted]:
            del self._pods[gone]
            namespace, _, name = gone.partition("/")
            self._prober.remove_pod(gone)
            self._site.network.remove_pod(gone)
            self._site.objects.end_pod(namespace, name)

    def _settle_deployment(self, deployment: Document, found: Sequence[Document]) -> PodId:
        """The one pod of a Deployment's template, which runs."""
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        namespace = metadata["namespace"]
        digest = hashlib.sha256(msgspec.json.encode(template)).hexdigest()
        name = f"{metadata['name']}-{digest[:9]}-{digest[9:14]}"
        names = {(p["metadata"]["namespace"], p["metadata"]["name"]) for p in found}
        if (namespace, name) not in names:
            owner = {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
            document = {
                "metadata": {**template["metadata"], "name": name, "ownerReferences": [owner]},
                "spec": template["spec"],
            }
            self._api.create(f"/api/v1/namespaces/{namespace}/pods", document)
            self._run(namespace, name)
        self._tell_status("deployments", namespace, metadata["name"], 1)
        return PodId(f"{namespace}/{name}")

    def _run(self, namespace: str, name: str) -> None:
        """Binds a pod to a node, attaches it, and says that it runs."""
        number, host = NODES[self._count % len(NODES)], 10 + self._count
        self._count += 1
        node = self._site.machine(number).name
        path = pod_path(namespace, name)
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
        self._api.create(f"{path}/binding", binding)
        pod = LabPod(
            PodId(f"{namespace}/{name}"), NodeName(node), (Address(f"10.244.{number}.{host}"),)
        )
        self._site.network.add_pods([pod])
        self._prober.add_pod(pod, self._site.network.pods[pod.id].namespace)
        self._site.objects.pod_status(namespace, name, pod.addresses)
        self._pods[pod.id] = _decoded(self._api.get(path))["metadata"]["uid"]

    def _applications(self) -> list[str]:
        names = (each["metadata"]["name"] for each in self._list("/api/v1/namespaces"))
        return [name for name in names if name != NAMESPACE and not name.startswith("kube-")]

    def _names(self, kind: str, namespace: str) -> list[str]:
        listed = self._list(f"/apis/apps/v1/namespaces/{namespace}/{kind}")
        return [each["metadata"]["name"] for each in listed]

    def _list(self, path: str) -> list[Document]:
        return list(_decoded(self._api.get(path)).get("items") or ())


_REPLICAS = ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas")
_COUNTS: Mapping[Workload, tuple[str, ...]] = {
    "deployments": _REPLICAS,
    "statefulsets": _REPLICAS,
    "daemonsets": (
        "currentNumberScheduled",
        "desiredNumberScheduled",
        "updatedNumberScheduled",
        "numberReady",
        "numberAvailable",
    ),
}
"""The numbers in the status of each kind, all of them the same where all is well."""


@contextmanager
def ending_namespaces(site: Installation) -> Iterator[None]:
    """Ends namespaces that somebody deletes, as the namespace controller does."""
    is_over = threading.Event()

    def run() -> None:
        with closing(connect(str(site.kube.kubeconfig(port=site.port)))) as api:
            while not is_over.wait(0.2):
                with suppress(KubeError):  # the next look tells
                    _end_namespaces(api)

    thread = threading.Thread(target=run, name="namespaces")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _end_namespaces(api: KubeApi) -> None:
    for each in _decoded(api.get("/api/v1/namespaces")).get("items") or ():
        if each["status"]["phase"] == "Terminating" and each["spec"].get("finalizers"):
            KubeObjects(api).end_namespace(each["metadata"]["name"])


def _is_ready(pod: Pod) -> bool:
    """Whether each probe of the pod says yes."""
    return all(pod.probe(container, probe) for container, probe in pod.probes())


def _decoded(body: bytes) -> Document:
    document: dict[str, Any] = msgspec.json.decode(body)  # Any: as Document
    return document
