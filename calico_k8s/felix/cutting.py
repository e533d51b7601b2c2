"""Which live flows are judged when: after each start all, after a change those that it touches.

In: addresses whose flows may be judged otherwise now.  Out: a bit of the flows' conntrack mark,
through :class:`~calico_k8s.felix.conntrack.FlowCutter`.  Judging goes on in portions, so that a
node with many flows does not keep an update waiting.
"""

from collections import deque
from collections.abc import Iterable

from calico_k8s.calc.graph import Graph
from calico_k8s.calc.judge import judge_local
from calico_k8s.felix.conntrack import CutResult, FlowCutter
from calico_k8s.model.addresses import Address
from calico_k8s.netlink.conntrack import ConntrackEntry
from calico_k8s.policy.match import Flow

PORTION = 500
"""Flows judged at a time: some 10 ms."""


class Cutting:
    """The judgement of one node's live flows; for the loop's thread."""

    def __init__(self, cutter: FlowCutter, graph: Graph) -> None:
        self._cutter = cutter
        self._graph = graph
        self._addresses: set[Address] = set()
        self._is_whole = False
        self._waiting: deque[ConntrackEntry] = deque()

    @property
    def has_work(self) -> bool:
        """Whether :meth:`work` has something to do."""
        return bool(self._is_whole or self._addresses or self._waiting)

    def touch(self, addresses: Iterable[Address]) -> None:
        """Judge the flows of these addresses."""
        self._addresses.update(addresses)

    def touch_all(self) -> None:
        """Judge every flow."""
        self._is_whole = True

    def work(self) -> CutResult:
        """Judge a portion.

        Raises:
            NetlinkError: nothing is forgotten; judge again later.
        """
        if not self._waiting:
            self._gather()
        portion = [self._waiting.popleft() for _ in range(min(PORTION, len(self._waiting)))]
        return self._cutter.judge(portion, self._is_denied)

    def _gather(self) -> None:
        if self._is_whole:
            self._waiting.extend(self._cutter.all_flows())
        else:
            self._waiting.extend(self._cutter.flows_of(self._addresses))
        self._is_whole = False
        self._addresses.clear()

    def _is_denied(self, flow: Flow) -> bool:
        return not judge_local(self._graph, flow).is_allowed
