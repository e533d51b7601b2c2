"""What a daemon tells over HTTP."""

import socket
import struct
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from calico_k8s.errors import UnavailableError
from calico_k8s.telemetry import MetricSet, Telemetry, serving


def ask(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_health_and_readiness_are_told() -> None:
    registry = CollectorRegistry()
    Counter("deeds", "What was done", registry=registry).inc(3)
    problem: str | None = "the first sync is not in"
    with serving(0, Telemetry(registry, lambda: None, lambda: problem)) as port:
        assert "deeds_total 3.0" in ask(port, "/metrics")[1]
        assert ask(port, "/healthz") == (200, "ok\n")
        assert ask(port, "/readyz") == (503, "the first sync is not in\n")
        problem = None
        assert ask(port, "/readyz?verbose") == (200, "ok\n")
        assert ask(port, "/secrets")[0] == 404


def test_who_asks_and_is_gone_before_the_answer_is_no_news(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A traceback is no line of a log that is JSON."""
    is_asked, is_gone = threading.Event(), threading.Event()
    threads = threading.active_count()

    def question() -> str | None:
        is_asked.set()
        assert is_gone.wait(10)
        return "x" * 10_000_000  # more than any buffer takes for one that is gone

    with serving(0, Telemetry(CollectorRegistry(), question, lambda: None)) as port:
        with socket.create_connection(("127.0.0.1", port)) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            asking.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert is_asked.wait(10)
        is_gone.set()
        give_up_s = time.monotonic() + 10
        while threading.active_count() > threads + 1 and time.monotonic() < give_up_s:
            time.sleep(0.005)
    assert capfd.readouterr() == ("", "")


def test_a_tally_is_a_counter_by_its_labels() -> None:
    made = MetricSet("lab")
    plain, labelled = made.tally("deeds_total", "Done"), made.tally("seen_total", "Seen", "kind")
    for kind in ("Pod", "Node", "Pod"):
        labelled.add(1, kind)
    plain.add(2)
    value = made.registry.get_sample_value
    assert value("lab_deeds_total") == 2
    assert value("lab_seen_total", {"kind": "Pod"}) == 2
    assert value("lab_seen_total", {"kind": "Node"}) == 1


def test_a_port_that_is_taken_is_said() -> None:
    telemetry = Telemetry(CollectorRegistry(), lambda: None, lambda: None)
    with (
        serving(0, telemetry) as port,
        pytest.raises(UnavailableError, match=rf"{port}.*--metrics-port"),
        serving(port, telemetry),
    ):
        pass
