"""Which live flows are judged when: after each start all, after a change those that it touches.

In: addresses whose flows may be judged otherwise now.  Out: a bit of the flows' conntrack mark,
through :class:`~calico_k8s.felix.conntrack.FlowCutter`.  Flows are read beside the loop and judged
in portions, so that no update waits; a flow and those it announced are never parted, for they
share one fate.

::

             ┌── few, or none: at once ────────────┐
    touch ─► wanted ─ many ─► reader's thread ─► waiting ─ work, a portion ─► marks
                                ▲ one reading at a time  (judged as of the moment of work)
"""

from collections import deque
from collections.abc import Iterable, Iterator

from calico_k8s.calc.graph import Graph
from calico_k8s.calc.judge import judge_local
from calico_k8s.felix.conntrack import CutResult, FlowCutter
from calico_k8s.felix.flows import FlowReader, Wish
from calico_k8s.model.addresses import Address
from calico_k8s.netlink.conntrack import ConntrackEntry
from calico_k8s.policy.match import Flow

PORTION = 100
"""Flows judged at a time: some 2 ms."""
NOTHING = CutResult(0, 0, 0)


class Cutting:
    """The judgement of one node's live flows; for the loop's thread.  ``bit`` is of the ct mark.

    Raises:
        NetlinkError: from :meth:`work`; nothing is forgotten, a later call tries again.
    """

    def __init__(self, bit: int, graph: Graph) -> None:
        self._cutter = FlowCutter(bit)
        self._reader = FlowReader(FlowCutter(bit))
        self._graph = graph
        self._addresses: set[Address] = set()
        self._is_whole = False
        self._is_over = False
        self._waiting: deque[tuple[ConntrackEntry, ...]] = deque()
        self._bit = bit
        self._has_seen_cut = False
        """Whether the last whole reading, or anything since, holds a cut flow."""
        self._is_judging_whole = False
        self.holds_cut = True
        """Whether there may be flows that are cut, and that a change may let live again."""
        self.pod_to_host = "accept"
        """The action that holds for what pods send to their own node."""

    def fileno(self) -> int:
        """Readable when flows have been read, and :meth:`work` can judge them."""
        return self._reader.fileno()

    def close(self) -> None:
        """End the reading and release the sockets; marks stay."""
        self._reader.close()
        self._cutter.close()

    @property
    def has_news(self) -> bool:
        """Whether flows have been read that :meth:`work` has not taken."""
        return self._reader.has_reading

    @property
    def is_done(self) -> bool:
        """Whether everything that was touched has been judged."""
        return not (self.has_work or self._reader.is_busy)

    @property
    def has_work(self) -> bool:
        """Whether :meth:`work` would do something without waiting for the reader."""
        wants = self._is_whole or self._addresses
        return bool(self._is_over or self._waiting or (wants and not self._reader.is_busy))

    def touch(self, addresses: Iterable[Address]) -> None:
        """Judge the flows of these addresses."""
        self._addresses.update(addresses)

    def touch_all(self) -> None:
        """Judge every flow."""
        self._is_whole, self._is_over = True, False

    def restore_all(self) -> None:
        """Judge no more: let every flow that was cut live again."""
        self._is_whole, self._is_over = False, True
        self._addresses.clear()
        self._waiting.clear()

    def work(self) -> CutResult:
        """Judge a portion of what has been read, and have read what was touched."""
        self._take_reading()
        if self._is_over:
            restored = self._cutter.restore_all()
            self._is_over = False
            return CutResult(restored, 0, restored)
        result = self._judge_portion() if self._waiting or self._is_judging_whole else NOTHING
        if not self._waiting:
            self._ask()
        return result

    def _judge_portion(self) -> CutResult:
        portion: list[ConntrackEntry] = []
        while self._waiting and len(portion) < PORTION:
            portion += self._waiting.popleft()
        result = self._cutter.judge(portion, self._is_denied)
        self._note_cut(portion, result)
        return result

    def _note_cut(self, judged: Iterable[ConntrackEntry], result: CutResult) -> None:
        if result.cut or any(entry.mark & self._bit for entry in judged):
            self._has_seen_cut = self.holds_cut = True
        if self._is_judging_whole and not self._waiting:
            self.holds_cut, self._is_judging_whole = self._has_seen_cut, False

    def _take_reading(self) -> None:
        reading = self._reader.take()
        if reading is None or self._is_over:
            return
        if reading.error is not None:
            self._addresses |= reading.wish.addresses
            self._is_whole |= reading.wish.is_whole
            raise reading.error
        if reading.wish.is_whole:
            self._is_judging_whole, self._has_seen_cut = True, False
        self._waiting.extend(families(reading.flows))

    def _ask(self) -> None:
        if self._reader.is_busy:
            return
        if not self._is_whole and self._addresses:
            few = self._cutter.few_flows_of(self._addresses)
            if few is not None:
                self._addresses.clear()
                self._waiting.extend(families(few))
        if self._is_whole or self._addresses:
            self._reader.ask(Wish(frozenset(self._addresses), self._is_whole))
            self._is_whole = False
            self._addresses.clear()

    def _is_denied(self, flow: Flow) -> bool:
        return not judge_local(self._graph, flow, self.pod_to_host, is_live=True).is_allowed


def families(flows: Iterable[ConntrackEntry]) -> Iterator[tuple[ConntrackEntry, ...]]:
    """Each flow with those that it announced; those whose announcer is not there together."""
    flows = tuple(flows)
    announced: dict[tuple[int, bytes], list[ConntrackEntry]] = {}
    for flow in flows:
        if flow.master:
            announced.setdefault((flow.version, flow.master), []).append(flow)
    for flow in flows:
        if not flow.master:
            yield flow, *announced.pop((flow.version, flow.key), ())
    for orphans in announced.values():
        yield tuple(orphans)
