"""What somebody expects of a matrix, and how it turned out.  Pure.

In: a YAML list, and a matrix.  Out: for each entry and each probe that it is about whether the
verdict is the expected one; as lines for people, as JUnit for CI servers::

    - {from: client/*, to: web/frontend-*, port: 80/tcp, verdict: allow}
    - {from: "*", to: data/*, port: icmp, verdict: deny}
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.resources import PROTOCOL_NAMES
from calico_k8s.query.matrix import Cell, Matrix, Word, parse_service
from calico_k8s.query.reach import Service
from calico_k8s.sources.nodes import Items, parse_documents, to_builtin


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the list."""

    src: str = msgspec.field(name="from")
    """A glob over ``namespace/pod``, as ``dst``."""
    dst: str = msgspec.field(name="to")
    port: str | int
    """As ``--port`` takes it: ``80``, ``80/tcp``, ``icmp``."""
    verdict: Word

    @property
    def service(self) -> Service:
        """What ``port`` asks for.

        Raises:
            InputError: nothing that can be asked for.
        """
        return parse_service(str(self.port))

    def is_about(self, cell: Cell) -> bool:
        """Whether the entry speaks of this cell, of either family."""
        protocol, port = self.service
        return (
            cell.port == port
            and cell.protocol == PROTOCOL_NAMES[protocol]
            and fnmatchcase(cell.src, self.src)
            and fnmatchcase(cell.dst, self.dst)
        )

    def __str__(self) -> str:
        return f"{self.src} to {self.dst} port {self.port}: {self.verdict}"


class Outcome(NamedTuple):
    """An expectation, the probes it is about, and those of them that turned out otherwise."""

    expectation: Expectation
    probes: tuple[Cell, ...]
    surprises: tuple[Cell, ...]


def parse_expectations(text: str, file: str) -> tuple[Expectation, ...]:
    """The entries of a file.

    Raises:
        InputError: not YAML, not such a list, or a port that cannot be asked for; with its place.
    """
    documents = list(parse_documents(text, file))
    listed = documents[0] if len(documents) == 1 else None
    if not isinstance(listed, Items) or not listed.nodes:
        raise InputError("give a list of {from, to, port, verdict}", file=file)
    found = []
    for number, node in enumerate(listed.nodes, start=1):
        try:
            expectation = msgspec.convert(to_builtin(node), Expectation)
            parse_service(str(expectation.port))
        except (msgspec.ValidationError, InputError) as error:
            message = f"entry {number}: {error}"
            raise InputError(message, file=file, line=node.line, column=node.column) from None
        found.append(expectation)
    return tuple(found)


def asked_services(expectations: tuple[Expectation, ...]) -> tuple[Service, ...]:
    """Every port that the entries ask for, sorted."""
    return tuple(sorted({each.service for each in expectations}))


def check(expectations: tuple[Expectation, ...], matrix: Matrix, file: str) -> tuple[Outcome, ...]:
    """How each entry turned out.

    Raises:
        InputError: an entry is about no probe at all.
    """
    outcomes = []
    for number, expectation in enumerate(expectations, start=1):
        probes = tuple(cell for cell in matrix.probes if expectation.is_about(cell))
        if not probes:
            raise InputError(f"entry {number} matches no probe: {expectation}", file=file)
        surprises = tuple(cell for cell in probes if cell.verdict != expectation.verdict)
        outcomes.append(Outcome(expectation, probes, surprises))
    return tuple(outcomes)


def outcome_lines(outcomes: tuple[Outcome, ...]) -> Iterator[str]:
    """A line for each entry, and one for each surprise below it; a count at the end."""
    for outcome in outcomes:
        sign = "✗" if outcome.surprises else "✓"
        yield f"{sign} {outcome.expectation}  ({len(outcome.probes)} probes)"
        for cell in outcome.surprises:
            yield f"    {_cell_text(cell)}"
    failed = sum(bool(outcome.surprises) for outcome in outcomes)
    yield f"{len(outcomes) - failed} as expected, {failed} not"


def junit_xml(outcomes: tuple[Outcome, ...], name: str) -> str:
    """One test case for each entry.  Source: the JUnit schema that CI servers share."""
    failed = sum(bool(outcome.surprises) for outcome in outcomes)
    counts = {"tests": str(len(outcomes)), "failures": str(failed)}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": name, **counts})
    for outcome in outcomes:
        case = ET.SubElement(
            suite, "testcase", {"classname": "calico_k8s", "name": str(outcome.expectation)}
        )
        if outcome.surprises:
            message = (
                f"{len(outcome.surprises)} of {len(outcome.probes)} probes turned out otherwise"
            )
            failure = ET.SubElement(case, "failure", {"message": message})
            failure.text = "\n".join(map(_cell_text, outcome.surprises))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _cell_text(cell: Cell) -> str:
    port = cell.protocol if cell.protocol == "icmp" else f"{cell.port}/{cell.protocol}"
    return f"{cell.src} to {cell.dst} port {port} IPv{cell.family}: {cell.verdict}"
