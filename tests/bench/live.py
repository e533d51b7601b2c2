"""A TCP connection that talks all the time: when it was cut, to 0.3 ms.

In: who connects, and to whom.  Out: milliseconds from a moment to the last that was sent and arrived.
"""

import socket
import struct
import subprocess
import sys
import time
from contextlib import AbstractContextManager

from calico_k8s.model.addresses import Address
from tests.bench.stamped import DRAIN_S, PATIENCE_S, SILENCE_S

PORT = 9001
_STAMP = struct.Struct("=q")
_TALKER = f"""
import socket, struct, sys, time
sock = socket.socket()
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
sock.bind((sys.argv[1], 0))
sock.connect((sys.argv[2], {PORT}))
while True:
    sock.sendall(struct.pack("=q", time.monotonic_ns()))
    time.sleep(0.0002)
"""


class Listener:
    """The end that hears, in the namespace that this is made in."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("0.0.0.0", PORT))
        self._socket.settimeout(PATIENCE_S)

    def close(self) -> None:
        """Takes no more."""
        self._socket.close()

    def connection(
        self, source: AbstractContextManager[object], address: Address, target: Address
    ) -> "Connection":
        """One from whoever is inside ``source`` and has the address, which talks when this returns."""
        with source:
            command = (sys.executable, "-c", _TALKER, address, target)
            talker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            accepted, _ = self._socket.accept()
        except TimeoutError:
            talker.kill()
            talker.wait()
            raise SystemExit("nobody connects that may") from None
        return Connection(talker, accepted)


class Connection:
    """One connection."""

    def __init__(self, talker: subprocess.Popen[bytes], accepted: socket.socket) -> None:
        self._talker = talker
        self._socket = accepted
        self._socket.setblocking(False)
        self._rest = b""
        end_s = time.monotonic() + PATIENCE_S
        while not self._heard():
            time.sleep(DRAIN_S)
            if time.monotonic() > end_s:
                raise SystemExit("nothing comes by a connection that may live")

    def close(self) -> None:
        """Ends it."""
        self._talker.kill()
        self._talker.wait()
        self._socket.close()

    def cut_ms(self, since_ns: int) -> float:
        """Milliseconds from then until the last was sent that arrived."""
        last_ns, heard_s = since_ns, time.monotonic()
        while time.monotonic() - heard_s < SILENCE_S:
            time.sleep(DRAIN_S)
            if stamps := self._heard():
                last_ns, heard_s = max(last_ns, stamps[-1]), time.monotonic()
            if (last_ns - since_ns) / 1e9 > PATIENCE_S:
                raise SystemExit("a connection lives on that is denied")
        return (last_ns - since_ns) / 1e6

    def _heard(self) -> list[int]:
        """When each that has come was sent."""
        try:
            self._rest += self._socket.recv(1 << 20)
        except BlockingIOError:
            return []
        whole = len(self._rest) // _STAMP.size * _STAMP.size
        stamps = [stamp for (stamp,) in _STAMP.iter_unpack(self._rest[:whole])]
        self._rest = self._rest[whole:]
        return stamps
