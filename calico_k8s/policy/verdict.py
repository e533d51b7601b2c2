"""The definition: what happens to a new flow, and which rule of which object decides it.

In: a :class:`~calico_k8s.policy.snapshot.Snapshot` and a :class:`Flow`.  Out: a :class:`Verdict`
with every step that was looked at.  Written for reading, not for speed: the rendered chains, the
kernel and every command are tested against it.

The order of evaluation::

    a pod and itself ............................................ allow
    egress of the source's endpoint  ─ deny ..................... deny
    (its own node is the destination: `pod-to-host-action`)
    the destination's own node is the source .................... allow
    ingress of the destination's endpoint ....................... its verdict
    no endpoint at either end ................................... allow, not ours to judge

and for each direction of an endpoint::

    tiers in order ─ no policy selects the endpoint → next tier
                     first matching rule: allow, deny → decided · pass → next tier
                     none matched: the tier's default action
    profiles in order ─ first matching rule decides · none: deny
"""

from collections.abc import Set as AbstractSet
from typing import Literal

import msgspec

from calico_k8s.model.domains import DomainName
from calico_k8s.model.resources import (
    EARLY_HOOKS,
    Action,
    Direction,
    HostHook,
    Origin,
    Policy,
    Rule,
    Tier,
    WorkloadEndpoint,
)
from calico_k8s.policy.match import NAMELESS, Flow, rule_matches
from calico_k8s.policy.snapshot import Snapshot

StepKind = Literal["tier", "policy", "profile", "rule"]

SKIPPED = "skipped"
"""The outcome of a tier in which no policy selects the endpoint in this direction."""

POD_TO_HOST_ACTION = "pod-to-host-action"
"""The setting that decides a pod's traffic to its own node once its egress policy allowed it."""


class Step(msgspec.Struct, frozen=True):
    """One thing that was looked at on the way to a decision."""

    kind: StepKind
    name: str
    outcome: str
    """``skipped``, ``no match``, or the action that was taken."""
    rule: Rule | None = None


class Decision(msgspec.Struct, frozen=True):
    """What one direction of one endpoint says of a flow."""

    action: Literal[Action.ALLOW, Action.DENY]
    direction: Direction
    endpoint: WorkloadEndpoint
    deciding: Origin
    """The rule's origin; for an implied end, the tier or the profiles' owner, with index -1."""
    steps: tuple[Step, ...]
    hook: HostHook = HostHook.LOCAL
    """Where a host endpoint was asked; pods have no other."""


class Verdict(msgspec.Struct, frozen=True):
    """What happens to a flow; ``reason`` says it where no policy was asked."""

    allowed: bool
    egress: Decision | None = None
    ingress: Decision | None = None
    reason: Literal["policy", "self", "own-node", "host-action", "no-endpoint"] = "policy"

    @property
    def deciding(self) -> Decision | None:
        """The decision that settled it: the denying one, else the last that was asked."""
        if self.egress is not None and self.egress.action is Action.DENY:
            return self.egress
        return self.ingress or self.egress


def judge(snapshot: Snapshot, flow: Flow) -> Verdict:
    """The verdict on a new flow."""
    src = snapshot.owner_by_address.get(flow.src)
    dst = snapshot.owner_by_address.get(flow.dst)
    if src is None and dst is None:
        return Verdict(allowed=True, reason="no-endpoint")
    if src is not None and dst is not None and src.id == dst.id:
        return Verdict(allowed=True, reason="self")
    egress = decide(snapshot, src, Direction.EGRESS, flow) if src is not None else None
    if egress is not None and egress.action is Action.DENY:
        return Verdict(allowed=False, egress=egress)
    if src is not None and snapshot.is_node_address(src.id.node, flow.dst):
        action = snapshot.setting(src.id.node, POD_TO_HOST_ACTION, "accept")
        return Verdict(allowed=action != "drop", egress=egress, reason="host-action")
    if dst is None:
        return Verdict(allowed=True, egress=egress)
    if snapshot.is_node_address(dst.id.node, flow.src):
        return Verdict(allowed=True, egress=egress, reason="own-node")
    ingress = decide(snapshot, dst, Direction.INGRESS, flow)
    return Verdict(allowed=ingress.action is Action.ALLOW, egress=egress, ingress=ingress)


def decide(
    snapshot: Snapshot, endpoint: WorkloadEndpoint, direction: Direction, flow: Flow
) -> Decision:
    """What the tiers, then the profiles, of one endpoint say of a flow in one direction."""
    look = _look(snapshot, endpoint, direction, flow)
    found = _walk_tiers(snapshot, endpoint, direction, look, HostHook.LOCAL)
    action, origin = found or _walk_profiles(snapshot, endpoint, direction, look)
    return Decision(_final(action), direction, endpoint, origin, tuple(look.steps))


def decide_at(
    snapshot: Snapshot,
    endpoint: WorkloadEndpoint,
    direction: Direction,
    flow: Flow,
    hook: HostHook,
) -> Decision | None:
    """What a host endpoint says of a flow at one of its hooks; None: nothing.

    Its profiles speak only of what the node itself takes or sends; of other traffic, what no
    policy decides is not decided.  Before DNAT and untracked, a tier without a match is passed.
    """
    if hook is HostHook.LOCAL:
        return decide(snapshot, endpoint, direction, flow)
    look = _look(snapshot, endpoint, direction, flow)
    found = _walk_tiers(snapshot, endpoint, direction, look, hook)
    if found is None:
        return None
    action, origin = found
    return Decision(_final(action), direction, endpoint, origin, tuple(look.steps), hook)


def applies(
    snapshot: Snapshot,
    policy: Policy,
    endpoint: WorkloadEndpoint,
    direction: Direction,
    hook: HostHook = HostHook.LOCAL,
) -> bool:
    """Whether the policy speaks for this direction of the endpoint."""
    return (
        direction in policy.types
        and policy.is_asked_at(hook)
        and snapshot.selects(policy.selector, endpoint)
    )


def _walk_tiers(
    snapshot: Snapshot,
    endpoint: WorkloadEndpoint,
    direction: Direction,
    look: "_Look",
    hook: HostHook,
) -> tuple[Action, Origin] | None:
    """What the tiers decide; None where all are skipped or passed."""
    for tier, policies in snapshot.policies_by_tier:
        applying = [p for p in policies if applies(snapshot, p, endpoint, direction, hook)]
        if not applying:
            look.steps.append(Step("tier", tier.name, SKIPPED))
            continue
        found = _walk_tier(snapshot, tier, applying, direction, look)
        if found is None:
            end = Action.PASS if hook in EARLY_HOOKS else tier.default_action
            look.note("tier", tier.name, end)
            found = end, Origin(kind="Tier", name=tier.name)
        if found[0] is not Action.PASS:
            return found
    return None


def _walk_tier(
    snapshot: Snapshot,
    tier: Tier,
    policies: list[Policy],
    direction: Direction,
    look: "_Look",
) -> tuple[Action, Origin] | None:
    for policy in policies:
        found = look.through(
            snapshot, policy.ingress if direction is Direction.INGRESS else policy.egress
        )
        look.note("policy", policy.id.path, found[0] if found else None)
        if found:
            look.note("tier", tier.name, found[0])
            return found
    return None


def _walk_profiles(
    snapshot: Snapshot, endpoint: WorkloadEndpoint, direction: Direction, look: "_Look"
) -> tuple[Action, Origin]:
    owner: Origin | None = None
    for profile in endpoint.profiles:
        rules = snapshot.rules_of(profile)
        found = look.through(
            snapshot, rules.ingress if direction is Direction.INGRESS else rules.egress
        )
        look.note("profile", profile, found[0] if found else None)
        if found:
            return found
        owner = owner or rules.origin
    return Action.DENY, owner or Origin(kind="Profile")


class _Look:
    """One walk for one flow: tries rules and keeps what was looked at."""

    def __init__(self, flow: Flow, names: AbstractSet[DomainName]) -> None:
        self.flow = flow
        self.names = names
        self.steps: list[Step] = []

    def note(
        self, kind: StepKind, name: str, action: Action | None, rule: Rule | None = None
    ) -> None:
        self.steps.append(Step(kind, name, "no match" if action is None else str(action), rule))

    def through(self, snapshot: Snapshot, rules: tuple[Rule, ...]) -> tuple[Action, Origin] | None:
        for rule in rules:
            matched = rule_matches(snapshot, rule, self.flow, self.names)
            self.note("rule", "", rule.action if matched else None, rule)
            if matched and rule.action is not Action.LOG:
                return rule.action, rule.origin
        return None


def _look(
    snapshot: Snapshot, endpoint: WorkloadEndpoint, direction: Direction, flow: Flow
) -> _Look:
    return _Look(flow, names_for(snapshot, endpoint, direction, flow))


def names_for(
    snapshot: Snapshot, endpoint: WorkloadEndpoint, direction: Direction, flow: Flow
) -> AbstractSet[DomainName]:
    """What counts as the destination's names where one direction of an endpoint is asked."""
    if direction is Direction.INGRESS:
        return NAMELESS
    return snapshot.names_of(endpoint.id.node, flow.dst)


def _final(action: Action) -> Literal[Action.ALLOW, Action.DENY]:
    # A pass among profile rules, where there is no next tier, ends as the profiles do: denied.
    return Action.ALLOW if action is Action.ALLOW else Action.DENY
