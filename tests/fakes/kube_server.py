"""An API server that does what a real one does rarely, and never when asked to.

In comes a script: for each request in turn what is answered; out go the requests that came.  For
faults only: whatever a real server does in tests is met on a real one, in tests/cluster.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client.configuration import Configuration

from calico_k8s.controller.kube import KubeApi

Document = dict[str, Any]  # Any: what JSON can say
Answer = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer; what a script's steps work with."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    @property
    def query(self) -> dict[str, str]:
        """What is asked for."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append(self.query)
            step = next(self.server.steps, None)
        if step is None:
            self.server.is_over.wait()  # a watch that says nothing more
            return
        step(self)

    def say(self, status: int, body: bytes) -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self) -> None:
        """An answer that goes on."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, raw: bytes) -> None:
        """A piece of it."""
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, steps: Sequence[Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.steps: Iterator[Answer] = iter(steps)
        self.asked: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.is_over = threading.Event()


class FakeKube:
    """A server that follows its script, and then is silent."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
        self.api = KubeApi(configuration)

    @property
    def asked(self) -> list[dict[str, str]]:
        """The queries that have come, in their order."""
        with self._server.lock:
            return list(self._server.asked)


@contextmanager
def fake_kube(*steps: Answer) -> Iterator[FakeKube]:
    """A server with a script."""
    server = _Server(steps)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield FakeKube(server)
    finally:
        server.is_over.set()
        server.shutdown()
        server.server_close()


def listed(*objects: Document, revision: int, rest: str = "") -> Answer:
    """A page of a list."""
    metadata = {"resourceVersion": str(revision)} | ({"continue": rest} if rest else {})
    body = json.dumps({"metadata": metadata, "items": objects}).encode()
    return lambda exchange: exchange.say(200, body)


def refused(status: int, message: str) -> Answer:
    """A request that fails."""
    body = json.dumps({"kind": "Status", "code": status, "message": message}).encode()
    return lambda exchange: exchange.say(status, body)


def watched(*events: tuple[str, Document], cut: bool = False, stays: bool = False) -> Answer:
    """A watch that says some events and then ends; breaks off in the middle of one; or stays."""

    def answer(exchange: Exchange) -> None:
        exchange.begin()
        for verb, document in events:
            line = json.dumps({"type": verb, "object": document}).encode() + b"\n"
            exchange.send(line[:10])  # in two pieces: lines are not chunks
            exchange.send(line[10:])
        if cut:
            exchange.send(b'{"type":"ADD')
            exchange.close_connection = True
        elif stays:
            exchange.server.is_over.wait()
        else:
            exchange.send(b"")

    return answer


def gone(message: str = "too old resource version") -> tuple[str, Document]:
    """The event by which a watch says that its revision is gone."""
    return "ERROR", {"kind": "Status", "code": 410, "message": message}


def pod(name: str, revision: int, **spec: Any) -> Document:  # Any: as Document
    """A pod as the API server writes it, fields that nobody uses included."""
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "resourceVersion": str(revision),
            "managedFields": [{"manager": "kubelet"}],
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "none"}], **spec},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    }
