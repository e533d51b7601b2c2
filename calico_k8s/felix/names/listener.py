"""The thread that reads held DNS answers: what is of no concern goes on at once.

In: the queue's packets, and the domains that are asked.  Out: an inbox of what was found, whose
packets wait until they are released; after :data:`HOLD_MAX_S` they go on regardless, so that a loop
that is busy makes a first connection fail at worst, and never a lookup.

A flood costs no more than :data:`SHARE` of a core: while the thread rests, the queue fills, and
what finds it full goes on unread.
"""

import os
import select
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

import structlog

from calico_k8s.errors import NetlinkError
from calico_k8s.felix.allowance import Allowance
from calico_k8s.felix.names.message import Found, read_answer
from calico_k8s.felix.names.packets import Reassembly
from calico_k8s.model.addresses import Address
from calico_k8s.model.domains import DomainIndex, DomainName, DomainPattern
from calico_k8s.netlink.nfqueue import HeldPacket, NfqueueSocket

HOLD_MAX_S: Final = 1.0
SHARE: Final = 0.25
TOGETHER: Final = 64
"""Packets that are read before others have their turn."""
INBOX_MAX: Final = 4096
"""A loop that is busy for seconds finds no more than these; the others went by unlearnt."""
CALLED_MAX: Final = 4096
"""Addresses whose last name is kept, for denials to tell; of any name, asked or not."""

log = structlog.get_logger()


class Learnt(NamedTuple):
    """What one packet brought; it waits."""

    packet: int
    found: tuple[Found, ...]
    since_s: float
    """Of the monotonic clock."""


class Counts(NamedTuple):
    """Answers so far, by what became of them."""

    passed: int
    """Of no concern."""
    held: int
    late: int
    """Held and let go before the sets were written."""


class Listener:
    """The reader of one queue; every method but the thread's own is for the loop.

    ``news`` is an eventfd, which it makes readable when the inbox has something.

    Raises:
        NetlinkError: from the constructor, when the queue cannot be had.
    """

    def __init__(self, queue: int, news: int) -> None:
        self._socket = NfqueueSocket(queue)
        self._news = news
        self._index = DomainIndex()
        self._reassembly = Reassembly()
        self._lock = threading.Lock()
        self._inbox: list[Learnt] = []
        self._held: OrderedDict[int, float] = OrderedDict()
        self._called: OrderedDict[Address, DomainName] = OrderedDict()
        self._passed = self._taken = self._late = 0
        self._is_stopping = False
        self.problem: str | None = None
        """Why the thread has ended, if it has by itself."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="dns-answers", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """Answers so far."""
        return Counts(self._passed, self._taken, self._late)

    def ask(self, patterns: Iterable[DomainPattern]) -> None:
        """Exactly these domains are of concern from now on."""
        self._index = DomainIndex(patterns)

    def called(self, address: Address) -> DomainName | None:
        """The name that an answer last gave an address, asked or not."""
        return self._called.get(address)

    def take(self) -> list[Learnt]:
        """What the inbox holds; never blocks."""
        with self._lock:
            inbox, self._inbox = self._inbox, []
        return inbox

    def release(self, packets: Iterable[int]) -> None:
        """Let these go on."""
        with self._lock:
            mine = [packet for packet in packets if self._held.pop(packet, None) is not None]
        try:
            self._socket.release(mine)
        except NetlinkError as error:
            log.warning("DNS answers were not let go", error=str(error))

    def close(self) -> None:
        """Let everything go, and end the thread."""
        self._is_stopping = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        allowance = Allowance(SHARE, time.monotonic())
        rest_s = 0.0
        try:
            while not self._is_stopping:
                self._wait(rest_s)
                start_s = time.thread_time()
                self._read_some()
                self._let_late_go(time.monotonic())
                rest_s = allowance.spend(time.thread_time() - start_s, time.monotonic())
            self._read_some()
            self.release(list(self._held))
        except NetlinkError as error:
            self.problem = str(error)
            log.warning("DNS answers are read no more", error=self.problem)
        finally:
            self._socket.close()

    def _wait(self, rest_s: float) -> None:
        """Until a packet comes, or one may be late; at least for as long as there is to rest."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if rest_s:
            poll.poll(rest_s * 1000)
            return
        poll.register(self._socket, select.POLLIN)
        poll.poll(HOLD_MAX_S / 4 * 1000 if self._held else None)

    def _read_some(self) -> None:
        packets = self._socket.read(TOGETHER)
        if not packets:
            return
        now_s = time.monotonic()
        passed: list[int] = []
        learnt: list[Learnt] = []
        for packet in packets:
            found = self._found(packet)
            if found and len(self._inbox) + len(learnt) < INBOX_MAX:
                learnt.append(Learnt(packet.id, found, now_s))
            else:
                passed.append(packet.id)
        self._passed += len(passed)
        self._taken += len(learnt)
        if learnt:
            with self._lock:
                self._held.update((each.packet, now_s) for each in learnt)
                was_empty = not self._inbox
                self._inbox += learnt
                if was_empty:
                    os.eventfd_write(self._news, 1)
        self._socket.release(passed)

    def _found(self, packet: HeldPacket) -> tuple[Found, ...]:
        found: list[Found] = []
        for message in self._reassembly.messages(packet.data):
            answer = read_answer(message)
            if answer is None:
                continue
            meant = {name for name in answer.names if any(True for _ in self._index.meaning(name))}
            found += (each for each in answer.found if each.name in meant)
            for each in answer.found:
                self._call(each.address, answer.names[0])
        return tuple(found)

    def _call(self, address: Address, name: DomainName) -> None:
        self._called[address] = name
        self._called.move_to_end(address)
        if len(self._called) > CALLED_MAX:
            self._called.popitem(last=False)

    def _let_late_go(self, now_s: float) -> None:
        with self._lock:
            late = [each for each, since_s in self._held.items() if since_s + HOLD_MAX_S <= now_s]
        if late:
            self._late += len(late)
            self.release(late)
