"""Why a flow is allowed or denied: the walk of the definition, in words and as values.

In: an :class:`~calico_k8s.query.reach.Answer`.  Out: lines for people, and the JSON shape of
``can -o json``.  Nothing is judged here.
"""

from collections.abc import Iterator

import msgspec

from calico_k8s.model.addresses import Address
from calico_k8s.model.denial import Deciding
from calico_k8s.model.resources import Direction, Rule
from calico_k8s.policy.verdict import SKIPPED, Decision, Step, StepKind, Verdict
from calico_k8s.query.describe import (
    REASONS,
    deciding_of,
    describe_cause,
    describe_origin,
    describe_protocol,
    describe_rule,
    describe_service,
)
from calico_k8s.query.reach import Answer, Judged
from calico_k8s.query.turn import Turn
from calico_k8s.translate.tiers import BUILT_IN_TIERS


class StepReport(msgspec.Struct, frozen=True):
    """One thing that was looked at; ``rule`` is None for what is no rule."""

    kind: StepKind
    name: str
    rule: str | None
    outcome: str


class DirectionReport(msgspec.Struct, frozen=True):
    """What one direction said, with every step that was looked at, in order."""

    verdict: str
    deciding: Deciding
    steps: tuple[StepReport, ...]


class FlowReport(msgspec.Struct, frozen=True):
    """The flow that the report shows; an ICMP echo has ports 0."""

    src: Address = msgspec.field(name="from")
    dst: Address = msgspec.field(name="to")
    protocol: str
    port: int
    source_port: int


class Report(msgspec.Struct, frozen=True):
    """``can -o json``; a direction that was not asked is null."""

    verdict: str
    reason: str
    deciding: Deciding | None
    egress: DirectionReport | None
    ingress: DirectionReport | None
    flow: FlowReport
    flows: int
    """How many kinds of flow the question stands for, and how many of them are denied."""
    denied_flows: int
    turned_by: tuple[str, ...] = ()
    """Changes that together would turn the verdict of the flow; empty where none was found."""


def report(answer: Answer, turned: Turn | None = None) -> Report:
    """The answer as values, of its deciding flow; ``turned`` is what would turn it."""
    flow, verdict = answer.deciding
    deciding = verdict.deciding
    return Report(
        verdict="allow" if verdict.allowed else "deny",
        reason=verdict.reason,
        deciding=_deciding(deciding) if deciding else None,
        egress=_direction(verdict.egress),
        ingress=_direction(verdict.ingress),
        flow=FlowReport(
            flow.src, flow.dst, describe_protocol(flow.protocol), flow.dst_port, flow.src_port
        ),
        flows=len(answer.flows),
        denied_flows=_denied(answer),
        turned_by=turned.changes if turned is not None else (),
    )


def headline(answer: Answer, src: str, dst: str) -> str:
    """The verdict in one line, with what decided it."""
    flow, verdict = answer.deciding
    return f"{'allowed' if answer.allowed else 'denied'}: {src} → {dst}, {describe_service(flow)}: {_why(verdict)}"


def explain_lines(answer: Answer, src: str, dst: str, turned: Turn | None = None) -> Iterator[str]:
    """The whole walk of the deciding flow, a line for each thing that was looked at.

    Last, what would turn its verdict.
    """
    judged = answer.deciding
    yield headline(answer, src, dst)
    if len(answer.flows) > 1:
        yield f"  {_scope(answer, judged)}"
    for decision in (judged.verdict.egress, judged.verdict.ingress):
        if decision is not None:
            yield from _walk(decision)
    if turned is not None:
        other = "denied" if judged.verdict.allowed else "allowed"
        yield f"  it would be {other} with {', and '.join(turned.changes)}"


def _walk(decision: Decision) -> Iterator[str]:
    way = "ingress of" if decision.direction is Direction.INGRESS else "egress of"
    yield f"  {way} {decision.endpoint.id.pod}: {decision.action}"
    decided = _last_rule(decision)
    depths = {"tier": 4, "policy": 6, "profile": 4}
    depth = 4
    for step in _in_reading_order(decision.steps):
        if step.outcome == SKIPPED and step.name in BUILT_IN_TIERS:
            continue  # nobody wrote anything there for this endpoint
        mark = "  ← decides" if step is decided else ""
        what = _rule(step.rule, decision) if step.rule else f"{step.kind} {step.name}"
        depth = depths.get(step.kind, depth)
        indent = " " * (depth if step.rule is None else depth + 2)
        yield f"{indent}{what} … {step.outcome}{mark}"
    if decided is None:
        end = describe_cause(decision.deciding, decision.endpoint.id)
        yield f"    {end}: {decision.action}  ← decides"


def _in_reading_order(steps: tuple[Step, ...]) -> list[Step]:
    """Each tier before its policies, each policy or profile before its rules.

    The walk notes them when it leaves them.  Profiles without a rule, which only give labels and
    tags, are left out.
    """
    ordered: list[Step] = []
    policies: list[Step] = []
    rules: list[Step] = []
    for step in steps:
        match step.kind:
            case "rule":
                rules.append(step)
            case "policy":
                policies += [step, *rules]
                rules = []
            case "tier":
                ordered += [step, *policies]
                policies = []
            case "profile":
                ordered += [step, *rules] if rules else []
                rules = []
    return ordered


def _rule(rule: Rule, decision: Decision) -> str:
    return f"{describe_origin(rule.origin, decision.endpoint.id)}: {describe_rule(rule)}"


def _last_rule(decision: Decision) -> Step | None:
    """The step of the rule that decided; None where an end did."""
    rules = (step for step in reversed(decision.steps) if step.kind == "rule")
    last = next(rules, None)
    if last is None or last.rule is None or last.outcome in ("no match", "log"):
        return None
    if last.rule.origin != decision.deciding:
        return None
    return last


def _why(verdict: Verdict) -> str:
    if verdict.reason != "policy":
        return REASONS[verdict.reason]
    decision = verdict.deciding
    if decision is None or (verdict.allowed and decision.direction is Direction.EGRESS):
        return "the destination is no pod, and egress allows it"
    return describe_cause(decision.deciding, decision.endpoint.id)


def _scope(answer: Answer, judged: Judged) -> str:
    denied = _denied(answer)
    if denied in (0, len(answer.flows)):
        return f"all {len(answer.flows)} kinds of flow that this stands for; shown for {judged.flow.src}"
    return (
        f"{denied} of {len(answer.flows)} kinds of flow that this stands for are denied; "
        f"shown for {judged.flow.src} → {judged.flow.dst}"
    )


def _denied(answer: Answer) -> int:
    return sum(1 for judged in answer.flows if not judged.verdict.allowed)


def _direction(decision: Decision | None) -> DirectionReport | None:
    if decision is None:
        return None
    steps = tuple(_step(step, decision) for step in _in_reading_order(decision.steps))
    return DirectionReport(str(decision.action), _deciding(decision), steps)


def _step(step: Step, decision: Decision) -> StepReport:
    if step.rule is None:
        return StepReport(step.kind, step.name, None, step.outcome)
    name = describe_origin(step.rule.origin, decision.endpoint.id)
    return StepReport(step.kind, name, describe_rule(step.rule), step.outcome)


def _deciding(decision: Decision) -> Deciding:
    return deciding_of(decision.deciding, decision.endpoint.id)
