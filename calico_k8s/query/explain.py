"""Why a flow is allowed or denied: the walk of the definition, in words and as values.

In: an :class:`~calico_k8s.query.reach.Answer`.  Out: lines for people, and the JSON shape of
``can -o json``.  Nothing is judged here.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from calico_k8s.model.addresses import Address
from calico_k8s.model.denial import Deciding
from calico_k8s.model.failsafes import INBOUND_SETTING, OUTBOUND_SETTING
from calico_k8s.model.resources import EARLY_HOOKS, Action, Direction, HostHook, Rule
from calico_k8s.policy.host_verdict import HostStep
from calico_k8s.policy.verdict import SKIPPED, Decision, Step, StepKind
from calico_k8s.policy.ways import POD_LINK, Judged
from calico_k8s.query.describe import (
    HOOK_WORDS,
    REASONS,
    deciding_of,
    describe_cause,
    describe_origin,
    describe_protocol,
    describe_rule,
    describe_service,
)
from calico_k8s.query.domains import is_domain, unknown_domains
from calico_k8s.query.reach import Answer
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


class HostReport(msgspec.Struct, frozen=True):
    """What one host endpoint said at one of its hooks; ``open`` is a port that stays open."""

    node: str
    interface: str
    host_endpoint: str
    hook: HostHook
    direction: Direction
    verdict: Literal["allow", "deny", "open", "undecided"]
    deciding: Deciding | None
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
    hosts: tuple[HostReport, ...] = ()
    """Every hook of host endpoints on the way, in order; none where pods' policy denies."""


def report(answer: Answer, turned: Turn | None = None) -> Report:
    """The answer as values, of its deciding flow; ``turned`` is what would turn it."""
    judged = answer.deciding
    flow, verdict, deciding = judged.flow, judged.verdict, judged.deciding
    return Report(
        verdict="allow" if judged.allowed else "deny",
        reason=_reason(judged),
        deciding=_deciding(deciding) if deciding else None,
        egress=_direction(verdict.egress),
        ingress=_direction(verdict.ingress),
        flow=FlowReport(
            flow.src, flow.dst, describe_protocol(flow.protocol), flow.dst_port, flow.src_port
        ),
        flows=len(answer.flows),
        denied_flows=_denied(answer),
        turned_by=turned.changes if turned is not None else (),
        hosts=tuple(_host(step) for step in judged.steps),
    )


def headline(answer: Answer, src: str, dst: str) -> str:
    """The verdict in one line, with what decided it."""
    judged = answer.deciding
    word = "allowed" if answer.allowed else "denied"
    return f"{word}: {src} → {dst}, {describe_service(judged.flow)}: {_why(judged)}"


def explain_lines(answer: Answer, src: str, dst: str, turned: Turn | None = None) -> Iterator[str]:
    """The whole walk of the deciding flow, a line for each thing that was looked at.

    Last, what would turn its verdict.
    """
    judged = answer.deciding
    yield headline(answer, src, dst)
    if len(answer.flows) > 1:
        yield f"  {_scope(answer)}"
    for decision in (judged.verdict.egress, judged.verdict.ingress):
        if decision is not None:
            yield from _walk(decision)
    for step in judged.steps:
        yield from _walk_host(step, judged)
    if not is_domain(dst):
        yield from _not_known(judged)
    if turned is not None:
        other = "denied" if judged.allowed else "allowed"
        yield f"  it would be {other} with {', and '.join(turned.changes)}"


def _not_known(judged: Judged) -> Iterator[str]:
    """What cannot be said of an address: which domains it is of, nodes alone learn."""
    egress = judged.verdict.egress
    domains = unknown_domains(egress) if egress is not None else ()
    if domains and egress is not None and egress.action is Action.DENY:
        yield (
            f"  which addresses {', '.join(domains)} has is not known here: each node learns that "
            "from its pods' DNS answers; ask for the name, as in --to api.example.com"
        )


def _walk(decision: Decision) -> Iterator[str]:
    yield f"  {decision.direction} of {decision.endpoint.id.pod}: {decision.action}"
    yield from _looked_at(decision)


def _walk_host(step: HostStep, judged: Judged) -> Iterator[str]:
    """What a host endpoint said; nothing of a hook where it is silent."""
    where = f"HostEndpoint {step.endpoint.name}, {_place(step)}"
    if step is judged.failsafe_step:
        yield f"  {where}: {_stays_open(step, judged)}"
    if step.decision is not None:
        action = step.decision.action
        yield f"  {step.direction} of {where}, {HOOK_WORDS[step.hook]}: {action}"
        yield from _looked_at(step.decision)
        if step.hook in EARLY_HOOKS and action is Action.ALLOW:
            yield f"    what is allowed here is not asked at later hooks of {step.endpoint.node}"


def _looked_at(decision: Decision) -> Iterator[str]:
    """Every step of a decision, and which of them decides."""
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


def _reason(judged: Judged) -> str:
    """Why the flow's verdict is what it is: of policy, of pods or of a host endpoint, or of none."""
    if judged.deciding_step is not None:
        return "host-endpoint"
    if judged.verdict.reason == "no-endpoint" and judged.failsafe_step is not None:
        return "failsafe"
    return judged.verdict.reason


def _why(judged: Judged) -> str:
    verdict, step, open_step = judged.verdict, judged.deciding_step, judged.failsafe_step
    if step is not None and step.decision is not None:
        cause = describe_cause(step.decision.deciding, step.decision.endpoint.id)
        return f"{cause}, {_place(step)}"
    if verdict.reason == "no-endpoint" and open_step is not None:
        return f"{_stays_open(open_step, judged)}, {_place(open_step)}"
    if verdict.reason == "no-endpoint" and judged.way:
        places = " and ".join(_passed(judged))
        return f"no HostEndpoint is about {places}: nothing of ours judges it"
    if verdict.reason != "policy":
        return REASONS[verdict.reason]
    decision = verdict.deciding
    if decision is None or (verdict.allowed and decision.direction is Direction.EGRESS):
        return "the destination is no pod, and egress allows it"
    return describe_cause(decision.deciding, decision.endpoint.id)


def partly_denied(answer: Answer) -> str | None:
    """Which part of what was asked is denied, and of whom it is told; None if all is, or nothing."""
    return _scope(answer) if _denied(answer) not in (0, len(answer.flows)) else None


def _scope(answer: Answer) -> str:
    """Of which flow the answer tells, among all that the question stands for."""
    judged, denied = answer.deciding, _denied(answer)
    past = "".join(f", by {place}" for place in _passed(judged))
    if denied in (0, len(answer.flows)):
        return f"all {len(answer.flows)} kinds of flow that this stands for; shown for {judged.flow.src}{past}"
    return (
        f"{denied} of {len(answer.flows)} kinds of flow that this stands for are denied; "
        f"shown for {judged.flow.src} → {judged.flow.dst}{past}"
    )


def _passed(judged: Judged) -> Iterator[str]:
    """The interfaces of nodes on the way, those of pods aside."""
    for passage in judged.way:
        for interface in (passage.arrives, passage.leaves):
            if interface is not None and interface != POD_LINK:
                yield f"{interface} of {passage.node}"


def _place(step: HostStep) -> str:
    return f"at {step.interface} of {step.endpoint.node}"


def _stays_open(step: HostStep, judged: Judged) -> str:
    is_ingress = step.direction is Direction.INGRESS
    setting = INBOUND_SETTING if is_ingress else OUTBOUND_SETTING
    return f"{describe_service(judged.flow)} stays open whatever policy says, by {setting}"


def _denied(answer: Answer) -> int:
    return sum(1 for judged in answer.flows if not judged.allowed)


def _direction(decision: Decision | None) -> DirectionReport | None:
    if decision is None:
        return None
    steps = tuple(_step(step, decision) for step in _in_reading_order(decision.steps))
    return DirectionReport(str(decision.action), _deciding(decision), steps)


def _host(step: HostStep) -> HostReport:
    decision = step.decision
    decided = None if decision is None else _direction(decision)
    return HostReport(
        node=step.endpoint.node,
        interface=step.interface,
        host_endpoint=step.endpoint.name,
        hook=step.hook,
        direction=step.direction,
        verdict=_word(step),
        deciding=None if decided is None else decided.deciding,
        steps=() if decided is None else decided.steps,
    )


def _word(step: HostStep) -> Literal["allow", "deny", "open", "undecided"]:
    if step.decision is None:
        return "open" if step.is_failsafe else "undecided"
    return "allow" if step.decision.action is Action.ALLOW else "deny"


def _step(step: Step, decision: Decision) -> StepReport:
    if step.rule is None:
        return StepReport(step.kind, step.name, None, step.outcome)
    name = describe_origin(step.rule.origin, decision.endpoint.id)
    return StepReport(step.kind, name, describe_rule(step.rule), step.outcome)


def _deciding(decision: Decision) -> Deciding:
    return deciding_of(decision.deciding, decision.endpoint.id)
