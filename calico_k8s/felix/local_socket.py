"""A socket in the file system that tells one text to whoever connects, and that only root may.

In: a path and what makes the text.  Out: the text, whole, then the end of the connection.  It is
for the programs of this machine that want to know what an agent knows, datastore or not.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from calico_k8s.errors import UnavailableError

ANSWER_S = 2.0
"""Who does not read for so long is left."""
ASK_S = 5.0
BACKLOG = 8

log = structlog.get_logger()


class LocalSocket:
    """Answers until it is closed, by a thread of its own."""

    def __init__(self, path: Path, answer: Callable[[], bytes]) -> None:
        self._path = path
        self._answer = answer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._run, name="local-socket", daemon=True)

    def start(self) -> bool:
        """Start answering; where the path cannot be had, say so in the log and do without."""
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)  # of a run that was killed
            before = os.umask(0o177)
            try:
                self._socket.bind(str(self._path))
            finally:
                os.umask(before)
            self._socket.listen(BACKLOG)
        except OSError as error:
            log.warning("denials cannot be asked for here", path=str(self._path), error=str(error))
            return False
        self._thread.start()
        return True

    def close(self) -> None:
        """Answer no more, and take the path away."""
        if not self._thread.is_alive():
            self._socket.close()
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            with connection, contextlib.suppress(OSError):
                connection.settimeout(ANSWER_S)
                connection.sendall(self._answer())


def ask(path: Path) -> bytes:
    """The text that is told at a path.

    Raises:
        UnavailableError: nobody tells one, or not to us.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ASK_S)
        try:
            connection.connect(str(path))
            parts = list(iter(lambda: connection.recv(65536), b""))
        except OSError as error:
            raise UnavailableError(
                f"no agent answers at {path} ({error.strerror or error}): is Felix running here, and"
                " is this root?"
            ) from error
    return b"".join(parts)
