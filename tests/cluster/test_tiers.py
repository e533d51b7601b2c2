"""Who may write in which tier: asked of a real API server, for people with and without rights.

docs/tiers.md is followed word by word; then each right is taken away, alone, and each act that needs
it is refused.  The tests share one server, and run as they stand.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cluster.binaries import kube_program
from tests.cluster.controllers import wait_for
from tests.cluster.servers import ApiServer, api_server
from tests.docs.test_commands import Shown, shown_on

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tiers.md"
Object = dict[str, Any]  # Any: what JSON can say


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("tiers")) as server:
        yield server


def sh(server: ApiServer, command: str, stdin: str = "") -> tuple[int, str]:
    """What a reader sees of a command."""
    environment = {
        "PATH": f"{kube_program('kubectl').parent}:{os.environ['PATH']}",
        "HOME": str(server.kubeconfig().parent),
        "KUBECONFIG": str(server.kubeconfig()),
    }
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def is_asked(server: ApiServer) -> bool:
    """Whether the API server has begun to ask, which takes it some moments."""
    web = (ROOT / "docs/examples/tiers/web.yaml").read_text()
    return "may not create" in sh(server, "kubectl create --as dora --dry-run=server -f -", web)[1]


def prints(server: ApiServer, shown: Shown) -> bool:
    """Whether a command fails as the page shows."""
    code, out = sh(server, shown.command)
    pattern = ".*".join(map(re.escape, shown.output.split("…")))
    return code == 1 and re.fullmatch(pattern, out) is not None


def test_every_command_of_the_page_does_what_the_page_says(server: ApiServer) -> None:
    *commands, _ = shown_on(PAGE)
    for shown in commands:
        if "roles.yaml" in shown.command:
            sh(server, shown.command.replace("docs/examples/tiers/roles.yaml", "-"), KINDS_ONLY)
            wait_for(lambda: is_asked(server), lambda: "the API server asks nobody")
        is_refused = shown.output.startswith("Error from server")
        if is_refused:  # as soon as the server knows of a right just given
            wait_for(lambda: prints(server, shown), lambda: sh(server, shown.command)[1])  # noqa: B023 - called at once
            continue
        code, out = sh(server, shown.command)
        assert (code, not shown.output or out == shown.output) == (0, True), out


KINDS_ONLY = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kinds}
rules: [{apiGroups: [projectcalico.org], resources: [networkpolicies], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: kinds, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kinds}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: dora}]
"""
"""Dora may write the kind, and in no tier yet."""


def rule(
    resource: str, *names: str, verbs: tuple[str, ...] = ("create", "update", "delete")
) -> Object:
    return {
        "apiGroups": ["projectcalico.org"],
        "resources": [resource],
        "verbs": list(verbs),
        **({"resourceNames": list(names)} if names else {}),
    }


def use(*tiers: str) -> Object:
    return rule("tiers", *tiers, verbs=("get",))


def give(server: ApiServer, user: str, *rules: Object) -> None:
    """Gives a user these rights in the whole cluster, and those to the kinds themselves."""
    kinds = rule("networkpolicies", verbs=("*",)) | {
        "resources": ["networkpolicies", "globalnetworkpolicies", "stagednetworkpolicies"]
    }
    role: Object = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": user},
        "rules": [kinds, *rules],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    for made in (role, binding):
        code, out = sh(server, "kubectl apply -f -", msgspec.json.encode(made).decode())
        assert code == 0, out


def policy(name: str, tier: str | None, kind: str = "NetworkPolicy") -> str:
    metadata = {"name": name} | ({} if kind.startswith("Global") else {"namespace": "shop"})
    spec = {"selector": "all()"} | ({"tier": tier} if tier else {})
    made = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }
    return msgspec.json.encode(made).decode()


@pytest.fixture(scope="module")
def asked(server: ApiServer) -> ApiServer:
    """After the page: a server that asks again, with people of all sorts."""
    sh(server, "kubectl apply -k manifests/tiers")
    np, gnp = "tier.networkpolicies", "tier.globalnetworkpolicies"
    give(server, "both", use("default", "security"), rule(np, "default.*", "security.*"))
    give(server, "user", use("default", "security"), rule(np, "default.*"))
    give(server, "blind", rule(np, "default.*", "security.*"))
    give(server, "named", use("default", "security"), rule(np, "mine"))
    give(server, "every", use(), rule(np), rule(gnp))
    give(server, "maker", use("default"), rule(np, "default.*", verbs=("create",)))
    give(server, "global", use("security"), rule(gnp, "security.*"))
    staged = "tier.stagednetworkpolicies"
    give(server, "stager", use("default", "security"), rule(staged, "default.*"))
    give(server, "nobody", rule("networksets"))
    wait_for(
        lambda: "may not" in ask(server, "nobody", "create", policy("a", None)),
        lambda: ask(server, "nobody", "create", policy("a", None)),
    )
    wait_for(lambda: not ask(server, "global", "create", policy("a", "security", GLOBAL)))
    for name, tier in (("old", "security"), ("plain", None), ("mine", "security")):
        assert sh(server, "kubectl create -f -", policy(name, tier))[0] == 0
    return server


GLOBAL = "GlobalNetworkPolicy"


def ask(server: ApiServer, user: str, verb: str, document: str) -> str:
    """Why the server would refuse; empty: it would not."""
    words = f"kubectl {verb} --as {user} --dry-run=server -f -"
    code, out = sh(server, words, document)
    return out if code else ""


NEW, OLD = policy("new", None), policy("old", "security")
NEW_SECURE = policy("new", "security")
STAGED, STAGED_SECURE = (policy("new", t, "StagedNetworkPolicy") for t in (None, "security"))


@pytest.mark.parametrize(
    ("user", "verb", "document", "refusal"),
    [
        ("both", "create", NEW_SECURE, ""),
        ("both", "replace", policy("old", "default"), ""),
        ("both", "create", policy("new", "other"), "get tiers/other"),
        ("user", "create", NEW, ""),
        ("user", "create", NEW_SECURE, "create tier.networkpolicies/security.*"),
        ("user", "replace", policy("plain", "security"), "update tier.networkpolicies/security.*"),
        ("user", "replace", policy("old", "default"), "update tier.networkpolicies/security.*"),
        ("user", "replace", policy("plain", "default"), ""),
        ("user", "delete", OLD, "delete tier.networkpolicies/security.*"),
        ("blind", "create", NEW_SECURE, "get tiers/security"),
        ("blind", "create", NEW, "get tiers/default"),
        ("stager", "create", STAGED, ""),
        ("stager", "create", STAGED_SECURE, "create tier.stagednetworkpolicies/security.*"),
        ("stager", "create", NEW, "create tier.networkpolicies/default.*"),
        ("both", "create", STAGED, "create tier.stagednetworkpolicies/default.*"),
        ("named", "replace", policy("mine", "security"), ""),
        ("named", "create", NEW_SECURE, "create tier.networkpolicies/security.*"),
        ("every", "create", policy("new", "anything"), ""),
        ("every", "create", policy("new", "anything", GLOBAL), ""),
        ("maker", "create", NEW, ""),
        ("maker", "replace", policy("plain", None), "update tier.networkpolicies/default.*"),
        ("maker", "delete", policy("plain", None), "delete tier.networkpolicies/default.*"),
        ("global", "create", policy("new", "security", GLOBAL), ""),
        ("global", "create", NEW_SECURE, "create tier.networkpolicies/security.*"),
        ("nobody", "create", NEW, "get tiers/default"),
    ],
)
def test_an_act_takes_each_of_its_rights(
    asked: ApiServer, user: str, verb: str, document: str, refusal: str
) -> None:
    said = ask(asked, user, verb, document)
    if refusal:
        assert f"{user} may not " in said
        assert f"({refusal})" in said
    else:
        assert said == ""


def test_of_a_collection_only_what_may_be_deleted_is(asked: ApiServer) -> None:
    words = "kubectl delete --as user -n shop --raw"
    path = "/apis/projectcalico.org/v3/namespaces/shop/networkpolicies"
    _, out = sh(asked, f"{words} {path}")
    assert "user may not delete NetworkPolicy shop/" in out
    _, left = sh(asked, "kubectl -n shop get networkpolicies.projectcalico.org -o name")
    names = {line.rpartition("/")[2] for line in left.splitlines()}
    assert {"old", "mine"} <= names


def test_its_last_command_has_nobody_asked_any_more(asked: ApiServer) -> None:
    *_, last = shown_on(PAGE)
    assert sh(asked, last.command)[0] == 0
    wait_for(lambda: ask(asked, "nobody", "create", NEW) == "")
