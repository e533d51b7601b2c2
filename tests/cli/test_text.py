"""``lint`` and ``fmt`` as a user meets them."""

from pathlib import Path

import pytest

from tests.cli.manifests import TWO_TIERS, namespace, pod, service
from tests.cli.program import run, run_apart

APPS = Path(__file__).parent.parent / "apps"
MESSY = pod("web/a", "ALLOW  tcp from label  app=a to ports 80 # why")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with one policy that is not in its canonical form."""
    path = tmp_path / "a.yaml"
    path.write_text(MESSY)
    return path


# lint


def test_an_application_without_mistakes_has_none() -> None:
    checked = run("lint", APPS)
    assert (checked.code, checked.out) == (0, "")
    assert "nothing found" in checked.err


def test_an_error_is_code_1_with_its_place_and_a_caret(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(pod("web/a", "allow tcp frm label a=b"))
    checked = run("lint", file)
    assert checked.code == 1
    first, source, caret, *_ = checked.out.splitlines()
    assert first.startswith(f"{file}:9:23: error: ")
    assert first.endswith("[annotation-syntax]")
    assert source.index("frm") == caret.index("^^^")


def test_warnings_alone_are_code_0(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(pod("web/a", "allow from namespace nowhere"))
    checked = run("lint", file)
    assert checked.code == 0
    assert "warning" in checked.out


def test_json_is_a_list_with_the_documented_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("web", "shut"))
    (problem,) = run("lint", file, "--format", "json").json
    assert problem == {
        "severity": "error",
        "code": "flag-value",
        "message": problem["message"],
        "file": str(file),
        "line": 4,
        "column": problem["column"],
        "object": "Namespace/web",
    }
    assert run("lint", APPS, "--format", "json").json == []


def test_a_broken_file_takes_nothing_from_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1\n")
    (tmp_path / "b.yaml").write_text(pod("web/a", "alow"))
    checked = run("lint", tmp_path, "--format", "github")
    assert checked.code == 1
    assert [line.split(",")[0] for line in checked.out.splitlines()] == [
        f"::error file={tmp_path}/a.yaml",
        f"::error file={tmp_path}/b.yaml",
    ]


def test_sarif_names_each_rule_that_a_result_has(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(service("web/a", label="opne"))
    (found,) = run("lint", file, "--format", "sarif").json["runs"]
    rules = [rule["id"] for rule in found["tool"]["driver"]["rules"]]
    assert [rules[result["ruleIndex"]] for result in found["results"]] == ["service-flag-value"]


@pytest.mark.parametrize("command", [["lint"], ["fmt", "manifests/"]])
def test_what_people_wrote_is_in_no_datastore(command: list[str]) -> None:
    asked = run(*command, "--datastore", "etcd://127.0.0.1:2379")
    assert asked.code == 2
    assert "give manifests instead of --datastore" in asked.err


def test_a_source_that_is_not_there_is_wrong_use() -> None:
    assert run("lint", "no/such/file.yaml").code == 2
    assert run("lint").code == 2


# fmt of texts


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["ALLOW tcp from label a=b"], "allow tcp from label a=b\n"),
        (["allow", "TCP", "to", "ports", "80", ",", "443"], "allow tcp to port 80,443\n"),
        (["allow;deny"], "allow; deny\n"),
        (["allow  tcp", "deny"], "allow tcp\ndeny\n"),
        (["allow # why\n\n\ndeny"], "allow  # why\n\ndeny\n"),
        ([""], "\n"),
        (["allow;" * 2000 + "deny"], "allow; " * 2000 + "deny\n"),
    ],
)
def test_a_text_is_printed_in_its_canonical_form(words: list[str], printed: str) -> None:
    assert run("fmt", *words) == (0, printed, "")


def test_check_tells_by_its_code_whether_a_text_is_canonical() -> None:
    assert run("fmt", "--check", "allow tcp").code == 0
    assert run("fmt", "--check", "allow  tcp").code == 1


def test_a_text_that_does_not_parse_is_shown_with_a_caret() -> None:
    asked = run("fmt", "allow tcp frm label a=b; alow")
    assert (asked.code, asked.out) == (2, "")
    assert "            ^^^" in asked.err
    assert "did you mean 'from'?" in asked.err
    assert "did you mean 'allow'?" in asked.err
    assert "there is no file 'manifets/a.yaml'" in run("fmt", "manifets/a.yaml").err
    assert "there is no file 'ap.yaml'" in run("fmt", "ap.yaml").err


# fmt of files


def test_a_source_prints_a_diff_and_changes_nothing(file: Path) -> None:
    asked = run("fmt", file)
    assert asked.code == 0
    assert file.read_text() == MESSY
    changed = [line for line in asked.out.splitlines() if line[:1] in ("+", "-")][2:]
    assert changed == [
        "-    policy: ALLOW  tcp from label  app=a to ports 80 # why",
        "+    policy: allow tcp from label app=a to port 80 # why",
    ]
    assert run("fmt", "-", stdin=MESSY).out.splitlines()[2:] == asked.out.splitlines()[2:]


def test_write_changes_the_file_and_only_the_policy_in_it(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + MESSY.replace("\n", "\r\n").encode())
    assert run("fmt", file, "--check").code == 1
    assert run("fmt", file, "--write").code == 0
    expected = MESSY.replace(
        "ALLOW  tcp from label  app=a to ports 80", "allow tcp from label app=a to port 80"
    )
    assert file.read_bytes() == b"\xef\xbb\xbf" + expected.replace("\n", "\r\n").encode()
    assert run("fmt", file, "--check") == (0, "", "")
    assert run("fmt", file) == (0, "", "")


def test_what_can_be_formatted_is_though_something_beside_it_cannot(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.yaml", tmp_path / "b.yaml"
    good.write_text(MESSY)
    bad.write_text(pod("web/b", "ALLOW tcp frm x") + pod("web/c", "DENY") + "---\na: [\n")
    asked = run("fmt", tmp_path, "--write")
    assert asked.code == 2
    assert f"error: {bad}:9:23: expected 'from', 'to' or the end, found 'frm'" in asked.err
    assert f"error: {bad}:" in asked.err.splitlines()[0]
    assert "policy: allow tcp from" in good.read_text()
    assert "policy: deny" in bad.read_text()
    assert "policy: ALLOW tcp frm x" in bad.read_text()


def test_a_block_keeps_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    block = "|\n      ALLOW tcp   # why\n\n\n      deny\n\n"
    file.write_text(pod("web/a", block))
    assert run("fmt", file, "--write").code == 0
    assert file.read_text() == pod("web/a", "|\n      allow tcp  # why\n\n      deny\n\n")


@pytest.mark.parametrize(
    "arguments", [["--write", "allow"], ["--write", "-"], ["--write", "--check", "."], []]
)
def test_wrong_use_of_fmt_is_told(arguments: list[str]) -> None:
    assert run("fmt", *arguments).code == 2


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TWO_TIERS)
    assert run_apart("fmt", "allow").out == "allow\n"
    assert run_apart("lint", tmp_path).code == 0
