"""A watch of pods at a rate that no API server on this machine gives, in front of a real one.

In: a real API server full of pods, and a rate.  Out: a URL that answers as it does, but for the
watch of pods, which says when told to that each of them has a new label, so many a second.
"""

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import yaml

from calico_k8s.controller.kube import KubeApi, connect
from calico_k8s.errors import KubeNotFound

PODS_PATH = "/api/v1/pods"
BURST_S = 0.005
"""How often some are said."""


class Replay:
    """One that runs, as a process of its own."""

    def __init__(self, kubeconfig: Path, ours: Connection) -> None:
        self.kubeconfig = kubeconfig
        """How a controller reaches it."""
        self._ours = ours

    def play(self) -> tuple[float, int]:
        """Says everything; seconds that it took, and how many changes."""
        self._ours.send(None)
        duration_s, count = self._ours.recv()
        return float(duration_s), int(count)


@contextmanager
def replay(kubeconfig: Path, folder: Path, label: str, rate: int) -> Iterator[Replay]:
    """In front of the server that a kubeconfig names; each pod gets ``bench: label``."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(str(kubeconfig), theirs, label, rate))
    process.start()
    try:
        server = {"server": f"http://127.0.0.1:{ours.recv()}"}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "replay",
            "clusters": [{"name": "replay", "cluster": server}],
            "users": [{"name": "replay", "user": {}}],
            "contexts": [{"name": "replay", "context": {"cluster": "replay", "user": "replay"}}],
        }
        path = folder / "replay.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        yield Replay(path, ours)
    finally:
        process.kill()
        process.join()


def _serve(kubeconfig: str, pipe: Connection, label: str, rate: int) -> None:
    with closing(connect(kubeconfig)) as api, _Server(api, pipe, label, rate) as server:
        pipe.send(server.server_address[1])
        server.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: KubeApi, pipe: Connection, label: str, rate: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api
        self.pipe = pipe
        self.rate = rate
        self.lines = [_line(pod, label) for pod in _pods(api)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if "watch" not in query:
            try:
                status, body = 200, self.server.api.get(url.path, query)
            except KubeNotFound:  # a kind that is not installed
                status, body = 404, b"{}"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if url.path == PODS_PATH:
            self._play()
        threading.Event().wait()  # it says nothing more

    def do_POST(self) -> None:  # an Event: not what is measured
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Says nothing."""

    def _play(self) -> None:
        server = self.server
        server.pipe.recv()
        started_s, said = time.monotonic(), 0
        while said < len(server.lines):
            time.sleep(BURST_S)
            due = min(len(server.lines), int((time.monotonic() - started_s) * server.rate))
            for line in server.lines[said:due]:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            said = due
        server.pipe.send((time.monotonic() - started_s, said))


def _pods(api: KubeApi) -> Iterator[dict[str, object]]:
    rest = ""
    while True:
        page = json.loads(api.get(PODS_PATH, {"limit": 500, "continue": rest}))
        yield from page["items"]
        rest = page["metadata"].get("continue", "")
        if not rest:
            return


def _line(pod: dict[str, object], label: str) -> bytes:
    metadata = pod["metadata"]
    assert isinstance(metadata, dict)
    changed = {**metadata, "labels": {**metadata.get("labels", {}), "bench": label}}
    event = {"type": "MODIFIED", "object": {**pod, "metadata": changed}}
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
