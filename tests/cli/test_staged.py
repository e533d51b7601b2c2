"""``staged``: reports, and policies that are enforced or dismissed in files."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Put
from calico_k8s.model import codec
from calico_k8s.model.addresses import Address
from calico_k8s.model.denial import Deciding, Denial, Denials, StagedCount, denials_path
from calico_k8s.model.keys import Key, PolicyKey, TierKey, key_path
from calico_k8s.model.names import NodeName, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import Direction, Policy, StagedAction, Tier, Value
from tests.cli.program import run

APP = """\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: web}
spec: {containers: [{name: main, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: db}
spec: {containers: [{name: main, ports: [{containerPort: 80}]}]}
"""
CLOSE = """\
# Closes the database.
kind: StagedNetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: close, namespace: db}
spec:
  stagedAction: Set  # for now
  selector: all()
  types: [Ingress]
"""
CLOSED = """\
# Closes the database.
kind: NetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: close, namespace: db}
spec:
  selector: all()
  types: [Ingress]
"""
DELETE = CLOSE.replace("Set", "Delete").replace("  selector: all()\n  types: [Ingress]\n", "")
TIERED = CLOSE.replace("selector:", "tier: none\n  selector:")

IN_A_LIST = """\
kind: List
apiVersion: v1
items:
- {kind: Namespace, apiVersion: v1, metadata: {name: db}}
- {kind: StagedNetworkPolicy, apiVersion: projectcalico.org/v3, metadata: {name: close}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.yaml").write_text(APP)
    return tmp_path


def test_the_report_says_what_would_change(folder: Path) -> None:
    (folder / "close.yaml").write_text(CLOSE)
    ran = run("staged", folder)
    becomes = "would be CalicoNetworkPolicy/db/close, in tier default, for 1 pod"
    assert ran.out.splitlines() == [
        f"StagedNetworkPolicy/db/close: {becomes}",
        "  closes 1 connection",
        "    web/a → db/b: 80/tcp",
    ]
    assert (ran.code, ran.err) == (0, "")
    assert run("staged", "show", folder).out == ran.out


def test_nothing_staged_is_said_and_is_no_error(folder: Path) -> None:
    ran = run("staged", folder)
    assert (ran.code, ran.out) == (0, "no policy is staged\n")


def test_enforcing_shows_the_change_and_makes_it_when_told(folder: Path) -> None:
    file = folder / "close.yaml"
    file.write_text(CLOSE)
    shown = run("staged", "enforce", "close", folder)
    assert shown.code == 0
    assert "-kind: StagedNetworkPolicy" in shown.out
    assert "+kind: NetworkPolicy" in shown.out
    assert file.read_text() == CLOSE
    before = run("staged", folder, "-o", "json").json
    assert run("staged", "enforce", "db/close", folder, "--write").code == 0
    assert file.read_text() == CLOSED
    (folder / "closed").mkdir()
    file.rename(folder / "closed" / "close.yaml")
    diff = run("matrix", folder / "app.yaml", "--diff", folder, "-o", "json").json
    assert diff["closed"] == before["closed"]


def test_enforcing_replaces_the_policy_of_that_name_wherever_it_stands(folder: Path) -> None:
    other = "kind: Namespace\napiVersion: v1\nmetadata: {name: db}  # stays\n"
    (folder / "old.yaml").write_text(f"{other}---\n{CLOSED}")
    file = folder / "close.yaml"
    file.write_text(f"{other}---\n{CLOSE}---\n{APP}")
    assert run("staged", "enforce", "close", folder, "--write").code == 0
    assert file.read_text() == f"{other}---\n{CLOSED}---\n{APP}"
    assert (folder / "old.yaml").read_text() == other


def test_enforcing_a_deletion_takes_both_away(folder: Path) -> None:
    (folder / "close.yaml").write_text(f"{CLOSED}---\n{DELETE}---\n{APP}")
    assert "would delete" in run("staged", folder).out
    assert run("staged", "enforce", "close", folder, "--write").code == 0
    assert (folder / "close.yaml").read_text() == f"---\n{APP}"


def test_a_kubernetes_policy_gets_its_own_version(folder: Path) -> None:
    file = folder / "close.json"
    file.write_text(
        '{"apiVersion": "projectcalico.org/v3", "kind": "StagedKubernetesNetworkPolicy",'
        ' "metadata": {"name": "k", "namespace": "db"},'
        ' "spec": {"stagedAction": "Set", "podSelector": {}}}'
    )
    assert run("staged", "enforce", "k", folder, "--write").code == 0
    assert file.read_text() == (
        '{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",'
        ' "metadata": {"name": "k", "namespace": "db"},'
        ' "spec": {"podSelector": {}}}'
    )


def test_dismissing_takes_the_staged_policy_away(folder: Path) -> None:
    (folder / "close.yaml").write_text(f"{CLOSED}---\n{CLOSE}")
    assert "-kind: StagedNetworkPolicy" in run("staged", "dismiss", "close", folder).out
    assert run("staged", "dismiss", "close", folder, "--write").code == 0
    assert (folder / "close.yaml").read_text() == CLOSED


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (CLOSE, ["enforce", "nope"], "no staged policy is called 'nope': there is"),
        (
            CLOSE + "---\n" + CLOSE.replace("namespace: db", "namespace: web"),
            ["enforce", "close"],
            "several staged policies are called 'close': there is StagedNetworkPolicy/db/close,",
        ),
        (CLOSED, ["dismiss", "close"], "no staged policy is called 'close': there is none"),
        (DELETE, ["enforce", "close"], "there is no CalicoNetworkPolicy/db/close to delete"),
        (TIERED, ["enforce", "close"], "there is no tier 'none'"),
        (CLOSE.replace("Set", "Drop"), ["enforce", "close"], "is none of Set, Delete, Learn"),
        (CLOSE.replace("Set", "Ignore"), ["enforce", "close"], "is to be ignored: give it another"),
        (
            CLOSE.replace("all()", "a =="),
            ["enforce", "close"],
            "once it is enforced, everything is",
        ),
        (CLOSE, ["enforce", "close", "--dry-run"], "--dry-run is for a cluster"),
        (
            IN_A_LIST,
            ["dismiss", "close"],
            "this object cannot be changed where it stands",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(
    folder: Path, text: str, arguments: list[str], message: str
) -> None:
    file = folder / "close.yaml"
    file.write_text(text)
    more = [] if "--dry-run" in arguments else ["--write"]
    ran = run("staged", *arguments, folder, *more)
    assert (ran.code, file.read_text()) == (2, text)
    assert message in ran.err.splitlines()[-1]
    assert ran.err.splitlines()[-1].startswith("error: ")


def test_what_writes_is_told_where_it_cannot(folder: Path) -> None:
    stored = run("staged", "enforce", "x", "--datastore", f"sqlite://{folder}/state.db")
    assert "give manifests or --kubeconfig instead of --datastore" in stored.err
    piped = run("staged", "enforce", "close", "-", "--write", stdin=CLOSE)
    assert (stored.code, piped.code) == (2, 2)
    assert "--write changes files" in piped.err


def test_what_nodes_have_counted_is_in_the_report_of_a_datastore(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/state.db"
    policy = "StagedNetworkPolicy/db/close"
    tier, name = TierName("default"), PolicyId("StagedNetworkPolicy", "db", "close")
    wall = Policy(name, tier, SelectorText("all()"), (Direction.INGRESS,), staged=StagedAction.SET)
    items: dict[Key, Value] = {TierKey(tier): Tier(tier), PolicyKey(tier, name): wall}
    denied = Denial(
        "would-deny",
        "ingress",
        Address("10.0.0.1"),
        Address("10.0.0.2"),
        "tcp",
        first=0.0,
        last=1.0,
        why="end of StagedNetworkPolicy db/close",
        src_pod="web/a",
        dst_pod="db/b",
        port=80,
        deciding=Deciding("StagedNetworkPolicy", "db", "close", None),
        packets=3,
    )
    with closing(open_store(url)) as store:
        store.transact([Put(key_path(key), codec.encode(value)) for key, value in items.items()])
        uncounted = run("staged", "--datastore", url)
        for node, since in (("n1", 5.0), ("n2", 0.0)):
            told = Denials(
                NodeName(node), rehearsed=(denied,), staged=(StagedCount(policy, 1, 3, since),)
            )
            store.transact([Put(denials_path(NodeName(node)), msgspec.json.encode(told))])
    assert "no node counts packets: start Felix with --denials on" in uncounted.err
    found = run("staged", "--datastore", url)
    epoch = "1970-01-01 00:00:00 UTC, packets that ask for a connection:"
    seen = "would deny 3: web/a → db/b, tcp 80: end of StagedNetworkPolicy db/close"
    assert found.out.splitlines()[2:] == [
        f"  counted on 2 nodes since {epoch} would allow 2, would deny 6",
        f"    {seen}",
        f"    {seen}",
    ]
    (effect,) = run("staged", "--datastore", url, "-o", "json").json["policies"]
    assert (effect["counted"]["would_deny"], effect["counted"]["nodes"]) == (6, 2)
    told_by_denials = run("denials", "--staged", "--datastore", url, "-o", "json").json
    assert [each["action"] for each in told_by_denials] == ["would-deny"] * 2
    assert run("denials", "--datastore", url, "-o", "json").json == []
