"""A whole cluster: kubectl changes what is to be, packets say what is, and everything dies once.

Nothing of ours is simulated: a real API server, etcd of three members, two controllers of which
one writes, a Felix on each node, and new connections between pods all the while.  No connection
may pass or fail that neither the state before a change nor the state after it says.

Bounds are for a machine of two cores with other work on it; on an idle one a change takes some
milliseconds (`docs/performance.md`).
"""

from collections.abc import Iterator

import pytest

from calico_k8s.lab.plan import ListenPort
from calico_k8s.query.reach import Service
from tests.cluster.live import NODE_1, NODE_2, LiveCluster, live_cluster
from tests.cluster.watch import ALLOW, DENY, Flow, Watch
from tests.lab.plans import TCP

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.timeout(180)]

WEB, API, HTTP_1, HTTP_2 = (Service(TCP, port) for port in (80, 4001, 8080, 9090))

CHANGE_S = 2.0
"""From kubectl's end to packets, while everything runs."""

CLUSTER = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {projectcalico-policy: closed}}
---
apiVersion: v1
kind: Namespace
metadata: {name: ops}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: front}, ports: [{port: 80}]}
"""

BACK = "allow tcp from label access=yes to port 4001"


def pod(name: str, node: str, labels: str = "", policy: str = "") -> str:
    namespace, _, short = name.partition("/")
    annotations = f'annotations: {{policy: "{policy}"}}' if policy else "annotations: {}"
    return f"""
---
apiVersion: v1
kind: Pod
metadata:
  name: {short}
  namespace: {namespace}
  labels: {{{labels}}}
  {annotations}
spec:
  nodeName: {node}
  containers: [{{name: main, image: none}}]
"""


PODS = {
    "shop/front": pod("shop/front", NODE_1, "app: front, access: 'yes'"),
    "shop/plain": pod("shop/plain", NODE_2, "app: plain"),
    "shop/back": pod("shop/back", NODE_1, "app: back", BACK),
    "shop/rear": pod("shop/rear", NODE_2, "app: back", BACK),
    "ops/near": pod("ops/near", NODE_1),
    "ops/far": pod("ops/far", NODE_2),
}
ADDRESSES = {
    name: (
        f"10.244.{text.split('nodeName: node-')[1][0]}.{10 + number}",
        f"fd00:244:{text.split('nodeName: node-')[1][0]}::{10 + number}",
    )
    for number, (name, text) in enumerate(PODS.items())
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    listen = [ListenPort(*each) for each in (WEB, API, HTTP_1, HTTP_2)]
    with live_cluster(tmp_path_factory.mktemp("live"), listen=listen) as up:
        up.kube.kubectl("apply", "-f", "-", stdin=CLUSTER + "".join(PODS.values()))
        for name, addresses in ADDRESSES.items():
            up.run_pod(*name.split("/"), *addresses)
        up.wait_in_force()
        yield up


@pytest.fixture(scope="module")
def watch(cluster: LiveCluster) -> Watch:
    watch = Watch(cluster)
    watch.add(
        ALLOW,
        Flow("shop/front", "shop/back", API),
        Flow("shop/front", "shop/rear", API),
        Flow("ops/near", "ops/far", WEB),
        Flow("ops/far", "ops/near", WEB),
        Flow("shop/plain", "shop/front", WEB),
    )
    watch.add(
        DENY,
        Flow("shop/plain", "shop/back", API),
        Flow("shop/plain", "shop/rear", API),
        Flow("shop/front", "shop/rear", WEB),
        Flow("ops/near", "shop/front", WEB),
        Flow("ops/far", "shop/front", WEB),
        Flow("ops/far", "shop/plain", API),
    )
    return watch


def test_an_annotation_is_edited(cluster: LiveCluster, watch: Watch) -> None:
    with watch.change(
        within_s=CHANGE_S,
        opens=[Flow("shop/front", "shop/rear", WEB)],
        closes=[Flow("shop/front", "shop/rear", API)],
    ):
        cluster.kube.kubectl(
            "annotate",
            "--overwrite",
            "pod",
            "-n",
            "shop",
            "rear",
            "policy=allow tcp from label access=yes to port 80",
        )
