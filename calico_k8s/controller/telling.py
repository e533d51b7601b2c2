"""Tells what is wrong with users' objects everywhere they look: log, metrics, Events.

In: the findings of one source about one object, whenever they change: what the object itself says,
and what its node says of it.  Out: the findings of all sources together, to each place.
"""

from enum import StrEnum

import structlog

from calico_k8s.controller.events import Announcer
from calico_k8s.controller.metrics import Metrics
from calico_k8s.translate.findings import Finding, ObjectRef, Severity

log = structlog.get_logger()


class Source(StrEnum):
    """Who found it."""

    TRANSLATION = "translation"
    NODE = "node"


class Teller:
    """One writer's term; for the loop's thread."""

    def __init__(self, metrics: Metrics, announcer: Announcer) -> None:
        self._metrics = metrics
        self._announcer = announcer
        self._uids: dict[ObjectRef, str] = {}
        self._found: dict[ObjectRef, dict[Source, tuple[Finding, ...]]] = {}

    def tell(self, source: Source, ref: ObjectRef, uid: str, findings: tuple[Finding, ...]) -> None:
        """What this source finds wrong with an object from now on; nothing where it is fine."""
        for finding in findings:
            emit = log.error if finding.severity is Severity.ERROR else log.warning
            emit("finding", code=finding.code, object=str(ref), message=finding.message)
        if uid:
            self._uids[ref] = uid
        of_object = self._found.setdefault(ref, {})
        of_object[source] = findings
        together = tuple(finding for each in Source for finding in of_object.get(each, ()))
        self._metrics.set_findings(ref, together)
        self._announcer.tell(ref, self._uids.get(ref, ""), together)
        if not together:
            del self._found[ref]
            self._uids.pop(ref, None)
