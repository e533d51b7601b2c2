"""HTTPS for the API server's questions: bounded in size, time and number of connections.

In: questions.  Out: answers of :mod:`.review`.  Whoever can reach the port may ask: nothing secret
is told, and nothing is changed by it.  What is too large, late or one too many is turned away, and
the API server then goes on as if there were no webhook.
"""

import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import msgspec
import structlog

from calico_k8s.admission.material import Material
from calico_k8s.admission.review import Review, answer, answer_document
from calico_k8s.controller.metrics import Metrics
from calico_k8s.errors import InputError, UnavailableError
from calico_k8s.translate.namespaces import TranslateSettings

PATH: Final = "/review"
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""An object and the one before it; etcd takes 1.5 MiB of each."""
CONNECTIONS_MAX: Final = 32
IDLE_S: Final = 120.0
"""Longer than the API server keeps a connection (90 s), so that it never sends into a closed one."""
HANDSHAKE_S: Final = 3.0

log = structlog.get_logger()


class WebhookServer(ThreadingHTTPServer):
    """Listens from its making on; without a certificate no connection comes about."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, port: int, settings: Callable[[], TranslateSettings], metrics: Metrics
    ) -> None:
        super().__init__(("", port), _Handler, bind_and_activate=False)
        self.settings = settings
        self.metrics = metrics
        self.turn = threading.Lock()
        """One question at a time: the controller's loop shares the interpreter with one at most."""
        self._context: ssl.SSLContext | None = None
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self.socket.close()
        try:
            self.socket = _listening_socket(port)
        except OSError as error:
            raise UnavailableError(
                f"port {port} for the webhook cannot be listened on ({error.strerror}): give"
                " another --webhook-port, or 0 for none"
            ) from None
        self.server_address = self.socket.getsockname()[:2]

    def serve_by(self, material: Material) -> None:
        """Serve by this certificate from the next connection on; from any thread."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The module reads files only, and a container's root is not to be written.
        descriptor = os.memfd_create("webhook")
        try:
            os.write(descriptor, material.certificate + material.key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        self._context = context

    def process_request(self, request: Any, client_address: Any) -> None:  # Any: socketserver's
        """A thread for the connection, while there is room."""
        if not self._room.acquire(blocking=False):
            self.metrics.reviews.labels("busy").inc()
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The handshake, and then what is asked; in the connection's own thread."""
        try:
            if self._context is None:
                self.shutdown_request(request)
                return
            try:
                request.settimeout(HANDSHAKE_S)
                request = self._context.wrap_socket(request, server_side=True)
            except (OSError, ValueError) as error:
                log.debug("webhook handshake", error=str(error))
                self.shutdown_request(request)
                return
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's
        """A connection that breaks is the API server's to make again; a mistake of ours is told."""
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("webhook connection", error=str(error))
        else:
            log.error("webhook question not answered", error=repr(error))


@contextmanager
def serving(server: WebhookServer) -> Iterator[None]:
    """Answers until the block ends."""
    thread = threading.Thread(target=server.serve_forever, name="webhook", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _listening_socket(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: WebhookServer

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path.partition("?")[0] != PATH:
            self._refuse(404, "there is /review")
        elif not length.isdecimal():
            self._refuse(411, "say how long the question is")
        elif int(length) > BODY_BYTES_MAX:
            self._refuse(413, f"no question may be longer than {BODY_BYTES_MAX} bytes")
        else:
            self._review(self.rfile.read(int(length)))

    def _review(self, body: bytes) -> None:
        start_s = time.perf_counter()
        try:
            request = msgspec.json.decode(body, type=Review).request
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._refuse(400, f"this is no AdmissionReview: {error}")
            return
        try:
            with self.server.turn:
                decided = answer(request, self.server.settings())
        except InputError as error:
            self._refuse(422, str(error))
            return
        result = "refused" if decided.refusal else "warned" if decided.warnings else "allowed"
        self.server.metrics.reviews.labels(result).inc()
        self.server.metrics.review_s.observe(time.perf_counter() - start_s)
        self._answer(200, answer_document(request, decided), "application/json")

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True
        self.server.metrics.reviews.labels("invalid").inc()
        self._answer(status, f"{why}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Says nothing: metrics count."""
