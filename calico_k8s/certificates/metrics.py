"""What the signer counts, by Prometheus' conventions.

In: what happened.  Out: a registry that :mod:`calico_k8s.telemetry` serves.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.process_collector import ProcessCollector

PREFIX = "calico_k8s_signer"


class Metrics:
    """One signer's; its values may be set from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.answered = Counter(
            f"{PREFIX}_requests_total",
            "Requests for certificates that were answered",
            ["result"],
            registry=self.registry,
        )
        for result in ("signed", "denied"):
            self.answered.labels(result)
        self.kube_errors = Counter(
            f"{PREFIX}_kubernetes_errors_total",
            "Times that the API server did not do what was asked",
            registry=self.registry,
        )
        self.waiting = self._gauge("requests_waiting", "Requests that cannot be answered yet")
        self.nodes = self._gauge("nodes", "Nodes that are to have a user in etcd")
        self.enforced = self._gauge("etcd_rights_enforced", "1 while etcd has its users and asks")
        self.authority_ends = self._gauge(
            "authority_expiration_timestamp_seconds", "When the authority's certificate ends"
        )

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", help_text, registry=self.registry)
