"""SOURCE: files, standard input or a datastore, and what is told of each."""

from pathlib import Path

import pytest

from calico_k8s.controller.reconcile import Reconciler
from calico_k8s.datastore.factory import open_store
from calico_k8s.datastore.store import Put
from calico_k8s.model import keys
from calico_k8s.sources.documents import read_text
from calico_k8s.sources.expand import expand
from calico_k8s.translate.cluster import translate_all
from calico_k8s.translate.services import service_profile
from tests.cli.manifests import TWO_TIERS, namespace, pod
from tests.cli.program import run, run_apart


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The two tiers, in a file."""
    file = tmp_path / "app.yaml"
    file.write_text(TWO_TIERS)
    return file


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """The URL of a datastore that holds the two tiers, as the controller writes them."""
    url = f"sqlite://{tmp_path / 'state.db'}"
    store = open_store(url)
    cluster = expand(read_text(TWO_TIERS, "app.yaml").manifests)
    Reconciler(store).sync(translate_all(cluster.objects()).items)
    store.close()
    return url


def test_a_datastore_gives_the_same_matrix_as_the_manifests(app: Path, stored: str) -> None:
    ports = ("--port", "5432", "--port", "8080", "-o", "json")
    assert run("matrix", "--datastore", stored, *ports) == run("matrix", app, *ports)


def test_a_datastore_gives_the_same_explanation_and_affected(app: Path, stored: str) -> None:
    question = ("--from", "db/c", "--to", "db/b", "--port", "5432")
    from_store = run("explain", "--datastore", stored, *question)
    assert from_store == run("explain", app, *question)
    policy = ("--policy", "Pod/db/b", "-o", "json")
    assert run("affected", "--datastore", stored, *policy) == run("affected", app, *policy)


def test_manifests_can_be_previewed_against_a_datastore(app: Path, stored: str) -> None:
    assert run("matrix", "--datastore", stored, "--diff", app).out.endswith("closes nothing\n")


def test_manifests_go_before_a_datastore_of_the_environment(app: Path) -> None:
    away = {"CALICO_K8S_DATASTORE": "sqlite:///nowhere/at/all.db"}
    assert run("matrix", app, env=away).code == 0
    assert run("matrix", env=away).code == 3


def test_the_environment_gives_what_the_command_line_does_not(app: Path) -> None:
    question = ("can", app, "--from", "db/b", "--to", "db/c", "--port", "1")
    outside = ("can", app, "--from", "192.0.2.1", "--to", "db/c", "--port", "1")
    closed = {"CALICO_K8S_DEFAULT_NAMESPACE_POLICY": "closed"}
    assert (run(*outside).code, run(*outside, env=closed).code) == (0, 1)
    assert run(*outside, "--default-namespace-policy", "open", env=closed).code == 0
    assert run(*question, env=closed).code == 0
    assert run(*question, env={"CALICO_K8S_DEFAULT_NAMESPACE_POLICY": "shut"}).code == 2


def test_annotation_keys_choose_what_counts(app: Path) -> None:
    question = ("can", app, "--from", "db/c", "--to", "db/b", "--port", "5432")
    assert run(*question).code == 1
    assert run(*question, "--annotation-keys", "example.org/policy").code == 0
    assert run(*question, "--annotation-keys", "example.org/policy, policy").code == 1


def test_unknown_kinds_are_passed_over_with_a_note(app: Path) -> None:
    app.write_text(TWO_TIERS + "---\nkind: Widget\napiVersion: x.org/v1\nmetadata: {name: w}\n")
    asked = run("matrix", app)
    assert asked.code == 0
    assert asked.err == "note: no part of this, skipped: Widget.x.org (1)\n"


def test_a_mistake_of_a_template_is_told_once_and_of_many_only_some(app: Path) -> None:
    broken = "".join(pod(f"web/p{number}", "allow nothing") for number in range(12))
    app.write_text(broken + namespace("web", "shut"))
    told = run("matrix", app).err.splitlines()
    assert len(told) == 11
    assert told[0].startswith(f"warning: {app}:")
    assert told[-1] == "warning: and 3 more: 'calico-k8s lint' lists them all"


def test_mistakes_are_told_in_the_order_in_which_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text("".join(pod(f"web/p{number}", "alow tcp") for number in range(12)))
    lines = [int(line.split(":")[2]) for line in run("matrix", file).err.splitlines()[:-1]]
    assert lines == sorted(lines)
    assert lines[0] < 12


def test_a_pod_that_has_lost_its_address_is_told(app: Path) -> None:
    status = "status: {podIP: 10.9.9.9, phase: Running}\n"
    app.write_text(pod("web/a") + status + pod("web/b") + status)
    (told,) = run("matrix", app).err.splitlines()
    assert told == "warning: address 10.9.9.9 of pod web/a belongs to web/b, which is newer"


def test_files_folders_and_standard_input_go_together(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one.yaml").write_text(pod("web/a"))
    (tmp_path / "two.txt").write_text(pod("web/b"))
    asked = run("matrix", folder, tmp_path / "two.txt", "-", "-o", "json", stdin=pod("web/c"))
    assert [each["id"] for each in asked.json["pods"]] == ["web/a", "web/b", "web/c"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\n", "f.yaml:2:1: not YAML"),
        ("\tx: 1\n", "f.yaml:1:1: not YAML"),
        ("kind: Pod\nkind: Pod\n", "f.yaml:2:1: the key 'kind' is there twice"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    asked = run("can", file, "--from", "a/b", "--to", "a/b", "--port", "1")
    assert asked.code == 2
    assert told in asked.err
    assert run("matrix", tmp_path / "none").code == 2


@pytest.mark.parametrize(
    "value", [b"[1, 2", b'{"inbound_rules": 7}', b'{"inbound_rules": [{"action": "teleport"}]}']
)
def test_a_value_written_by_hand_or_a_newer_version_is_told_and_passed_over(
    stored: str, value: bytes
) -> None:
    path = keys.key_path(keys.ProfileRulesKey(service_profile("web", "a")))
    store = open_store(stored)
    store.transact([Put(path, value)])
    store.close()
    asked = run("matrix", "--datastore", stored, "--port", "8080", "-o", "json")
    assert asked.code == 0
    assert asked.err.startswith("warning: ")
    assert path in asked.err
    verdicts = {(p["from"], p["to"]): p["verdict"] for p in asked.json["probes"]}
    assert verdicts["db/c", "web/a"] == "deny"
    assert verdicts["web/a", "db/c"] == "allow"


def test_a_datastore_that_is_not_there_is_code_3(tmp_path: Path) -> None:
    asked = run_apart("matrix", "--datastore", f"sqlite://{tmp_path / 'no' / 'such.db'}")
    assert (asked.code, asked.out) == (3, "")
    assert asked.err.startswith("error: ")
    assert len(asked.err.splitlines()) == 1


def test_a_store_that_no_controller_has_filled_is_told(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'state.db'}"
    open_store(url).close()
    asked = run("matrix", "--datastore", url)
    assert asked.code == 0
    assert "the controller's first sync is not done" in asked.err
