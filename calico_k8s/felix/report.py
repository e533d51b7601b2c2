"""What the agent knows of its own health, gathered as it works.

In: what happened.  Out: a :class:`~.status.NodeStatus`, and whether the kernel may be written.
"""

import os
from collections.abc import Iterable

import structlog

from calico_k8s.calc.deltas import LocalEndpoint
from calico_k8s.datastore.store import Revision
from calico_k8s.felix.kernel import Written
from calico_k8s.felix.status import EndpointState, NodeState, NodeStatus
from calico_k8s.model.addresses import Address
from calico_k8s.model.names import NodeName

ERRORS_MAX = 20
"""A status holds no more: the rest is in the log."""

log = structlog.get_logger()


class Report:
    """One agent's health."""

    def __init__(self, node: NodeName, backend: str, started_s: float) -> None:
        self._node = node
        self._backend = backend
        self._started_s = started_s
        self._stored: dict[str, tuple[str, ...]] = {}
        self._problems: tuple[str, ...] = ()
        self._settings: tuple[str, ...] = ()
        self._failure: str | None = None
        self._applied_s = 0.0
        self._applied_revision = Revision(0)
        self._drift = 0
        self.seen_revision = Revision(0)
        self.is_store_away = False

    @property
    def is_well(self) -> bool:
        """Whether the last write of the kernel did not fail."""
        return self._failure is None

    def note_stored(self, path: str, problems: tuple[str, ...]) -> None:
        """What was not understood of a stored value; nothing where it is well, or gone."""
        if problems:
            self._stored[path] = problems
            for problem in problems:
                log.warning("a stored value is not understood", problem=problem)
        else:
            self._stored.pop(path, None)

    def note_problems(self, problems: tuple[str, ...]) -> None:
        """What cannot be rendered as it should."""
        self._problems = problems

    def note_settings(self, problems: tuple[str, ...]) -> None:
        """Settings of the datastore that were passed over."""
        self._settings = problems

    def note_failed(self, error: str) -> None:
        """A write of the kernel failed."""
        self._failure = error

    def note_mended(self, now_s: float) -> None:
        """What had failed is done."""
        self._failure = None
        self._applied_s = now_s

    def note_applied(self, written: Written, now_s: float) -> bool:
        """The kernel is as the datastore says, up to the revision that was seen.

        Whether others should hear of it soon: it is another revision, or the first.
        """
        is_news = not self._applied_s or self._applied_revision != self.seen_revision
        self._applied_revision = self.seen_revision
        self._applied_s = now_s
        if written.lines or written.members:
            log.debug("kernel written", lines=written.lines, members=written.members)
        return is_news

    def note_drift(self, where: str, count: int) -> None:
        """Something in the kernel had been changed by others, and was mended."""
        if count:
            self._drift += count
            log.warning("mended what another program had changed", where=where, count=count)

    def status(
        self, endpoints: Iterable[LocalEndpoint], missing: frozenset[Address], groups: int
    ) -> NodeStatus:
        """The node's status now."""
        errors = [problem for problems in self._stored.values() for problem in problems]
        errors += [*self._settings, *self._problems]
        if self._failure is not None:
            errors.insert(0, self._failure)
        return NodeStatus(
            node=self._node,
            pid=os.getpid(),
            started=self._started_s,
            state=self._state(),
            revision=self._applied_revision,
            backend=self._backend,
            groups=groups,
            applied=self._applied_s,
            drift_repaired=self._drift,
            errors=tuple(errors[:ERRORS_MAX]),
            endpoints={each.id: _endpoint_state(each, missing) for each in endpoints},
        )

    def _state(self) -> NodeState:
        if self._failure is not None:
            return "failing"
        if not self._applied_s:
            return "waiting"
        return "store-away" if self.is_store_away else "in-sync"


def _endpoint_state(endpoint: LocalEndpoint, missing: frozenset[Address]) -> EndpointState:
    if not endpoint.addresses:
        return "no-address"
    return "no-interface" if missing.issuperset(endpoint.addresses) else "enforced"
