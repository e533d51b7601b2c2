"""What commands print for programs is what docs/cli-json.md says."""

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator

from calico_k8s.controller.reconcile import Reconciler
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Put
from calico_k8s.model.addresses import Address
from calico_k8s.model.denial import Deciding, Denial, Denials, denials_path
from calico_k8s.model.keys import Key
from calico_k8s.model.resources import Action, Origin, Rule, Value
from calico_k8s.model.status import TroubledPolicy
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import expand
from calico_k8s.translate.cluster import translate_all
from tests.cli.manifests import TWO_TIERS, pod
from tests.cli.program import run
from tests.cli.test_status import BAD, GOOD, SILENT, tell, tell_pod, tell_policies, write
from tests.states import both, netset, policy, tier

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "apps"
SECTION = re.compile(r"^## (.+?)$.*?^```json\n(.+?)^```$", re.MULTILINE | re.DOTALL)
SCHEMAS = dict(SECTION.findall((ROOT / "docs" / "cli-json.md").read_text()))


def check(section: str, data: Any) -> None:  # Any: what JSON can say
    schema = json.loads(SCHEMAS[section])
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(data)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The two tiers, in a file."""
    file = tmp_path / "app.yaml"
    file.write_text(TWO_TIERS)
    return file


def test_every_section_has_a_schema_that_is_one() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "cli-json.md").read_text(), re.MULTILINE)
    assert list(SCHEMAS) == headings
    for text in SCHEMAS.values():
        Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize("name", ["guestbook.yaml", "dual-stack.yaml"])
def test_a_matrix_is_as_documented_and_sorted(name: str) -> None:
    found = run("matrix", APPS / name, "--port", "80", "--port", "icmp", "-o", "json").json
    check("matrix", found)
    order = [(p["from"], p["to"], p["protocol"], p["port"], p["family"]) for p in found["probes"]]
    assert order == sorted(set(order))


def test_a_diff_is_as_documented(app: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(TWO_TIERS.replace("app=a", "app=c").replace("  name: c", "  name: d"))
    found = run("matrix", app, "--diff", changed, "-o", "json").json
    check("matrix --diff", found)
    assert (found["added_pods"], found["removed_pods"]) == (["db/d"], ["db/c"])
    assert {cell["before"] for cell in found["closed"]} == {"allow"}
    assert {cell["after"] for cell in found["opened"]} == {"allow"}


@pytest.mark.parametrize(
    ("src", "dst", "port", "reason"),
    [
        ("web/a", "db/b", "5432", "policy"),
        ("db/c", "db/b", "5432", "policy"),
        ("db/b", "db/b", "1", "self"),
        ("10.64.0.2", "db/b", "1", "own-node"),
        ("db/b", "10.64.0.2", "1", "host-action"),
        ("192.0.2.1", "192.0.2.2", "icmp", "no-endpoint"),
        ("192.0.2.0/24", "web/a", "8080/udp", "policy"),
    ],
)
def test_an_answer_is_as_documented(app: Path, src: str, dst: str, port: str, reason: str) -> None:
    asked = run("can", app, "--from", src, "--to", dst, "--port", port, "-o", "json")
    check("can, explain", asked.json)
    assert asked.json["reason"] == reason
    assert asked.code == (0 if asked.json["verdict"] == "allow" else 1)


@pytest.mark.parametrize("policy", ["Pod/db/b", "Namespace/web", "Service/web/a"])
def test_affected_is_as_documented(app: Path, policy: str) -> None:
    check("affected", run("affected", app, "--policy", policy, "-o", "json").json)


def test_problems_are_as_documented(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(pod("web/a", "allow frm x") + pod("web/b") * 2)
    (tmp_path / "b.yaml").write_text("a: [")
    found = run("lint", tmp_path, "--format", "json").json
    check("lint", found)
    assert {"annotation-syntax", "manifest-unreadable"} <= {problem["code"] for problem in found}


def test_stored_lists_are_as_documented(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'state.db'}"
    cluster = expand(read_text(TWO_TIERS, "app.yaml").manifests)
    items: dict[Key, Value] = dict(translate_all(cluster.objects()).items)
    items |= both(
        tier("default", 100.0), policy("p", "all()", Rule(Action.DENY, Origin("NetworkPolicy")))
    )
    items |= netset("office", "192.0.2.0/24", labels={"kind": "office"})
    store = open_store(url)
    Reconciler(store).sync(items)
    store.close()
    for what in ("profiles", "tags", "rules", "endpoints", "tiers", "policies", "netsets"):
        rows = run("get", what, "--datastore", url, "-o", "json").json
        assert rows, what
        check("get", rows)


def test_nodes_are_as_documented(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'state.db'}"
    with closing(open_store(url)) as store:
        write(store, GOOD, BAD, SILENT)
        tell(store, GOOD, 1)
        tell(store, BAD, 1, "failing", "why")
        tell_pod(store, "web", "no-interface", "why")
    rows = run("status", "--datastore", url, "-o", "json").json
    check("status", rows)
    assert len(rows) == 3


def test_policies_are_as_documented(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'state.db'}"
    with closing(open_store(url)) as store:
        items: dict[Key, Value] = dict(
            both(policy("p", "all()", Rule(Action.DENY, Origin("NetworkPolicy"))))
        )
        Reconciler(store).sync(items)
        tell(store, GOOD, 1)
        tell_policies(store, TroubledPolicy("Tier", "", "t", "PolicyInvalid", "why", False))
    rows = run("status", "--policies", "--datastore", url, "-o", "json").json
    check("status --policies", rows)
    assert [row["accepted"] for row in rows] == [True, False]


def test_denials_are_as_described(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'state.db'}"
    ends = (Address("10.0.0.1"), Address("10.0.0.2"))
    asked = Denial("deny", "ingress", *ends, "tcp", 1.0, 2.0, "why", port=80, packets=1)
    unasked = Denial("deny", "egress", *ends, "icmp", 1.0, 2.0, "why", icmp_type=8, packets=1)
    deciding = Deciding("Tier", "", "default", None)
    told = (msgspec.structs.replace(asked, deciding=deciding), unasked)
    with closing(open_store(url)) as store:
        raw = msgspec.json.encode(Denials(GOOD, told))
        store.transact([Put(denials_path(GOOD), raw)])
    rows = run("denials", "--datastore", url, "-o", "json").json
    check("denials", rows)
    assert len(rows) == 2


def test_yaml_says_the_same_as_json(app: Path) -> None:
    as_yaml = run("matrix", app, "-o", "yaml").out
    assert yaml.safe_load(as_yaml) == run("matrix", app, "-o", "json").json


def test_a_report_of_staged_policies_is_as_documented() -> None:
    examples = Path(__file__).parents[2] / "docs" / "examples"
    found = run(
        "staged", examples / "policies" / "app.yaml", examples / "staged", "-o", "json"
    ).json
    check("staged", found)
    assert found["closed"]
