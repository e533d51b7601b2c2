"""Each right that manifests/ gives in the Kubernetes API is needed, and together they are enough.

The rights are read from what kustomize builds and the API server holds.  Each is taken away in
turn; then what it is for runs, as the service account that has it, by a token as a kubelet asks
for, until the API server refuses just that.  A right that nothing here asks for fails its test.
"""

import datetime as dt
import itertools
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from typing import NamedTuple

import msgspec
import pytest
import yaml

from calico_k8s.admission.keeper import NAME as WEBHOOK
from calico_k8s.admission.keeper import Keeper as WebhookKeeper
from calico_k8s.admission.keeper import Place
from calico_k8s.admission.material import Material
from calico_k8s.certificates.authority import Authority, Subject, new_key, request_pem
from calico_k8s.certificates.holder import Keeper, Wish
from calico_k8s.certificates.kube import (
    REQUESTS,
    file_request,
    list_requests,
    publish,
    read_request,
)
from calico_k8s.certificates.names import AUTHORITY_NAME, Holder
from calico_k8s.certificates.requests import SERVER_USAGES, Rules
from calico_k8s.certificates.signer import Options as SignerOptions
from calico_k8s.certificates.signer import Signer
from calico_k8s.controller import statuses
from calico_k8s.controller.conditions import WITH_STATUS, status_path
from calico_k8s.controller.events import API_VERSIONS
from calico_k8s.controller.lease import API as LEASES
from calico_k8s.controller.lease import LeaseTimes
from calico_k8s.controller.metrics import Metrics
from calico_k8s.controller.process import LEASE_NAME, Controller, LeaseOptions, Options
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.location import EtcdLocation
from calico_k8s.errors import KubeForbidden
from calico_k8s.translate.findings import ObjectRef
from calico_k8s.translate.objects import KINDS
from tests.cluster.accounts import ADDRESS, NODE, Site, forget, running, site_up
from tests.cluster.controllers import wait_for
from tests.cluster.installation import NAMESPACE, ROOT
from tests.cluster.kubelet import claims
from tests.cluster.objects import Document as Object

pytestmark = pytest.mark.cluster

RBAC = "/apis/rbac.authorization.k8s.io/v1"
_NUMBERS = itertools.count()


class Right(NamedTuple):
    """One verb on one resource that one role gives."""

    kind: str
    role: str
    group: str
    resource: str
    name: str
    """Of the only object it is for; empty: all."""
    verb: str

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if "." in self.group else self.resource
        return f"{self.kind} {self.role}: {self.verb} {resource} {self.name}".strip()

    @property
    def refusal(self) -> str:
        """What the API server says to who has not got it."""
        if self.resource == "signers":
            return f"not permitted to {self.verb} requests with signerName"
        return f'cannot {self.verb} resource "{self.resource}" in API group "{self.group}"'


class Membership(NamedTuple):
    """One service account that a binding gives a role."""

    kind: str
    binding: str
    account: str

    def __str__(self) -> str:
        return f"{self.kind} {self.binding}: {self.account}"


@cache
def documents() -> tuple[Object, ...]:
    """What manifests/ says of rights; kustomize builds the same, as a test here holds."""
    files = (ROOT / "manifests" / folder / "rights.yaml" for folder in ("base", "webhook"))
    return tuple(each for file in files for each in yaml.safe_load_all(file.read_text()))


def all_rights() -> list[Right]:
    return [
        Right(document["kind"], document["metadata"]["name"], group, resource, name, verb)
        for document in documents()
        for rule in document.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    ]


def all_memberships() -> list[Membership]:
    return [
        Membership(document["kind"], document["metadata"]["name"], subject["name"])
        for document in documents()
        for subject in document.get("subjects", ())
    ]


def _policy(kind: str) -> Object:
    """An object of a kind, with no more in it than it needs."""
    spec: Object = {}
    if kind == "ClusterNetworkPolicy":
        spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}
    if kind == "HostEndpoint":
        spec = {"node": "any", "interfaceName": "eth0"}
    metadata = (
        {"name": "any", "namespace": "mistaken"} if KINDS[kind].is_namespaced else {"name": "any"}
    )
    return {
        "apiVersion": API_VERSIONS[kind],
        "kind": KINDS[kind].written or kind,
        "metadata": metadata,
        "spec": spec,
    }


POLICIES = {
    status_path(ObjectRef(kind, "mistaken" * KINDS[kind].is_namespaced, "any")).removesuffix(
        "/any/status"
    ): _policy(kind)
    for kind in sorted(WITH_STATUS)
}
"""One of each kind that has a status, by where such are made."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, site_up(tmp_path_factory.mktemp("rights")) as up:
        for pace in ("TICK_S", "HOLD_S"):
            patch.setattr(statuses, pace, 0.05)
        yield up


# What each role is for: it runs as an account, until the last argument says so, which is given
# what the API server refused so far, and whether all is done.

Until = Callable[[Sequence[str], bool], bool]


def control(site: Site, account: str, until: Until) -> None:
    """A controller: elected and again, in sync, mistakes told as Events, and statuses."""
    for path, policy in POLICIES.items():
        forget(site.objects.api, f"{path}/{policy['metadata']['name']}")
        site.objects.api.create(path, policy)
    forget(site.objects.api, f"/apis/{LEASES}/namespaces/{NAMESPACE}/leases/{LEASE_NAME}")
    lease = LeaseOptions(NAMESPACE, LEASE_NAME, LeaseTimes(2, 0.1))
    store_url = f"sqlite://{site.folder}/{next(_NUMBERS)}.db"
    with closing(site.account(account)) as api, closing(open_store(store_url)) as store:
        controller = Controller(api, store, Options(f"one-{next(_NUMBERS)}", lease=lease))
        told = [controller.metrics.events.labels(result) for result in ("created", "repeated")]
        written = controller.metrics.statuses.labels("written")

        def is_done() -> bool:
            are_told = written._value.get() >= len(POLICIES) and any(e._value.get() for e in told)
            return controller.is_ready() is None and are_told

        with running(controller.run, controller.stop):
            wait_for(
                lambda: until(api.refused, is_done()),
                lambda: f"{controller.is_ready()} {api.refused}",
            )


def hold(site: Site, account: str, until: Until) -> None:
    """Somebody asks for a certificate, and looks whether it is there."""
    publish(site.objects.api, NAMESPACE, Authority.make(dt.datetime.now(dt.UTC)))
    before = len(list_requests(site.objects.api))
    wish = Wish(
        Holder(account),
        Subject("anybody"),
        NAMESPACE,
        site.folder / f"certificate-{next(_NUMBERS)}",
        dt.timedelta(days=1),
    )
    with closing(site.account(account)) as api:
        keeper = Keeper(api, wish)
        with running(keeper.run, keeper.stop):
            wait_for(
                lambda: until(api.refused, len(list_requests(site.objects.api)) > before),
                lambda: str(api.refused),
            )


def sign(site: Site, account: str, until: Until) -> None:
    """A signer: an authority that everybody knows, and a certificate for a member that asks."""
    name = f"asked-{next(_NUMBERS)}"
    with closing(site.account(Holder.MEMBER.value)) as member:
        request = request_pem(Subject("etcd-member", (ADDRESS,)), new_key())
        file_request(member, name, request, SERVER_USAGES, dt.timedelta(days=1))
    rules = Rules(NAMESPACE, frozenset({ADDRESS}), dt.timedelta(days=1))
    nobody = EtcdLocation(("127.0.0.1:1",), "/calico")
    with closing(site.account(account)) as api:
        folder = site.folder / f"signer-{next(_NUMBERS)}"
        signer = Signer(api, SignerOptions(rules, nobody, folder))

        def is_done() -> bool:
            return bool(read_request(site.objects.api, name).status.certificate)

        with running(signer.run, signer.stop):
            wait_for(
                lambda: until(api.refused, is_done()),
                lambda: f"{signer.is_ready()} {api.refused}",
            )


class _Nobody:
    """Whom a webhook's certificate is for, and who leads."""

    is_leading = True

    def serve_by(self, material: Material) -> None:
        """Nothing is served."""

    def tell(self, path: str, value: bytes | None) -> None:
        """Nobody is told."""


def refuse(site: Site, account: str, until: Until) -> None:
    """A webhook's certificate is made, and the API server told whom to believe."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{WEBHOOK}"
    secret = msgspec.json.decode(site.objects.api.get(path))
    site.objects.api.replace(path, {**unversioned(secret), "data": {}})
    with closing(site.account(account)) as api:
        keeper = WebhookKeeper(api, Place(NAMESPACE), _Nobody(), _Nobody(), Metrics())

        def is_made() -> bool:
            with suppress(KubeForbidden):
                return keeper.keep(dt.datetime.now(dt.UTC)) is None
            return False

        wait_for(lambda: until(api.refused, is_made()), lambda: str(api.refused))


WORK = {
    "calico-k8s-webhook": refuse,
    "calico-k8s-controller": control,
    "calico-k8s-certificate": hold,
    "calico-k8s-signer": sign,
}
"""By role or binding."""
ACCOUNTS = {
    "calico-k8s-webhook": "calico-k8s-controller",
    "calico-k8s-controller": "calico-k8s-controller",
    "calico-k8s-certificate": "calico-k8s-felix",
    "calico-k8s-signer": "calico-k8s-signer",
}


def prepare(site: Site, right: Right) -> None:
    """Brings about that the right is asked for."""
    api, mine = site.objects.api, f"/api/v1/namespaces/{NAMESPACE}"
    match right.role, right.resource, right.verb:
        case "calico-k8s-signer", "secrets" | "configmaps" as resource, "create":
            forget(api, f"{mine}/{resource}/{AUTHORITY_NAME}")
        case "calico-k8s-signer", "configmaps", "patch":
            publish(api, NAMESPACE, Authority.make(dt.datetime.now(dt.UTC)))
        case _:
            return  # it is always asked for


class Access(NamedTuple):
    """What an account may do."""

    account: str
    right: Right


@contextmanager
def without(site: Site, path: str, field: str, left: list[Object], gone: Access) -> Iterator[None]:
    """A role or binding with only a part of what it has, in force."""
    before = msgspec.json.decode(site.objects.api.get(path))
    site.objects.api.replace(path, {**unversioned(before), field: left})
    try:
        wait_for(lambda: not is_allowed(site, gone))
        yield
    finally:
        site.objects.api.replace(path, unversioned(before))
        wait_for(lambda: is_allowed(site, gone))


def unversioned(document: Object) -> Object:
    metadata = {**document["metadata"]}
    del metadata["resourceVersion"]
    return {**document, "metadata": metadata}


def is_allowed(site: Site, access: Access) -> bool:
    """What the API server's authorizer says."""
    right = access.right
    resource, _, part = right.resource.partition("/")
    attributes = {
        "namespace": NAMESPACE if right.kind == "Role" else "",
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": part,
        "name": right.name,
    }
    user = f"system:serviceaccount:{NAMESPACE}:{access.account}"
    review = {"spec": {"user": user, "resourceAttributes": attributes}}
    answer = site.objects.api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(msgspec.json.decode(answer)["status"]["allowed"])


def rbac_path(kind: str, name: str) -> str:
    return {
        "ClusterRole": f"{RBAC}/clusterroles/{name}",
        "ClusterRoleBinding": f"{RBAC}/clusterrolebindings/{name}",
        "Role": f"{RBAC}/namespaces/{NAMESPACE}/roles/{name}",
        "RoleBinding": f"{RBAC}/namespaces/{NAMESPACE}/rolebindings/{name}",
    }[kind]


@pytest.mark.parametrize("account", sorted({each.account for each in all_memberships()}))
def test_the_rights_are_enough(site: Site, account: str) -> None:
    for binding in {each.binding for each in all_memberships() if each.account == account}:
        refused: list[str] = []

        def is_done(told: Sequence[str], is_done: bool, to: list[str] = refused) -> bool:
            to[:] = told
            return is_done

        WORK[binding](site, account, is_done)
        assert refused == []


@pytest.mark.parametrize("right", all_rights(), ids=str)
def test_each_right_is_needed(site: Site, right: Right) -> None:
    prepare(site, right)
    others = [each for each in all_rights() if each[:2] == right[:2] and each != right]
    rules = [
        {
            "apiGroups": [each.group],
            "resources": [each.resource],
            "verbs": [each.verb],
            **({"resourceNames": [each.name]} if each.name else {}),
        }
        for each in others
    ]
    account = ACCOUNTS[right.role]
    path = rbac_path(right.kind, right.role)
    with without(site, path, "rules", rules, Access(account, right)):
        WORK[right.role](site, account, lambda told, _: any(right.refusal in each for each in told))


@pytest.mark.parametrize("member", all_memberships(), ids=str)
def test_each_binding_is_needed(site: Site, member: Membership) -> None:
    (subjects,) = (
        each["subjects"]
        for each in documents()
        if (each["kind"], each["metadata"]["name"]) == (member.kind, member.binding)
    )
    left = [subject for subject in subjects if subject["name"] != member.account]
    kind = member.kind.removesuffix("Binding")
    given = [each for each in all_rights() if (each.kind, each.role) == (kind, member.binding)]
    prepare(site, given[0])
    path = rbac_path(member.kind, member.binding)
    with without(site, path, "subjects", left, Access(member.account, given[0])):
        WORK[member.binding](
            site,
            member.account,
            lambda told, _: any(right.refusal in each for right in given for each in told),
        )


def test_what_is_built_gives_the_rights_of_the_file_and_no_others(site: Site) -> None:
    built = yaml.safe_load_all(
        site.kube.kubectl("kustomize", str(site.folder / "manifests" / "policy-only"))
    )
    kinds = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    found = {
        (each["kind"], each["metadata"]["name"]): (each.get("rules"), each.get("subjects"))
        for each in built
        if each["kind"] in kinds
    }
    assert found == {
        (each["kind"], each["metadata"]["name"]): (each.get("rules"), each.get("subjects"))
        for each in documents()
        if each["kind"] in kinds
    }


def test_no_right_is_for_everything() -> None:
    for right in all_rights():
        assert "*" not in (right.group, right.resource, right.verb)
        assert right.verb not in ("bind", "escalate", "impersonate", "deletecollection")
    secrets = {
        (each.role, each.verb, each.name) for each in all_rights() if each.resource == "secrets"
    }
    assert secrets == {
        ("calico-k8s-signer", "create", ""),
        ("calico-k8s-signer", "get", AUTHORITY_NAME),
        ("calico-k8s-webhook", "get", WEBHOOK),
        ("calico-k8s-webhook", "update", WEBHOOK),
    }


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nodes",
        "/api/v1/pods",
        f"/api/v1/namespaces/{NAMESPACE}/secrets/{AUTHORITY_NAME}",
        f"/api/v1/namespaces/{NAMESPACE}/configmaps/{AUTHORITY_NAME}",
        REQUESTS,
    ],
)
def test_who_says_no_name_gets_403(site: Site, path: str) -> None:
    context = ssl.create_default_context(cafile=site.kube.authority)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with pytest.raises(urllib.error.HTTPError) as told:
        opener.open(f"{site.kube.url}{path}", timeout=10)
    with told.value as answer:
        assert answer.code == 403
        assert b"system:anonymous" in answer.read()


def test_no_account_reads_the_authoritys_key_but_the_signer(site: Site) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{AUTHORITY_NAME}"
    for account in site.pods.keys() - {"calico-k8s-signer"}:
        with closing(site.account(account)) as api, pytest.raises(KubeForbidden):
            api.get(path)


def test_a_token_says_which_node_its_pod_is_on(site: Site) -> None:
    token = claims(site.kubelet.token(site.pods["calico-k8s-felix"]))
    assert token["kubernetes.io"]["node"]["name"] == NODE
