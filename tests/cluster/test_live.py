"""A whole cluster: kubectl changes what is to be, packets say what is, and everything dies once.

Nothing of ours is simulated: a real API server, etcd of three members, two controllers of which
one writes, a Felix on each node, and connections between pods all the while.  Nothing may pass or
fail that neither the state before a change nor the state after it says.

Bounds are for a machine of two cores where ten other processes want them; alone a change takes some
milliseconds (`docs/performance.md`).
"""

import time
from collections.abc import Iterator

import pytest

from calico_k8s.lab.stream import StreamKind
from calico_k8s.model.names import NodeName
from tests.cluster.controllers import wait_for
from tests.cluster.live import NODE_1, NODE_2, LiveCluster, live_cluster
from tests.cluster.objects import Document
from tests.cluster.shop import (
    API,
    DNS,
    LISTEN,
    OBJECTS,
    ONES,
    PODS,
    POLICY,
    TWOS,
    WEB,
    ShopPod,
    apply,
    end,
    run,
)
from tests.cluster.watch import ALLOW, DENY, Flow, Watch, flows

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.timeout(180)]

CHANGE_S = 4.0
"""From kubectl's end to packets, while everything runs."""
API_SERVER_S = 10.0
"""From when the API server answers again: watches are asked for again after 5 s at most."""
MEMBER_S = 10.0
"""With one member of etcd gone: another is elected, asked, and everything compared."""
FELIX_S = 15.0
"""From a Felix's start, which takes 0.6 s alone: most of it is Python's own."""
LEADER_S = 15.0
"""From the leader's end: its Lease of 5 s, a look at it every 0.7 s, and a first sync."""
ALL_S = LEADER_S + FELIX_S
"""From when the API server answers again: the Lease that a dead leader held, and all the rest."""
UDP_LIVES = [
    Flow("shop/front", dst, DNS, 4, StreamKind.CLIENT) for dst in ("shop/back", "shop/rear")
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    with live_cluster(tmp_path_factory.mktemp("live"), listen=LISTEN) as up:
        apply(up, *OBJECTS)
        run(up, *PODS)
        up.wait_in_force()
        yield up


@pytest.fixture(scope="module")
def watch(cluster: LiveCluster) -> Watch:
    watch = Watch(cluster)
    watch.add(
        ALLOW,
        [
            *flows("shop/front", "shop/back", API),
            *flows("shop/front", "shop/rear", API),
            *flows("shop/plain", "shop/front", WEB),
            *flows("ops/near", "ops/far", WEB),
            *flows("ops/far", "ops/near", WEB),
            *UDP_LIVES,
        ],
    )
    watch.add(
        DENY,
        [
            *flows("shop/plain", "shop/back", API),
            *flows("shop/plain", "shop/rear", API),
            *flows("shop/front", "shop/rear", WEB),
            *flows("ops/near", "shop/front", WEB),
            *flows("ops/far", "shop/front", WEB),
            *flows("ops/far", "shop/plain", API),
        ],
    )
    return watch


def annotate(cluster: LiveCluster, pod: str, policy: str) -> None:
    arguments = ("-n", "shop", "annotate", "--overwrite", "pod", pod, f"policy={policy}")
    cluster.kube.kubectl(*arguments)


PLAIN_IN = [*flows("shop/plain", "shop/back", API), *flows("shop/plain", "shop/rear", API)]
"""What the label ``access`` of ``shop/plain`` opens."""


def admit_plain(cluster: LiveCluster) -> None:
    cluster.kube.kubectl("-n", "shop", "label", "pod", "plain", "access=yes")


def refuse_plain(cluster: LiveCluster) -> None:
    cluster.kube.kubectl("-n", "shop", "label", "pod", "plain", "access-")


class TestWhileEverythingRuns:
    """What users change, one thing after another."""

    def test_an_annotation_is_edited(self, cluster: LiveCluster, watch: Watch) -> None:
        web = flows("shop/front", "shop/rear", WEB)
        others = [*flows("shop/front", "shop/rear", API), UDP_LIVES[1]]
        with watch.change(CHANGE_S, opens=web, closes=others):
            annotate(cluster, "rear", "allow tcp from label access=yes to port 80")
        with watch.change(CHANGE_S, closes=web, opens=others):
            annotate(cluster, "rear", POLICY)

    def test_an_annotation_that_does_not_parse_closes_its_pod(
        self, cluster: LiveCluster, watch: Watch
    ) -> None:
        into_rear = [*flows("shop/front", "shop/rear", API), UDP_LIVES[1]]
        with watch.change(CHANGE_S, closes=into_rear):
            annotate(cluster, "rear", "allow tcp frm label access=yes")
        with watch.change(CHANGE_S, opens=into_rear):
            annotate(cluster, "rear", POLICY)

    def test_a_label_is_added_and_taken_away(self, cluster: LiveCluster, watch: Watch) -> None:
        with watch.change(CHANGE_S, opens=PLAIN_IN):
            admit_plain(cluster)
        with watch.change(CHANGE_S, closes=PLAIN_IN):
            refuse_plain(cluster)

    def test_a_namespaces_flag_is_turned(self, cluster: LiveCluster, watch: Watch) -> None:
        opened = [
            *flows("ops/near", "shop/front", WEB),
            *flows("ops/far", "shop/front", WEB),
            *flows("ops/far", "shop/plain", API),
        ]
        flag = ("annotate", "--overwrite", "namespace", "shop")
        with watch.change(CHANGE_S, opens=opened):
            cluster.kube.kubectl(*flag, "projectcalico-policy=open")
        with watch.change(CHANGE_S, closes=opened):
            cluster.kube.kubectl(*flag, "projectcalico-policy=closed")

    def test_a_service_is_relabelled(self, cluster: LiveCluster, watch: Watch) -> None:
        opened = [*flows("ops/near", "shop/front", WEB), *flows("ops/far", "shop/front", WEB)]
        label = ("-n", "shop", "label", "service", "web")
        with watch.change(CHANGE_S, opens=opened):
            cluster.kube.kubectl(*label, "projectcalico-policy=open")
        with watch.change(CHANGE_S, closes=opened):
            cluster.kube.kubectl(*label, "projectcalico-policy-")

    @pytest.mark.parametrize("node", [NODE_1, NODE_2])
    def test_an_address_goes_to_a_pod_that_may_less(
        self, cluster: LiveCluster, watch: Watch, node: NodeName
    ) -> None:
        old = ShopPod("shop/old", NODE_1, 20, {"access": "yes"})
        new = ShopPod("shop/new", node, 20, {"app": "new"})
        run(cluster, old)
        cluster.wait_in_force()
        walls = ("shop/back", "shop/rear")
        watch.add(ALLOW, [flow for wall in walls for flow in flows("shop/old", wall, API)])
        watch.drop("shop/old")
        end(cluster, "shop/old")
        apply(cluster, new.document())
        # It sends from its first moment, when nobody but the kubelet knows its address.
        cluster.run_pod("shop", "new", *old.addresses, told=())
        watch.add(DENY, [flow for wall in walls for flow in flows("shop/new", wall, API)])
        out = flows("shop/new", "ops/far", WEB)
        watch.add(DENY, out)
        with watch.change(CHANGE_S, opens=out):
            cluster.objects.pod_status("shop", "new", old.addresses)
        watch.drop("shop/new")
        end(cluster, "shop/new")

    def test_a_second_address_counts_when_it_is_told(
        self, cluster: LiveCluster, watch: Watch
    ) -> None:
        dual = ShopPod("shop/dual", NODE_2, 21, {"access": "yes"})
        apply(cluster, dual.document())
        cluster.run_pod("shop", "dual", *dual.addresses, told=dual.addresses[:1])
        cluster.wait_in_force()
        first, second = flows("shop/dual", "shop/back", API)
        watch.add(ALLOW, [first])
        watch.add(DENY, [second])
        with watch.change(CHANGE_S, opens=[second]):
            cluster.objects.pod_status("shop", "dual", dual.addresses)
        watch.drop("shop/dual")
        end(cluster, "shop/dual")

    def test_a_named_port_is_each_pods_own(self, cluster: LiveCluster, watch: Watch) -> None:
        one = ShopPod("shop/one", NODE_1, 22, {"app": "named"}, http=ONES.port)
        two = ShopPod("shop/two", NODE_2, 22, {"app": "named"}, http=TWOS.port)
        run(cluster, one, two)
        own = [*flows("ops/far", "shop/one", ONES), *flows("ops/near", "shop/two", TWOS)]
        others = [*flows("ops/far", "shop/one", TWOS), *flows("ops/near", "shop/two", ONES)]
        watch.add(DENY, [*own, *others])
        named = {"selector": {"app": "named"}, "ports": [{"port": 80, "targetPort": "http"}]}
        with watch.change(CHANGE_S, opens=own):
            apply(cluster, open_service("named", named))
        with watch.change(CHANGE_S, closes=own):
            cluster.kube.kubectl("-n", "shop", "delete", "service", "named")
        watch.drop("shop/one", "shop/two")
        end(cluster, "shop/one", "shop/two")

    def test_slices_of_a_service_without_a_selector(
        self, cluster: LiveCluster, watch: Watch
    ) -> None:
        apply(cluster, open_service("manual", {"ports": [{"port": API.port}]}))
        address = next(pod.addresses[0] for pod in PODS if pod.name == "shop/plain")
        endpoints: Document = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "manual-1",
                "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "manual"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address]}],
            "ports": [{"port": API.port, "protocol": "TCP"}],
        }
        # A pod is open by both its addresses when one of them is listed.
        opened = flows("ops/far", "shop/plain", API)
        with watch.change(CHANGE_S, opens=opened):
            apply(cluster, endpoints)
        with watch.change(CHANGE_S, closes=opened):
            cluster.kube.kubectl("-n", "shop", "delete", "endpointslice", "manual-1")
        cluster.kube.kubectl("-n", "shop", "delete", "service", "manual")

    def test_a_namespace_is_deleted_and_what_it_was_allowed_with_it(
        self, cluster: LiveCluster, watch: Watch
    ) -> None:
        gate = ShopPod("shop/gate", NODE_2, 23, {}, "allow tcp from namespace guests to port 80")
        guest = ShopPod("guests/guest", NODE_1, 24)
        apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "guests"}})
        run(cluster, gate, guest)
        cluster.wait_in_force()
        watch.add(ALLOW, flows("guests/guest", "shop/gate", WEB))
        watch.drop("guests/guest")
        cluster.stop_pod("guests", "guest")
        cluster.objects.end_namespace("guests")
        heir = ShopPod("ops/heir", NODE_1, 24)
        apply(cluster, heir.document())
        cluster.run_pod("ops", "heir", *heir.addresses, told=())
        out = flows("ops/heir", "ops/far", WEB)
        watch.add(DENY, [*flows("ops/heir", "shop/gate", WEB), *out])
        with watch.change(CHANGE_S, opens=out):
            cluster.objects.pod_status("ops", "heir", heir.addresses)
        watch.drop("ops/heir", "shop/gate")
        end(cluster, "ops/heir", "shop/gate")


def open_service(name: str, spec: Document) -> Document:
    metadata = {"name": name, "namespace": "shop", "labels": {"projectcalico-policy": "open"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


AWAY_S = 1.0
"""How long something is away, for packets to notice it if they do."""


class TestWhileSomethingDies:
    """One thing after another, and all at once: walls stand, and changes come through."""

    @pytest.fixture(autouse=True)
    def both_controllers_run(self, cluster: LiveCluster) -> None:
        """As a kubelet has it: one that was deposed has ended."""
        for controller in cluster.controllers.values():
            if not controller.is_running:
                controller.kill()
                controller.start()
        wait_for(
            lambda: all(each.ask("/readyz")[0] == 200 for each in cluster.controllers.values())
        )

    def test_the_api_server(self, cluster: LiveCluster, watch: Watch) -> None:
        with watch.change(0):
            cluster.kube.kill()
            time.sleep(AWAY_S)
        with watch.change(API_SERVER_S, opens=PLAIN_IN):
            cluster.kube.start()
            cluster.kube.wait_until_ready()
            admit_plain(cluster)
        with watch.change(CHANGE_S, closes=PLAIN_IN):
            refuse_plain(cluster)

    @pytest.mark.parametrize("number", range(3))
    def test_a_member_of_etcd(self, cluster: LiveCluster, watch: Watch, number: int) -> None:
        member = cluster.etcd.members[number]
        with watch.change(MEMBER_S, opens=PLAIN_IN):
            member.kill()
            admit_plain(cluster)
        with watch.change(CHANGE_S):
            member.restart()
        with watch.change(CHANGE_S, closes=PLAIN_IN):
            refuse_plain(cluster)

    def test_all_of_etcd(self, cluster: LiveCluster, watch: Watch) -> None:
        with watch.change(0):
            for member in cluster.etcd.members:
                member.kill()
            admit_plain(cluster)
            time.sleep(AWAY_S)
        with watch.change(MEMBER_S, opens=PLAIN_IN):
            for member in cluster.etcd.members:
                member.start()
        with watch.change(CHANGE_S, closes=PLAIN_IN):
            refuse_plain(cluster)

    def test_the_controller_that_writes(self, cluster: LiveCluster, watch: Watch) -> None:
        leader = cluster.leader()
        with watch.change(LEADER_S, opens=PLAIN_IN):
            leader.kill()
            admit_plain(cluster)
        assert cluster.leader() is not leader
        with watch.change(CHANGE_S, closes=PLAIN_IN):
            leader.start()
            refuse_plain(cluster)
        assert cluster.leader() is not leader

    @pytest.mark.parametrize(
        ("node", "there", "elsewhere"),
        [(NODE_1, PLAIN_IN[:2], PLAIN_IN[2:]), (NODE_2, PLAIN_IN[2:], PLAIN_IN[:2])],
    )
    def test_a_felix(
        self,
        cluster: LiveCluster,
        watch: Watch,
        node: NodeName,
        there: list[Flow],
        elsewhere: list[Flow],
    ) -> None:
        with watch.change(CHANGE_S, opens=elsewhere):
            cluster.agents.kill(node)
            admit_plain(cluster)
        with watch.change(FELIX_S, opens=there):
            cluster.agents.start(node)
        with watch.change(CHANGE_S, closes=PLAIN_IN):
            refuse_plain(cluster)

    def test_everything_at_once(self, cluster: LiveCluster, watch: Watch) -> None:
        with watch.change(0):
            for node in (NODE_1, NODE_2):
                cluster.agents.kill(node)
            for controller in cluster.controllers.values():
                controller.kill()
            cluster.kube.kill()
            for member in (*cluster.etcd.members, *cluster.kube.etcd.members):
                member.kill()
            time.sleep(AWAY_S)
        with watch.change(ALL_S, opens=PLAIN_IN):
            for node in (NODE_1, NODE_2):
                cluster.agents.start(node)
            for controller in cluster.controllers.values():
                controller.start()
            for member in (*cluster.kube.etcd.members, *cluster.etcd.members):
                member.start()
            cluster.kube.start()
            cluster.kube.wait_until_ready()
            admit_plain(cluster)
        with watch.change(CHANGE_S, closes=PLAIN_IN):
            refuse_plain(cluster)
