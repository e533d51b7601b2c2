"""What PromQL asks of our metrics, so that no alert and no panel asks for what nobody tells.

In: an expression.  Out: the labels that its result has, by the metrics as the daemons register them
and by Prometheus' rules.  A metric that there is not, and a label that a metric has not, is an
AssertionError with its name.
"""

from functools import cache

import promql_parser as promql

from calico_k8s.certificates.metrics import Metrics as SignerMetrics
from calico_k8s.controller.metrics import Metrics as ControllerMetrics
from calico_k8s.felix.metrics import Metrics as FelixMetrics

Labels = frozenset[str]

TARGET: Labels = frozenset({"instance", "job"})
"""What Prometheus gives every series, by where it was scraped."""
NOTHING: Labels = frozenset()
SETS = ("and", "or", "unless")


@cache
def labels_by_series() -> dict[str, Labels]:
    """Every series of every daemon, with its labels."""
    found: dict[str, Labels] = {}
    for made in (ControllerMetrics(), FelixMetrics(), SignerMetrics()):
        # The process' own, whose collectors say only in samples what they have.
        for metric in made.registry.collect():
            found |= {each.name: TARGET | each.labels.keys() for each in metric.samples}
        for collector, names in made.registry._collector_to_names.items():
            labels = TARGET.union(getattr(collector, "_labelnames", ()))
            for name in names:
                own: Labels = frozenset({"le"}) if name.endswith("_bucket") else NOTHING
                found[name] = labels | own
    return found


def result_labels(text: str) -> Labels:
    """The labels of what an expression gives."""
    return _labels(promql.parse(text))


def _labels(expr: promql.Expr) -> Labels:
    match expr:
        case promql.VectorSelector():
            return _selected(expr)
        case promql.MatrixSelector():
            return _selected(expr.vector_selector)
        case promql.AggregateExpr():
            return _aggregated(expr)
        case promql.BinaryExpr():
            return _joined(expr)
        case promql.Call():
            found = frozenset().union(*map(_labels, expr.args))
            return found - {"le"} if expr.func.name == "histogram_quantile" else found
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(expr.expr)
        case promql.NumberLiteral() | promql.StringLiteral():
            return NOTHING
        case other:
            raise AssertionError(f"no such expression here: {other}")


def _selected(series: promql.VectorSelector) -> Labels:
    known = labels_by_series()
    assert series.name in known, f"no daemon tells {series.name}"
    asked = {matcher.name for matcher in series.matchers.matchers}
    assert asked <= known[series.name], f"{series.name} has no {asked - known[series.name]}"
    return known[series.name]


def _aggregated(expr: promql.AggregateExpr) -> Labels:
    inside = _labels(expr.expr)
    if str(expr.op) in ("topk", "bottomk"):
        return inside
    if expr.modifier is None:
        return NOTHING
    named = frozenset(expr.modifier.labels)
    assert named <= inside, f"there is no {named - inside} in {expr.expr.prettify()}"
    return named if expr.modifier.type == promql.AggModifierType.By else inside - named


def _joined(expr: promql.BinaryExpr) -> Labels:
    left, right = _labels(expr.lhs), _labels(expr.rhs)
    matching = expr.modifier.matching if expr.modifier is not None else None
    is_on = matching is not None and matching.type == promql.LabelModifierType.Include
    if matching is not None and is_on:
        on = frozenset(matching.labels)
        assert on <= left & right, f"there is no {on - left & right} on both sides"
        return left if str(expr.op) in SETS else on
    if str(expr.op) == "or":
        return left | right
    if left and right:
        assert left == right, f"{expr.prettify()} joins {left} with {right}, so it gives nothing"
    return left or right
