"""The controller beside a real API server: what changes there is soon what the datastore holds."""

import signal
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest

from calico_k8s.controller.reconcile import Reconciler
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Store
from calico_k8s.errors import KubeError
from calico_k8s.model import keys
from calico_k8s.model.addresses import parse_address
from calico_k8s.model.names import EndpointId, NamespaceName, NodeName
from calico_k8s.model.resources import NamedPort, PortRange, Value, WorkloadEndpoint
from calico_k8s.model.status import POLICIES_PATH
from tests.cluster.controllers import CommandController, Stored, wait_for
from tests.cluster.objects import Document, KubeObjects, pod_path
from tests.cluster.servers import NOBODY, ApiServer
from tests.etcd.servers import etcd_cluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def controller(
    kube: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandController]:
    """One that runs for all tests here that only change Kubernetes."""
    folder = tmp_path_factory.mktemp("controller")
    running = CommandController(kube.kubeconfig(), kube.etcd.url("/shared"), folder)
    running.start()
    running.wait_until_ready()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def shared(kube: ApiServer) -> Iterator[Stored]:
    """What it has written."""
    with closing(open_store(kube.etcd.url("/shared"))) as store:
        yield Stored(store)


@pytest.fixture
def own(kube: ApiServer, url: str, tmp_path: Path) -> Iterator[CommandController]:
    """A controller of this test alone, not yet started."""
    running = CommandController(kube.kubeconfig(), url, tmp_path)
    yield running
    running.kill()


def address_of(stored: Stored, namespace: str, name: str) -> tuple[str, ...]:
    endpoint = stored.endpoint(namespace, name)
    return () if endpoint is None else tuple(map(str, endpoint.addresses))


def service(name: str, port: Document, selector: Document | None) -> Document:
    spec: Document = {"ports": [{"protocol": "TCP", **port}]}
    if selector:
        spec["selector"] = selector
    return {"metadata": {"name": name, "labels": {"projectcalico-policy": "open"}}, "spec": spec}


@pytest.mark.usefixtures("controller")
class TestWhileItRuns:
    """Changes in Kubernetes, one after another."""

    def test_a_pod_counts_from_its_address_to_its_deletion(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "web", labels={"app": "web"})
        objects.pod_status(namespace, "web", ["10.0.0.1"])
        wait_for(lambda: address_of(shared, namespace, "web") == ("10.0.0.1",))
        assert shared.tags(namespace, "web") == {f"{namespace}_app_web", f"namespace_{namespace}"}
        objects.end_pod(namespace, "web")
        wait_for(lambda: shared.endpoint(namespace, "web") is None)

    def test_a_finished_pods_address_goes_to_the_next(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "job", ["10.0.1.1"])
        wait_for(lambda: address_of(shared, namespace, "job"))
        objects.pod_status(namespace, "job", ["10.0.1.1"], phase="Succeeded")
        objects.pod(namespace, "next", ["10.0.1.1"])
        wait_for(lambda: address_of(shared, namespace, "next") == ("10.0.1.1",))
        assert shared.endpoint(namespace, "job") is None

    def test_a_second_address_counts_too(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "web", ["10.0.2.1"])
        wait_for(lambda: address_of(shared, namespace, "web") == ("10.0.2.1",))
        objects.pod_status(namespace, "web", ["10.0.2.1", "fd00::21"])
        wait_for(lambda: address_of(shared, namespace, "web") == ("10.0.2.1", "fd00::21"))

    def test_renamed_labels_are_other_tags(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "web", ["10.0.3.1"], labels={"app": "web", "tier": "front"})
        wait_for(lambda: f"{namespace}_tier_front" in shared.tags(namespace, "web"))
        objects.change(pod_path(namespace, "web"), labels={"app": None, "role": "web"})
        wait_for(lambda: f"{namespace}_role_web" in shared.tags(namespace, "web"))
        assert f"{namespace}_app_web" not in shared.tags(namespace, "web")
        assert f"{namespace}_tier_front" in shared.tags(namespace, "web")

    def test_a_namespaces_flag_closes_and_opens_it(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "web", ["10.0.4.1"])
        path, profile = f"/api/v1/namespaces/{namespace}", f"namespace.{namespace}"

        def is_closed() -> bool:
            rules = shared.rules(profile)
            return rules is not None and rules.ingress[0].src.tag == f"namespace_{namespace}"

        wait_for(lambda: shared.endpoint(namespace, "web"))
        assert not is_closed()
        objects.change(path, annotations={"projectcalico-policy": "closed"})
        wait_for(is_closed)
        objects.change(path, annotations={"projectcalico-policy": None})
        wait_for(lambda: not is_closed())

    def test_a_deleted_namespace_leaves_nothing(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "web", ["10.0.5.1"], annotations={"policy": "allow tcp"})
        wait_for(lambda: shared.endpoint(namespace, "web"))
        objects.end_namespace(namespace)
        wait_for(lambda: not [key for key in shared.items() if namespace in keys.key_path(key)])

    def test_named_ports_are_each_pods_own(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        for name, port in (("one", 8080), ("two", 9090)):
            containers = [
                {
                    "name": "main",
                    "image": "none",
                    "ports": [{"name": "http", "containerPort": port}],
                }
            ]
            objects.pod(
                namespace,
                name,
                [f"10.0.6.{port % 7}"],
                labels={"app": "web"},
                spec={"containers": containers},
            )
        path = f"/api/v1/namespaces/{namespace}/services"
        objects.api.create(path, service("web", {"port": 80, "targetPort": "http"}, {"app": "web"}))
        profile = f"service.{namespace}.web"
        for name, port in (("one", 8080), ("two", 9090)):
            wait_for(partial(_has_profile, shared, namespace, name, profile))
            endpoint = shared.endpoint(namespace, name)
            assert endpoint is not None
            assert endpoint.named_ports == (NamedPort("http", 6, port),)
        rules = shared.rules(profile)
        assert rules is not None
        assert rules.ingress[0].dst.named_ports == ("http",)

    def test_a_service_opens_while_its_label_says_so(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "web", ["10.0.7.1"], labels={"app": "web"})
        path = f"/api/v1/namespaces/{namespace}/services"
        objects.api.create(path, service("web", {"port": 80, "targetPort": 8080}, {"app": "web"}))
        profile = f"service.{namespace}.web"
        wait_for(lambda: profile in _profiles(shared, namespace, "web"))
        rules = shared.rules(profile)
        assert rules is not None
        assert rules.ingress[0].dst.ports == (PortRange(8080, 8080),)
        objects.change(f"{path}/web", labels={"projectcalico-policy": None})
        wait_for(lambda: profile not in _profiles(shared, namespace, "web"))
        wait_for(lambda: shared.rules(profile) is None)

    def test_slices_of_a_service_without_selector_open_its_own_namespaces_pods(
        self, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        other = f"{namespace}-other"
        objects.namespace(other)
        objects.pod(namespace, "web", ["10.0.8.1"])
        objects.pod(other, "web", ["10.0.8.2"])
        path = f"/api/v1/namespaces/{namespace}/services"
        objects.api.create(path, service("web", {"port": 80}, None))
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        objects.api.create(
            slices,
            {
                "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.8.1"]}, {"addresses": ["10.0.8.2"]}],
                "ports": [{"port": 8080, "protocol": "TCP"}],
            },
        )
        profile = f"service.{namespace}.web"
        wait_for(lambda: profile in _profiles(shared, namespace, "web"))
        assert profile not in _profiles(shared, other, "web")
        objects.api.delete(f"{slices}/web-1")
        wait_for(lambda: profile not in _profiles(shared, namespace, "web"))

    def test_nodes_are_known_by_their_addresses_and_pod_ranges(
        self, objects: KubeObjects, shared: Stored
    ) -> None:
        cidrs = ["10.9.0.0/24", "fd00:9::/64"]
        objects.node("node-9", ["192.0.2.9"], cidrs)
        wait_for(lambda: (node := shared.node("node-9")) and node.addresses)
        node = shared.node("node-9")
        assert node is not None
        assert (list(map(str, node.addresses)), list(node.pod_cidrs)) == (["192.0.2.9"], cidrs)
        objects.api.delete("/api/v1/nodes/node-9")
        wait_for(lambda: shared.node("node-9") is None)

    def test_a_mistake_is_seen_by_kubectl_until_it_is_mended(
        self, kube: ApiServer, objects: KubeObjects, controller: CommandController, namespace: str
    ) -> None:
        objects.pod(namespace, "web", ["10.0.9.1"], annotations={"policy": "allow tcp frm label a"})
        wait_for(lambda: "AnnotationSyntax" in kube.kubectl("-n", namespace, "get", "events"))
        text = kube.kubectl("-n", namespace, "describe", "pod", "web")
        assert (
            "annotation policy, line 1, column 11:\n  allow tcp frm label a\n            ^^^"
        ) in text
        finding = (
            'calico_k8s_controller_findings{code="annotation-syntax",kind="Pod",'
            f'namespace="{namespace}"}}'
        )
        assert controller.metric(finding) == 1
        objects.change(pod_path(namespace, "web"), annotations={"policy": "allow tcp"})
        wait_for(lambda: controller.metric(finding) == 0)

    def test_a_wrong_flag_is_told_in_its_namespace(
        self, kube: ApiServer, objects: KubeObjects, namespace: str
    ) -> None:
        objects.change(
            f"/api/v1/namespaces/{namespace}", annotations={"projectcalico-policy": "shut"}
        )
        wait_for(lambda: "FlagValue" in kube.kubectl("-n", namespace, "get", "events"))

    def test_a_wrong_label_is_told_on_its_service(self, kube: ApiServer, namespace: str) -> None:
        mine = ("-n", namespace)
        kube.kubectl(*mine, "create", "service", "clusterip", "web", "--tcp=80")
        kube.kubectl(*mine, "label", "service", "web", "projectcalico-policy=yes")
        wait_for(lambda: "ServiceFlagValue" in kube.kubectl(*mine, "get", "events"))
        text = kube.kubectl(*mine, "describe", "service", "web")
        assert "the label projectcalico-policy is 'yes', so the service exposes nothing" in text

    def test_an_api_server_that_returns_is_followed_from_there(
        self, kube: ApiServer, objects: KubeObjects, shared: Stored, namespace: str
    ) -> None:
        objects.pod(namespace, "stays", ["10.0.10.1"])
        wait_for(lambda: shared.endpoint(namespace, "stays"))
        before = shared.items()
        kube.restart()
        objects.pod(namespace, "new", ["10.0.10.2"])
        wait_for(lambda: shared.endpoint(namespace, "new"))
        assert before.items() <= shared.items().items()

    def test_what_goes_while_it_hears_nothing_is_gone_when_it_hears_again(
        self,
        kube: ApiServer,
        objects: KubeObjects,
        controller: CommandController,
        shared: Stored,
        namespace: str,
    ) -> None:
        objects.pod(namespace, "web", ["10.0.11.1"])
        wait_for(lambda: shared.endpoint(namespace, "web"))
        controller.signal(signal.SIGSTOP)
        objects.end_pod(namespace, "web")
        kube.restart()  # which makes the revision that the controller knows too old
        controller.signal(signal.SIGCONT)
        wait_for(lambda: shared.endpoint(namespace, "web") is None, lambda: controller.log[-2000:])
        controller.wait_until_ready()

    def test_a_silent_datastore_is_waited_for(
        self,
        kube: ApiServer,
        objects: KubeObjects,
        controller: CommandController,
        shared: Stored,
        namespace: str,
    ) -> None:
        objects.pod(namespace, "web", ["10.0.12.1"])
        wait_for(lambda: shared.endpoint(namespace, "web"))
        kube.etcd.members[0].restart()
        objects_again(objects, namespace)
        wait_for(
            lambda: address_of(shared, namespace, "web") == ("10.0.12.2",),
            lambda: controller.log[-2000:],
        )
        controller.wait_until_ready()


def objects_again(objects: KubeObjects, namespace: str) -> None:
    """Another address, as soon as the API server has found its etcd again."""

    def is_done() -> bool:
        try:
            objects.pod_status(namespace, "web", ["10.0.12.2"])
        except KubeError:
            return False
        return True

    wait_for(is_done)


def _has_profile(stored: Stored, namespace: str, name: str, profile: str) -> bool:
    return profile in _profiles(stored, namespace, name)


def _profiles(stored: Stored, namespace: str, name: str) -> tuple[str, ...]:
    endpoint = stored.endpoint(namespace, name)
    return () if endpoint is None else endpoint.profiles


def test_a_restart_writes_nothing_that_is_there_and_ends_when_told(
    own: CommandController, objects: KubeObjects, store: Store, namespace: str
) -> None:
    objects.pod(namespace, "web", ["10.1.0.1"])
    own.start()
    own.wait_until_ready()
    before = store.read("/v1/host/")
    own.signal(signal.SIGTERM)
    assert own.wait() == 0
    own.start()
    own.wait_until_ready()
    assert store.read("/v1/host/").entries == before.entries
    assert own.ask("/healthz") == (200, "ok\n")


def test_the_same_mistake_is_the_same_event_for_the_next_controller(
    kube: ApiServer, own: CommandController, objects: KubeObjects, namespace: str
) -> None:
    objects.pod(namespace, "web", ["10.1.1.1"], annotations={"policy": "alow tcp"})

    def counts() -> list[int]:
        found = msgspec.json.decode(kube.kubectl("-n", namespace, "get", "events", "-o", "json"))
        return [each["count"] for each in found["items"]]

    own.start()
    wait_for(lambda: counts() == [1], lambda: own.log)
    own.kill()
    own.start()
    wait_for(lambda: counts() == [2], lambda: own.log)


def test_endpoints_that_kubernetes_does_not_have_go_after_a_second_look(
    own: CommandController, store: Store
) -> None:
    stale: dict[keys.Key, Value] = {}
    for number in range(120):
        endpoint = EndpointId(NodeName("node-1"), NamespaceName("old"), f"web-{number}")
        address = parse_address(f"10.2.0.{number}")
        stale[keys.EndpointKey(endpoint)] = WorkloadEndpoint(endpoint, (address,))
    Reconciler(store).sync(stale)
    own.start()
    own.wait_until_ready()
    assert not stale.keys() & Stored(store).items().keys()
    assert own.metric("calico_k8s_controller_mass_deletions_checked_total") == 1


def test_a_datastore_that_stops_without_a_word_has_the_last_state_when_it_goes_on(
    kube: ApiServer, objects: KubeObjects, namespace: str, tmp_path: Path
) -> None:
    objects.pod(namespace, "web", ["10.3.0.1"])
    with etcd_cluster(tmp_path / "etcd") as etcd, closing(open_store(etcd.url())) as store:
        stored = Stored(store)
        own = CommandController(kube.kubeconfig(), etcd.url(), tmp_path)
        own.start()
        try:
            own.wait_until_ready()
            wait_for(lambda: store.get(POLICIES_PATH))  # then nothing else is asked beside the loop
            etcd.members[0].pause()
            path = pod_path(namespace, "web")
            objects.change(path, labels={"app": "first"})  # written, and nobody says whether
            wait_for(lambda: own.ask("/readyz")[0] == 503, lambda: own.log)
            objects.change(path, labels={"app": "last"})
            objects.pod(namespace, "new", ["10.3.0.2"])
            etcd.members[0].resume()
            wait_for(lambda: f"{namespace}_app_last" in stored.tags(namespace, "web"))
            wait_for(lambda: stored.endpoint(namespace, "new"))
            own.wait_until_ready()
            uncertain = 'calico_k8s_controller_store_errors_total{error="StoreUncertain"}'
            assert own.metric(uncertain) >= 1
        finally:
            own.kill()


def test_who_has_no_rights_is_told_so(kube: ApiServer, url: str, tmp_path: Path) -> None:
    controller = CommandController(kube.kubeconfig(NOBODY), url, tmp_path)
    controller.start()
    assert controller.wait() == 3
    (last,) = map(msgspec.json.decode, controller.log.splitlines()[-1:])
    assert (last["level"], last["event"]) == ("critical", "ended by an error")
    assert 'namespaces "kube-system" is forbidden' in last["error"]
    assert "Traceback" not in controller.log
