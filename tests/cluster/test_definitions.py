"""Calico's kinds at a real API server: what it takes, what it refuses, and who follows them.

The tests share one server, and run as they stand: nothing is defined at first, and in the end.
"""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from calico_k8s.controller.kube import connect
from calico_k8s.controller.reflector import WATCH_S
from calico_k8s.controller.wire import DEFINED, PATHS
from calico_k8s.datastore.factory import open_store
from calico_k8s.errors import KubeError, KubeNotFound
from calico_k8s.model import keys
from calico_k8s.model.names import PolicyId, TierName
from calico_k8s.model.resources import Action, Policy, StagedAction, Tier
from calico_k8s.model.staging import target_of
from calico_k8s.translate.cluster import translate_all
from calico_k8s.translate.findings import Code
from calico_k8s.translate.objects import decode_object, known_kind
from tests.cli.program import run
from tests.cluster.calico_specs import BAD, GOOD, GUARD_SPEC, with_rule
from tests.cluster.cluster_policy_specs import (
    BAD_CLUSTER_POLICIES,
    CLUSTER_POLICIES,
    field_paths,
    known_cluster_policy_fields,
)
from tests.cluster.controllers import CommandController, Stored, wait_for
from tests.cluster.definitions import (
    CRDS,
    cluster_network_policies,
    define_calicos,
    define_cluster_network_policies,
    is_served,
)
from tests.cluster.installation import ROOT
from tests.cluster.objects import Document, KubeObjects
from tests.cluster.servers import NOBODY, ApiServer, api_server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PATIENCE_S = WATCH_S[1] + 30
"""Once, when definitions came and went, a kind was noticed only after some 90 s, as if its watch had
hung until its end.  Why is not known."""
SECURITY = keys.TierKey(TierName("security"))
GUARD = keys.PolicyKey(TierName("security"), PolicyId("GlobalNetworkPolicy", "", "guard"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server of this module alone, without any definition."""
    with api_server(tmp_path_factory.mktemp("definitions")) as server:
        yield server


@pytest.fixture(scope="module")
def written(bare: ApiServer) -> Iterator[KubeObjects]:
    """Writes into it."""
    with closing(connect(str(bare.kubeconfig()))) as api:
        yield KubeObjects(api)


@pytest.fixture(scope="module")
def controller(
    bare: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandController]:
    """A controller that runs from before the definitions to after them."""
    folder = tmp_path_factory.mktemp("controller")
    running = CommandController(bare.kubeconfig(), bare.etcd.url("/definitions"), folder)
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def stored(bare: ApiServer) -> Iterator[Stored]:
    """What it has written."""
    with closing(open_store(bare.etcd.url("/definitions"))) as store:
        yield Stored(store)


@pytest.fixture(scope="module")
def defined(bare: ApiServer) -> ApiServer:
    """The same server, with Calico's kinds."""
    define_calicos(bare)
    return bare


def document(kind: str, spec: Document, name: str = "tried") -> Document:
    """An object of one of Calico's kinds."""
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def collection(kind: str) -> str:
    """Where objects of a kind are made, in the namespace ``default`` if in any."""
    where = "namespaces/default/" if kind in NAMESPACED else ""
    return f"/apis/projectcalico.org/v3/{where}{PLURALS[kind]}"


DEFINITIONS = {
    each["spec"]["names"]["kind"]: each
    for each in (yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*s.yaml")))
}
PLURALS = {kind: each["spec"]["names"]["plural"] for kind, each in DEFINITIONS.items()}
NAMESPACED = {kind for kind, each in DEFINITIONS.items() if each["spec"]["scope"] == "Namespaced"}


def absent(controller: CommandController) -> set[str]:
    """The kinds that it says are not there."""
    metric = r'^calico_k8s_controller_kind_absent\{kind="(\w+)"\} 1\.0$'
    return set(re.findall(metric, controller.ask("/metrics")[1], re.MULTILINE))


def version_schema(definition: Document) -> Document:
    """The properties of an object of the only version."""
    (version,) = definition["spec"]["versions"]
    found: Document = version["schema"]["openAPIV3Schema"]["properties"]
    return found


def spec_of(kind: str) -> Document:
    """The schema of a kind's spec."""
    spec: Document = version_schema(DEFINITIONS[kind])["spec"]
    return spec


def test_without_definitions_a_controller_and_the_commands_do_their_work(
    bare: ApiServer, controller: CommandController, written: KubeObjects
) -> None:
    controller.wait_until_ready()
    assert absent(controller) == DEFINED
    assert controller.log.count("not installed") == len(DEFINED)
    written.pod("default", "web", ["10.7.0.1"])
    assert run("lint", "--kubeconfig", bare.kubeconfig()).code == 0


def test_who_may_list_what_every_cluster_has_needs_no_right_to_what_is_not_there(
    bare: ApiServer,
) -> None:
    always = sorted(PATHS[kind].rpartition("/")[2] for kind in PATHS.keys() - DEFINED)
    groups = ("", ".discovery.k8s.io", ".networking.k8s.io")
    suffix = {"endpointslices": groups[1], "networkpolicies": groups[2]}
    resources = ",".join(f"{plural}{suffix.get(plural, '')}" for plural in always)
    bare.kubectl("create", "clusterrole", "looks", "--verb=list", f"--resource={resources}")
    bare.kubectl("create", "clusterrolebinding", "looks", "--clusterrole=looks", f"--user={NOBODY}")
    assert run("lint", "--kubeconfig", bare.kubeconfig(NOBODY)).code == 0


def test_kinds_are_followed_once_they_are_defined(
    controller: CommandController, defined: ApiServer, written: KubeObjects, stored: Stored
) -> None:
    controller.wait_until_ready()
    written.api.create(collection("Tier"), document("Tier", {"order": 100}, "security"))
    written.api.create(
        collection("GlobalNetworkPolicy"), document("GlobalNetworkPolicy", GUARD_SPEC, "guard")
    )
    wanted = {SECURITY, GUARD}
    wait_for(lambda: wanted <= stored.items().keys(), lambda: controller.log[-3000:], PATIENCE_S)
    tier, policy = stored.items()[SECURITY], stored.items()[GUARD]
    assert isinstance(tier, Tier)
    assert (tier.order, tier.default_action) == (100.0, Action.DENY)
    assert isinstance(policy, Policy)
    assert [rule.action for rule in policy.ingress] == [Action.DENY]
    controller.wait_until_ready()
    defined.kubectl("delete", "globalnetworkpolicy", "guard")
    wait_for(lambda: GUARD not in stored.items())
    assert SECURITY in stored.items()


def test_a_mistake_in_a_policy_is_told_beside_it(
    controller: CommandController, defined: ApiServer, written: KubeObjects
) -> None:
    policy = document("GlobalNetworkPolicy", {"tier": "nowhere"}, "lost")
    written.api.create(collection("GlobalNetworkPolicy"), policy)

    def described() -> str:
        return defined.kubectl("describe", "globalnetworkpolicy", "lost")

    wait_for(lambda: "TierUnknown" in described(), lambda: controller.log[-3000:])
    assert "there is no tier 'nowhere'" in described()
    found = run("lint", "--kubeconfig", defined.kubeconfig(), "--format", "json").json
    assert ("tier-unknown", "GlobalNetworkPolicy/lost") in {
        (each["code"], each["object"]) for each in found
    }
    written.api.delete(f"{collection('GlobalNetworkPolicy')}/lost")


def test_a_staged_policy_is_followed_enforced_deleted_and_dismissed(
    controller: CommandController, defined: ApiServer, written: KubeObjects, stored: Stored
) -> None:
    kind, name = "StagedGlobalNetworkPolicy", "rehearsed"
    staged = keys.PolicyKey(TierName("security"), PolicyId(kind, "", name))
    enforced = keys.PolicyKey(staged.tier, target_of(staged.policy))

    def held() -> set[keys.PolicyKey]:
        return {staged, enforced} & stored.items().keys()

    def ran(*words: str) -> list[str]:
        done = run("staged", *words, "--kubeconfig", defined.kubeconfig())
        assert done.code == 0, done.err
        return done.out.splitlines()

    written.api.create(collection(kind), document(kind, GUARD_SPEC, name))
    wait_for(lambda: held() == {staged}, lambda: controller.log[-3000:], PATIENCE_S)
    policy = stored.items()[staged]
    assert isinstance(policy, Policy)
    assert policy.staged is StagedAction.SET
    assert ran()[0].startswith(f"{kind}/{name}: would be GlobalNetworkPolicy/{name}, in tier sec")
    assert ran("enforce", name, "--dry-run") == [
        f"GlobalNetworkPolicy/{name}: would be created",
        f"{kind}/{name}: would be deleted",
    ]
    assert ran("enforce", name)[0] == f"GlobalNetworkPolicy/{name}: created"
    wait_for(lambda: held() == {enforced}, lambda: controller.log[-3000:])
    written.api.create(collection(kind), document(kind, {**GUARD_SPEC, "order": 5}, name))
    assert ran("enforce", f"{kind}/{name}")[0] == f"GlobalNetworkPolicy/{name}: replaced"
    deletion = {"tier": "security", "stagedAction": "Delete"}
    written.api.create(collection(kind), document(kind, deletion, name))
    assert ran("enforce", name)[0] == f"GlobalNetworkPolicy/{name}: deleted"
    wait_for(lambda: held() == set(), lambda: controller.log[-3000:])
    written.api.create(collection(kind), document(kind, deletion, name))
    refused = run("staged", "enforce", name, "--kubeconfig", defined.kubeconfig())
    assert (refused.code, "there is no GlobalNetworkPolicy" in refused.err) == (2, True)
    assert ran("dismiss", name) == [f"{kind}/{name}: deleted"]
    wait_for(lambda: held() == set(), lambda: controller.log[-3000:])


def test_a_definition_of_others_is_followed_too(
    controller: CommandController, defined: ApiServer, written: KubeObjects, stored: Stored
) -> None:
    define_cluster_network_policies(defined)
    objects = []
    for policy in CLUSTER_POLICIES:
        written.api.create(PATHS["ClusterNetworkPolicy"], policy)
        decoded = decode_object("ClusterNetworkPolicy", policy)
        assert decoded.object is not None
        objects.append(decoded.object)
    translated = translate_all(objects).items
    wanted = {key: value for key, value in translated.items() if isinstance(value, Policy)}
    assert len(wanted) == len(CLUSTER_POLICIES) > 10
    wait_for(lambda: wanted.items() <= stored.items().items(), lambda: controller.log[-3000:])


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize(("words", "fields"), BAD_CLUSTER_POLICIES)
def test_what_the_definition_of_others_refuses_is_not_understood_either(
    written: KubeObjects, words: str, fields: Document
) -> None:
    (policy,) = [each for each in CLUSTER_POLICIES if each["metadata"]["name"] == "no-world"]
    bad = {**policy, "metadata": {"name": "bad"}, "spec": {**policy["spec"], **fields}}
    with pytest.raises(KubeError) as refused:
        written.api.create(PATHS["ClusterNetworkPolicy"], bad)
    assert words in str(refused.value)
    decoded = decode_object("ClusterNetworkPolicy", bad)
    assert decoded.object is not None
    codes = {finding.code for finding in translate_all([decoded.object]).findings}
    assert codes == {Code.POLICY_INVALID}


def test_every_field_of_the_definition_of_others_is_known() -> None:
    standard = cluster_network_policies("standard")
    everything = cluster_network_policies("experimental")
    fields = set(field_paths(version_schema(everything)["spec"]))
    assert set(field_paths(version_schema(standard)["spec"])) < fields
    assert fields == known_cluster_policy_fields()


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_good_objects_are_taken(written: KubeObjects, kind: str, spec: Document) -> None:
    written.api.create(collection(kind), document(kind, spec))
    written.api.delete(f"{collection(kind)}/tried")


@pytest.mark.parametrize(("kind", "spec"), GOOD)
def test_what_the_api_server_takes_is_understood(kind: str, spec: Document) -> None:
    name = known_kind("projectcalico.org/v3", kind)
    assert name is not None
    decoded = decode_object(name, document(kind, spec))
    assert decoded.object is not None
    codes = {finding.code for finding in translate_all([decoded.object]).findings}
    missing = {Code.TIER_UNKNOWN, Code.POLICY_SERVICE_UNKNOWN, Code.STAGED_TARGET_UNKNOWN}
    assert codes <= missing


MISTAKEN = "two-wildcards.yaml"
"""The example of what is refused; what of it lint says is in docs/domains.md."""


def test_the_examples_of_the_docs_are_taken(defined: ApiServer) -> None:
    examples = [
        each
        for file in sorted((ROOT / "docs" / "examples").rglob("*.yaml"))
        if file.name != MISTAKEN
        for each in yaml.safe_load_all(file.read_text())
        if each and each["apiVersion"] == "projectcalico.org/v3"
    ]
    assert len(examples) >= 2
    for each in examples:  # to the namespace that is there
        each["metadata"].pop("namespace", None)
    stdin = yaml.safe_dump_all(examples)
    told = defined.kubectl("apply", "--dry-run=server", "-f", "-", stdin=stdin)
    assert told.count("(server dry run)") == len(examples)


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize(("kind", "spec", "message"), BAD)
def test_a_bad_field_is_refused_with_its_place_or_reason(
    written: KubeObjects, kind: str, spec: Document, message: str
) -> None:
    with pytest.raises(KubeError) as refused:
        written.api.create(collection(kind), document(kind, spec))
    assert not isinstance(refused.value, KubeNotFound)
    assert message in str(refused.value).replace("\\", "")


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("kube-admin", {"order": 1000, "defaultAction": "Pass"}),
        ("default", {}),
        ("default", {"order": 1000000}),
        ("kube-baseline", {"defaultAction": "Pass"}),
    ],
)
def test_the_tiers_that_are_always_there_may_be_named_as_they_are(
    written: KubeObjects, name: str, spec: Document
) -> None:
    written.api.create(collection("Tier"), document("Tier", spec, name))
    written.api.delete(f"{collection('Tier')}/{name}")


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("kube-admin", {"order": 999}, "has the order 1000 and"),
        ("default", {"defaultAction": "Pass"}, "has the order 1000000 and the defaultAction Deny"),
        ("kube-baseline", {"defaultAction": "Deny"}, "has the order 10000000 and"),
        ("two.parts", {}, "the name of a tier has no dot"),
        ("a" * 64, {}, "63 characters at most"),
    ],
)
def test_a_tier_is_refused_that_is_always_there_and_other_or_has_no_tiers_name(
    written: KubeObjects, name: str, spec: Document, message: str
) -> None:
    with pytest.raises(KubeError, match=message):
        written.api.create(collection("Tier"), document("Tier", spec, name))


def test_a_field_that_is_unknown_is_not_left_out_by_kubectl_but_refused(defined: ApiServer) -> None:
    policy = document("NetworkPolicy", with_rule(sorce={"selector": "all()"}))
    with pytest.raises(AssertionError, match=r'unknown field "spec.ingress\[0\].sorce"'):
        defined.kubectl("apply", "-f", "-", stdin=json.dumps(policy))


def test_what_a_calico_cluster_exports_is_applied_as_it_is(
    defined: ApiServer, tmp_path: Path
) -> None:
    noise = {
        "uid": "6a8a4e2e-2b1c-4c7e-9d77-1f6f0f6a4d10",
        "resourceVersion": "123456",
        "generation": 3,
        "creationTimestamp": "2024-03-01T10:00:00Z",
    }
    exported = [
        document("Tier", {"order": 200, "defaultAction": "Deny"}, "exported"),
        document("GlobalNetworkPolicy", {**GUARD_SPEC, "tier": "exported"}, "exported.guard"),
        document("NetworkPolicy", {"tier": "exported", **with_rule(source={}, destination={})}),
    ]
    exported[0]["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    for each in exported:
        each["metadata"] |= noise
    exported[2]["metadata"] |= {"namespace": "default"}
    file = tmp_path / "exported.yaml"
    file.write_text(yaml.safe_dump_all(exported))
    defined.kubectl("apply", "-f", str(file))
    assert defined.kubectl("get", "gnp").splitlines()[1].split()[:3] == [
        "exported.guard",
        "exported",
        "10",
    ]
    assert "tried" in defined.kubectl("get", "calnp")
    assert "tried" not in defined.kubectl("get", "networkpolicies"), "they are networking.k8s.io's"
    defined.kubectl("delete", "-f", str(file))


def test_definitions_that_go_take_their_objects_with_them(
    controller: CommandController, defined: ApiServer, stored: Stored
) -> None:
    assert SECURITY in stored.items()
    defined.kubectl("delete", "-k", str(CRDS))
    wait_for(lambda: SECURITY not in stored.items(), lambda: controller.log[-3000:], PATIENCE_S)
    gone = DEFINED - {"ClusterNetworkPolicy"}
    wait_for(lambda: absent(controller) == gone, lambda: controller.log[-3000:], PATIENCE_S)
    controller.wait_until_ready()


def test_a_definition_that_returns_is_followed_again(
    controller: CommandController, defined: ApiServer, written: KubeObjects, stored: Stored
) -> None:
    file = str(CRDS / "tiers.yaml")
    defined.kubectl("apply", "-f", file)
    wait_for(lambda: is_served(written.api, PATHS["Tier"]))
    written.api.create(collection("Tier"), document("Tier", {"order": 7}, "security"))
    wait_for(lambda: SECURITY in stored.items(), lambda: controller.log[-3000:], PATIENCE_S)
    defined.kubectl("delete", "-f", file)
    wait_for(lambda: SECURITY not in stored.items(), lambda: controller.log[-3000:], PATIENCE_S)


def test_all_policies_have_one_shape_and_a_staged_one_is_that_and_an_action() -> None:
    def fields(kind: str) -> Document:
        found: Document = spec_of(kind)["properties"]
        return found

    def rules(kind: str) -> Document:
        found: Document = fields(kind)["ingress"]["items"]
        assert fields(kind)["egress"]["items"] == found
        return found

    for kind in ("GlobalNetworkPolicy", "NetworkPolicy"):
        staged = dict(fields(f"Staged{kind}"))
        assert staged.pop("stagedAction")["enum"] == ["Set", "Delete", "Learn", "Ignore"]
        assert staged == fields(kind)
    assert rules("Profile") == rules("GlobalNetworkPolicy")
    of_all, of_one = rules("GlobalNetworkPolicy"), rules("NetworkPolicy")
    assert service_fields(of_all).pop("required") == ["name", "namespace"]
    assert service_fields(of_one).pop("required") == ["name"]
    del service_fields(of_all)["properties"], service_fields(of_one)["properties"]
    assert of_all == of_one


def service_fields(rule: Document) -> Document:
    """Where a rule names a service; its two ends are one schema."""
    found: Document = rule["properties"]["source"]["properties"]["services"]
    assert rule["properties"]["source"] == rule["properties"]["destination"]
    return found
