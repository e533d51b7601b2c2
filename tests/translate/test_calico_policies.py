"""Calico's policies, tiers, sets and profiles: whom they select, where they stand, what is refused."""

import pytest

from calico_k8s.model import codec, keys
from calico_k8s.model.names import ProfileId, TierName
from calico_k8s.model.resources import Action, HostHook, Labels, Rules, Tier
from tests.nine_pods import World

ELSEWHERE = "y/a y/b y/c z/a z/b z/c outside"
EVERYBODY = f"x/b x/c {ELSEWHERE}"

NOISE = """creationTimestamp: "2026-01-01T00:00:00Z", resourceVersion: "12", generation: 3,
  uid: 0b1e, managedFields: [{manager: kubectl}], ownerReferences: [],
  annotations: {projectcalico.org/metadata: "{}"}, labels: {projectcalico.org/tier: default}"""


def calico(kind: str, spec: str, name: str = "p", namespace: str = "") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return f"""
apiVersion: projectcalico.org/v3
kind: {kind}
metadata: {{name: {name}{where}, {NOISE}}}
spec: {{{spec}}}
---"""


def everywhere(spec: str, name: str = "p") -> str:
    return calico("GlobalNetworkPolicy", spec, name)


def in_x(spec: str, name: str = "p") -> str:
    return calico("NetworkPolicy", spec, name, "x")


def tier(name: str, spec: str) -> str:
    return calico("Tier", spec, name)


@pytest.mark.parametrize(
    ("spec", "sources", "targets"),
    [
        ("selector: all()", "", "outside"),
        ("selector: all(), types: [Egress]", "outside", ""),
        ("selector: all(), types: [Ingress, Egress]", "", ""),
        ("selector: all(), ingress: []", "", "outside"),
        ("selector: all(), ingress: [{action: Allow}]", EVERYBODY, EVERYBODY),
        ("selector: all(), egress: [{action: Allow}]", EVERYBODY, EVERYBODY),
        ("selector: all(), egress: [{action: Deny}]", "outside", ""),
        ("selector: all(), ingress: [{action: Allow}], egress: [{action: Deny}]", "outside", ""),
        ("selector: all(), types: [Ingress], egress: [{action: Deny}]", "", "outside"),
    ],
)
def test_the_directions_a_policy_speaks_for(spec: str, sources: str, targets: str) -> None:
    world = World(everywhere(spec))
    assert (world.sources("x/a"), world.targets("x/a")) == (sources, targets)
    assert world.codes == []


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        (everywhere("selector: pod == 'a'"), "x/a y/a z/a"),
        (everywhere("selector: ''"), "x/a x/b y/a z/a"),
        (everywhere("selector: pod == 'a', namespaceSelector: ns == 'x'"), "x/a"),
        (everywhere("namespaceSelector: ns != 'x'"), "y/a z/a"),
        (everywhere("namespaceSelector: projectcalico.org/name == 'x'"), "x/a x/b"),
        (everywhere("namespaceSelector: all()"), "x/a x/b y/a z/a"),
        (everywhere("selector: projectcalico.org/namespace == 'y'"), "y/a"),
        (
            everywhere("serviceAccountSelector: projectcalico.org/name == 'account-a'"),
            "x/a y/a z/a",
        ),
        (everywhere("selector: projectcalico.org/serviceaccount == 'account-b'"), "x/b"),
        (everywhere("selector: pcns.ns == 'z'"), "z/a"),
        (in_x("selector: all()"), "x/a x/b"),
        (in_x("selector: pod == 'b'"), "x/b"),
        (in_x(""), "x/a x/b"),
    ],
)
def test_whom_a_policy_selects(text: str, closed: str) -> None:
    world = World(text)
    asked = ("x/a", "x/b", "y/a", "z/a")
    assert " ".join(pod for pod in asked if not world.allows("outside", pod)) == closed
    assert world.codes == []


SECURITY = tier("security", "order: 10")
DENY_Y = "ingress: [{action: Deny, source: {namespaceSelector: ns == 'y'}}, {action: Pass}]"


@pytest.mark.parametrize(
    ("texts", "sources"),
    [
        ((SECURITY, everywhere(f"tier: security, {DENY_Y}")), "x/b x/c z/a z/b z/c outside"),
        ((SECURITY, everywhere(f"tier: security, {DENY_Y}"), in_x("ingress: [{action: Allow}]", "q")), "x/b x/c z/a z/b z/c outside"),
        ((SECURITY, everywhere(f"tier: security, {DENY_Y}"), in_x("", "q")), ""),
        ((SECURITY, everywhere("tier: security, ingress: [{action: Allow}]"), in_x("", "q")), EVERYBODY),
        ((SECURITY, everywhere("tier: security, ingress: [{action: Log}]")), ""),
        ((tier("security", "order: 10, defaultAction: Pass"), everywhere("tier: security, ingress: [{action: Log}]")), EVERYBODY),
        ((tier("late", ""), everywhere("tier: late"), in_x("ingress: [{action: Allow}]", "q")), EVERYBODY),
        ((in_x("order: 1, ingress: [{action: Deny}]"), in_x("order: 2, ingress: [{action: Allow}]", "a")), ""),
        ((in_x("order: 2, ingress: [{action: Deny}]"), in_x("order: 1, ingress: [{action: Allow}]", "z")), EVERYBODY),
        ((in_x("ingress: [{action: Deny}]", "a"), in_x("order: 1e9, ingress: [{action: Allow}]", "z")), EVERYBODY),
        ((in_x("ingress: [{action: Deny}]", "a"), in_x("ingress: [{action: Allow}]", "z")), ""),
        ((in_x("ingress: [{action: Pass}]"),), EVERYBODY),
    ],
)  # fmt: skip
def test_tiers_and_orders(texts: tuple[str, ...], sources: str) -> None:
    world = World(*texts)
    assert world.sources("x/a") == sources
    assert world.codes == []


def test_network_policies_of_kubernetes_stand_between_by_order() -> None:
    kubernetes = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{}]}
---"""
    before, after = (
        in_x("order: 999, ingress: [{action: Deny}]"),
        in_x("order: 1001, ingress: [{action: Deny}]"),
    )
    assert World(kubernetes, before).sources("x/a") == ""
    assert World(kubernetes, after).sources("x/a") == EVERYBODY


def test_of_one_name_and_order_kubernetes_policy_goes_before_calicos_as_in_calico() -> None:
    """By ``name/namespace/kind``, with the kinds as Calico calls them."""
    kubernetes = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: same, namespace: x}
spec: {podSelector: {}, ingress: [{}]}
---"""
    denies = in_x("order: 1000, ingress: [{action: Deny}]", "same")
    assert World(kubernetes, denies).sources("x/a") == EVERYBODY


def test_a_policy_in_a_tier_that_is_not_there_waits_for_it_and_is_told() -> None:
    lost = everywhere("tier: nowhere, ingress: [{action: Deny}]")
    world = World(lost)
    assert (world.sources("x/a"), world.codes) == (EVERYBODY, ["tier-unknown"])
    found = World(lost, tier("nowhere", "order: 5"))
    assert (found.sources("x/a"), found.codes) == ("", [])


@pytest.mark.parametrize(
    ("name", "spec", "codes"),
    [
        ("default", "order: 1000000, defaultAction: Deny", []),
        ("default", "", []),
        ("default", "order: 5", ["tier-fixed"]),
        ("kube-admin", "order: 1000, defaultAction: Pass", []),
        ("kube-admin", "defaultAction: Deny", ["tier-fixed"]),
        ("kube-baseline", "order: soon", ["policy-invalid"]),
    ],
)
def test_no_object_changes_a_built_in_tier(name: str, spec: str, codes: list[str]) -> None:
    world = World(tier(name, spec))
    assert world.snapshot.tiers == World().snapshot.tiers
    assert world.codes == codes


@pytest.mark.parametrize("spec", ["order: soon", "order: .nan", "order: true", "defaultAction: Go"])
def test_a_tier_that_cannot_be_read_comes_first_and_denies(spec: str) -> None:
    world = World(tier("t", spec), everywhere("tier: t, ingress: [{action: Log}]"))
    (first, *_) = world.snapshot.policies_by_tier
    assert (first[0].name, first[0].default_action) == ("t", Action.DENY)
    assert world.codes == ["policy-invalid"]
    assert world.sources("x/a") == ""


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("selector: pod = 'a'", "spec.selector does not parse"),
        ("selector: global()", "says global()"),
        ("namespaceSelector: global()", "says global()"),
        ("serviceAccountSelector: '&&'", "does not parse"),
        ("selector: [a]", "should be text"),
        ("selector: {}", "should be text"),
        ("namespaceSelector: {}", "should be text"),
        ("types: {}", "spec.types should be a list"),
        ("order: first", "should be a number"),
        ("types: [Both]", "neither Ingress nor Egress"),
        ("tier: 7", "should be text"),
    ],
)
def test_a_policy_whose_place_or_subject_cannot_be_told_denies_for_all_it_could_select(
    spec: str, said: str
) -> None:
    opened = in_x("order: 1, ingress: [{action: Allow}]", "open")
    of_cluster = World(opened, everywhere(f"{spec}, ingress: [{{action: Allow}}]"))
    assert (of_cluster.sources("x/a"), of_cluster.sources("y/a")) == ("", "")
    assert said in of_cluster.messages
    if not spec.startswith(("namespaceSelector", "serviceAccountSelector")):
        of_x = World(opened, in_x(f"{spec}, ingress: [{{action: Allow}}]"))
        assert (of_x.sources("x/a"), of_x.targets("x/a")) == ("", "")
        assert of_x.allows("outside", "y/a")
        assert of_x.codes == ["policy-invalid"]


def test_a_spec_that_is_no_mapping_denies_everything_and_no_spec_is_an_empty_one() -> None:
    text = everywhere("").replace("spec: {}", "spec: [7]")
    assert (World(text).sources("x/a"), World(text).codes) == ("", ["policy-invalid"])
    bare = World(everywhere("").replace("spec: {}", ""))
    assert (bare.sources("x/a"), bare.targets("x/a"), bare.codes) == ("", "outside", [])


@pytest.mark.parametrize("field", ["doNotTrack", "preDNAT"])
def test_an_early_policy_is_of_host_endpoints_and_selects_no_pod(field: str) -> None:
    world = World(everywhere(f"{field}: true, applyOnForward: true, ingress: [{{action: Deny}}]"))
    assert (world.sources("x/a"), world.codes) == (EVERYBODY, [])
    (policy,) = world.snapshot.policies.values()
    assert policy.host_hook is {"doNotTrack": HostHook.UNTRACKED}.get(field, HostHook.PRE_DNAT)
    assert policy.selector == "!has(projectcalico.org/namespace)", "nor by an older version"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("preDNAT: true", "spec.preDNAT needs applyOnForward beside it"),
        ("doNotTrack: true", "spec.doNotTrack needs applyOnForward beside it"),
        ("preDNAT: true, doNotTrack: true, applyOnForward: true", "cannot stand beside preDNAT"),
        (
            "preDNAT: true, applyOnForward: true, types: [Egress]",
            "spec.preDNAT is for ingress only",
        ),
        ("preDNAT: true, applyOnForward: true, egress: [{action: Allow}]", "is for ingress only"),
        ("applyOnForward: 'yes'", "spec.applyOnForward should be true or false"),
        ("doNotTrack: {}", "spec.doNotTrack should be true or false"),
    ],
)
def test_a_policy_of_host_endpoints_that_cannot_be_is_closed(fields: str, told: str) -> None:
    world = World(everywhere(f"{fields}, ingress: [{{action: Allow}}]"))
    assert (world.sources("x/a"), world.codes) == ("", ["policy-invalid"])
    assert told in world.messages


def test_a_field_that_is_not_known_may_narrow_the_policy_so_it_opens_nothing() -> None:
    world = World(in_x("someday: 1, ingress: [{action: Allow}]"))
    assert (world.sources("x/a"), world.codes) == ("", ["policy-invalid"])
    denies = World(in_x("someday: 1, ingress: [{action: Deny, protocol: TCP}, {action: Allow}]"))
    assert not denies.allows("y/a", "x/a", "udp/80")


def test_exported_fields_that_say_nothing_of_packets_are_known() -> None:
    spec = "selector: all(), performanceHints: [AssumeNeededOnEveryNode], applyOnForward: true"
    world = World(everywhere(f"{spec}, doNotTrack: false, preDNAT: false"))
    assert world.codes == []


SETS = (
    calico("GlobalNetworkSet", "nets: [198.51.100.0/24, 10.0.2.1]", "partners")
    .replace("labels: {", "labels: {role: partner, "),
    calico("NetworkSet", "nets: [203.0.113.9/24]", "office", "y")
    .replace("labels: {", "labels: {role: office, "),
)  # fmt: skip


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("selector: role == 'partner'", "outside y/a"),
        ("selector: role == 'office'", "203.0.113.7"),
        ("selector: has(role)", "outside y/a 203.0.113.7"),
        ("selector: has(role), namespaceSelector: ns == 'y'", "203.0.113.7"),
        ("selector: has(role), namespaceSelector: all()", "203.0.113.7"),
        ("selector: has(role), namespaceSelector: global()", "outside y/a"),
        ("namespaceSelector: global()", "outside y/a"),
        ("namespaceSelector: ns == 'y'", "y/a y/b 203.0.113.7"),
    ],
)
def test_network_sets_are_peers_where_their_scope_is(source: str, allowed: str) -> None:
    world = World(
        *SETS,
        everywhere(f"selector: pod == 'c', ingress: [{{action: Allow, source: {{{source}}}}}]"),
    )
    asked = ("outside", "y/a", "y/b", "203.0.113.7", "192.0.2.1")
    assert " ".join(each for each in asked if world.allows(each, "x/c")) == allowed
    assert world.codes == []


def test_a_net_that_is_none_is_left_out_of_its_set_and_told() -> None:
    world = World(calico("GlobalNetworkSet", "nets: [10.0.0.0/8, nowhere]"))
    (netset,) = world.snapshot.netsets.values()
    assert (netset.nets, world.codes) == (("10.0.0.0/8",), ["policy-invalid"])


def test_a_profile_has_rules_and_labels_for_endpoints_that_name_it() -> None:
    world = World(calico("Profile", "ingress: [{action: Allow}], labelsToApply: {a: b}", "kns.x"))
    profile = ProfileId("profile.kns.x")
    rules = world.translation.items[keys.ProfileRulesKey(profile)]
    assert isinstance(rules, Rules)
    assert [rule.action for rule in rules.ingress] == [Action.ALLOW]
    assert world.translation.items[keys.ProfileLabelsKey(profile)] == Labels({"a": "b"})


def test_a_policy_at_its_limits_is_whole_in_the_datastore() -> None:
    long = " || ".join(f"pod == 'name-{number:03}'" for number in range(48))
    assert 1000 < len(long) < 1024 - len(" || pod == 'a'")
    rules = ", ".join(
        f"{{action: Deny, protocol: TCP, destination: {{ports: [{number + 1}]}}}}"
        for number in range(1023)
    )
    texts = (
        in_x(f"selector: \"{long} || pod == 'a'\", ingress: [{rules}, {{action: Allow}}]"),
        everywhere("selector: '='", "closed").replace("spec: {", "spec: {tier: kube-baseline, "),
    )
    world = World(*texts)
    assert not world.allows("outside", "x/a", "tcp/1023")
    assert world.allows("outside", "x/a", "tcp/1024")
    for key, value in world.translation.items.items():
        assert codec.decode(key, codec.encode(value)) == (value, ())


def test_a_tier_without_an_order_is_last() -> None:
    assert World(tier("t", "")).snapshot.tiers[TierName("t")] == Tier(TierName("t"))
