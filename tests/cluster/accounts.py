"""The service accounts of manifests/ at a real API server, by tokens as a kubelet asks for.

In comes a folder, out goes a :class:`Site` where nothing of ours runs yet, and what tests run there
as one account or another.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import urllib3
import yaml

from calico_k8s.controller.kube import Document, KubeApi, Query, connect
from calico_k8s.errors import KubeError, KubeForbidden, KubeNotFound
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName
from tests.cluster.definitions import define_calicos, define_cluster_network_policies
from tests.cluster.installation import NAMESPACE, overlay, refuse_at_the_door
from tests.cluster.kubelet import Kubelet, Machine, Workload
from tests.cluster.objects import Document as Object
from tests.cluster.objects import KubeObjects
from tests.cluster.servers import ApiServer, api_server
from tests.etcd.servers import HERE

NODE, ADDRESS = NodeName("rights-node"), Address("192.0.2.1")
_NUMBERS = itertools.count()


class Spy(KubeApi):
    """A service account at the API server, and what it was refused."""

    def __init__(self, api: KubeApi) -> None:
        super().__init__(api._configuration)
        self.refused: list[str] = []

    def _open(
        self, method: str, path: str, query: Query, document: Document | None, silence_s: float
    ) -> urllib3.BaseHTTPResponse:
        try:
            return super()._open(method, path, query, document, silence_s)
        except KubeForbidden as error:
            self.refused.append(str(error))
            raise


class Site(NamedTuple):
    """An API server to which manifests/ has been applied."""

    kube: ApiServer
    objects: KubeObjects
    kubelet: Kubelet
    pods: Mapping[str, Object]
    """A pod of each service account."""
    folder: Path

    def account(self, name: str) -> Spy:
        """The API server as a service account."""
        config = yaml.safe_load(self.kube.kubeconfig().read_text())
        config["users"][0]["user"] = {"token": self.kubelet.token(self.pods[name])}
        path = self.folder / f"{name}-{next(_NUMBERS)}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return Spy(connect(str(path)))


def forget(api: KubeApi, path: str) -> None:
    """Deletes an object that may be there."""
    try:
        api.delete(path)
    except KubeNotFound:
        return


@contextmanager
def running(run: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """Something that works in a thread until stopped."""

    def body() -> None:
        try:
            run()
        except KubeError:  # a refusal may end it: the spy has heard it
            return

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()


@contextmanager
def site_up(folder: Path) -> Iterator[Site]:
    """An API server of its own, with manifests/ in it, a node, and a pod with a mistake.

    Cost: 6 s.
    """
    with (
        api_server(folder / "kube") as kube,
        closing(connect(str(kube.kubeconfig()))) as api,
    ):
        yield _applied(kube, KubeObjects(api), folder)


def _applied(kube: ApiServer, objects: KubeObjects, folder: Path) -> Site:
    manifests = overlay(folder / "manifests", {})
    refuse_at_the_door(manifests / "kustomization.yaml")
    kube.kubectl("apply", "-k", str(manifests))
    define_calicos(kube)
    define_cluster_network_policies(kube)
    objects.node(NODE, [ADDRESS], [])
    kubelet = Kubelet(objects.api, kube.authority, folder / "pods")
    machine = Machine(NODE, HERE, folder / "node")
    workloads: tuple[tuple[Workload, str], ...] = (
        ("deployments", "calico-k8s-controller"),
        ("deployments", "calico-k8s-signer"),
        ("statefulsets", "calico-k8s-etcd"),
        ("daemonsets", "calico-k8s-felix"),
    )
    pods = {name: kubelet.make(kind, NAMESPACE, name, machine).document for kind, name in workloads}
    objects.namespace("mistaken")
    objects.pod("mistaken", "web", ["10.9.0.1"], annotations={"policy": "allow tcp frm all"})
    return Site(kube, objects, kubelet, pods, folder)
