"""The definitions of kinds that a cluster has only where they are installed.

In comes an API server, out goes one that serves them.  Calico's are manifests/crds;
ClusterNetworkPolicy's belongs to another project, which publishes it in a Go module.
"""

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import yaml

from calico_k8s.controller.kube import KubeApi, connect
from calico_k8s.controller.wire import PATHS
from calico_k8s.errors import KubeNotFound, KubeUnavailable
from tests.cluster.controllers import wait_for
from tests.cluster.objects import Document
from tests.cluster.servers import ApiServer
from tests.gobuilds import module_folder

CRDS = Path(__file__).resolve().parents[2] / "manifests" / "crds"

POLICY_API = "sigs.k8s.io/network-policy-api"


def cluster_network_policies(channel: Literal["standard", "experimental"]) -> Document:
    """The definition of ClusterNetworkPolicy that its own project publishes in a channel."""
    published = module_folder(Path(__file__).parent / "policy-api", POLICY_API)
    name = "policy.networking.k8s.io_clusternetworkpolicies.yaml"
    text = (published / "config" / "crd" / channel / name).read_text(encoding="utf-8")
    found: Document = yaml.safe_load(text)
    return found


def define_calicos(kube: ApiServer, api: KubeApi | None = None) -> None:
    """Installs Calico's kinds, and waits until they are served, as ``api`` sees it if given."""
    kube.kubectl("apply", "-k", str(CRDS))
    _wait_until_served(kube, "projectcalico.org", api)


def define_cluster_network_policies(kube: ApiServer, api: KubeApi | None = None) -> None:
    """Installs the kind with all its fields, and waits until it is served, as ``api`` sees it."""
    definition = json.dumps(cluster_network_policies("experimental"))
    kube.kubectl("apply", "--server-side", "-f", "-", stdin=definition)
    _wait_until_served(kube, "policy.networking.k8s.io", api)


def _wait_until_served(kube: ApiServer, group: str, api: KubeApi | None) -> None:
    if api is None:
        with closing(connect(str(kube.kubeconfig()))) as opened:
            _wait_until_served(kube, group, opened)
        return
    for path in PATHS.values():
        if path.startswith(f"/apis/{group}/"):
            wait_for(partial(is_served, api, path))


def is_served(api: KubeApi, path: str) -> bool:
    """Whether the objects at a path can be listed."""
    try:
        api.get(path)
    except (KubeNotFound, KubeUnavailable):
        return False
    return True
