"""What has become of each policy, where its owner looks: on a live cluster, by kubectl."""

import json
import time
from collections.abc import Iterator, Mapping

import pytest

from calico_k8s.controller.kube import KubeApi
from calico_k8s.lab.plan import Place
from calico_k8s.lab.question import Probe
from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import Action
from tests.cli.program import Ran
from tests.cli.program import run as run_command
from tests.cluster.controllers import wait_for
from tests.cluster.definitions import define_calicos, define_cluster_network_policies
from tests.cluster.live import NODE_1, NODE_2, LiveCluster, PolicyStore, live_cluster
from tests.cluster.objects import Document
from tests.cluster.servers import ApiServer
from tests.cluster.shop import LISTEN, OBJECTS, WEB, ShopPod, apply, run

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.timeout(180)]

ALL = ("True", "on 2 of 2 nodes")
CALICO = "projectcalico.org/v3"


def document(kind: str, name: str, spec: Document, namespace: str = "") -> Document:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    version = {"ClusterNetworkPolicy": "policy.networking.k8s.io/v1alpha2"}.get(kind, CALICO)
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


TIER = document("Tier", "security", {"order": 100})
DENY: Document = {"types": ["Ingress"], "ingress": [{"action": "Deny"}]}
GUARD = document(
    "GlobalNetworkPolicy", "guard", {"tier": "security", "selector": "app == 'front'", **DENY}
)
FRONT, REAR = ShopPod("shop/front", NODE_1, 11, {"app": "front"}), ShopPod("shop/rear", NODE_2, 12)
EVERY_KIND = [
    TIER,
    GUARD,
    document("NetworkPolicy", "own", {"selector": "app == 'back'", **DENY}, "shop"),
    document("GlobalNetworkSet", "outside", {"nets": ["198.51.100.0/24"]}),
    document("NetworkSet", "partners", {"nets": ["203.0.113.0/24"]}, "shop"),
    document("Profile", "hosts", {"labelsToApply": {"role": "host"}}),
    document(
        "ClusterNetworkPolicy",
        "base",
        {
            "tier": "Baseline",
            "priority": 10,
            "subject": {"namespaces": {}},
            "ingress": [{"action": "Accept", "from": [{"namespaces": {}}]}],
        },
    ),
]
RESOURCES = {
    "NetworkPolicy": "calnp",
    "ClusterNetworkPolicy": "clusternetworkpolicy",
}


def define_all(kube: ApiServer, api: KubeApi) -> None:
    """Every kind of policy there is."""
    define_calicos(kube, api)
    define_cluster_network_policies(kube, api)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    folder = tmp_path_factory.mktemp("statuses")
    with live_cluster(folder, listen=LISTEN, policy_store=PolicyStore(1), define=define_all) as up:
        apply(up, *OBJECTS)
        run(up, FRONT, REAR)
        up.wait_in_force()
        apply(up, *EVERY_KIND)
        yield up


def got(cluster: LiveCluster, of: Document) -> Document:
    """The object as it is now."""
    kind, metadata = of["kind"], of["metadata"]
    where = ("-n", metadata["namespace"]) if "namespace" in metadata else ()
    resource = RESOURCES.get(kind, kind.lower())
    found: Document = json.loads(
        cluster.kube.kubectl("get", resource, metadata["name"], *where, "-o", "json")
    )
    return found


def conditions(cluster: LiveCluster, of: Document) -> Mapping[str, Document]:
    """Its conditions by type, those that are about what it says now; none until then."""
    found = got(cluster, of)
    told = {each["type"]: each for each in found.get("status", {}).get("conditions", ())}
    generation = found["metadata"]["generation"]
    is_new = all(each["observedGeneration"] == generation for each in told.values())
    return told if is_new else {}


def wait_until(cluster: LiveCluster, of: Document, **wanted: tuple[str, str]) -> None:
    """Returns once conditions have these statuses, and words in their reason or message."""

    def is_so() -> bool:
        told = conditions(cluster, of)
        return all(
            type_ in told
            and told[type_]["status"] == status
            and words in f"{told[type_]['reason']}: {told[type_]['message']}"
            for type_, (status, words) in wanted.items()
        )

    wait_for(is_so, lambda: f"{got(cluster, of)}\n{cluster.leader().log[-3000:]}")


def status(cluster: LiveCluster, *more: str) -> Ran:
    """``calico-k8s status``."""
    return run_command("status", *more, env=cluster.store.environment())


def reaches(cluster: LiveCluster) -> Action:
    """Whether packets pass from one pod to the other, which the guard is of."""
    question = Probe(Place(REAR.name), Address(FRONT.addresses[0]), *reversed(WEB))
    return cluster.prober.probe([question])[0].verdict


def test_a_policy_in_force_says_so_whatever_its_kind(cluster: LiveCluster) -> None:
    wait_until(cluster, GUARD, Programmed=ALL)
    assert reaches(cluster) is Action.DENY, "what is said of packets is true of them"
    for each in EVERY_KIND:
        wait_until(cluster, each, Accepted=("True", ""), ResolvedRefs=("True", ""), Programmed=ALL)
        for told in conditions(cluster, each).values():
            assert told["observedGeneration"] == 1
            assert told["lastTransitionTime"]


def test_the_columns_of_kubectl_get_show_it(cluster: LiveCluster) -> None:
    wait_until(cluster, GUARD, Programmed=ALL)
    header, row = cluster.kube.kubectl("get", "gnp", "guard").splitlines()
    columns = ["NAME", "TIER", "ORDER", "ACCEPTED", "RESOLVED", "PROGRAMMED", "AGE"]
    assert header.split() == columns
    assert row.split()[:-1] == ["guard", "security", "True", "True", "True"]  # no order
    wide = cluster.kube.kubectl("get", "gnp", "guard", "-o", "wide")
    assert "on 2 of 2 nodes" in wide


def test_a_change_is_told_and_our_own_writing_is_no_change(cluster: LiveCluster) -> None:
    wait_until(cluster, GUARD, Programmed=ALL)
    before = conditions(cluster, GUARD)
    opened = {"order": 7, "ingress": [{"action": "Allow"}]}
    apply(cluster, {**GUARD, "spec": {**GUARD["spec"], **opened}})
    cluster.kube.kubectl("wait", "--for=condition=Programmed", "gnp/guard", "--timeout=60s")
    assert reaches(cluster) is Action.ALLOW
    assert got(cluster, GUARD)["metadata"]["generation"] == 2
    assert conditions(cluster, GUARD)["Programmed"]["observedGeneration"] == 2
    apply(cluster, {**TIER, "spec": {"order": 101}})
    for each in EVERY_KIND:
        wait_until(cluster, each, Programmed=ALL)
    after = conditions(cluster, GUARD)
    assert {each["observedGeneration"] for each in after.values()} == {2}
    for type_ in ("Accepted", "ResolvedRefs"):  # it was so all the while
        assert after[type_]["lastTransitionTime"] == before[type_]["lastTransitionTime"]
    written = doings(cluster)
    time.sleep(1.5)
    assert doings(cluster) == written


def test_without_its_tier_a_policy_is_not_accepted_until_it_comes(cluster: LiveCluster) -> None:
    late = document("GlobalNetworkPolicy", "late", {"tier": "late", **DENY, "selector": "a == 'c'"})
    apply(cluster, late)
    lacks = ("False", "TierUnknown: there is no tier 'late'")
    wait_until(
        cluster, late, Accepted=lacks, ResolvedRefs=lacks, Programmed=("False", "NotEnforced")
    )
    wait_for(lambda: "GlobalNetworkPolicy/late: there is no tier" in status(cluster).out)
    assert status(cluster).code == 1
    apply(cluster, document("Tier", "late", {}))
    wait_until(cluster, late, Accepted=("True", ""), ResolvedRefs=("True", ""), Programmed=ALL)
    cluster.kube.kubectl("delete", "gnp", "late")
    wait_for(lambda: status(cluster).code == 0, lambda: status(cluster).out)


NAMING: dict[str, Document] = {
    "PolicyServiceUnknown": {"services": {"name": "api", "namespace": "shop"}},
    "ServiceAccountUnknown": {"serviceAccounts": {"names": ["robot"]}},
    "PortNameUnknown": {"ports": ["metrics"]},
}
"""What a rule says, by why the policy is not whole."""
SLICE: Document = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "name": "api-1",
        "namespace": "shop",
        "labels": {"kubernetes.io/service-name": "api"},
    },
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.244.1.11"]}],
    "ports": [{"port": 4001, "protocol": "TCP"}],
}
ACCOUNT: Document = {
    "apiVersion": "v1",
    "kind": "ServiceAccount",
    "metadata": {"name": "robot", "namespace": "shop"},
}


def test_what_a_policy_names_and_is_not_there_is_told_until_it_comes(cluster: LiveCluster) -> None:
    def asking(reason: str, end: Document) -> Document:
        rule = {"action": "Allow", "protocol": "TCP", "destination": end}
        spec = {"egress": [rule], "selector": "a == 'd'"}
        return document("GlobalNetworkPolicy", reason.lower(), spec)

    policies = {reason: asking(reason, end) for reason, end in NAMING.items()}
    kubernetes = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "scraped", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": "metrics"}]}]},
    }
    apply(cluster, *policies.values(), kubernetes)
    for reason, policy in policies.items():
        lacks = ("False", f"{reason}: ")
        wait_until(cluster, policy, Accepted=("True", ""), ResolvedRefs=lacks, Programmed=ALL)
    told = "NetworkPolicy/shop/scraped: no pod has a port of tcp named 'metrics'"
    wait_for(lambda: told in status(cluster).out, lambda: status(cluster).out)
    wait_for(
        lambda: status(cluster).code == 0, lambda: status(cluster).out
    )  # in force but for that
    scraped = ShopPod("shop/scraped", NODE_1, 13).document()
    scraped["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 9090}]
    apply(cluster, SLICE, ACCOUNT, scraped)
    cluster.run_pod("shop", "scraped", *ShopPod("shop/scraped", NODE_1, 13).addresses)
    for policy in policies.values():
        wait_until(cluster, policy, ResolvedRefs=("True", ""), Programmed=ALL)
    wait_for(lambda: told not in status(cluster).out, lambda: status(cluster).out)


def test_a_node_whose_agent_is_gone_lags_until_it_returns(cluster: LiveCluster) -> None:
    cluster.agents.kill(NODE_2)
    apply(cluster, {**GUARD, "spec": {**GUARD["spec"], "order": 8}})
    behind = ("False", "NodesBehind: on 1 of 2 nodes, not on node-2")
    wait_until(cluster, GUARD, Accepted=("True", ""), Programmed=behind)
    wait_until(cluster, EVERY_KIND[2], Programmed=ALL)  # what it enforced when it fell silent
    assert "GlobalNetworkPolicy/guard: on 1 of 2 nodes, not on node-2" in status(cluster).out
    cluster.agents.start(NODE_2)
    wait_until(cluster, GUARD, Programmed=ALL)


def doings(cluster: LiveCluster) -> tuple[float, float, str]:
    """How many statuses and keys the leader has written, and a status' resourceVersion."""
    metric = cluster.leader().metric
    statuses = metric('calico_k8s_controller_status_writes_total{result="written"}')
    keys = metric("calico_k8s_controller_keys_put_total")
    return statuses, keys, got(cluster, GUARD)["metadata"]["resourceVersion"]
