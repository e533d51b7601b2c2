"""What is learnt of names, between the listener and the graph: the loop's part of it.

In: the domains that the graph's sets ask, and held answers.  Out: names with their addresses, told
to the graph; whoever has brought the sets to the kernel says so, and the answers go on.  There is a
listener while any domain is asked, and none else.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog

from calico_k8s.calc.graph import Graph
from calico_k8s.errors import NetlinkError
from calico_k8s.felix.names.book import NameBook, NameRecord
from calico_k8s.felix.names.journal import Journal, names_path
from calico_k8s.felix.names.listener import Counts, Learnt, Listener
from calico_k8s.model.addresses import Address
from calico_k8s.model.domains import DomainName, DomainPattern
from calico_k8s.netlink.nfqueue import HELD_MAX
from calico_k8s.render.names import NFQUEUE_NUMBER

LISTEN_AGAIN_S: Final = 10.0
"""A queue that could not be had is tried for again."""
EXPIRE_EVERY_S: Final = 1.0

log = structlog.get_logger()


class Learning:
    """One agent's; for the loop's thread, but for :meth:`called`."""

    def __init__(
        self, graph: Graph, state_path: Path | None, observe_held: Callable[[float], None]
    ) -> None:
        self._graph = graph
        self._book = NameBook()
        self._journal = Journal(names_path(state_path)) if state_path is not None else None
        self._observe_held = observe_held
        self._patterns: frozenset[DomainPattern] = frozenset()
        self._listener: Listener | None = None
        self._waiting: list[Learnt] = []
        self._problem: str | None = None
        self._listen_from_s = 0.0
        self._has_followed = False
        """Whether it is known what is asked: the first snapshot is in."""
        self._past = Counts(0, 0, 0)
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._expire_at_s = 0.0
        self._restore()

    def fileno(self) -> int:
        """Readable when answers wait."""
        return self._news

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps it from learning: one sentence each."""
        problem = self._problem or (self._listener.problem if self._listener is not None else None)
        if problem is None:
            return ()
        return (f"no DNS answer is read, so nothing new is learnt of domains: {problem}",)

    @property
    def counts(self) -> Counts:
        """Answers since the start, by what became of them."""
        now = self._listener.counts if self._listener is not None else Counts(0, 0, 0)
        return Counts(*(old + new for old, new in zip(self._past, now, strict=True)))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many names there are, and addresses of theirs."""
        return len(self._book.records), self._book.address_count

    def called(self, address: Address) -> DomainName | None:
        """What an address is called, by what was learnt or by the last answer that gave it."""
        names = self._graph.names_of(address)
        if names:
            return min(names)
        return self._listener.called(address) if self._listener is not None else None

    def close(self) -> None:
        """Let every answer go, and release what is open."""
        self._stop()
        if self._journal is not None:
            self._journal.close()
        os.close(self._news)

    def follow(self, extra_ttl_s: float, now_s: float) -> None:
        """Ask what the graph's sets ask since its last flush."""
        self._book.extra_ttl_s = extra_ttl_s
        patterns = frozenset(self._graph.domains)
        if patterns != self._patterns or not self._has_followed:
            self._patterns, self._has_followed = patterns, True
            self._tell(self._book.ask(patterns))
            if self._listener is not None:
                self._listener.ask(patterns)
        self._listen(now_s)

    def take(self, now_s: float, *, has_answers: bool) -> bool:
        """Learn from the answers that wait, and let lapse what is too old; whether the graph has news.

        ``has_answers``: the descriptor is readable.  Cost: nothing where it is not, but once a second.
        """
        if not self._has_followed:
            return False
        self._listen(now_s)
        is_changed = False
        if now_s >= self._expire_at_s:
            self._expire_at_s = now_s + EXPIRE_EVERY_S
            is_changed = self._tell(self._book.expire(time.time()))
        return (has_answers and self._take_answers()) or is_changed

    def _take_answers(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._news)
        taken = self._listener.take() if self._listener is not None else []
        self._waiting = [*self._waiting, *taken][-HELD_MAX:]  # older ones went late
        found = [each for learnt in taken for each in learnt.found]
        is_changed = self._tell(self._book.learn(found, time.time()))
        if found and self._journal is not None:
            self._journal.refresh(self._book.records, (each.name for each in found))
        return is_changed

    def release(self) -> None:
        """The kernel is as the graph says: let the answers that were learnt from go on."""
        if not self._waiting or self._listener is None:
            return
        waiting, self._waiting = self._waiting, []
        self._listener.release(learnt.packet for learnt in waiting)
        now_s = time.monotonic()
        for learnt in waiting:
            self._observe_held(now_s - learnt.since_s)

    def _restore(self) -> None:
        """Know what the agent before knew; what nobody asks is forgotten with the first snapshot."""
        records = self._journal.load() if self._journal is not None else []
        self._tell(self._book.restore(records, time.time()))

    def _tell(self, names: Iterable[DomainName]) -> bool:
        """Tell graph and journal of names that changed, or are gone."""
        changed = list(names)
        records = self._book.records
        for name in changed:
            record = records.get(name) or NameRecord(name)
            self._graph.learn(name, frozenset(record.until_s), frozenset(record.lapsed))
        if changed and self._journal is not None:
            self._journal.note(records, changed)
        return bool(changed)

    def _listen(self, now_s: float) -> None:
        """Have a listener while any domain is asked."""
        if not self._patterns or (self._listener is not None and self._listener.problem):
            self._stop()
        if not self._patterns or self._listener is not None or now_s < self._listen_from_s:
            return
        self._listen_from_s = now_s + LISTEN_AGAIN_S
        try:
            self._listener = Listener(NFQUEUE_NUMBER, self._news)
        except NetlinkError as error:
            if self._problem is None:
                log.warning("DNS answers are not read", error=str(error))
            self._problem = str(error)
            return
        self._problem = None
        self._listener.ask(self._patterns)
        log.info("DNS answers are read", domains=len(self._patterns))

    def _stop(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.close()
            self._past = Counts(
                *(old + new for old, new in zip(self._past, listener.counts, strict=True))
            )
            self._waiting = []
