"""Writes what users, kubelets and Kubernetes' own controllers would write.

In come names and fields, out go objects in the API server, with the status that makes them count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from calico_k8s.controller.kube import KubeApi

Document = dict[str, Any]  # Any: what JSON can say


class KubeObjects:
    """An API server, by the objects a test wants in it."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api

    def namespace(self, name: str, *, annotations: Mapping[str, str] | None = None) -> None:
        """Makes a namespace."""
        metadata = {"name": name, "annotations": dict(annotations or {})}
        self.api.create("/api/v1/namespaces", {"metadata": metadata})

    def end_namespace(self, name: str) -> None:
        """Deletes a namespace and all pods in it, as the namespace controller would."""
        self.api.delete(f"/api/v1/namespaces/{name}")
        self.api.delete(f"/api/v1/namespaces/{name}/pods", {"gracePeriodSeconds": 0})
        for plural in ("services", "serviceaccounts", "configmaps", "secrets"):
            self.api.delete(f"/api/v1/namespaces/{name}/{plural}")
        path = f"/api/v1/namespaces/{name}"
        namespace = msgspec.json.decode(self.api.get(path))
        namespace["spec"] = {"finalizers": []}
        self.api.replace(f"{path}/finalize", namespace)

    def node(self, name: str, addresses: Sequence[str], pod_cidrs: Sequence[str]) -> None:
        """Makes a node that has these addresses, and pods of these ranges."""
        document = {"metadata": {"name": name}, "spec": {"podCIDRs": list(pod_cidrs)}}
        self.api.create("/api/v1/nodes", document)
        told = [{"type": "InternalIP", "address": each} for each in addresses]
        told.append({"type": "Hostname", "address": name})
        self.api.merge(f"/api/v1/nodes/{name}/status", {"status": {"addresses": told}})

    def pod(
        self,
        namespace: str,
        name: str,
        addresses: Sequence[str] = (),
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        spec: Mapping[str, Any] | None = None,  # Any: as Document
    ) -> None:
        """Makes a pod on node ``node-1`` that runs and has addresses."""
        self.api.create(
            f"/api/v1/namespaces/{namespace}/pods",
            {
                "metadata": {
                    "name": name,
                    "labels": dict(labels or {}),
                    "annotations": dict(annotations or {}),
                },
                "spec": {
                    "nodeName": "node-1",
                    "containers": [{"name": "main", "image": "none"}],
                    **(spec or {}),
                },
            },
        )
        if addresses:
            self.pod_status(namespace, name, addresses)

    def pod_status(
        self, namespace: str, name: str, addresses: Sequence[str], phase: str = "Running"
    ) -> None:
        """Says what a kubelet would."""
        status: Document = {"phase": phase, "podIPs": [{"ip": each} for each in addresses]}
        if addresses:
            status["podIP"] = addresses[0]
        self.api.merge(f"{pod_path(namespace, name)}/status", {"status": status})

    def change(self, path: str, **metadata: Any) -> None:  # Any: as Document
        """Changes labels or annotations of an object; None removes one."""
        self.api.merge(path, {"metadata": metadata})

    def end_pod(self, namespace: str, name: str) -> None:
        """Deletes a pod at once, as a kubelet does when its containers have ended."""
        self.api.delete(pod_path(namespace, name), {"gracePeriodSeconds": 0})


def pod_path(namespace: str, name: str) -> str:
    """Where a pod is."""
    return f"/api/v1/namespaces/{namespace}/pods/{name}"
