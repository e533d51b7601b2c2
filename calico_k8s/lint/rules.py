"""All rules over a cluster, as problems with places, each once, in the order of the files.

In: manifests, or a cluster from the API, and the controller's settings.  Out: problems.  The pods
of one template say the same, so that a mistake in it is told once.
"""

from collections.abc import Iterable, Iterator

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.lint.backing import backing_findings
from calico_k8s.lint.exposures import (
    hidden_source_findings,
    service_findings,
    shared_address_findings,
)
from calico_k8s.lint.problems import CODES, LintCode, Problem
from calico_k8s.lint.statements import statement_findings
from calico_k8s.lint.view import View, place_finding
from calico_k8s.sources.documents import Manifest
from calico_k8s.sources.expand import ClusterObjects, ExpandOptions, expand
from calico_k8s.translate.findings import Finding, Severity
from calico_k8s.translate.namespaces import TranslateSettings


def lint_manifests(
    manifests: Iterable[Manifest],
    errors: Iterable[InputError] = (),
    settings: TranslateSettings | None = None,
) -> tuple[Problem, ...]:
    """Every problem of manifests, and of files that could not be read.

    Workloads that have no pod now (no replicas, suspended) are checked as if they had one.

    Raises:
        InputError: there are more pods than a cluster has room for.
    """
    cluster = expand(manifests, ExpandOptions(idle=True))
    unreadable = [_unreadable(error) for error in errors]
    return _sorted([*unreadable, *_problems(cluster, settings or TranslateSettings())])


def lint_cluster(
    cluster: ClusterObjects, settings: TranslateSettings | None = None
) -> tuple[Problem, ...]:
    """Every problem of a cluster."""
    return _sorted(_problems(cluster, settings or TranslateSettings()))


def _problems(cluster: ClusterObjects, settings: TranslateSettings) -> Iterator[Problem]:
    view = View(cluster, settings)
    for placed in cluster.findings:
        yield place_finding(placed.finding, placed.written)
    for finding in _findings(view):
        yield place_finding(finding, cluster.written.get(finding.object))
    for backing in backing_findings(view):
        yield place_finding(backing.finding, backing.written)


def _findings(view: View) -> Iterator[Finding]:
    yield from view.translation.findings
    yield from statement_findings(view)
    yield from service_findings(view)
    yield from hidden_source_findings(view)
    yield from shared_address_findings(view)


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
    """Each problem once, by place; an error before a warning at the same one."""
    unique = {msgspec.structs.astuple(problem): problem for problem in problems}
    return tuple(sorted(unique.values(), key=_order))


def _order(problem: Problem) -> tuple[str, int, int, bool, str, str, str]:
    return (
        problem.file,
        problem.line,
        problem.column,
        problem.severity is not Severity.ERROR,
        problem.code,
        problem.object,
        problem.message,
    )
