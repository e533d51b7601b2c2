"""Which packets were denied or logged, and by which rule: as the kernel tells them.

In: what arrives at our NFLOG group, whose addresses are whose, what each prefix means.  Out:
:class:`~calico_k8s.model.denial.Denial` records, the most recent :data:`RECORDS_MAX`.

A flood costs little: the kernel tells of a flow at most ten times a second and of a rule five
hundred times (:mod:`calico_k8s.render.notes`), what it tells is read in portions with a rest after
each, and what does not fit the socket meanwhile is lost without a word.
"""

import select
import time
from collections.abc import Callable, Mapping

import msgspec
import structlog

from calico_k8s.calc.graph import Graph
from calico_k8s.errors import NetlinkError
from calico_k8s.felix.allowance import Allowance
from calico_k8s.felix.denial_counts import DenialCounts
from calico_k8s.model.addresses import Address
from calico_k8s.model.denial import Denial, Denials, StagedCount
from calico_k8s.model.names import EndpointId, PolicyId
from calico_k8s.model.resources import ICMP, ICMPV6, Direction, Origin
from calico_k8s.netlink.nflog import NflogSocket, Sighting
from calico_k8s.query.describe import deciding_of, describe_cause, describe_protocol
from calico_k8s.render.notes import NFLOG_GROUP, REHEARSED, Note, NoteKind, is_rehearsed

RECORDS_MAX = 256
PACKETS_AT_ONCE = 2048
SHARED_MAX = 32
"""So many the cluster is told, the newest ..."""
SHARE_FIRST_S, SHARE_LONGEST_S = 2.0, 30.0
"""... at once, and while there are always more, after twice the time each time: many nodes may have
something to tell all the time, and a datastore keeps what it is told."""
REST_S = 0.05
"""Between two looks at the socket, at least."""
SHARE = 0.1
"""Of a core, that reading takes in the long run."""
NOTES_MAX = 4096
OPEN_AGAIN_S = 10.0
"""Another program may read the group for as long as it lives."""

ACTIONS: Mapping[NoteKind, str] = {
    NoteKind.DENY: "deny",
    NoteKind.LOG: "log",
    NoteKind.WOULD_DENY: "would-deny",
    NoteKind.WOULD_ALLOW: "would-allow",
}
_WOULD = frozenset(ACTIONS[kind] for kind in REHEARSED)
GONE = "a rule that is gone by now"

log = structlog.get_logger()


class DenialBook:
    """The denials of one node; everything but :attr:`records` is for the agent's thread.

    ``find_note`` says what a prefix means now; ``count_denied`` hears of each packet once, by the
    direction of the policy that denied it; ``find_problem`` says why the kernel can tell of none,
    ``find_name`` what an address is called.
    """

    def __init__(
        self,
        graph: Graph,
        find_note: Callable[[str], Note | None],
        count_denied: Callable[[Direction, int], None],
        find_problem: Callable[[], str | None],
        find_name: Callable[[Address], str | None],
        now_s: float,
    ) -> None:
        self._graph = graph
        self._find_note = find_note
        self._count_denied = count_denied
        self._find_problem = find_problem
        self._find_name = find_name
        self._notes: dict[str, Note | None] = {}
        self._counts = DenialCounts()
        self._by_sighting: dict[Sighting, Denial] = {}
        """In the order in which they were last seen."""
        self._rehearsed: dict[Sighting, Denial] = {}
        """The same of what staged policies would do: it pushes no denial out."""
        self._staged: dict[str, StagedCount] = {}
        self._socket: NflogSocket | None = None
        self._waiting = select.epoll()
        """Has the socket, except while it rests: so the loop can wait for either."""
        self._is_resting = False
        self._rests_until_s = 0.0
        self._allowance = Allowance(SHARE, now_s)
        self.records: tuple[Denial, ...] = ()
        """The newest last; replaced whole, so any thread may take it."""
        self.rehearsed: tuple[Denial, ...] = ()
        self.staged: tuple[StagedCount, ...] = ()
        """What staged policies would do, each kind of packet, and how often in all."""
        self._shared: tuple[tuple[Denial, ...], tuple[Denial, ...]] = ((), ())
        self._shared_counts: tuple[StagedCount, ...] = ()
        self._share_from_s = 0.0
        self._share_pause_s = SHARE_FIRST_S
        self.problems: tuple[str, ...] = ()
        """Why nothing is told though it should be."""
        self.is_possible = True
        """Whether rules may tell: a kernel that does not know how refuses the others beside them."""

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._waiting.fileno()

    def close(self) -> None:
        """Release the sockets."""
        self._stop()
        self._waiting.close()

    @property
    def is_told(self) -> bool:
        """Whether the kernel's word is heard."""
        return self._socket is not None

    @property
    def needs_count(self) -> bool:
        """Whether more packets may have been denied than were told: :meth:`count` says how many."""
        return self._counts.needs_reading

    def listen(self, *, tells: bool, now_s: float) -> bool:
        """Read what the kernel tells from now on, or no more; whether that begins now.

        It is cheap where nothing changes.  Where it begins, :meth:`begin_count` is next.
        """
        had = self.is_told
        if not tells:
            self._stop()
        elif self._socket is None and now_s >= self._rests_until_s:
            self._start(now_s)
        return self.is_told and not had

    def begin_count(self, dropped: Mapping[str, int]) -> None:
        """What each chain had dropped when it was begun to listen."""
        self._counts = DenialCounts(dropped)

    def count(self, dropped: Mapping[str, int], now_s: float) -> None:
        """What each chain has dropped by now: packets that were not told are counted too."""
        for sighting, packets in self._counts.settle(dropped, now_s).items():
            book = self._book(sighting)
            denial = book.get(sighting)
            if denial is not None:
                book[sighting] = msgspec.structs.replace(
                    denial, packets=denial.packets + packets, sampled=True
                )
                self._count(denial, packets)
        self._publish()

    def take(self, now_s: float, clock_s: float) -> float | None:
        """Take what was told; how long to rest before there can be more.  None: nothing to wait for.

        ``clock_s`` is the time of day.
        """
        if self._socket is None or (self._is_resting and now_s < self._rests_until_s):
            return None
        if self._is_resting:
            self._waiting.register(self._socket.fileno(), select.EPOLLIN)
            self._is_resting = False
        start_s = time.thread_time()
        seen = self._socket.read(PACKETS_AT_ONCE)
        if not seen:
            return None
        for sighting, count in seen.items():
            self._counts.note(sighting, count, now_s)
            self._note(sighting, count, clock_s)
        self._publish()
        rest_s = max(REST_S, self._allowance.spend(time.thread_time() - start_s, now_s))
        self._waiting.unregister(self._socket.fileno())
        self._is_resting, self._rests_until_s = True, now_s + rest_s
        return rest_s

    def share_at(self, now_s: float) -> float:
        """When the cluster may be told something newer."""
        return max(now_s, self._share_from_s)

    def shared(self, now_s: float) -> Denials | None:
        """What the cluster is told now: what it was told before, unless it is time for more."""
        if self._socket is None:
            return None
        newest = self.records[-SHARED_MAX:], self.rehearsed[-SHARED_MAX:]
        if newest != self._shared and now_s >= self._share_from_s:
            has_been_quiet = now_s >= self._share_from_s + self._share_pause_s
            longer_s = min(2 * self._share_pause_s, SHARE_LONGEST_S)
            self._share_pause_s = SHARE_FIRST_S if has_been_quiet else longer_s
            self._share_from_s = now_s + self._share_pause_s
            self._shared, self._shared_counts = newest, self.staged
        denials, rehearsed = self._shared
        return Denials(self._graph.node, denials, rehearsed=rehearsed, staged=self._shared_counts)

    def _start(self, now_s: float) -> None:
        problem = self._find_problem()
        self.is_possible = problem is None
        try:
            self._socket = NflogSocket(NFLOG_GROUP) if self.is_possible else None
        except NetlinkError as error:
            problem = str(error)
        if problem is not None or self._socket is None:
            told = (f"denials are not told: {problem}",)
            if told != self.problems:
                log.warning("denials are not told", error=problem)
            self.problems, self._rests_until_s = told, now_s + OPEN_AGAIN_S
            return
        self.problems = ()
        self._waiting.register(self._socket.fileno(), select.EPOLLIN)
        self._is_resting = False

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()  # which takes it out of the epoll as well
            self._socket = None
        self.problems, self.is_possible = (), True

    def _note(self, sighting: Sighting, count: int, clock_s: float) -> None:
        src, dst = self._graph.owner(sighting.src), self._graph.owner(sighting.dst)
        if src is not None and src == dst:
            return  # a pod reaches itself: only a rule that logs tells of it
        book = self._book(sighting)
        before = book.pop(sighting, None)
        note = self._meaning(sighting.prefix)
        if note is None and before is None and not sighting.prefix.startswith("cali-"):
            return  # another program's rule that tells our group
        first_s = before.first if before is not None else clock_s
        packets = count + (before.packets if before is not None else 0)
        denial = self._record(sighting, note, first_s, clock_s, packets)
        if before is not None and before.sampled:
            denial = msgspec.structs.replace(denial, sampled=True)
        book[sighting] = denial
        self._count(denial, count)
        if len(book) > RECORDS_MAX:
            del book[next(iter(book))]

    def _book(self, sighting: Sighting) -> dict[Sighting, Denial]:
        return self._rehearsed if is_rehearsed(sighting.prefix) else self._by_sighting

    def _publish(self) -> None:
        self.records = tuple(self._by_sighting.values())
        self.rehearsed = tuple(self._rehearsed.values())
        self.staged = tuple(count for _, count in sorted(self._staged.items()))

    def _count(self, denial: Denial, packets: int) -> None:
        if denial.action == ACTIONS[NoteKind.DENY]:
            self._count_denied(Direction(denial.direction), packets)
        if denial.action in _WOULD and denial.deciding is not None:
            by = denial.deciding
            policy = PolicyId(by.kind, by.namespace, by.name).path
            count = self._staged.get(policy) or StagedCount(policy, 0, 0, denial.first)
            denies = denial.action == ACTIONS[NoteKind.WOULD_DENY]
            self._staged[policy] = msgspec.structs.replace(
                count,
                would_allow=count.would_allow + (0 if denies else packets),
                would_deny=count.would_deny + (packets if denies else 0),
            )

    def _meaning(self, prefix: str) -> Note | None:
        note = self._notes.get(prefix) or self._find_note(prefix)
        if note is not None:
            if len(self._notes) >= NOTES_MAX:
                self._notes.clear()
            self._notes[prefix] = note
        return note

    def _record(
        self, sighting: Sighting, note: Note | None, first_s: float, last_s: float, packets: int
    ) -> Denial:
        src, dst = self._graph.owner(sighting.src), self._graph.owner(sighting.dst)
        direction = note.direction if note is not None else Direction.INGRESS
        local = src if direction is Direction.EGRESS else dst
        is_icmp = sighting.protocol in (ICMP, ICMPV6)
        cause = note.cause if note is not None else None
        return Denial(
            action=ACTIONS[note.kind] if note is not None else "deny",
            direction=direction.value,
            src=sighting.src,
            dst=sighting.dst,
            protocol=describe_protocol(sighting.protocol),
            first=first_s,
            last=last_s,
            why=describe_cause(cause, local) if cause is not None else GONE,
            src_pod=_pod(src),
            dst_pod=_pod(dst),
            dst_name=(self._find_name(sighting.dst) or "") if dst is None else "",
            port=0 if is_icmp else sighting.port,
            icmp_type=sighting.port >> 8 if is_icmp else None,
            icmp_code=sighting.port & 0xFF if is_icmp else None,
            deciding=deciding_of(cause, local) if isinstance(cause, Origin) else None,
            packets=packets,
        )


def _pod(endpoint: EndpointId | None) -> str:
    return endpoint.pod if endpoint is not None else ""
