"""What the signer counts, by Prometheus' conventions.

In: what happened.  Out: a registry that :mod:`calico_k8s.telemetry` serves.
"""

from calico_k8s.telemetry import MetricSet

PREFIX = "calico_k8s_signer"


class Metrics:
    """One signer's; its values may be set from any thread."""

    def __init__(self) -> None:
        made = MetricSet(PREFIX)
        self.registry = made.registry
        self.answered = made.counter("requests_total", "Requests that were answered", "result")
        for result in ("signed", "denied"):
            self.answered.labels(result)
        self.kube_errors = made.counter(
            "kube_errors_total", "Times that the API server did not do what was asked"
        )
        self.waiting = made.gauge("requests_waiting", "Requests that cannot be answered yet")
        self.nodes = made.gauge("nodes", "Nodes that are to have a user in etcd")
        self.enforced = made.gauge("etcd_rights_enforced", "1 while etcd has its users and asks")
        self.authority_ends = made.gauge(
            "authority_expiration_timestamp_seconds", "When the authority's certificate ends"
        )
