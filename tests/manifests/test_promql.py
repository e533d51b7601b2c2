"""Expressions that ask for what nobody tells are found."""

import pytest

from tests.manifests.promql import result_labels

FELIX = "calico_k8s_felix_"


@pytest.mark.parametrize(
    ("expr", "labels"),
    [
        ("time()", set()),
        (f"{FELIX}enforcing == 0", {"instance", "job"}),
        (f'{FELIX}endpoints{{state="enforced", job="x"}}', {"state", "instance", "job"}),
        (f"sum by (state) ({FELIX}endpoints)", {"state"}),
        (f"sum without (job) (rate({FELIX}endpoints[5m]))", {"state", "instance"}),
        (f"topk(3, {FELIX}endpoints)", {"state", "instance", "job"}),
        (f"histogram_quantile(0.9, rate({FELIX}apply_latency_seconds_bucket[5m]))", {"instance", "job"}),
        (f"process_start_time_seconds and on (instance) {FELIX}info", {"instance", "job"}),
        (f"count({FELIX}enforcing == 0) or vector(0)", set()),
    ],
)  # fmt: skip
def test_an_expression_has_the_labels_of_its_result(expr: str, labels: set[str]) -> None:
    assert result_labels(expr) == labels


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("calico_k8s_felix_hopes", "no daemon tells calico_k8s_felix_hopes"),
        (f"{FELIX}apply_latency_seconds_buckets", "no daemon tells"),
        (f'{FELIX}endpoints{{node="n1"}}', "node"),
        (f"sum by (namespace) ({FELIX}endpoints)", "namespace"),
        (f"{FELIX}endpoints and on (node) {FELIX}info", "node"),
        (f"{FELIX}endpoints / {FELIX}ipsets", "gives nothing"),
    ],
)
def test_an_expression_that_nobody_can_answer_is_found(expr: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        result_labels(expr)


def test_what_is_no_expression_is_found() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        result_labels("sum by (x (y)")
