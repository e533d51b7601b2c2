"""What somebody expects of a matrix, and how it turned out."""

import xml.etree.ElementTree as ET

import pytest

from calico_k8s.errors import InputError
from calico_k8s.lab.expectations import (
    asked_services,
    check,
    junit_xml,
    outcome_lines,
    parse_expectations,
)
from calico_k8s.query.matrix import Cell, Matrix, Word, parse_service


def cell(src: str, dst: str, port: int, verdict: Word, protocol: str = "tcp") -> Cell:
    return Cell(src=src, dst=dst, port=port, protocol=protocol, family=4, verdict=verdict)


MATRIX = Matrix(
    (),
    (
        cell("a/x", "b/y", 80, "allow"),
        cell("a/x", "b/z", 80, "deny"),
        cell("a/x", "b/y", 53, "allow", "udp"),
        cell("a/x", "b/y", 0, "deny", "icmp"),
    ),
)

TURNS = [
    ("{from: a/x, to: b/y, port: 80/tcp, verdict: allow}", 1, 0),
    ("{from: a/x, to: b/y, port: 80, verdict: allow}", 1, 0),
    ("{from: a/x, to: b/y, port: 80/tcp, verdict: deny}", 1, 1),
    ("{from: 'a/*', to: '*', port: 80/tcp, verdict: allow}", 2, 1),
    ("{from: '*', to: b/y, port: 53/udp, verdict: allow}", 1, 0),
    ("{from: '*', to: b/y, port: icmp, verdict: deny}", 1, 0),
]


@pytest.mark.parametrize(("entry", "probes", "surprises"), TURNS)
def test_an_entry_speaks_of_the_probes_its_globs_match(
    entry: str, probes: int, surprises: int
) -> None:
    (outcome,) = check(parse_expectations(f"- {entry}", "e.yaml"), MATRIX, "e.yaml")
    assert (len(outcome.probes), len(outcome.surprises)) == (probes, surprises)


BAD = [
    ("a: [", r"e.yaml:\d:\d+: not YAML"),
    ("[" * 5000, "nested more than 200 levels deep"),
    ("- {from: a}\n---\n- {from: b}", "give a list"),
    ("", "give a list"),
    ("{}", "give a list"),
    ("# mine\n\n- {from: a/x, to: b/y, port: 80}", "e.yaml:3:3: entry 1: .*verdict"),
    ("- {from: a/x, to: b/y, port: 80, verdict: maybe}", "entry 1: .*maybe"),
    ("- {from: a/x, to: b/y, port: 70000, verdict: deny}", "entry 1: port '70000'"),
    ("- {from: a/x, to: b/y, port: 80/icmp, verdict: deny}", "entry 1: port '80/icmp'"),
    ("- {from: a/x, too: b/y, port: 80, verdict: deny}", "entry 1: "),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_file_that_cannot_be_meant_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        parse_expectations(text, "e.yaml")
    assert raised.value.file == "e.yaml"


def test_an_entry_that_matches_no_probe_is_an_error() -> None:
    expected = parse_expectations("- {from: c/c, to: '*', port: 80, verdict: deny}", "e.yaml")
    with pytest.raises(InputError, match=r"e.yaml: entry 1 matches no probe: c/c to \* port 80"):
        check(expected, MATRIX, "e.yaml")


def test_what_is_asked_for_is_each_port_once() -> None:
    text = "\n".join(f"- {entry}" for entry, _, _ in TURNS)
    services = asked_services(parse_expectations(text, "e.yaml"))
    assert set(services) == {parse_service(each) for each in ("80", "53/udp", "icmp")}
    assert len(services) == 3


def test_outcomes_are_told_to_people_and_to_servers() -> None:
    text = "\n".join(f"- {entry}" for entry, _, _ in TURNS)
    outcomes = check(parse_expectations(text, "e.yaml"), MATRIX, "e.yaml")
    lines = list(outcome_lines(outcomes))
    assert lines[-1] == "4 as expected, 2 not"
    assert "✗ a/* to * port 80/tcp: allow  (2 probes)" in lines
    assert "    a/x to b/z port 80/tcp IPv4: deny" in lines
    suite = ET.fromstring(junit_xml(outcomes, "app"))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("6", "2")
    failures = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failures == ["a/x to b/y port 80/tcp: deny", "a/* to * port 80/tcp: allow"]
