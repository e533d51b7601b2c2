"""Policies beside what they depend on, as both come, change and go."""

import pytest

from calico_k8s.model import keys
from calico_k8s.model.names import NetsetName, TierName
from calico_k8s.model.resources import Value
from calico_k8s.translate.cluster import Translator, translate_all
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.host_endpoints import (
    ALLOW_ALL_NAME,
    ALLOW_ALL_PROFILE,
    allow_all_rules,
)
from calico_k8s.translate.namespaces import TranslateSettings
from calico_k8s.translate.objects import (
    KubeObject,
    Pod,
    PolicyObject,
    ServiceAccount,
    object_ref,
)
from calico_k8s.translate.tiers import BUILT_IN_TIERS
from tests.nine_pods import World
from tests.translate.test_calico_policies import calico, everywhere, tier

SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: y, labels: {kubernetes.io/service-name: web}}
endpoints: [{addresses: [10.0.2.1]}]
ports: [{port: 80}]
---"""
TO_WEB = "egress: [{action: Allow, destination: {services: {name: web, namespace: y}}}]"


def only(text: str, kind: str) -> KubeObject:
    (found,) = (value for value in World(text).cluster.objects() if object_ref(value).kind == kind)
    return found


def codes(translator: Translator, value: KubeObject) -> list[str] | None:
    found = translator.flush().findings.get(object_ref(value))
    return None if found is None else [str(finding.code) for finding in found]


def test_the_built_in_tiers_and_profile_are_there_whatever_comes_or_goes() -> None:
    translator = Translator(TranslateSettings())
    tiers: dict[keys.Key, Value] = {keys.TierKey(n): tier for n, tier in BUILT_IN_TIERS.items()}
    built_in = {
        **tiers,
        keys.ProfileRulesKey(ALLOW_ALL_PROFILE): allow_all_rules(),
    }
    assert translator.flush().puts == built_in
    profile = f"""
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {{name: {ALLOW_ALL_NAME}}}
spec: {{ingress: [{{action: Deny}}]}}
"""
    for given in (only(tier("default", "order: 7"), "Tier"), only(profile, "Profile")):
        translator.update(given)
        assert codes(translator, given) in (["tier-fixed"], ["policy-invalid"])
        assert translator.items.keys() == built_in.keys()
        translator.remove(object_ref(given))
        translator.flush()
        assert translator.items == built_in


def test_a_tier_that_comes_and_goes_is_told_to_its_policies() -> None:
    translator = Translator(TranslateSettings())
    policy = only(everywhere("tier: t"), "GlobalNetworkPolicy")
    given = only(tier("t", "order: 7"), "Tier")
    translator.update(policy)
    assert codes(translator, policy) == ["tier-unknown"]
    translator.update(given)
    assert codes(translator, policy) == []
    translator.remove(object_ref(given))
    assert codes(translator, policy) == ["tier-unknown"]


def test_a_policy_that_goes_to_another_tier_leaves_the_first() -> None:
    translator = Translator(TranslateSettings())
    translator.update(only(everywhere("tier: kube-admin"), "GlobalNetworkPolicy"))
    translator.flush()
    translator.update(only(everywhere("tier: default"), "GlobalNetworkPolicy"))
    changes = translator.flush()
    assert {key.tier for key in changes.puts if isinstance(key, keys.PolicyKey)} == {"default"}
    assert {key.tier for key in changes.deletes if isinstance(key, keys.PolicyKey)} == {
        "kube-admin"
    }


def test_a_service_has_sets_while_a_policy_names_it() -> None:
    translator = Translator(TranslateSettings())
    policy = only(everywhere(TO_WEB), "GlobalNetworkPolicy")
    translator.update(only(SLICE, "EndpointSlice"))
    assert not _netsets(translator)
    translator.update(policy)
    assert _netsets(translator) == {"service/y/web", "service/y/web/6:80"}
    translator.remove(ObjectRef("EndpointSlice", "y", "web-1"))
    assert _netsets(translator) == {"service/y/web"}
    assert codes(translator, policy) is None  # told in the flush above
    translator.remove(object_ref(policy))
    assert not _netsets(translator)


def test_what_the_service_leads_to_is_a_member_s_matter_and_its_ports_the_rule_s() -> None:
    translator = Translator(TranslateSettings())
    translator.update(only(everywhere(TO_WEB), "GlobalNetworkPolicy"))
    translator.update(only(SLICE, "EndpointSlice"))
    translator.flush()
    translator.update(only(SLICE.replace("10.0.2.1]", "10.0.2.1, 10.0.2.2]"), "EndpointSlice"))
    assert {type(key) for key in translator.flush().puts} == {keys.NetsetKey}
    translator.update(only(SLICE.replace("port: 80", "port: 81"), "EndpointSlice"))
    assert keys.PolicyKey in {type(key) for key in translator.flush().puts}


def test_a_network_set_follows_the_labels_of_its_namespace() -> None:
    translator = Translator(TranslateSettings())
    translator.update(only(calico("NetworkSet", "nets: [10.0.0.0/8]", "s", "q"), "NetworkSet"))
    translator.flush()
    key = keys.NetsetKey(NetsetName("q/s"))
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: q, labels: {team: blue}}}"
    for value in World(namespace).cluster.namespaces:
        translator.update(value)
    changed = translator.flush().puts[key]
    assert getattr(changed, "labels", {})["pcns.team"] == "blue"


POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: y}
spec:
  nodeName: n
  serviceAccountName: web
  containers: [{ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]
status: {podIP: 10.0.2.1}
---"""
ACCOUNT = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: y}}"
FROM_WEB = "{action: Allow, source: {serviceAccounts: {names: [web]}}}"
TO_HTTP = "{action: Allow, protocol: TCP, destination: {ports: [http]}}"


@pytest.mark.parametrize(
    ("policy", "brought", "code"),
    [
        (everywhere(f"ingress: [{FROM_WEB}]"), POD, "service-account-unknown"),
        (everywhere(f"ingress: [{FROM_WEB}]"), ACCOUNT, "service-account-unknown"),
        (
            calico("NetworkPolicy", f"ingress: [{FROM_WEB}]", "p", "y"),
            ACCOUNT,
            "service-account-unknown",
        ),
        (everywhere(f"ingress: [{TO_HTTP}]"), POD, "port-name-unknown"),
        (everywhere(f"egress: [{TO_HTTP}]"), POD, "port-name-unknown"),
    ],
)
def test_what_a_policy_names_is_told_while_it_is_not_there(
    policy: str, brought: str, code: str
) -> None:
    translator = Translator(TranslateSettings(), sees_all=True)
    value = next(v for v in World(policy).cluster.objects() if isinstance(v, PolicyObject))
    (thing,) = (
        v
        for v in World(brought).cluster.objects()
        if isinstance(v, Pod | ServiceAccount) and v.metadata.name == "web"
    )
    translator.update(value)
    assert codes(translator, value) == [code]
    translator.update(thing)
    assert codes(translator, value) == []
    translator.update(thing)
    assert codes(translator, value) is None, "nothing is new"
    translator.remove(object_ref(thing))
    assert codes(translator, value) == [code]
    translator.remove(object_ref(value))
    translator.update(thing)
    assert translator.flush().findings == {object_ref(value): ()}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (
            calico("NetworkPolicy", f"ingress: [{FROM_WEB}]", "p", "x"),
            "namespace x has no service account 'web'",
        ),
        (
            everywhere("ingress: [{action: Allow, source: {serviceAccounts: {names: [wep]}}}]"),
            "no namespace has a service account 'wep'",
        ),
        (
            everywhere("ingress: [{action: Deny, protocol: UDP, destination: {ports: [http]}}]"),
            "no pod has a port of udp named 'http'",
        ),
    ],
)
def test_what_others_have_is_not_what_a_policy_names(policy: str, said: str) -> None:
    world = World(POD + policy).cluster
    (finding,) = translate_all(world.objects(), sees_all=True).findings
    assert finding.message.startswith(said)
    assert translate_all(world.objects()).findings == (), "of a part of a cluster nobody knows"


def test_what_a_rule_leaves_out_by_name_need_not_be_there() -> None:
    rule = "{action: Allow, protocol: TCP, destination: {notPorts: [http]}}"
    world = World(everywhere(f"ingress: [{rule}]")).cluster
    assert translate_all(world.objects(), sees_all=True).findings == ()


def test_findings_of_an_object_that_cannot_be_decoded_stay() -> None:
    translator = Translator(TranslateSettings())
    policy = only(everywhere("tier: t"), "GlobalNetworkPolicy")
    translator.update(policy)
    (told,) = translator.flush().findings.values()
    translator.update(policy)
    translator.report(object_ref(policy), told)
    translator.flush()
    assert translator.findings == told
    assert keys.TierKey(TierName("default")) in translator.items


def _netsets(translator: Translator) -> set[str]:
    translator.flush()
    return {key.netset for key in translator.items if isinstance(key, keys.NetsetKey)}
