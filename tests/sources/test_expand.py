"""Clusters from manifests: applications, assignment, what is kept, what is wrong."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.errors import InputError
from calico_k8s.model.resources import WorkloadEndpoint
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, expand
from calico_k8s.sources.manifests import read_manifests
from calico_k8s.translate.cluster import translate_all
from calico_k8s.translate.findings import Code, ObjectRef
from calico_k8s.translate.objects import object_ref
from calico_k8s.translate.workloads import pod_addresses

APPS = Path(__file__).parent.parent / "apps"


def cluster(
    text: str, options: ExpandOptions | None = None, before: ClusterObjects | None = None
) -> ClusterObjects:
    reading = read_text(text, "f.yaml")
    assert not reading.errors
    return expand(reading.manifests, options, before)


def app(name: str) -> ClusterObjects:
    return expand(read_manifests([str(APPS / name)]).checked().manifests)


def addresses(found: ClusterObjects) -> dict[str, tuple[str, ...]]:
    return {pod.metadata.name: pod_addresses(pod) for pod in found.pods}


def deployment(name: str, replicas: int = 1) -> str:
    return f"""---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  template:
    metadata: {{labels: {{app: {name}}}}}
"""


@pytest.mark.parametrize(
    ("name", "pods", "services"),
    [("shop", 18, 12), ("guestbook.yaml", 6, 3), ("voting.yaml", 11, 4), ("dual-stack.yaml", 4, 2)],
)
def test_an_application_becomes_pods_and_services_without_a_finding(
    name: str, pods: int, services: int
) -> None:
    found = app(name)
    assert (len(found.pods), len(found.services)) == (pods, services)
    assert found.findings == ()
    assert found.notes == ()
    translation = translate_all(found.objects())
    assert translation.findings == ()
    endpoints = [v for v in translation.items.values() if isinstance(v, WorkloadEndpoint)]
    assert len(endpoints) == len(found.pods)
    held = [address for endpoint in endpoints for address in endpoint.addresses]
    assert len(held) == len(set(held))


def test_the_order_of_the_input_does_not_matter() -> None:
    manifests = read_manifests([str(APPS / "voting.yaml")]).manifests
    forward, backward = expand(manifests), expand(reversed(manifests))
    assert list(forward.objects()) == list(backward.objects())


def test_what_is_given_is_kept_and_the_rest_is_assigned() -> None:
    found = app("dual-stack.yaml")
    assert [node.metadata.name for node in found.nodes] == ["node-1", "node-2"]
    assert addresses(found)["page"] == ("10.9.0.10", "fd00:9::10")
    assert all(len(held) == 2 for held in addresses(found).values())


def test_families_are_ipv4_unless_something_carries_ipv6() -> None:
    assert addresses(cluster(deployment("a"))) == {"a-0": ("10.128.0.2",)}
    both = cluster(deployment("a"), ExpandOptions(families=(4, 6)))
    assert addresses(both) == {"a-0": ("10.128.0.2", "fd00:10:128::2")}
    six = cluster(deployment("a"), ExpandOptions(families=(6,)))
    assert addresses(six) == {"a-0": ("fd00:10:128::2",)}


def test_nodes_are_those_given_else_two_and_never_fewer_than_asked() -> None:
    def names(text: str, nodes: int | None = None) -> list[str]:
        return [n.metadata.name for n in cluster(text, ExpandOptions(nodes=nodes)).nodes]

    node = "---\nkind: Node\napiVersion: v1\nmetadata: {name: big}\n"
    assert names(deployment("a")) == ["node-1", "node-2"]
    assert names(node) == ["big"]
    assert names(node, 2) == ["big", "node-1"]
    assert names(deployment("a"), 1) == ["node-1"]
    with pytest.raises(InputError, match="without nodes"):
        names(deployment("a"), 0)


def test_pods_take_the_nodes_in_turn_and_addresses_from_their_node() -> None:
    found = cluster(deployment("a", 4))
    assert [pod.spec.node_name for pod in found.pods if pod.spec] == ["node-1", "node-2"] * 2
    assert addresses(found) == {
        "a-0": ("10.128.0.2",),
        "a-1": ("10.128.16.2",),
        "a-2": ("10.128.0.3",),
        "a-3": ("10.128.16.3",),
    }


def test_a_pod_that_is_added_moves_no_other() -> None:
    before = cluster(deployment("b", 3))
    after = cluster(deployment("a") + deployment("b", 3), before=before)
    assert addresses(before).items() <= addresses(after).items()
    assert len(set(addresses(after).values())) == 4


def test_an_address_that_is_given_is_never_given_away() -> None:
    text = deployment("a", 2) + (
        "---\nkind: Pod\napiVersion: v1\nmetadata: {name: p}\n"
        "spec: {nodeName: node-2}\nstatus: {podIP: 10.128.0.2}\n"
        "---\nkind: Service\napiVersion: v1\nmetadata: {name: s}\nspec: {clusterIP: 10.96.0.2}\n"
        "---\nkind: Service\napiVersion: v1\nmetadata: {name: t}\nspec: {}\n"
    )
    found = cluster(text)
    assert addresses(found)["p"] == ("10.128.0.2",)
    # The block that holds the given address is no node's.
    assert addresses(found)["a-0"] == ("10.128.16.2",)
    assert [s.spec.cluster_ip for s in found.services if s.spec] == ["10.96.0.2", "10.96.0.3"]


def test_a_node_s_own_pod_cidrs_are_used() -> None:
    node = (
        "kind: Node\napiVersion: v1\nmetadata: {name: n}\nspec: {podCIDR: 10.244.3.0/24}\n"
        "status: {addresses: [{type: InternalIP, address: 192.168.1.9}]}\n"
    )
    found = cluster(node + deployment("a"))
    assert addresses(found) == {"a-0": ("10.244.3.2",)}
    assert found.nodes[0].status is not None
    assert [entry.address for entry in found.nodes[0].status.addresses or ()] == ["192.168.1.9"]


def test_a_net_without_a_free_address_is_told() -> None:
    node = "kind: Node\napiVersion: v1\nmetadata: {name: n}\nspec: {podCIDR: 10.0.0.0/30}\n"
    with pytest.raises(InputError, match=r"no address is left in 10\.0\.0\.0/30"):
        cluster(node + deployment("a", 2))


def test_pods_on_their_node_s_network_have_its_address_and_finished_ones_none() -> None:
    text = (
        "---\nkind: Pod\napiVersion: v1\nmetadata: {name: h}\nspec: {hostNetwork: true}\n"
        "---\nkind: Pod\napiVersion: v1\nmetadata: {name: z}\nstatus: {phase: Succeeded}\n"
    )
    assert addresses(cluster(text)) == {"h": ("10.64.0.2",), "z": ()}


def test_headless_and_external_services_get_no_cluster_ip() -> None:
    text = (
        "---\nkind: Service\napiVersion: v1\nmetadata: {name: a}\nspec: {clusterIP: None}\n"
        "---\nkind: Service\napiVersion: v1\nmetadata: {name: b}\nspec: {type: ExternalName}\n"
    )
    assert [s.spec.cluster_ip for s in cluster(text).services if s.spec] == ["None", None]


def test_namespaces_that_are_used_are_made_and_all_carry_their_name() -> None:
    text = "kind: Namespace\napiVersion: v1\nmetadata: {name: x}\n" + deployment("a")
    found = cluster(text)
    assert {n.metadata.name: n.metadata.labels for n in found.namespaces} == {
        "default": {"kubernetes.io/metadata.name": "default"},
        "x": {"kubernetes.io/metadata.name": "x"},
    }


def test_objects_without_a_name_are_found_each_at_its_place() -> None:
    found = cluster("kind: Pod\napiVersion: v1\n---\nkind: Pod\napiVersion: v1\nmetadata: {}\n")
    assert [(str(p.written.place(p.finding.path)), p.finding.message) for p in found.findings] == [
        ("f.yaml:1:1", "Pod/default/?: metadata is missing"),
        ("f.yaml:6:1", "Pod/default/?: metadata.name is missing"),
    ]


def test_a_namespace_that_cannot_be_decoded_is_not_made_anew() -> None:
    text = "kind: Namespace\napiVersion: v1\nmetadata: {name: default, labels: {a: 1}}\n"
    found = cluster(text + deployment("a"))
    assert found.namespaces == ()
    assert [placed.finding.code for placed in found.findings] == [Code.OBJECT_INVALID]


def test_a_pod_knows_where_its_template_was_written() -> None:
    found = cluster(deployment("a"))
    written = found.written[ObjectRef("Pod", "default", "a-0")]
    assert written.ref == ObjectRef("Deployment", "default", "a")
    assert str(written.place(("metadata", "labels", "app"))) == "f.yaml:8:30"


def test_of_two_objects_of_one_name_the_later_holds_and_it_is_told() -> None:
    found = cluster(deployment("a", 1) + deployment("a", 2))
    assert len(found.pods) == 2
    (placed,) = found.findings
    assert placed.finding.code == Code.OBJECT_DUPLICATE
    assert "f.yaml:2:1" in placed.finding.message


def test_other_kinds_are_passed_over_with_a_note() -> None:
    text = (
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n---\nkind: Service\n"
        "apiVersion: serving.knative.dev/v1\nmetadata: {name: k}\n---\n"
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: b}\n"
    )
    found = cluster(text)
    assert found.notes == (
        "no part of this, skipped: ConfigMap (2), Service.serving.knative.dev (1)",
    )


WORKLOADS = st.lists(
    st.tuples(
        st.sampled_from(("Deployment", "StatefulSet", "DaemonSet")),
        st.sampled_from(("a", "b")),
        st.integers(0, 5),
        st.sampled_from((None, "10.128.0.2", "10.128.0.3")),
    ),
    max_size=4,
)


@given(WORKLOADS, st.integers(1, 3), st.sampled_from(((4,), (6,), (4, 6))))
def test_no_two_pods_share_a_name_or_an_assigned_address(
    workloads: list[tuple[str, str, int, str | None]], nodes: int, families: tuple[int, ...]
) -> None:
    documents = []
    for number, (kind, name, replicas, address) in enumerate(workloads):
        documents.append(
            f"kind: {kind}\napiVersion: apps/v1\nmetadata: {{name: {name}}}\n"
            f"spec: {{replicas: {replicas}}}\n"
        )
        if address:
            documents.append(
                f"kind: Pod\napiVersion: v1\nmetadata: {{name: given-{number}}}\n"
                f"status: {{podIP: {address}}}\n"
            )
    options = msgspec.convert({"nodes": nodes, "families": families}, ExpandOptions)
    found = cluster("---\n".join(documents), options)
    refs = [object_ref(pod) for pod in found.pods]
    assert len(refs) == len(set(refs))
    assigned = [
        a for pod in found.pods if "given" not in pod.metadata.name for a in pod_addresses(pod)
    ]
    given_away = {
        a for pod in found.pods if "given" in pod.metadata.name for a in pod_addresses(pod)
    }
    assert len(assigned) == len(set(assigned))
    assert not given_away & set(assigned)
