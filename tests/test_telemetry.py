"""What a daemon tells over HTTP."""

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from calico_k8s.errors import UnavailableError
from calico_k8s.telemetry import Telemetry, serving


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


def test_a_port_that_is_taken_is_said() -> None:
    telemetry = Telemetry(CollectorRegistry(), lambda: None, lambda: None)
    with (
        serving(0, telemetry) as port,
        pytest.raises(UnavailableError, match=rf"{port}.*--metrics-port"),
        serving(port, telemetry),
    ):
        pass
