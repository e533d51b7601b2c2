"""From objects to what is built: an address once, services to pods, every port listened on."""

from calico_k8s.lab.plan import ListenPort, check_plan
from calico_k8s.lab.planning import lab_plan, lost_addresses
from calico_k8s.model.addresses import address_version
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.query.matrix import parse_service
from calico_k8s.sources.expand import ClusterObjects
from calico_k8s.translate.cluster import translate_all
from tests.lab.clusters import Object, expanded
from tests.lab.plans import TCP, UDP
from tests.lab.walls import OBJECTS, pod


def snapshot_of(objects: ClusterObjects) -> Snapshot:
    return Snapshot.from_items(translate_all(objects.objects()).items)


def claiming(name: str, address: str, year: int) -> Object:
    made = pod(name, "node-1")
    made["metadata"]["creationTimestamp"] = f"{year}-01-01T00:00:00Z"
    made["status"] = {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}
    return made


def test_every_pod_is_built_with_both_its_addresses() -> None:
    objects = expanded(OBJECTS)
    plan = lab_plan(objects, snapshot_of(objects))
    check_plan(plan)
    assert len(plan.pods) == 7
    built = [each.addresses for each in plan.pods] + [each.addresses for each in plan.nodes]
    for addresses in built:
        assert sorted(map(address_version, addresses)) == [4, 6]


def test_an_address_is_built_in_the_newest_pod_that_claims_it() -> None:
    pods = [claiming("a/old", "10.9.9.9", 2024), claiming("a/new", "10.9.9.9", 2025)]
    objects = expanded(pods)
    snapshot = snapshot_of(objects)
    plan = lab_plan(objects, snapshot)
    check_plan(plan)
    assert [each.id for each in plan.pods] == ["a/new"]
    (lost,) = lost_addresses(snapshot)
    assert lost == "address 10.9.9.9 of pod a/old belongs to a/new, which is newer"


def test_pods_listen_on_what_is_asked_declared_and_led_to() -> None:
    declared = pod("web/named", "node-1", app="named")
    ports = [{"name": "dns", "containerPort": 5353, "protocol": "UDP"}, {"containerPort": 8080}]
    declared["spec"]["containers"] = [{"name": "c", "ports": ports}]
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "web"},
        "spec": {"selector": {"app": "named"}, "ports": [{"port": 80, "targetPort": 9000}]},
    }
    objects = expanded([declared, service])
    plan = lab_plan(objects, snapshot_of(objects), [parse_service("81"), parse_service("icmp")])
    ports_asked = {(TCP, 81), (TCP, 8080), (TCP, 9000), (UDP, 5353)}
    assert set(plan.listen) == {ListenPort(*port) for port in ports_asked}
    (built,) = plan.services
    ((_, backend),) = [(port.port, port.backends[0]) for port in built.ports]
    assert backend.port == 9000
    assert backend.address in plan.pods[0].addresses


def test_services_lead_to_pods_of_the_lab_only() -> None:
    outside: Object = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "s-1",
            "namespace": "web",
            "labels": {"kubernetes.io/service-name": "s"},
        },
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["192.0.2.1"]}],
    }
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "web"},
        "spec": {"ports": [{"port": 80}]},
    }
    objects = expanded([outside, service, pod("web/a", "node-1")])
    (built,) = lab_plan(objects, snapshot_of(objects)).services
    assert [port.backends for port in built.ports] == [()]
