"""What the datastore says, brought to the kernel: calc, desired and applier as one.

In: the graph that the agent feeds, where endpoints are, the time.  Out: kernel writes, and the
addresses whose live flows may be judged otherwise.

::

    graph ─ flush ─► deltas ─ desired.take ─► plan ─► applier ─► kernel
                        ▲                               │ fails: what is desired stands,
                        └── kept until taken            ▼ the next call mends from what is there
"""

from collections.abc import Callable
from typing import NamedTuple

from calico_k8s.calc.deltas import Deltas
from calico_k8s.calc.graph import Graph
from calico_k8s.felix.apply import Applier, Written
from calico_k8s.felix.desired import NOWHERE, Attachments, Desired, Left
from calico_k8s.felix.hostbook import OwnAddresses
from calico_k8s.felix.roles import changed_peers
from calico_k8s.model.addresses import Address, Version
from calico_k8s.render.endpoints import endpoint_ipsets
from calico_k8s.render.marks import MarkLayout, mark_layout
from calico_k8s.render.notes import Note
from calico_k8s.render.settings import RenderConfig


class Applied(NamedTuple):
    """What a call did."""

    written: Written
    touched: frozenset[Address]
    """Their flows may be judged otherwise since the last call that succeeded ..."""
    only_opens: bool = False
    """... but none that was allowed is denied."""


class Enforcer:
    """One node's policy in the kernel; for one thread.

    Raises:
        KernelError: from :meth:`begin`, :meth:`carry_out`, :meth:`collect` and :meth:`mend`; the
            same call again goes on from what the kernel then holds.
    """

    def __init__(
        self,
        graph: Graph,
        applier: Applier,
        versions: tuple[Version, ...],
        read_left: Callable[[MarkLayout], Left],
    ) -> None:
        self._graph = graph
        self._applier = applier
        self._versions = versions
        self._read_left = read_left
        self._desired: Desired | None = None
        self._deltas: Deltas | None = None
        """What the graph has flushed and nobody has taken."""
        self._is_doubtful = False
        """Whether a write failed, so that nothing is known of what the kernel holds."""
        self._attachments: Attachments = {}
        self._own: OwnAddresses = NOWHERE
        self._touched: frozenset[Address] = frozenset()
        self._only_opens = True
        self._config: RenderConfig | None = None

    @property
    def has_begun(self) -> bool:
        """Whether :meth:`begin` was called."""
        return self._desired is not None

    @property
    def group_count(self) -> int:
        """How many policy groups have endpoints."""
        return self._desired.group_count if self._desired is not None else 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What cannot be as it should: one sentence each."""
        return self._desired.problems if self._desired is not None else ()

    def note(self, prefix: str) -> Note | None:
        """What a prefix tells; None where nothing that is in the kernel tells it."""
        return self._desired.note(prefix) if self._desired is not None else None

    def flush(self) -> bool:
        """Settle the graph; whether settings changed.  Once for each :meth:`carry_out`, or again."""
        if self._deltas is None:
            self._deltas = self._graph.flush()
        return self._deltas.settings_changed

    @property
    def moves_places(self) -> bool:
        """Whether what was flushed has other endpoints of this node, or other settings."""
        flushed = self._deltas
        return flushed is not None and bool(
            flushed.endpoints_updated or flushed.endpoints_removed or flushed.settings_changed
        )

    def begin(self, config: RenderConfig, now_s: float) -> None:
        """Start from what an earlier run left in the kernel."""
        layout = mark_layout(config.mark_mask)
        left = self._read_left(layout)
        if any(found.has_other_marks for found in left.groups.values()):
            # Under either mask the other's marks mean anything: nobody may have one meanwhile.
            ipsets = (ipset for version in self._versions for ipset in endpoint_ipsets(version))
            self._applier.empty([ipset for ipset in ipsets if ipset.has_marks])
        self._desired = Desired(config, self._versions, left, now_s)
        self._deltas = self._graph.state()

    def configure(self, config: RenderConfig) -> None:
        """Other settings from the next :meth:`carry_out` on; the mark mask stays as it began."""
        if self._desired is not None and config is not self._config:
            self._desired.configure(config)
            self._config = config

    def carry_out(
        self, attachments: Attachments, now_s: float, own: OwnAddresses = NOWHERE
    ) -> Applied:
        """Bring the kernel to what was flushed, and where endpoints and the node's addresses are."""
        assert self._desired is not None
        deltas, self._deltas = self._deltas or Deltas(), None
        plan = self._desired.take(deltas, attachments, now_s, own)
        self._attachments, self._own = attachments, own
        self._touched = self._touched.union(plan.touched, changed_peers(deltas))
        self._only_opens &= plan.only_opens
        was_doubtful, self._is_doubtful = self._is_doubtful, True
        written = Written()
        if was_doubtful:
            self._applier.take_over(plan)
            written = self._applier.mend(self._desired.everything())
        elif not plan.is_empty:
            written = self._applier.carry_out(plan)
        self._is_doubtful = False
        applied = Applied(written, self._touched, self._only_opens)
        self._touched, self._only_opens = frozenset(), True
        return applied

    def doubt(self) -> None:
        """Believe nothing of the kernel: the next :meth:`carry_out` reads it back."""
        self._is_doubtful = True

    def mend(self) -> Written:
        """Compare everything with the kernel and write what differs."""
        if self._desired is None:
            return Written()
        self._is_doubtful = True
        written = self._applier.mend(self._desired.everything())
        self._is_doubtful = False
        return written

    def collect(self, now_s: float) -> Written:
        """Drop what has been retired for long enough, and put in what had no room."""
        if self._desired is None:
            return Written()
        plan = self._desired.collect(now_s)
        was_doubtful, self._is_doubtful = self._is_doubtful, True
        if was_doubtful:
            self._applier.take_over(plan)
            return self.mend()
        written = Written()
        if plan.is_empty:
            self._applier.sweep()
        else:
            written = self._applier.carry_out(plan)
        self._is_doubtful = False
        if self._desired.problems:
            return self.carry_out(self._attachments, now_s, self._own).written
        return written
