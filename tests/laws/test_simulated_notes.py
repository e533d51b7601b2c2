"""What is told of a packet is what the definition says of it.

A random cluster goes through calc and render for each of its nodes, which tell what they deny.  A
flow then goes through the simulated chains of the nodes it crosses: what is told on its way names
the very rule, or end of rules, that :func:`calico_k8s.policy.verdict.judge` names, once; of a packet
that passes nothing is told, and no verdict is another because of it.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.addresses import Address
from calico_k8s.model.keys import EndpointKey, HostEndpointKey, Key, PolicyKey, TierKey
from calico_k8s.model.names import EndpointId, NamespaceName, PolicyId, SelectorText, TierName
from calico_k8s.model.resources import (
    EARLY_HOOKS,
    EVERY_INTERFACE,
    Action,
    Direction,
    HostEndpoint,
    HostHook,
    Origin,
    Policy,
    Protocol,
    Rule,
    StagedAction,
    Tier,
    Value,
    WorkloadEndpoint,
)
from calico_k8s.model.staging import STAGED_KINDS, target_of
from calico_k8s.policy.host_verdict import Passage, judge_host
from calico_k8s.policy.match import Flow
from calico_k8s.policy.snapshot import Snapshot
from calico_k8s.policy.staging import enacted, staged_policies
from calico_k8s.policy.verdict import Decision, Verdict, applies, decide, decide_at, judge
from calico_k8s.render.notes import REHEARSED, Note, NoteKind, Unasked
from calico_k8s.render.static import STATIC_NOTES
from tests.laws.test_simulated_definition import OWN_LINKS, SimulatedNode, is_a_packet
from tests.laws.test_simulated_hosts import NODE, outcome_of, passages
from tests.model_strategies import NODES, samples, states
from tests.simulate import Outcome

PREFIX = re.compile(r"-j NFLOG --nflog-prefix (\S+)")
STATIC = {str(note.name): note for note in STATIC_NOTES}


def told(node: SimulatedNode, outcome: Outcome) -> Iterator[Note]:
    """What the rules told that a packet met."""
    for matched in outcome.trace:
        found = PREFIX.search(matched.rule)
        if found is not None:
            yield STATIC.get(found[1]) or node.notes[found[1]]


def way(nodes: list[SimulatedNode], flow: Flow) -> Iterator[tuple[SimulatedNode, Outcome]]:
    """The nodes that the packet meets, its sender's first, until one drops it."""

    def has(node: SimulatedNode, address: Address) -> bool:
        return address in node.links or address in node.own_addresses

    for node in sorted(nodes, key=lambda node: not has(node, flow.src)):
        outcome = node.outcome(flow)
        if outcome is not None:
            yield node, outcome
            if not outcome.is_accepted:
                return


def told_of(
    state: Mapping[Key, Value], flows: tuple[Flow, ...]
) -> Iterator[tuple[Flow, list[Note]]]:
    """Each of the flows that is a packet, and what was told of it on its whole way."""
    nodes = [SimulatedNode(name, state, tells=True) for name in NODES]
    for flow in filter(is_a_packet, flows):
        yield flow, [note for node, outcome in way(nodes, flow) for note in told(node, outcome)]


def denying(verdict: Verdict) -> object:
    """What the definition says that denied."""
    if verdict.reason == "host-action":
        return Unasked.HOST
    assert verdict.deciding is not None
    return verdict.deciding.deciding


@given(states, samples)
def test_what_is_told_of_a_packet_is_what_the_definition_says(
    state: Mapping[Key, Value], flows: tuple[Flow, ...]
) -> None:
    snapshot = Snapshot.from_items(state)
    for flow, notes in told_of(state, flows):
        denials = [note.cause for note in notes if note.kind is NoteKind.DENY]
        verdict = judge(snapshot, flow)
        assert denials == ([] if verdict.allowed else [denying(verdict)]), flow
        logged = {(note.direction, note.cause) for note in notes if note.kind is NoteKind.LOG}
        # A pod that talks to itself may meet log rules, though no policy is asked.
        assert logged == set(logs(verdict)) or verdict.reason == "self", flow


def logs(verdict: Verdict) -> Iterator[tuple[Direction, Origin]]:
    """The log rules that the definition says the packet met."""
    for decision in filter(None, (verdict.egress, verdict.ingress)):
        for step in decision.steps:
            if step.rule is not None and step.outcome == Action.LOG:
                yield decision.direction, step.rule.origin


@given(states, samples)
def test_what_staged_policies_would_do_is_told_as_the_definition_says_once_they_are_enforced(
    state: Mapping[Key, Value], flows: tuple[Flow, ...]
) -> None:
    snapshot = Snapshot.from_items(state)
    for flow, notes in told_of(state, flows):
        would = {
            (note.kind, note.direction, note.cause) for note in notes if note.kind in REHEARSED
        }
        expected = set(rehearsed(snapshot, judge(snapshot, flow), flow))
        assert not would ^ expected, (flow, would, expected)


@given(states, samples, st.integers(0, 11))
def test_what_they_would_do_at_host_endpoints_is_told_too(
    state: Mapping[Key, Value], flows: tuple[Flow, ...], start: int
) -> None:
    """Of what is no pod's: pods' policies are asked of the same packet beside."""
    snapshot = Snapshot.from_items(state)
    node = SimulatedNode(NODE, state, tells=True, with_hosts=True)
    silent = SimulatedNode(NODE, state, with_hosts=True)
    for turn, flow in enumerate(filter(is_a_packet, flows), start):
        if not node.links.keys().isdisjoint((flow.src, flow.dst)):
            continue
        for passage in passages(node, flow, turn):
            outcome = outcome_of(node, passage)
            assert outcome.is_accepted == outcome_of(silent, passage).is_accepted
            would = {
                (note.kind, note.direction, note.cause)
                for note in told(node, outcome)
                if note.kind in REHEARSED
            }
            assert would == set(rehearsed_at(snapshot, passage)), passage


def test_what_they_would_do_with_what_passes_through_a_node_is_told() -> None:
    """Few random clusters have a staged policy that is about it."""
    tier, name = TierName("default"), PolicyId("StagedGlobalNetworkPolicy", "", "wall")
    staged = Policy(
        id=name,
        tier=tier,
        selector=SelectorText("all()"),
        types=tuple(Direction),
        ingress=(Rule(Action.ALLOW, Origin(*name, index=0), protocol=Protocol(6)),),
        staged=StagedAction.SET,
        host_hook=HostHook.FORWARDED,
    )
    state: dict[Key, Value] = {
        HostEndpointKey(NODE, "all"): HostEndpoint(NODE, "all", EVERY_INTERFACE),
        TierKey(tier): Tier(tier),
        PolicyKey(tier, name): staged,
    }
    flow = Flow(Address("192.0.2.1"), Address("198.51.100.1"), Protocol(6), 40000, 80)
    passage = Passage(NODE, flow, "eth0", "eth1")
    node = SimulatedNode(NODE, state, tells=True, with_hosts=True)
    outcome = outcome_of(node, passage)
    assert outcome.is_accepted
    notes = [(note.kind, note.direction, note.cause) for note in told(node, outcome)]
    assert notes == [
        (NoteKind.WOULD_ALLOW, Direction.INGRESS, Origin(*name, index=0)),
        (NoteKind.WOULD_DENY, Direction.EGRESS, Origin(*name)),
    ]
    assert set(notes) == set(rehearsed_at(Snapshot.from_items(state), passage))


def rehearsed_at(
    snapshot: Snapshot, passage: Passage
) -> Iterator[tuple[NoteKind, Direction, Origin]]:
    """What a staged policy would decide, at each hook where that is told."""
    then = enacted(snapshot, staged_policies(snapshot))
    for step in judge_host(snapshot, passage, OWN_LINKS).steps:
        if step.hook in EARLY_HOOKS or step.is_failsafe:
            continue
        by = step.endpoint.as_peer()
        decision = decide_at(then, by, step.direction, passage.flow, step.hook)
        if decision is not None:
            yield from told_decision(then, snapshot, decision)


def rehearsed(
    snapshot: Snapshot, verdict: Verdict, flow: Flow
) -> Iterator[tuple[NoteKind, Direction, Origin]]:
    """What a staged policy would decide, for each end that was asked."""
    then = enacted(snapshot, staged_policies(snapshot))
    for now in filter(None, (verdict.egress, verdict.ingress)):
        decision = decide(then, now.endpoint, now.direction, flow)
        yield from told_decision(then, snapshot, decision)


def told_decision(
    then: Snapshot, snapshot: Snapshot, decision: Decision
) -> Iterator[tuple[NoteKind, Direction, Origin]]:
    """How a decision is told, if it is a staged policy's."""
    cause = decision.deciding
    if cause.kind == "Tier" and not any(asked(snapshot, decision, cause.name)):
        cause = bringing(then, snapshot, decision, cause.name)
    if cause.kind in STAGED_KINDS:
        is_denial = decision.action is Action.DENY
        kind = NoteKind.WOULD_DENY if is_denial else NoteKind.WOULD_ALLOW
        yield kind, decision.direction, cause


def asked(snapshot: Snapshot, by: Decision, tier: str) -> Iterator[PolicyId]:
    """The policies of a tier that are asked about an endpoint, in order."""
    for each, policies in snapshot.policies_by_tier:
        for policy in policies:
            if each.name == tier and applies(snapshot, policy, by.endpoint, by.direction, by.hook):
                yield policy.id


def bringing(then: Snapshot, snapshot: Snapshot, by: Decision, tier: str) -> Origin:
    """The staged policy for whose sake a tier would be asked: its first."""
    first = next(asked(then, by, tier))
    staged = (policy.id for policy in staged_policies(snapshot))
    return Origin(*next(name for name in staged if target_of(name) == first))


def test_a_staged_policy_is_rehearsed_in_the_place_of_the_one_it_would_replace() -> None:
    """Random clusters seldom have both by one name, the old one alone allowing."""
    web = EndpointId(NODES[0], NamespaceName("shop"), "web")
    tier, tcp = TierName("default"), Protocol(6)
    named = PolicyId("CalicoNetworkPolicy", "shop", "in")
    policy = Policy(
        id=named,
        tier=tier,
        selector=SelectorText("all()"),
        types=(Direction.INGRESS,),
        ingress=(Rule(Action.ALLOW, Origin(*named), protocol=tcp),),
    )
    name = PolicyId("StagedNetworkPolicy", "shop", "in")
    deny = Rule(Action.DENY, Origin(*name), protocol=tcp)
    staged = msgspec.structs.replace(policy, id=name, ingress=(deny,), staged=StagedAction.SET)
    state: dict[Key, Value] = {
        EndpointKey(web): WorkloadEndpoint(web, (Address("10.1.0.1"),)),
        TierKey(tier): Tier(tier),
        **{PolicyKey(each.tier, each.id): each for each in (policy, staged)},
    }
    node = SimulatedNode(NODES[0], state, tells=True)
    flow = Flow(Address("192.0.2.1"), Address("10.1.0.1"), tcp, 40000, 80)
    outcome = node.outcome(flow)
    assert outcome is not None
    assert outcome.is_accepted
    (note,) = told(node, outcome)
    assert (note.kind, note.cause) == (NoteKind.WOULD_DENY, Origin(*name))
