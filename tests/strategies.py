"""Hypothesis strategies for Kubernetes objects: small pools of names, so that things collide.

Objects come out decoded.  Pods share addresses, labels and policy texts across namespaces;
services, slices, namespaces and accounts are often missing, and often refer to each other.
"""

from datetime import UTC, datetime

from hypothesis import strategies as st

from calico_k8s.translate import objects
from calico_k8s.translate.objects import KubeObject

NAMESPACES = ("prod", "dev", "kube-system")
NAMES = ("a", "b", "c")
NODES = ("node-1", "node-2")
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00:0::2", "::ffff:10.0.0.1")
ACCOUNTS = ("default", "builder")
LABEL_KEYS = ("app", "tier", "example.org/a_b")
LABEL_VALUES = ("web", "db", "")
PORT_NAMES = ("http", "dns")
POLICY_KEYS = ("projectcalico.org/policy", "policy")
FLAG_KEY = "projectcalico-policy"

POLICY_TEXTS = (
    "",
    "allow",
    "allow tcp from label app=web to port 80",
    "allow tcp from label app=web label tier=db",
    "allow from namespace dev",
    "allow from namespace dev label app=db",
    "allow udp from selector (app in {'web', 'db'} || has(tier)) to port dns",
    "deny tcp from cidr 10.0.0.0/8; allow",
    "DENY TCP from cidr 10.0.0.0/8;  allow # the same, written otherwise",
    "allow icmp type 8 code 0",
    "allow tcp frm label app=web",
)

FLAGS = ("open", "closed", "Open")


def label_maps() -> st.SearchStrategy[dict[str, str]]:
    """Labels of a pod, of a namespace, of a service's selector."""
    return st.dictionaries(st.sampled_from(LABEL_KEYS), st.sampled_from(LABEL_VALUES), max_size=3)


def metadata(
    *,
    namespaced: bool = True,
    labels: st.SearchStrategy[dict[str, str]] | None = None,
    annotations: st.SearchStrategy[dict[str, str]] | None = None,
) -> st.SearchStrategy[objects.Metadata]:
    """Metadata of an object."""
    return st.builds(
        objects.Metadata,
        name=st.sampled_from(NAMES if namespaced else NAMESPACES),
        namespace=st.sampled_from(NAMESPACES) if namespaced else st.none(),
        labels=st.none() | (label_maps() if labels is None else labels),
        annotations=st.none() if annotations is None else st.none() | annotations,
        uid=st.sampled_from(("", "u1", "u2")),
        creation_timestamp=st.sampled_from((None, datetime(2026, 1, 1, tzinfo=UTC))),
        generation=st.sampled_from((None, 1, 2)),
    )


def flags() -> st.SearchStrategy[dict[str, str]]:
    """A map with the flag in it, or not."""
    return st.dictionaries(st.just(FLAG_KEY), st.sampled_from(FLAGS), max_size=1)


def flagged_label_maps() -> st.SearchStrategy[dict[str, str]]:
    """Labels with a flag among them, or not."""
    return st.builds(lambda labels, flag: labels | flag, label_maps(), flags())


def containers() -> st.SearchStrategy[objects.Container]:
    """Containers with named ports, some of them sidecars."""
    port = st.builds(
        objects.ContainerPort,
        container_port=st.sampled_from((80, 8080, 53)),
        name=st.none() | st.sampled_from(PORT_NAMES),
        protocol=st.sampled_from((None, "", "TCP", "UDP")),
    )
    return st.builds(
        objects.Container,
        ports=st.none() | st.lists(port, max_size=2).map(tuple),
        restart_policy=st.sampled_from((None, "Always")),
    )


def pods() -> st.SearchStrategy[objects.Pod]:
    """Pods in every state, sharing addresses."""
    spec = st.builds(
        objects.PodSpec,
        node_name=st.sampled_from((*NODES, *NODES, None)),
        host_network=st.sampled_from((None, False, False, True)),
        service_account_name=st.none() | st.sampled_from(ACCOUNTS),
        containers=st.lists(containers(), max_size=2).map(tuple),
        init_containers=st.none() | st.lists(containers(), max_size=1).map(tuple),
    )
    status = st.builds(
        objects.PodStatus,
        phase=st.sampled_from(("Running", "Running", "Pending", "Succeeded")),
        pod_ip=st.none() | st.sampled_from(ADDRESSES),
        pod_ips=st.none()
        | st.lists(st.builds(objects.PodIp, st.sampled_from(ADDRESSES)), max_size=2).map(tuple),
    )
    policies = st.dictionaries(
        st.sampled_from(POLICY_KEYS), st.sampled_from(POLICY_TEXTS), max_size=2
    )
    return st.builds(objects.Pod, metadata(annotations=policies), spec, st.none() | status)


def namespaces() -> st.SearchStrategy[objects.Namespace]:
    """Namespaces with and without a flag, in either place or both."""
    return st.builds(
        objects.Namespace,
        metadata(namespaced=False, labels=flagged_label_maps(), annotations=flags()),
    )


def service_accounts() -> st.SearchStrategy[objects.ServiceAccount]:
    """Service accounts, of names that pods do and do not use."""
    named = st.builds(
        objects.Metadata,
        name=st.sampled_from(ACCOUNTS),
        namespace=st.sampled_from(NAMESPACES),
        labels=st.none() | label_maps(),
    )
    return st.builds(objects.ServiceAccount, named)


def services() -> st.SearchStrategy[objects.Service]:
    """Services, open or not, with and without a selector."""
    port = st.builds(
        objects.ServicePort,
        port=st.sampled_from((80, 53)),
        protocol=st.sampled_from((None, "TCP", "UDP")),
        target_port=st.sampled_from((None, 0, "", 8080, "http")),
    )
    spec = st.builds(
        objects.ServiceSpec,
        type=st.sampled_from((None, "ClusterIP", "ExternalName")),
        selector=st.none() | label_maps(),
        ports=st.none() | st.lists(port, max_size=2).map(tuple),
    )
    return st.builds(objects.Service, metadata(labels=flagged_label_maps()), st.none() | spec)


def endpoint_slices() -> st.SearchStrategy[objects.EndpointSlice]:
    """Slices of the services, some of their addresses no pod's."""
    entry = st.builds(
        objects.SliceEndpoint,
        st.lists(st.sampled_from((*ADDRESSES, "10.9.9.9", "example.org")), max_size=2).map(tuple),
    )
    named = st.dictionaries(
        st.just("kubernetes.io/service-name"), st.sampled_from(NAMES), max_size=1
    )
    return st.builds(
        objects.EndpointSlice, metadata(labels=named), st.lists(entry, max_size=2).map(tuple)
    )


def nodes() -> st.SearchStrategy[objects.Node]:
    """Nodes with addresses of several types."""
    address = st.builds(
        objects.NodeAddress,
        st.sampled_from(("InternalIP", "ExternalIP", "Hostname")),
        st.sampled_from(("192.168.0.1", "fd00:1::1", "node-1")),
    )
    return st.builds(
        objects.Node,
        st.builds(objects.Metadata, name=st.sampled_from(NODES), labels=st.none() | label_maps()),
        st.none() | st.builds(objects.NodeSpec, pod_cidr=st.sampled_from((None, "10.0.0.0/24"))),
        st.builds(objects.NodeStatus, st.lists(address, max_size=2).map(tuple)),
    )


def kube_objects() -> st.SearchStrategy[KubeObject]:
    """Objects of every kind, pods and services most often."""
    return st.one_of(
        pods(), pods(), services(), namespaces(), endpoint_slices(), service_accounts(), nodes()
    )
