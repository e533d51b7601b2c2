"""Questions without end: when did a verdict change, and did anything pass or fail between.

In: a probe, repeated as a :class:`StreamKind` says.  Out: its beats, one for each packet or byte
that was to arrive, on the monotonic clock.

========  ======================================================================================
NEW       each beat is a new connection, one packet asking for it and none again
CLIENT    one connection that stays: the client speaks at each beat, and the pod answers
SERVER    one connection that stays: the pod speaks at each beat, and the client is silent
========  ======================================================================================

A TCP connection that was cut and passes again repeats its lost beats: they arrive late, and count
as arrived, while those of UDP stay lost.
"""

import time
from concurrent.futures import Future
from enum import StrEnum
from functools import partial

from calico_k8s.errors import InputError, KernelError
from calico_k8s.lab.beats import SETTLE_S, Beat, Record
from calico_k8s.lab.exchange import Exchange, ask
from calico_k8s.lab.listener import TICK, Speak
from calico_k8s.lab.live import LiveConnection
from calico_k8s.lab.loop import Loop, Timer
from calico_k8s.lab.question import TCP, UDP, Answer, Outcome, Patience, Probe
from calico_k8s.lab.sources import Sources
from calico_k8s.model.resources import Action

_ONCE = Patience(sends_s=(0.0,), settle_s=SETTLE_S)
_POLL_S = 0.002


class StreamKind(StrEnum):
    """What a beat is."""

    NEW = "new"
    CLIENT = "client"
    SERVER = "server"


class Stream:
    """A stream that runs; :meth:`Prober.stream <calico_k8s.lab.probe.Prober.stream>` makes it.

    :meth:`beats` and :meth:`wait_for` are for every thread, all else is for the loop's.
    """

    def __init__(
        self, sources: Sources, loop: Loop, probe: Probe, kind: StreamKind, interval_s: float
    ) -> None:
        if kind is not StreamKind.NEW and probe.protocol not in (TCP, UDP):
            raise InputError("a connection that stays is of tcp or udp")
        self.probe = probe
        self.kind = kind
        self.opened: Future[None] = Future()
        """Done when a connection that stays has been answered, at once for new ones."""
        self._sources = sources
        self._loop = loop
        self._interval_s = interval_s
        self._record = Record()
        self._timer: Timer | None = None
        self._live: LiveConnection | None = None
        self._speak: Speak | None = None
        self._asked: dict[int, Exchange] = {}
        self._is_stopped = False

    def beats(self, since_s: float = 0.0) -> tuple[Beat, ...]:
        """The beats sent since a time of the monotonic clock whose fate is known, in order."""
        return self._record.beats(time.monotonic(), since_s)

    def wait_for(self, verdict: Action, *, since_s: float, within_s: float) -> Beat:
        """The first beat sent since then that has the verdict, as soon as that is known.

        Raises:
            KernelError: none that was sent within so many seconds from now has it.
        """
        deadline_s = time.monotonic() + within_s + SETTLE_S
        while time.monotonic() < deadline_s:
            for beat in self.beats(since_s):
                if beat.verdict is verdict:
                    return beat
            time.sleep(_POLL_S)
        where = f"{self.probe.src} to {self.probe.address} port {self.probe.port}"
        raise KernelError(f"{where}: no beat with verdict {verdict} within {within_s} s")

    def start(self, token: str) -> None:
        """Begins; ``token`` is what the pod knows the stream by when it is to speak.

        Raises:
            InputError: there is no such place.
        """
        if self.kind is StreamKind.NEW:
            self.opened.set_result(None)
            self._tick(time.monotonic())
            return
        is_client = self.kind is StreamKind.CLIENT
        greeting = b"id\n" if is_client else TICK + token.encode() + b"\n"
        self._live = LiveConnection(self._sources, self._loop, self.probe, greeting, self._heard)

    def spoken_to(self, speak: Speak) -> None:
        """The pod is ready to speak, by this."""
        self._speak = speak

    def stop(self) -> None:
        """Sends nothing any more; what was sent may still arrive."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._live is not None:
            self._live.close()

    def abandon(self) -> None:
        """Waits for nothing that was sent any more; after :meth:`stop`."""
        for exchange in self._asked.values():
            exchange.cancel()
        self._asked.clear()

    def _heard(self, line: bytes) -> None:
        if not self.opened.done():
            self.opened.set_result(None)
            self._tick(time.monotonic())
        elif line.startswith(b"#") and line[1:].isdigit():
            self._record.answered(int(line[1:]), time.monotonic())

    def _tick(self, due_s: float) -> None:
        if self._is_stopped:
            return
        self._beat()
        # A loop that was held up skips what it missed by much: a burst would measure itself.
        next_s = max(due_s + self._interval_s, time.monotonic() - self._interval_s)
        self._timer = self._loop.at(next_s, partial(self._tick, next_s))

    def _beat(self) -> None:
        number = self._record.sent(time.monotonic())
        if self._live is None:
            done = partial(self._answered, number)
            self._asked[number] = ask(self._sources, self._loop, self.probe, _ONCE, done)
        elif self.kind is StreamKind.CLIENT:
            self._live.say(b"#%d\n" % number)
        elif self._speak is not None:
            self._speak(b"#%d\n" % number)

    def _answered(self, number: int, answer: Answer) -> None:
        self._asked.pop(number, None)
        if answer.outcome is Outcome.ANSWERED:
            self._record.answered(number, time.monotonic())
