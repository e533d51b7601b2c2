"""What a daemon tells those who watch over it: metrics, and whether it is alive and ready.

In: a port, a registry of metrics, and two questions that answer None where all is well, else what
is not, in a sentence.  Out: HTTP, for anybody who asks::

    /metrics    Prometheus' text format
    /healthz    200 while the process works; a service manager restarts it otherwise
    /readyz     200 while it does what it is for

Nothing secret is told, and nothing can be changed.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from calico_k8s.errors import UnavailableError

Question = Callable[[], str | None]

REQUEST_TIMEOUT_S = 5.0

log = structlog.get_logger()

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Of what is quick where all is well: a change is to be in force after 3 ms, and 10 at most."""


class MetricSet:
    """Makes one daemon's metrics, in a registry that has the process' own as well."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def counter(self, name: str, help_: str, *labels: str) -> Counter:
        """What only grows; its name ends in ``_total``."""
        return Counter(f"{self._prefix}_{name}", help_, labels, registry=self.registry)

    def tally(self, name: str, help_: str, *labels: str) -> "Tally":
        """A counter for what happens all the time."""
        made = Tally(f"{self._prefix}_{name}", help_, labels)
        self.registry.register(made)
        return made

    def gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        """What is now."""
        return Gauge(f"{self._prefix}_{name}", help_, labels, registry=self.registry)

    def histogram(self, name: str, help_: str, *labels: str) -> Histogram:
        """How long things take that may take seconds."""
        return Histogram(f"{self._prefix}_{name}", help_, labels, registry=self.registry)

    def latency(self, name: str, help_: str) -> Histogram:
        """How long users wait, of which a millisecond is much."""
        return Histogram(
            f"{self._prefix}_{name}", help_, buckets=LATENCY_BUCKETS_S, registry=self.registry
        )


class Tally(Collector):
    """A counter that is a dictionary's item: from cold caches prometheus_client's takes 15 us more.

    Each of its values belongs to one thread.
    """

    def __init__(self, name: str, help_: str, labels: tuple[str, ...]) -> None:
        self._name, self._help, self._labels = name, help_, labels
        self.counts: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        """By the labels' values."""

    def add(self, count: float = 1.0, *labels: str) -> None:
        """So many more."""
        self.counts[labels] = self.counts.get(labels, 0.0) + count

    def collect(self) -> Iterator[Metric]:
        """What Prometheus is told."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for labels, count in sorted(self.counts.copy().items()):
            family.add_metric(labels, count)
        yield family


class Telemetry(msgspec.Struct, frozen=True):
    """What is told."""

    registry: CollectorRegistry
    is_live: Question
    is_ready: Question


@contextmanager
def serving(port: int, telemetry: Telemetry) -> Iterator[int]:
    """Answers on all addresses of this machine until the block ends; yields the port.

    Port 0 is any that is free.

    Raises: UnavailableError where the port is taken.
    """
    server = _Server(port, telemetry)
    thread = threading.Thread(target=server.serve_forever, name="telemetry", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, telemetry: Telemetry) -> None:
        super().__init__(("", port), _Handler, bind_and_activate=False)
        self.telemetry = telemetry
        self.socket.close()
        try:
            self.socket = _listening_socket(port)
        except OSError as error:
            raise UnavailableError(
                f"port {port} for metrics cannot be listened on ({error.strerror}): give another"
                " --metrics-port, or 0 for none"
            ) from None
        self.server_address = self.socket.getsockname()[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's
        """Who asks may go before the answer, which is no news; a mistake of ours is told in the log."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("metrics or probe not answered", error=repr(error))


def _listening_socket(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        telemetry = self.server.telemetry
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, generate_latest(telemetry.registry), CONTENT_TYPE_LATEST)
            case "/healthz":
                self._answer_question(telemetry.is_live)
            case "/readyz":
                self._answer_question(telemetry.is_ready)
            case _:
                self._answer(404, b"there are /metrics, /healthz and /readyz\n")

    def _answer_question(self, question: Question) -> None:
        problem = question()
        self._answer(503 if problem else 200, f"{problem or 'ok'}\n".encode())

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Says nothing: a probe every few seconds is no news."""
