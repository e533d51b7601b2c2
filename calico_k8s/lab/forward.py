"""A way into a namespace: connections to a loopback port here, continued from inside.

In: a namespace, and an address and port in it.  Out: a port on loopback of the namespace that this
process lives in.  Nothing is configured there: it is a socket, and goes with the process.
"""

import selectors
import socket
import threading
from contextlib import suppress

from calico_k8s.lab.netns import Namespace, entered
from calico_k8s.model.addresses import Address

_CHUNK = 1 << 16
_BACKLOG = 64
_IDLE_S = 0.5


class Forwarder:
    """Forwards from its making on; ``port`` is where.

    For programs whose threads cannot be moved into a namespace, as those of gRPC.
    """

    def __init__(self, namespace: Namespace, address: Address, port: int) -> None:
        self._namespace = namespace
        self._target = (address, port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._listening.getsockname()[1]
        self._is_over = threading.Event()
        self._partner: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="lab-forward", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends every connection, and the port."""
        self._is_over.set()
        self._thread.join()
        for each in (self._listening, *self._partner):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            for key, _events in self._selector.select(_IDLE_S):
                if key.fileobj is self._listening:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._partner:
                    self._pass_on(key.fileobj)

    def _accept(self) -> None:
        here, _ = self._listening.accept()
        try:
            with entered(self._namespace):
                there = socket.create_connection(self._target, timeout=5.0)
        except OSError:
            here.close()
            return
        there.settimeout(None)
        for near, far in ((here, there), (there, here)):
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._partner[near] = far
            self._selector.register(near, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        target = self._partner[source]
        try:
            data = source.recv(_CHUNK)
            if data:
                target.sendall(data)
                return
        except OSError:
            pass  # either side has gone: both go
        for each in (source, target):
            with suppress(KeyError):
                self._selector.unregister(each)
            self._partner.pop(each, None)
            each.close()
