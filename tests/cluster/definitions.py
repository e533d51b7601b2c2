"""The definitions of kinds that a cluster has only where they are installed.

In comes an API server, out goes one that serves them.  Calico's are manifests/crds;
ClusterNetworkPolicy's belongs to another project, and what stands for it here only keeps objects.
"""

import json
from contextlib import closing
from functools import partial
from pathlib import Path

from calico_k8s.controller.kube import KubeApi, connect
from calico_k8s.controller.wire import PATHS
from calico_k8s.errors import KubeNotFound, KubeUnavailable
from tests.cluster.controllers import wait_for
from tests.cluster.objects import Document
from tests.cluster.servers import ApiServer

CRDS = Path(__file__).resolve().parents[2] / "manifests" / "crds"

CLUSTER_NETWORK_POLICIES: Document = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "clusternetworkpolicies.policy.networking.k8s.io",
        "annotations": {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api"
        },
    },
    "spec": {
        "group": "policy.networking.k8s.io",
        "scope": "Cluster",
        "names": {
            "kind": "ClusterNetworkPolicy",
            "plural": "clusternetworkpolicies",
            "singular": "clusternetworkpolicy",
        },
        "versions": [
            {
                "name": "v1alpha2",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            }
                        },
                    }
                },
            }
        ],
    },
}


def define_calicos(kube: ApiServer) -> None:
    """Installs Calico's kinds, and waits until they are served."""
    kube.kubectl("apply", "-k", str(CRDS))
    _wait_until_served(kube, "projectcalico.org")


def define_cluster_network_policies(kube: ApiServer) -> None:
    """Installs the kind, and waits until it is served."""
    kube.kubectl("apply", "-f", "-", stdin=json.dumps(CLUSTER_NETWORK_POLICIES))
    _wait_until_served(kube, "policy.networking.k8s.io")


def _wait_until_served(kube: ApiServer, group: str) -> None:
    paths = [path for kind, path in PATHS.items() if path.startswith(f"/apis/{group}/")]
    with closing(connect(str(kube.kubeconfig()))) as api:
        for path in paths:
            wait_for(partial(_is_served, api, path))


def _is_served(api: KubeApi, path: str) -> bool:
    try:
        api.get(path)
    except (KubeNotFound, KubeUnavailable):
        return False
    return True
