"""``can``, ``explain``, ``matrix`` and ``affected`` as a user meets them."""

from pathlib import Path

import pytest

from tests.cli.manifests import TWO_TIERS, namespace, pod
from tests.cli.program import CODE, run, run_apart, run_on_terminal

APPS = Path(__file__).parent.parent / "apps"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The two tiers, in a file."""
    file = tmp_path / "app.yaml"
    file.write_text(TWO_TIERS)
    return file


def can(*arguments: object) -> int:
    return run("can", *arguments).code


# can and explain


@pytest.mark.parametrize(
    ("src", "dst", "more", "code"),
    [
        ("web/a", "db/b", ["--port", "5432"], 0),
        ("web/a", "db/b", ["--port", "5432/tcp"], 0),
        ("web/a", "db/b", ["--port", "5432", "--protocol", "TCP"], 0),
        ("web/a", "db/b", ["--port", "5432", "--protocol", "udp"], 1),
        ("web/a", "db/b", ["--protocol", "icmp"], 1),
        ("db/b", "db/c", ["--port", "icmp"], 0),
        ("db/c", "db/b", ["--port", "5432"], 1),
        ("db/c", "web/a", ["--port", "8080"], 0),
        ("db/c", "web/a", ["--port", "8081"], 1),
        ("203.0.113.9", "web/a", ["--port", "8080"], 0),
        ("10.0.0.0/8", "db/b", ["--port", "5432"], 1),
        ("0.0.0.0/0", "db/c", ["--port", "1"], 0),
        ("db/b", "203.0.113.0/24", ["--port", "443"], 0),
        ("db/b", "db/b", ["--port", "9"], 0),
    ],
)
def test_the_exit_code_is_the_answer(
    app: Path, src: str, dst: str, more: list[str], code: int
) -> None:
    assert can(app, "--from", src, "--to", dst, *more) == code


def test_the_answer_is_one_line_that_names_what_decided(app: Path) -> None:
    asked = run("can", app, "--from", "db/c", "--to", "db/b", "--port", 5432)
    assert asked.out == "denied: db/c → db/b, tcp 5432: end of annotation of pod db/b\n"
    asked = run("can", app, "--from", "db/c", "--to", "web/a", "--port", 8080)
    assert asked.out == "allowed: db/c → web/a, tcp 8080: Service web/a, rule 1\n"
    assert asked.err == ""


def test_explain_shows_the_walk_each_thing_before_what_is_in_it(app: Path) -> None:
    question = (app, "--from", "db/c", "--to", "web/a", "--port", 8080)
    explained = run("explain", *question)
    assert explained == run("can", *question, "--explain")
    assert explained.out.splitlines() == [
        "allowed: db/c → web/a, tcp 8080: Service web/a, rule 1",
        "  egress of db/c: allow",
        "    profile namespace.db … allow",
        "      Namespace db: allow … allow  ← decides",
        "  ingress of web/a: allow",
        "    profile namespace.web … no match",
        "      Namespace web, rule 1: allow from tag namespace_web … no match",
        "    profile service.web.a … allow",
        "      Service web/a, rule 1: allow tcp to port main … allow  ← decides",
        "  it would be denied with Service web/a, rule 1 left out",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", "web/aa", "--to", "db/b", "--port", "1"], "did you mean 'web/a'?"),
        (["--from", "web/a", "--to", "db/b"], "give --port"),
        (["--from", "web/a", "--to", "db/b", "--port", "70000"], "1 to 65535"),
        (["--from", "web/a", "--to", "db/b", "--port", "http"], "1 to 65535"),
        (["--from", "web/a", "--to", "10.0.0.0/33", "--port", "1"], "not a CIDR"),
        (["--from", "web/a", "--to", "fd00::1", "--port", "1"], "no address family in common"),
        (
            ["--from", "web/a", "--to", "db/b", "--port", "1/udp", "--protocol", "tcp"],
            "say different things",
        ),
        (["--from", "web/a", "--port", "1"], "--to"),
        (["--from", "web/a", "--to", "db/b", "--port", "1", "--annotation-keys", ","], "one key"),
        (["--from", "web/a", "--to", "db/b", "--port", "1", "--families", "5"], "give 4, 6 or 4,6"),
        (["--datastore", "sqlite:///x", "--from", "a", "--to", "b", "--port", "1"], "not both"),
    ],
)
def test_a_wrong_question_is_one_sentence_and_code_2(
    app: Path, arguments: list[str], told: str
) -> None:
    asked = run("can", app, *arguments)
    assert (asked.code, asked.out) == (2, "")
    assert told in asked.err
    assert "Traceback" not in asked.err


def test_without_a_source_the_ways_to_give_one_are_told() -> None:
    asked = run("matrix")
    assert asked.code == 2
    assert "give a SOURCE" in asked.err


# matrix


def test_the_matrix_asks_for_every_container_port_unless_told(app: Path) -> None:
    found = run("matrix", app, "-o", "json").json
    assert {(p["port"], p["protocol"]) for p in found["probes"]} == {(8080, "tcp"), (5432, "tcp")}
    assert [pod["id"] for pod in found["pods"]] == ["db/b", "db/c", "web/a"]
    assert len(found["probes"]) == 3 * 3 * 2
    icmp = run("matrix", app, "--port", "icmp", "--port", "53/udp", "-o", "json").json
    assert {(p["port"], p["protocol"]) for p in icmp["probes"]} == {(0, "icmp"), (53, "udp")}


def test_what_is_denied_in_part_is_told_as_that(app: Path) -> None:
    asked = run("can", app, "--from", "0.0.0.0/0", "--to", "db/b", "--port", "5432")
    assert asked.code == 1
    assert asked.err.startswith("note: ")
    assert "kinds of flow that this stands for are denied; shown for 0.0.0.0 → " in asked.err
    assert not run("can", app, "--from", "db/c", "--to", "db/b", "--port", "5432").err


def test_a_matrix_of_nobody_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    told = f"note: {tmp_path}/empty.yaml: no pod with an address of its own is there to ask\n"
    assert run("matrix", tmp_path / "empty.yaml") == (0, "", told)


def test_the_table_has_a_block_for_each_port(app: Path) -> None:
    assert run("matrix", app, "--port", 5432).out.splitlines() == [
        "5432/tcp  1  2  3",
        "  1 db/b  ✓  ✓  ✗",
        "  2 db/c  ✗  ✓  ✗",
        "  3 web/a ✓  ✓  ✓",
    ]


def test_more_nodes_and_families_can_be_asked_for(app: Path) -> None:
    found = run("matrix", app, "--nodes", 3, "--families", "4,6", "--port", 80, "-o", "json").json
    assert {pod["node"] for pod in found["pods"]} == {"node-1", "node-2", "node-3"}
    assert {probe["family"] for probe in found["probes"]} == {4, 6}


def test_a_diff_shows_what_opens_and_closes(app: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(TWO_TIERS.replace("label app=a", "label app=b") + namespace("db", "closed"))
    asked = run("matrix", app, "--diff", changed)
    assert asked.code == 0
    assert asked.out.splitlines() == [
        "closes 2 connections",
        "  web/a → db/b: 5432/tcp",
        "  web/a → db/c: 5432/tcp, 8080/tcp",
    ] or asked.out.splitlines() == [
        "closes 3 connections",
        "  web/a → db/b: 5432/tcp",
        "  web/a → db/c: 5432/tcp, 8080/tcp",
    ]
    back = run("matrix", changed, "--diff", app).out
    assert back == asked.out.replace("closes", "opens")
    assert run("matrix", app, "--diff", app).out == "opens nothing, closes nothing\n"


def test_a_diff_moves_no_pod_that_is_in_both(tmp_path: Path) -> None:
    """Else a cidr would seem to open and close what only has another address."""
    guarded = pod("z/guarded", "allow from cidr 10.128.0.2")
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(guarded + pod("m/first"))
    after.write_text(guarded + pod("m/first") + pod("a/new"))
    found = run("matrix", before, "--diff", after, "-o", "json").json
    assert found["added_pods"] == ["a/new"]
    assert {"a/new"} <= {end for cell in found["opened"] for end in (cell["from"], cell["to"])}
    assert all("a/new" in (cell["from"], cell["to"]) for cell in found["opened"])
    assert found["closed"] == []


def test_matrix_and_can_agree_on_every_pair() -> None:
    source = APPS / "guestbook.yaml"
    for probe in run("matrix", source, "-o", "json").json["probes"]:
        port = f"{probe['port']}/{probe['protocol']}"
        code = can(source, "--from", probe["from"], "--to", probe["to"], "--port", port)
        assert code == (0 if probe["verdict"] == "allow" else 1), probe


# affected


def test_affected_names_whom_an_annotation_lets_in(app: Path) -> None:
    assert run("affected", app, "--policy", "Pod/db/b").out.splitlines() == [
        "Pod/db/b selects 1 endpoint",
        "  db/b on node-1, 10.128.0.2",
        "ingress rule 1: allow tcp from tag web_app_a to port 5432",
        "  from web/a",
    ]


def test_affected_names_whom_a_flag_and_a_service_are_for(app: Path) -> None:
    assert run("affected", app, "--policy", "namespace/web").out.splitlines()[1:] == [
        "  web/a on node-1, 10.128.0.3",
        "ingress rule 1: allow from tag namespace_web",
        "  from web/a",
    ]
    assert run("affected", app, "--policy", "Service/web/a").out.splitlines()[2:] == [
        "ingress rule 1: allow tcp to port main",
        "  from every address",
        "  port main of web/a is 8080/tcp",
    ]


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("Pod/db/c", "Namespace/db speaks for it"),
        ("Pod/db/d", "did you mean 'Pod/db/"),
        ("Service/db/b", "labelled projectcalico-policy=open"),
        ("Namespace/db/x", "give Namespace/NAME"),
        ("Pod/b", "give Pod/NAMESPACE/NAME"),
        ("NetworkPolicy/db/b", "no policy of NetworkPolicy/db/b is known"),
        ("b", "KIND/NAMESPACE/NAME"),
        ("", "KIND/NAMESPACE/NAME"),
    ],
)
def test_an_object_without_a_policy_is_told(app: Path, policy: str, told: str) -> None:
    asked = run("affected", app, "--policy", policy)
    assert (asked.code, asked.out) == (2, "")
    assert told in asked.err


# as a process


def test_colours_are_for_terminals_that_want_them(app: Path) -> None:
    assert "\x1b[32m✓" in run_on_terminal(CODE, "matrix", app)
    assert "\x1b" not in run_on_terminal(CODE, "matrix", app, env={"NO_COLOR": "1"})
    assert "\x1b" not in run_apart("matrix", app).out


def test_what_cannot_be_right_is_told_beside_the_data_not_in_it(tmp_path: Path) -> None:
    asked = run_apart("matrix", "-", "-o", "json", stdin=pod("web/a", "allow tcp frm x"))
    assert asked.code == 0
    assert asked.err.startswith("warning: -:9:")
    assert "found 'frm'" in asked.err
    assert [probe["verdict"] for probe in asked.json["probes"]] == ["allow"]


# nodes

NODES = Path(__file__).parents[2] / "docs" / "examples" / "nodes.yaml"


@pytest.mark.parametrize(
    ("src", "dst", "port", "code"),
    [
        ("192.0.2.7", "node/node-1", "9100", 0),
        ("192.0.2.0/23", "node/node-1", "9100", 1),
        ("198.51.100.7", "node/node-1:eth0", "9100", 1),
        ("198.51.100.7", "node/node-1:eth1", "9100", 0),
        ("198.51.100.7", "192.168.0.1", "9100", 1),
        ("198.51.100.7", "node/node-1", "22", 0),
        ("node/node-1", "198.51.100.7", "443", 0),
    ],
)
def test_a_node_is_asked_about_by_its_name(src: str, dst: str, port: str, code: int) -> None:
    assert can(NODES, "--from", src, "--to", dst, "--port", port) == code


@pytest.mark.parametrize(
    ("who", "told"),
    [
        ("node/node-2", "no node 'node-2' is known: give node/NAME or node/NAME:INTERFACE; did you mean 'node/node-1'?"),
        ("node/node-1:", "give an interface after the colon, as in node/node-1:eth0"),
    ],
)  # fmt: skip
def test_a_node_that_is_none_is_told_in_one_sentence(who: str, told: str) -> None:
    asked = run("can", NODES, "--from", "192.0.2.7", "--to", who, "--port", 1)
    assert (asked.code, asked.out) == (2, "")
    assert told in asked.err


def test_the_matrix_has_nodes_where_that_is_asked_for() -> None:
    asked = run("matrix", NODES, "--hosts", "--port", "22", "-o", "json")
    assert [pod["id"] for pod in asked.json["pods"]] == ["node/node-1"]
    assert run("matrix", NODES, "--port", "22", "-o", "json").json["pods"] == []


def test_host_endpoints_that_the_controller_would_make_are_there_where_it_is_said(
    tmp_path: Path,
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        NODES.read_text().replace("kind: HostEndpoint", "kind: Other")
        + "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n"
        "metadata: {name: made}\nspec: {selector: has(projectcalico.org/created-by)}\n"
    )
    question = ("--from", "192.0.2.7", "--to", "node/node-1", "--port", "9100")
    assert can(file, *question) == 0
    assert can(file, *question, "--auto-host-endpoints", "true") == 1
    made = run(
        "affected", file, "--policy", "GlobalNetworkPolicy/made", "--auto-host-endpoints", "true"
    )
    assert "  HostEndpoint/node-1-auto-hep on node-1, 192.168.0.1" in made.out
