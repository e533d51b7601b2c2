"""Pods: which are endpoints, with which addresses, ports, labels and profiles."""

import pytest

from calico_k8s.model.resources import NamedPort
from calico_k8s.translate.findings import Code
from calico_k8s.translate.namespaces import TranslateSettings
from calico_k8s.translate.objects import (
    Container,
    ContainerPort,
    Metadata,
    Node,
    NodeAddress,
    NodeSpec,
    NodeStatus,
    Pod,
    PodIp,
    PodSpec,
    PodStatus,
)
from calico_k8s.translate.workloads import PodReading, Workload, named_ports, read_node, read_pod

RUNNING = PodStatus("Running", "10.0.0.1")
ON_NODE = PodSpec(node_name="n1")


def read(
    spec: PodSpec = ON_NODE,
    status: PodStatus | None = RUNNING,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> PodReading:
    metadata = Metadata(name="a", namespace="prod", labels=labels, annotations=annotations)
    return read_pod(Pod(metadata, spec, status), TranslateSettings())


def workload(reading: PodReading) -> Workload:
    assert reading.workload is not None
    return reading.workload


@pytest.mark.parametrize(
    ("spec", "status", "is_endpoint"),
    [
        (ON_NODE, RUNNING, True),
        (ON_NODE, PodStatus("Pending", "10.0.0.1"), True),
        (ON_NODE, PodStatus("Unknown", "10.0.0.1"), True),
        (ON_NODE, PodStatus("Succeeded", "10.0.0.1"), False),
        (ON_NODE, PodStatus("Failed", "10.0.0.1"), False),
        (ON_NODE, PodStatus("Running"), False),
        (ON_NODE, None, False),
        (PodSpec(), RUNNING, False),
        (PodSpec(node_name="n1", host_network=True), RUNNING, False),
    ],
)
def test_a_pod_counts_from_its_address_to_its_end(
    spec: PodSpec, status: PodStatus | None, is_endpoint: bool
) -> None:
    assert (read(spec, status).workload is not None) is is_endpoint


@pytest.mark.parametrize(
    ("status", "addresses"),
    [
        (PodStatus(pod_ip="10.0.0.1"), ("10.0.0.1",)),
        (PodStatus(pod_ip="10.0.0.1", pod_ips=()), ("10.0.0.1",)),
        (
            PodStatus(pod_ip="10.0.0.1", pod_ips=(PodIp("10.0.0.1"), PodIp("FD00:0::1"))),
            ("10.0.0.1", "fd00::1"),
        ),
        (PodStatus(pod_ips=(PodIp("10.0.0.1"), PodIp("::ffff:10.0.0.1"))), ("10.0.0.1",)),
    ],
)
def test_every_address_counts_once_in_canonical_form(
    status: PodStatus, addresses: tuple[str, ...]
) -> None:
    assert workload(read(status=status)).endpoint.addresses == addresses


def test_what_is_no_address_is_left_out_and_found() -> None:
    reading = read(status=PodStatus(pod_ips=(PodIp("10.0.0.256"), PodIp("fd00::1"))))
    assert workload(reading).endpoint.addresses == ("fd00::1",)
    assert [finding.code for finding in reading.findings] == [Code.ADDRESS_INVALID]


def test_the_first_port_of_a_name_is_meant_and_sidecars_count_last() -> None:
    http, other = ContainerPort(80, "http"), ContainerPort(8080, "http")
    dns = ContainerPort(53, "dns", "UDP")
    spec = PodSpec(
        containers=(Container((http, ContainerPort(9000))), Container((other,))),
        init_containers=(Container((dns, other), "Always"), Container((ContainerPort(1, "init"),))),
    )
    pod = Pod(Metadata(name="a"), spec)
    assert named_ports(pod) == (NamedPort("dns", 17, 53), NamedPort("http", 6, 80))


def test_profiles_stand_in_order_of_their_rules() -> None:
    found = workload(read(labels={"app": "web"}, annotations={"policy": "allow"}))
    names = [profile.split(".")[0] for profile in (found.first_profile, *found.last_profiles)]
    assert names == ["annotation", "pod-labels", "namespace-labels", "serviceaccount"]
    plain = workload(read())
    names = [plain.first_profile, *plain.last_profiles]
    assert names == ["namespace.prod", "namespace-labels.prod", "serviceaccount.prod.default"]


def test_texts_that_say_the_same_share_a_profile_and_unreadable_ones_another() -> None:
    def profile(text: str) -> str:
        return workload(read(annotations={"policy": text})).first_profile

    assert profile("allow tcp") == profile("ALLOW  tcp # as before")
    assert len({profile("allow tcp"), profile("allow"), profile(""), profile("alow")}) == 4
    assert profile("alow") == profile("dney")


def test_a_pod_gets_our_labels_and_cannot_give_them_to_itself() -> None:
    forged = {"projectcalico.org/namespace": "admin", "pcns.team": "admin", "app": "web"}
    reading = read(PodSpec(node_name="n1", service_account_name="sa"), labels=forged)
    assert workload(reading).endpoint.labels == {
        "app": "web",
        "projectcalico.org/namespace": "prod",
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "sa",
    }
    assert [finding.code for finding in reading.findings] == [Code.LABEL_RESERVED] * 2


@pytest.mark.parametrize(("length", "is_label"), [(62, True), (63, False)])
def test_the_name_of_a_service_account_is_a_label_if_it_is_short(
    length: int, is_label: bool
) -> None:
    found = workload(read(PodSpec(node_name="n1", service_account_name="s" * length)))
    assert ("projectcalico.org/serviceaccount" in found.endpoint.labels) is is_label


def test_a_service_account_may_stand_under_the_field_s_first_name() -> None:
    found = workload(read(PodSpec(node_name="n1", service_account="old")))
    assert found.endpoint.labels["projectcalico.org/serviceaccount"] == "old"
    both = PodSpec(node_name="n1", service_account_name="new", service_account="old")
    assert workload(read(both)).service_account == "new"


def test_a_second_annotation_is_found_if_it_says_something_else() -> None:
    both = {"projectcalico.org/policy": "allow", "policy": "deny"}
    assert [f.code for f in read(annotations=both).findings] == [Code.ANNOTATION_KEYS]
    same = {"projectcalico.org/policy": "allow", "policy": "allow"}
    assert read(annotations=same).findings == ()


def test_a_node_s_addresses_are_those_that_packets_carry() -> None:
    status = NodeStatus(
        (
            NodeAddress("Hostname", "n1"),
            NodeAddress("InternalIP", "192.168.0.1"),
            NodeAddress("ExternalIP", "203.0.113.1"),
            NodeAddress("InternalIP", "x"),
        )
    )
    spec = NodeSpec("10.0.0.0/24", ("10.0.0.0/24", "fd00::/64", "x"))
    record, findings = read_node(Node(Metadata(name="n1"), spec, status))
    assert record.addresses == ("192.168.0.1", "203.0.113.1")
    assert record.pod_cidrs == ("10.0.0.0/24", "fd00::/64")
    assert [finding.code for finding in findings] == [Code.ADDRESS_INVALID]
