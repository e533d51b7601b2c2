"""All rules over a cluster, as problems with places, each once, in the order of the files.

In: manifests, or a cluster from the API, and the controller's settings.  Out: problems.  The pods
of one template say the same, so that a mistake in it is told once.
"""

from collections.abc import Iterable, Iterator

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.lint.backing import backing_findings
from calico_k8s.lint.effects import effect_findings
from calico_k8s.lint.exposures import (
    hidden_source_findings,
    service_findings,
    shared_address_findings,
)
from calico_k8s.lint.hosts import host_findings
from calico_k8s.lint.policies import policy_findings
from calico_k8s.lint.problems import CODES, LintCode, Problem
from calico_k8s.lint.statements import statement_findings
from calico_k8s.lint.view import View, place_finding
from calico_k8s.sources.documents import Manifest
from calico_k8s.sources.expand import ExpandOptions, expand
from calico_k8s.translate.findings import Finding, Severity
from calico_k8s.translate.namespaces import TranslateSettings

SEVERITIES = tuple(Severity)
"""From the worst on."""


def lint_manifests(
    manifests: Iterable[Manifest],
    errors: Iterable[InputError] = (),
    settings: TranslateSettings | None = None,
    *,
    notes: bool = False,
) -> tuple[Problem, ...]:
    """Every problem of manifests, and of files that could not be read; with ``notes``, effects too.

    Workloads that have no pod now (no replicas, suspended) are checked as if they had one.

    Raises:
        InputError: there are more pods than a cluster has room for.
    """
    cluster = expand(manifests, ExpandOptions(idle=True))
    unreadable = [_unreadable(error) for error in errors]
    view = View(cluster, settings or TranslateSettings())
    return _sorted([*unreadable, *_problems(view, notes=notes)])


def lint_cluster(view: View, *, notes: bool = False) -> tuple[Problem, ...]:
    """Every problem of a cluster; with ``notes``, also what policy changes in it."""
    return _sorted(_problems(view, notes=notes))


def _problems(view: View, *, notes: bool) -> Iterator[Problem]:
    cluster = view.cluster
    for placed in cluster.findings:
        yield place_finding(placed.finding, placed.written)
    for finding in _findings(view):
        yield place_finding(finding, cluster.written.get(finding.object))
    for finding in effect_findings(view) if notes else ():
        yield place_finding(finding, cluster.written.get(finding.object))
    for backing in backing_findings(view):
        yield place_finding(backing.finding, backing.written)


def _findings(view: View) -> Iterator[Finding]:
    yield from view.translation.findings
    yield from statement_findings(view)
    yield from service_findings(view)
    yield from hidden_source_findings(view)
    yield from shared_address_findings(view)
    yield from policy_findings(view)
    yield from host_findings(view)


def _unreadable(error: InputError) -> Problem:
    code = LintCode.MANIFEST_UNREADABLE
    return Problem(
        severity=CODES[code].severity,
        code=code,
        message=error.message,
        file=error.file or "",
        line=error.line or 0,
        column=error.column or 0,
        object="",
    )


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Each problem once, by place; an error before a warning before a note at the same one."""
    unique = {msgspec.structs.astuple(problem): problem for problem in problems}
    return tuple(sorted(unique.values(), key=_order))


def _order(problem: Problem) -> tuple[str, int, int, int, str, str, str]:
    return (
        problem.file,
        problem.line,
        problem.column,
        SEVERITIES.index(problem.severity),
        problem.code,
        problem.object,
        problem.message,
    )
