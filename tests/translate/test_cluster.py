"""The translator against the obvious translation, and what whole clusters become."""

from collections.abc import Sequence
from itertools import product

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model import codec, keys
from calico_k8s.model.addresses import parse_address
from calico_k8s.model.dns_servers import parse_dns_servers
from calico_k8s.model.names import ProfileId
from calico_k8s.model.resources import Value
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.verdict import judge
from calico_k8s.translate import objects
from calico_k8s.translate.cluster import Changes, Translator, translate_all
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.namespaces import FLAG, TranslateSettings
from calico_k8s.translate.objects import KubeObject, object_ref
from tests import strategies
from tests.obvious_translation import translate

SERVICES = tuple(product(strategies.NAMESPACES, strategies.NAMES))
SETTINGS = st.builds(
    TranslateSettings,
    default_namespace_policy=st.sampled_from(("open", "closed")),
    auto_host_endpoints=st.booleans(),
    dns_servers=st.sampled_from(
        tuple(
            map(
                parse_dns_servers,
                ("none", "10.0.0.53", *(f"k8s-service:{s}/{n},10.0.0.1:80" for s, n in SERVICES)),
            )
        )
    ),
)


def final_objects(history: list[strategies.Step]) -> dict[ObjectRef, KubeObject]:
    state: dict[ObjectRef, KubeObject] = {}
    for step in history:
        if isinstance(step, ObjectRef):
            state.pop(step, None)
        elif step is not None:
            state[object_ref(step)] = step
    return state


def apply(items: dict[keys.Key, Value], changes: Changes) -> None:
    assert not changes.puts.keys() & changes.deletes
    for key in changes.deletes:
        del items[key]
    for key, value in changes.puts.items():
        assert items.get(key) != value, "a put that changes nothing"
        items[key] = value


@given(strategies.histories(), SETTINGS)
def test_after_any_history_the_sum_of_changes_is_the_obvious_translation(
    history: list[strategies.Step], settings: TranslateSettings
) -> None:
    translator = Translator(settings, sees_all=True)
    items: dict[keys.Key, Value] = {}
    for step in [*history, None]:
        if step is None:
            apply(items, translator.flush())
        elif isinstance(step, ObjectRef):
            translator.remove(step)
        else:
            translator.update(step)
    state = final_objects(history)
    assert items == translate(state, settings)
    fresh = translate_all(state.values(), settings, sees_all=True)
    assert items == fresh.items
    assert translator.findings == fresh.findings
    assert translator.flush().is_empty()


@given(st.lists(strategies.kube_objects()), SETTINGS)
def test_what_is_translated_survives_the_datastore(
    cluster: list[KubeObject], settings: TranslateSettings
) -> None:
    for key, value in translate_all(cluster, settings).items.items():
        assert keys.parse_path(keys.key_path(key)) == key
        decoded = codec.decode(key, codec.encode(value))
        assert (decoded.value, decoded.problems) == (value, ())


# Whole clusters, asked who reaches whom by the definition.


def pod(
    name: str,
    address: str,
    policy: str | None = None,
    labels: dict[str, str] | None = None,
    ports: tuple[objects.ContainerPort, ...] = (),
) -> objects.Pod:
    namespace, _, short = name.partition("/")
    annotations = {} if policy is None else {"policy": policy}
    return objects.Pod(
        objects.Metadata(name=short, namespace=namespace, labels=labels, annotations=annotations),
        objects.PodSpec(node_name="n1", containers=(objects.Container(ports),)),
        objects.PodStatus("Running", address),
    )


def namespace(name: str, flag: str | None = None) -> objects.Namespace:
    return objects.Namespace(
        objects.Metadata(name=name, labels={} if flag is None else {FLAG: flag})
    )


def open_service(
    name: str, selector: dict[str, str] | None, *ports: objects.ServicePort
) -> objects.Service:
    space, _, short = name.partition("/")
    return objects.Service(
        objects.Metadata(name=short, namespace=space, labels={FLAG: "open"}),
        objects.ServiceSpec(selector=selector, ports=ports),
    )


def allowed(cluster: Sequence[KubeObject], src: str, dst: str, port: int = 80) -> bool:
    snapshot = Snapshot.from_items(translate_all(cluster).items)
    flow = Flow(parse_address(src), parse_address(dst), 6, 40000, port)
    return judge(snapshot, flow).allowed


A, B, C, OUTSIDE = "10.0.0.1", "10.0.0.2", "10.0.1.1", "198.51.100.1"


def test_a_closed_namespace_takes_its_own_pods_only() -> None:
    cluster: list[KubeObject] = [
        namespace("x", "closed"),
        namespace("y"),
        pod("x/a", A),
        pod("x/b", B),
        pod("y/c", C),
    ]
    assert allowed(cluster, A, B)
    assert allowed(cluster, A, C)
    assert not allowed(cluster, C, A)
    assert not allowed(cluster, OUTSIDE, A)


def test_an_annotation_replaces_the_flag_for_its_pod_alone() -> None:
    cluster: list[KubeObject] = [
        namespace("x"),
        pod("x/a", A, policy="allow tcp from label role=client to port 80"),
        pod("x/b", B, labels={"role": "client"}),
        pod("x/c", C),
    ]
    assert allowed(cluster, B, A)
    assert not allowed(cluster, B, A, port=81)
    assert not allowed(cluster, C, A)
    assert allowed(cluster, A, C)


def test_the_label_of_a_pod_in_another_namespace_does_not_count() -> None:
    cluster: list[KubeObject] = [
        namespace("x"),
        namespace("y"),
        pod("x/a", A, policy="allow from label role=client"),
        pod("y/c", C, labels={"role": "client"}),
    ]
    assert not allowed(cluster, C, A)


def test_a_text_that_does_not_parse_closes_its_pod_even_to_services_and_no_other() -> None:
    service = open_service("x/s", {"app": "web"}, objects.ServicePort(80))
    cluster: list[KubeObject] = [
        namespace("x"),
        service,
        pod("x/a", A, policy="alow tcp", labels={"app": "web"}),
        pod("x/b", B, labels={"app": "web"}),
        pod("x/c", C),
    ]
    assert not allowed(cluster, C, A)
    assert allowed(cluster, C, B)
    assert allowed(cluster, A, C)


def test_an_open_service_adds_its_ports_to_an_annotation_and_a_written_deny_wins() -> None:
    service = open_service("x/s", {"app": "web"}, objects.ServicePort(80), objects.ServicePort(81))
    cluster: list[KubeObject] = [
        namespace("x"),
        service,
        pod("x/a", A, policy="deny tcp to port 81", labels={"app": "web"}),
    ]
    assert allowed(cluster, OUTSIDE, A, port=80)
    assert not allowed(cluster, OUTSIDE, A, port=81)
    assert not allowed(cluster, OUTSIDE, A, port=82)


def test_a_named_target_port_is_each_pod_s_own() -> None:
    cluster: list[KubeObject] = [
        namespace("x", "closed"),
        open_service("x/s", {"app": "web"}, objects.ServicePort(80, target_port="http")),
        pod("x/a", A, labels={"app": "web"}, ports=(objects.ContainerPort(8001, "http"),)),
        pod("x/b", B, labels={"app": "web"}, ports=(objects.ContainerPort(8002, "http"),)),
    ]
    assert [allowed(cluster, OUTSIDE, A, port) for port in (8001, 8002, 80)] == [True, False, False]
    assert [allowed(cluster, OUTSIDE, B, port) for port in (8001, 8002, 80)] == [False, True, False]


def test_a_service_without_selector_opens_pods_of_its_own_namespace_only() -> None:
    endpoint_slice = objects.EndpointSlice(
        objects.Metadata(name="z", namespace="x", labels={"kubernetes.io/service-name": "s"}),
        (objects.SliceEndpoint((A, C)),),
    )
    cluster: list[KubeObject] = [
        namespace("x", "closed"),
        namespace("y", "closed"),
        open_service("x/s", None, objects.ServicePort(80)),
        endpoint_slice,
        pod("x/a", A),
        pod("y/c", C),
    ]
    assert allowed(cluster, OUTSIDE, A)
    assert not allowed(cluster, OUTSIDE, C)


def test_a_pod_whose_namespace_is_not_there_yet_is_closed() -> None:
    cluster: list[KubeObject] = [pod("x/a", A), pod("x/b", B)]
    assert not allowed(cluster, OUTSIDE, A)
    assert allowed([namespace("x"), *cluster], OUTSIDE, A)


def test_two_pods_with_one_address_are_both_written() -> None:
    items = translate_all([namespace("x"), pod("x/a", A), pod("x/b", A)]).items
    assert sum(isinstance(key, keys.EndpointKey) for key in items) == 2


def test_an_object_that_cannot_be_decoded_counts_as_absent_and_is_told() -> None:
    translator = Translator(TranslateSettings())
    translator.update(namespace("x", "open"))
    translator.flush()
    decoded = objects.decode_object("Namespace", {"metadata": {"name": "x", "labels": {"a": 1}}})
    translator.report(decoded.ref, decoded.findings)
    changes = translator.flush()
    assert changes.findings == {decoded.ref: decoded.findings}
    assert keys.ProfileRulesKey(ProfileId("namespace.x")) in changes.deletes


def test_findings_are_told_once_and_so_is_their_end() -> None:
    translator = Translator(TranslateSettings())
    broken, mended = pod("x/a", A, policy="alow"), pod("x/a", A, policy="allow")
    translator.update(broken)
    assert [f.code for f in translator.flush().findings[object_ref(broken)]] == [
        "annotation-syntax"
    ]
    translator.update(broken)
    assert translator.flush().is_empty()
    translator.update(mended)
    assert translator.flush().findings == {object_ref(broken): ()}


def test_a_node_has_endpoints_while_pods_or_host_endpoints_are_on_it() -> None:
    translator = Translator(TranslateSettings())
    host = objects.CalicoHostEndpoint(
        objects.Metadata(name="eth0"), {"node": "n2", "interfaceName": "eth0"}
    )
    for each in (pod("x/a", A), pod("x/b", B), host):
        translator.update(each)
        translator.flush()
    assert translator.nodes_with_endpoints() == {"n1", "n2"}
    for gone in ("a", "b"):
        translator.remove(ObjectRef("Pod", "x", gone))
    translator.flush()
    assert translator.nodes_with_endpoints() == {"n2"}
    translator.update(msgspec.structs.replace(host, spec={"node": "n3", "interfaceName": "*"}))
    translator.flush()
    assert translator.nodes_with_endpoints() == {"n3"}
    translator.remove(object_ref(host))
    translator.flush()
    assert not translator.nodes_with_endpoints()
