"""What people get wrong, through the commands: a clear message, and the rest is as if it were not."""

from pathlib import Path

import pytest

from tests.cli.manifests import TWO_TIERS, namespace, pod, service
from tests.cli.program import Ran, run

ONE_MEGABYTE = "allow tcp from label app=a to port 1; " * 30_000
DEEP = "(" * 40 + "has(app)" + ")" * 40
TOO_DEEP = "(" * 5000 + "has(app)" + ")" * 5000


def annotated(text: str) -> str:
    """A pod ``bad/p`` with this policy."""
    return pod("bad/p", "'" + text.replace("'", "''") + "'")


TWO_PODS_ONE_ADDRESS = "".join(
    pod(f"bad/{name}") + "status: {podIP: 10.9.9.9, phase: Running}\n" for name in ("p", "q")
)
CONTRADICTION = (
    "---\nkind: Namespace\napiVersion: v1\nmetadata:\n  name: bad\n"
    "  annotations: {projectcalico-policy: open}\n  labels: {projectcalico-policy: closed}\n"
)
NO_METADATA = "---\nkind: Pod\napiVersion: v1\nspec: {}\n"
NO_NAME = "---\nkind: Service\napiVersion: v1\nmetadata: {namespace: bad}\n"
STRANGE_LABEL = annotated("allow from label example.org/my_key=a_b") + pod("bad/q").replace(
    "{app: q}", "{example.org/my_key: a_b}"
)

BAD = {
    "unparsable annotation": (annotated("allow tcp frm x"), "annotation-syntax", "found 'frm'"),
    "annotation on a number": (pod("bad/p", "5"), "object-invalid", "put it in quotes"),
    "unknown flag": (namespace("bad", "shut") + pod("bad/p"), "flag-value", "give 'open' or"),
    "flag on a switch": (namespace("bad", "true") + pod("bad/p"), "object-invalid", "in quotes"),
    "unknown service flag": (
        service("bad/p", label="yep") + pod("bad/p"),
        "service-flag-value",
        "",
    ),
    "port 70000": (annotated("allow tcp to port 70000"), "annotation-syntax", "70000"),
    "container port 70000": (pod("bad/p", port=70000), "object-invalid", "at most 65535"),
    "cidr 10.0.0.0/33": (annotated("allow from cidr 10.0.0.0/33"), "annotation-syntax", "/33"),
    "1 MB of annotation": (annotated(ONE_MEGABYTE), "annotation-syntax", "262144"),
    "emoji": (annotated("allow tcp from label app=🔥"), "annotation-syntax", "🔥"),
    "too deep": (
        annotated(f"allow from selector ({TOO_DEEP})"),
        "annotation-syntax",
        "parentheses",
    ),
    "no metadata": (NO_METADATA, "object-invalid", "metadata is missing"),
    "no name": (NO_NAME, "object-invalid", "metadata.name is missing"),
}
"""What makes an error, each with its code and a part of its message."""

SUSPECT = {
    "contradictory flags": (CONTRADICTION + pod("bad/p"), "flag-conflict"),
    "port that no pod has": (
        service("bad/p", target="metrics") + pod("bad/p") + namespace("bad", "closed"),
        "service-port-unknown",
    ),
    "two pods with one address": (TWO_PODS_ONE_ADDRESS, "address-shared"),
}
"""What makes a warning."""

FINE = {
    "label key with a slash and an underscore": STRANGE_LABEL,
    "40 parentheses": annotated(f"allow from selector ({DEEP})") + pod("bad/q"),
    "emoji in a comment": annotated("allow # 🔥"),
}
"""What looks wrong and is not."""


def lint(tmp_path: Path, text: str) -> Ran:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    return run("lint", file, "--format", "json")


@pytest.mark.parametrize("name", BAD)
def test_lint_tells_an_error_with_its_place(tmp_path: Path, name: str) -> None:
    text, code, told = BAD[name]
    checked = lint(tmp_path, text)
    assert checked.code == 1
    (problem,) = [each for each in checked.json if each["severity"] == "error"]
    assert problem["code"] == code
    assert told in problem["message"]
    assert problem["line"] > 0
    assert len(problem["message"]) < 400


@pytest.mark.parametrize("name", SUSPECT)
def test_lint_warns_of_what_may_not_be_meant(tmp_path: Path, name: str) -> None:
    text, code = SUSPECT[name]
    checked = lint(tmp_path, text)
    assert checked.code == 0
    assert [each["code"] for each in checked.json] == [code]


@pytest.mark.parametrize("name", FINE)
def test_lint_is_silent_about_what_only_looks_wrong(tmp_path: Path, name: str) -> None:
    assert lint(tmp_path, FINE[name]).json == []


def verdicts(ran: Ran) -> dict[tuple[str, str], str]:
    """Of every pair of pods outside the namespace ``bad``."""
    assert ran.code == 0, ran.err
    probes = ran.json["probes"]
    return {
        (probe["from"], probe["to"]): probe["verdict"]
        for probe in probes
        if not (probe["from"].startswith("bad/") or probe["to"].startswith("bad/"))
    }


@pytest.mark.parametrize("name", [*BAD, *SUSPECT, *FINE])
def test_the_rest_of_the_cluster_is_as_if_the_mistake_were_not_there(
    tmp_path: Path, name: str
) -> None:
    text = BAD[name][0] if name in BAD else SUSPECT[name][0] if name in SUSPECT else FINE[name]
    fine, bad = tmp_path / "a.yaml", tmp_path / "b.yaml"
    fine.write_text(TWO_TIERS)
    bad.write_text(text)
    ports = ("--port", "5432", "-o", "json")
    alone, beside = run("matrix", fine, *ports), run("matrix", fine, bad, *ports)
    assert verdicts(beside) == verdicts(alone)
    assert name not in BAD or beside.err.startswith("warning: ")


def test_a_policy_that_does_not_parse_closes_its_pod(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(annotated("allow; allow tcp frm x") + service("bad/p") + pod("bad/q"))
    asked = run("explain", file, "--from", "bad/q", "--to", "bad/p", "--port", "80")
    assert asked.code == 1
    assert "annotation of pod bad/p" in asked.out.splitlines()[0]


def test_a_megabyte_of_policy_is_refused_quickly_by_fmt_too() -> None:
    asked = run("fmt", ONE_MEGABYTE)
    assert asked.code == 2
    assert "262144" in asked.err
    assert len(asked.err) < 1000
