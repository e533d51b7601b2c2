"""A stream of datagrams that each say when they were sent: when a verdict changed, to 0.1 ms.

In: a socket that hears them, and who sends.  Out: milliseconds from a moment to the first that was
sent after it and passed, or to the last that passed.
"""

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

PORT = 9000
STEP_S = 0.0002
SILENCE_S = 0.03
"""So long without a datagram, and no more pass."""
PATIENCE_S = 5.0

DRAIN_S = 0.003
"""How often what has come is looked at: the stamps say when it was sent, so that more often would
only take the processor from what is measured."""

ROOM_BYTES = 4 << 20
"""What comes between two changes is not looked at, and must not keep out what comes after: the
kernel's own 208 KiB hold some 300 datagrams."""

STEPS_A_ROUND = 10
"""In so many steps each of several targets is sent to once."""

_STAMP = struct.Struct("=qI")
_SENDER = f"""
import itertools, socket, struct, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], {PORT}))
targets = [(address, {PORT}) for address in sys.argv[2:]]
turns = zip(itertools.cycle(targets), itertools.count())
while True:
    for target, turn in itertools.islice(turns, -(-len(targets) // {STEPS_A_ROUND})):
        try:
            sock.sendto(struct.pack("=qI", time.monotonic_ns(), turn), target)
        except OSError:
            pass
    time.sleep({STEP_S})
"""


class _Stamp(NamedTuple):
    """What a datagram says: when it was sent, and how many were before it."""

    sent_ns: int
    turn: int


class StampedFlow:
    """The end that hears: at ``addresses`` of the namespace that this is made in."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM_BYTES // 2)
        self._receiver.bind(("0.0.0.0", PORT))
        self._receiver.setblocking(False)

    def close(self) -> None:
        """Hears no more."""
        self._receiver.close()

    @contextmanager
    def sending(
        self,
        source: AbstractContextManager[object],
        address: str,
        targets: Sequence[str] | None = None,
    ) -> Iterator[None]:
        """Somebody sends, who is inside ``source`` and has the address, until the block ends.

        To each of the targets in turn; to all addresses where none are named.
        """
        with source:
            command = (sys.executable, "-c", _SENDER, address, *(targets or self._addresses))
            process = subprocess.Popen(command)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def first_passed(self, since_ns: int, targets: int = 1) -> float:
        """Milliseconds from then until the first datagram was sent that passed.

        With several targets, the first from which on each passed of a whole round to all of them:
        the one before met the last of the old verdicts, or came before a change that was quicker.
        """
        end_ns = since_ns + int(PATIENCE_S * 1e9)
        first = _Stamp(0, 0)
        last_turn = -2  # of none before the first
        while time.monotonic_ns() < end_ns:
            time.sleep(DRAIN_S)
            for stamp in self._received():
                if stamp.sent_ns < since_ns:
                    continue
                if stamp.turn != last_turn + 1:
                    first = stamp
                last_turn = stamp.turn
                if last_turn - first.turn + 1 >= targets:
                    return (first.sent_ns - since_ns) / 1e6
        raise SystemExit("not all pass that should")

    def last_passed(self, since_ns: int) -> float:
        """Milliseconds from then until the last datagram was sent that passed."""
        last_ns, heard_s = since_ns, time.monotonic()
        while time.monotonic() - heard_s < SILENCE_S:
            time.sleep(DRAIN_S)
            if stamps := self._received():
                last_ns = max(last_ns, *(stamp.sent_ns for stamp in stamps))
                heard_s = time.monotonic()
            if (last_ns - since_ns) / 1e9 > PATIENCE_S:
                raise SystemExit("something passes that should not")
        return (last_ns - since_ns) / 1e6

    def _received(self) -> list[_Stamp]:
        """What has come since the last call, in the order in which it was sent."""
        stamps: list[_Stamp] = []
        while True:
            try:
                stamps.append(_Stamp(*_STAMP.unpack(self._receiver.recv(64))))
            except BlockingIOError:
                return stamps
