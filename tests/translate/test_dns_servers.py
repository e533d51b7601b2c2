"""Trusted DNS servers as network sets: there while a policy is about names, and where pods ask."""

import pytest

from calico_k8s.errors import InputError
from calico_k8s.model import keys
from calico_k8s.model.addresses import Address
from calico_k8s.model.dns_servers import ServerAddress, ServerService, parse_dns_servers
from calico_k8s.model.resources import NetworkSet
from calico_k8s.translate.cluster import Translation, translate_all
from calico_k8s.translate.namespaces import TranslateSettings
from tests.nine_pods import World
from tests.translate.test_calico_policies import everywhere

DNS = """
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd96::a']
  ports:
    - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
    - {name: dns-tcp, port: 53, protocol: TCP, targetPort: 5353}
    - {name: metrics, port: 9153}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [10.0.9.1]}, {addresses: [10.0.9.2]}]
ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353}, {name: metrics, port: 9153}]
---"""
TO_DOMAIN = everywhere("egress: [{action: Allow, destination: {domains: [a.io]}}]")
SET = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: partners}
spec: {allowedEgressDomains: ['*.a.io']}
---"""


def servers(*manifests: str, trusted: str = "k8s-service:kube-dns") -> dict[str, tuple[str, ...]]:
    """The nets of each set of trusted servers."""
    return {
        key.netset: value.nets
        for key, value in translated(*manifests, trusted=trusted).items.items()
        if isinstance(key, keys.NetsetKey) and key.netset.startswith("dns/")
        if isinstance(value, NetworkSet)
    }


def translated(*manifests: str, trusted: str, sees_all: bool = False) -> Translation:
    settings = TranslateSettings(dns_servers=parse_dns_servers(trusted))
    return translate_all(World(*manifests).cluster.objects(), settings, sees_all=sees_all)


@pytest.mark.parametrize("asking", [TO_DOMAIN, SET], ids=["a rule", "a network set"])
def test_a_server_is_its_pods_at_their_port_and_its_service_at_its_own(asking: str) -> None:
    pods, services = ("10.0.9.1/32", "10.0.9.2/32"), ("10.96.0.10/32", "fd96::a/128")
    assert servers(DNS, asking) == {
        **{f"dns/{protocol}:53": services for protocol in (6, 17)},
        **{f"dns/{protocol}:5353": pods for protocol in (6, 17)},
    }


def test_nobody_is_looked_at_while_no_policy_is_about_names() -> None:
    assert servers(DNS) == {}


def test_addresses_are_trusted_as_they_are() -> None:
    trusted = "10.0.0.2, [fd00::2]:5353"
    assert servers(TO_DOMAIN, trusted=trusted) == {
        **{f"dns/{protocol}:53": ("10.0.0.2/32",) for protocol in (6, 17)},
        **{f"dns/{protocol}:5353": ("fd00::2/128",) for protocol in (6, 17)},
    }


def test_a_server_that_is_not_there_is_told_where_a_policy_waits_for_it() -> None:
    told = translated(TO_DOMAIN, trusted="k8s-service:kube-dns", sees_all=True).findings
    assert [f.code for f in told] == ["policy-service-unknown"]
    assert "(the service kube-system/kube-dns port 53)" in told[0].message
    assert translated(TO_DOMAIN, DNS, trusted="k8s-service:kube-dns", sees_all=True).findings == ()


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("k8s-service:kube-dns", ServerService("kube-system", "kube-dns", 53)),
        ("k8s-service:dns/core:5353", ServerService("dns", "core", 5353)),
        ("10.0.0.2", ServerAddress(Address("10.0.0.2"), 53)),
        ("10.0.0.2:54", ServerAddress(Address("10.0.0.2"), 54)),
        ("fd00::2", ServerAddress(Address("fd00::2"), 53)),
        ("[fd00::2]:54", ServerAddress(Address("fd00::2"), 54)),
    ],
)
def test_a_server_is_an_address_or_a_service(text: str, server: object) -> None:
    assert parse_dns_servers(text) == (server,)


@pytest.mark.parametrize("text", ["k8s-service:", "k8s-service:/x", "10.0.0.2:x", "ns1", "::1:0:x"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_dns_servers(text)


def test_none_trusts_nobody() -> None:
    assert parse_dns_servers("none") == ()
