"""Why a flow is allowed or denied: the walk of the definition, in words and as values.

In: an :class:`~calico_k8s.query.reach.Answer`.  Out: lines for people, and the JSON shape of
``can -o json``.  Nothing is judged here.
"""

from collections.abc import Iterator

import msgspec

from calico_k8s.model.resources import PROTOCOL_NAMES, Direction, Origin, Rule
from calico_k8s.policy.match import Flow
from calico_k8s.policy.verdict import Decision, Step, Verdict
from calico_k8s.query.describe import describe_origin, describe_rule
from calico_k8s.query.reach import Answer, Judged

_REASONS = {
    "self": "a pod always reaches itself",
    "own-node": "a node always reaches its own pods",
    "host-action": "a pod's traffic to its own node, by the setting pod-to-host-action",
    "no-endpoint": "neither end is a pod: nothing of ours judges it",
}


class Deciding(msgspec.Struct, frozen=True):
    """The object and rule that decided; ``rule`` None is the end of its list."""

    kind: str
    namespace: str
    name: str
    rule: int | None


class DirectionReport(msgspec.Struct, frozen=True):
    """What one direction said, with every step that was looked at."""

    verdict: str
    deciding: Deciding
    steps: tuple[Step, ...]


class Report(msgspec.Struct, frozen=True):
    """``can -o json``; a direction that was not asked is null."""

    verdict: str
    reason: str
    deciding: Deciding | None
    egress: DirectionReport | None
    ingress: DirectionReport | None
    flow: Flow


def report(answer: Answer) -> Report:
    """The answer as values, of its deciding flow."""
    flow, verdict = answer.deciding
    deciding = verdict.deciding
    return Report(
        verdict="allow" if verdict.allowed else "deny",
        reason=verdict.reason,
        deciding=_deciding(deciding) if deciding else None,
        egress=_direction(verdict.egress),
        ingress=_direction(verdict.ingress),
        flow=flow,
    )


def headline(answer: Answer, src: str, dst: str) -> str:
    """The verdict in one line, with what decided it."""
    flow, verdict = answer.deciding
    return f"{'allowed' if answer.allowed else 'denied'}: {src} → {dst}, {_service(flow)}: {_why(verdict)}"


def explain_lines(answer: Answer, src: str, dst: str) -> Iterator[str]:
    """The whole walk of the deciding flow, a line for each thing that was looked at."""
    judged = answer.deciding
    yield headline(answer, src, dst)
    if len(answer.flows) > 1:
        yield f"  {_scope(answer, judged)}"
    for decision in (judged.verdict.egress, judged.verdict.ingress):
        if decision is not None:
            yield from _walk(decision)


def _walk(decision: Decision) -> Iterator[str]:
    way = "ingress of" if decision.direction is Direction.INGRESS else "egress of"
    yield f"  {way} {decision.endpoint.id.pod}: {decision.action}"
    decided = _last_rule(decision)
    indent = {"tier": "    ", "policy": "    ", "profile": "    ", "rule": "      "}
    for step in decision.steps:
        mark = "  ← decides" if step is decided else ""
        what = _rule(step.rule, decision) if step.rule else f"{step.kind} {step.name}"
        yield f"{indent[step.kind]}{what}: {step.outcome}{mark}"
    if decided is None:
        origin = describe_origin(decision.deciding, decision.endpoint)
        yield f"    end of {origin}: {decision.action}  ← decides"


def _rule(rule: Rule, decision: Decision) -> str:
    return f"{describe_origin(rule.origin, decision.endpoint)}: {describe_rule(rule)}"


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
        return _REASONS[verdict.reason]
    decision = verdict.deciding
    if decision is None or (verdict.allowed and decision.direction is Direction.EGRESS):
        return "the destination is no pod, and egress allows it"
    origin = describe_origin(decision.deciding, decision.endpoint)
    return f"end of {origin}" if decision.deciding.index < 0 else origin


def _scope(answer: Answer, judged: Judged) -> str:
    denied = sum(1 for other in answer.flows if not other.verdict.allowed)
    if denied in (0, len(answer.flows)):
        return f"all {len(answer.flows)} kinds of flow that this stands for; shown for {judged.flow.src}"
    return (
        f"{denied} of {len(answer.flows)} kinds of flow that this stands for are denied; "
        f"shown for {judged.flow.src} → {judged.flow.dst}"
    )


def _direction(decision: Decision | None) -> DirectionReport | None:
    if decision is None:
        return None
    return DirectionReport(str(decision.action), _deciding(decision), decision.steps)


def _deciding(decision: Decision) -> Deciding:
    origin: Origin = decision.deciding
    is_own = origin.kind == "Pod" and not origin.name
    return Deciding(
        kind=origin.kind,
        namespace=origin.namespace,
        name=decision.endpoint.id.name if is_own else origin.name,
        rule=origin.index if origin.index >= 0 else None,
    )


def _service(flow: Flow) -> str:
    name = PROTOCOL_NAMES.get(flow.protocol, str(flow.protocol))
    return name if flow.icmp else f"{name} {flow.dst_port}"
