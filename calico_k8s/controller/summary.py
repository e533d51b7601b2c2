"""Keeps the summary of policy objects that ``calico-k8s status`` reads as it should be.

In: what was found wrong with each object.  Out: one key of the datastore, under the fence, written
when it differs and no more often than :data:`EVERY_S`.  A store that is away is tried again.
"""

from collections.abc import Callable

import msgspec
import structlog

from calico_k8s.controller.conditions import (
    is_accepted,
    is_enforced,
    missing,
    refusing,
    told_together,
)
from calico_k8s.datastore.store import Compare, Put, Store
from calico_k8s.errors import StoreError
from calico_k8s.model.status import (
    POLICIES_PATH,
    TROUBLED_MAX,
    PolicySummary,
    TroubledPolicy,
)
from calico_k8s.translate.findings import Finding, ObjectRef, reason_of

EVERY_S = 2.0

log = structlog.get_logger()


class SummaryKeeper:
    """For one thread; ``compares`` are what every transaction of this writer compares."""

    def __init__(self, store: Store, compares: Callable[[], tuple[Compare, ...]]) -> None:
        self._store = store
        self._compares = compares
        self._objects: set[ObjectRef] = set()
        self._troubled: dict[ObjectRef, TroubledPolicy] = {}
        self._is_new = True
        self._not_before_s = 0.0

    def note(self, ref: ObjectRef, findings: tuple[Finding, ...] | None) -> None:
        """What was found wrong with an object; None: it is gone."""
        self._is_new = True
        self._troubled.pop(ref, None)
        if findings is None:
            self._objects.discard(ref)
            return
        self._objects.add(ref)
        troubled = _troubled(ref, findings)
        if troubled is not None:
            self._troubled[ref] = troubled

    def keep(self, now_s: float) -> None:
        """Write the summary where it is time to, and another one."""
        if not self._is_new or now_s < self._not_before_s:
            return
        self._not_before_s = now_s + EVERY_S
        raw = msgspec.json.encode(self._summary())
        try:
            entry = self._store.get(POLICIES_PATH)
            if entry is None or entry.value != raw:
                self._store.transact([Put(POLICIES_PATH, raw)], self._compares())
        except StoreError as error:  # the loop meets the same, and knows whether it still writes
            log.info("the summary of policies is not written", error=str(error))
            return
        self._is_new = False

    def _summary(self) -> PolicySummary:
        named = sorted(self._troubled)[:TROUBLED_MAX]
        return PolicySummary(
            len(self._objects),
            tuple(self._troubled[ref] for ref in named),
            len(self._troubled) - len(named),
        )


def _troubled(ref: ObjectRef, findings: tuple[Finding, ...]) -> TroubledPolicy | None:
    lacks = missing(findings)
    told = list(dict.fromkeys([*refusing(findings), *lacks]))
    if not told:
        return None
    return TroubledPolicy(
        *ref,
        reason_of(told[0]),
        told_together(told),
        is_accepted(findings),
        not lacks,
        is_enforced(findings),
    )
