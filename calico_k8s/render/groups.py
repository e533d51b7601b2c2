"""A policy group as chains: what its endpoints say to a new flow in one direction.

In: a :class:`~calico_k8s.calc.deltas.Group`.  Out: one chain for each stage, in one family.
A chain is entered by ``goto`` and every packet leaves it by a verdict: allow is ``RETURN``, to
whoever jumped into the mark tree; deny is ``goto`` :data:`~.names.DENY`, or the chain that tells of
it (:mod:`.notes`); pass is ``goto`` the next stage.  Nothing is asked about the local end: calc has
decided that.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from calico_k8s.calc.deltas import Group, Polarity, Rehearsal, ResolvedRule, Stage
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import EARLY_HOOKS, Action, HostHook, Origin
from calico_k8s.model.staging import STAGED_KINDS
from calico_k8s.render import text
from calico_k8s.render.names import (
    DENY,
    HOST_DENY,
    HOST_SKIP,
    is_rehearsed_stage,
    is_stage,
    stage_chain,
)
from calico_k8s.render.notes import Note, NoteKind, counting_chain, denying_chain, log_target
from calico_k8s.render.rules import NetsIpset, render_rule
from calico_k8s.render.tables import ChainName, RuleText
from calico_k8s.render.text import RETURN, Target

REHEARSED_MAX = 6
"""Stages that a packet goes through at most, where some of them are rehearsed: iptables over nf_tables
follows so many where a node has 250 groups.  Where it has more, see ``without_rehearsal``."""

LOG_PREFIX = "calico-packet: "

_ALLOW_ALL = (text.rule(RETURN),)


class RenderedGroup(msgspec.Struct, frozen=True):
    """A group in one family."""

    chains: Mapping[ChainName, tuple[RuleText, ...]]
    """The first is where the mark tree sends the group's packets."""
    nets: tuple[NetsIpset, ...] = ()
    """Sets that its rules ask beside calc's: needed before the chains, useless after them."""
    notes: Mapping[str, Note] = {}
    """What its rules tell, by prefix."""

    @property
    def entry(self) -> ChainName:
        """The first stage's chain."""
        return next(iter(self.chains))

    @property
    def stages(self) -> int:
        """How many chains a packet passes at most before its verdict."""
        return sum(map(is_stage, self.chains))

    @property
    def rehearsed_stages(self) -> int:
        """... and before what is rehearsed is told; 0 where nothing is."""
        rehearsed = [chain for chain in self.chains if is_rehearsed_stage(chain)]
        if not rehearsed:
            return 0
        aside = text.rule(text.jump(rehearsed[0]))
        stages = [rules for chain, rules in self.chains.items() if is_stage(chain)]
        before = next((n for n, rules in enumerate(stages, start=1) if aside in rules), 0)
        return before + len(rehearsed)

    def without_rehearsal(self) -> "RenderedGroup":
        """The same verdicts, and nothing rehearsed: the kernel would not follow that far."""
        rehearsed = {chain for chain in self.chains if is_rehearsed_stage(chain)}
        asides = {text.rule(text.jump(chain)) for chain in rehearsed}
        kept = {
            chain: tuple(rule for rule in rules if rule not in asides)
            for chain, rules in self.chains.items()
            if chain not in rehearsed
        }
        return msgspec.structs.replace(self, chains=kept)

    @property
    def allows_all(self) -> bool:
        """Whether every packet is allowed without being looked at."""
        return self.chains[self.entry] == _ALLOW_ALL


class _Ends(NamedTuple):
    """Where a chain sends packets."""

    allow: Target
    deny: Target
    """Where nothing is told of it."""
    passed: Target
    """Where the stage decides nothing."""


def _ends_of(hook: HostHook | None) -> _Ends:
    """Of the last stage: only a host endpoint's group may end without a decision."""
    if hook is None:
        return _Ends(RETURN, text.goto(DENY), text.goto(DENY))
    allow = text.goto(HOST_SKIP) if hook in EARLY_HOOKS else RETURN
    return _Ends(allow, text.goto(HOST_DENY), RETURN)


def asks_passing(group: Group) -> bool:
    """Whether a pass rule of the group asks a set: its members change while nobody opens a flow."""
    return any(
        ipset.polarity is Polarity.MOVES
        for stage in group.stages
        for rule in stage.rules
        for ipset in rule.ipsets()
    )


def render_group(group: Group, version: Version, *, tells: bool = False) -> RenderedGroup:
    """The chains of a group in one family, with those that tell.  Cost: some 10 us a rule."""
    return _Rendering(group, version, tells=tells).render()


class _Rendering:
    """A group on its way to chains, in one family."""

    def __init__(self, group: Group, version: Version, *, tells: bool) -> None:
        self._group = group
        self._version: Version = version
        self._tells = tells
        self._nets: dict[str, NetsIpset] = {}
        self._notes: dict[str, Note] = {}

    def render(self) -> RenderedGroup:
        group = self._group
        names = [
            stage_chain(group.id, group.direction, n, group.hook) for n in range(len(group.stages))
        ]
        ends = _ends_of(group.hook)
        chains: dict[ChainName, tuple[RuleText, ...]] = {}
        rehearsal = self._rehearsal()
        for place, stage in enumerate(group.stages):
            after = text.goto(names[place + 1]) if place + 1 < len(names) else ends.passed
            leaves = rehearsal if rehearsal is not None and rehearsal.stage == place else None
            chains[names[place]] = self._stage(stage, ends._replace(passed=after), leaves)
            if not any(rule.endswith(after) for rule in chains[names[place]]):
                break  # nothing goes on to the stages behind
        if rehearsal is not None and _leads_to(chains, self._rehearsal_chain(0)):
            chains |= self._rehearsed(rehearsal)
        for note in self._notes.values():
            if note.kind is NoteKind.DENY:
                chains[note.name] = denying_chain(note, self._version)
            elif note.kind is not NoteKind.LOG:
                chains[note.name] = counting_chain(note, self._version)
        return RenderedGroup(chains, tuple(self._nets.values()), self._notes)

    def _stage(
        self, stage: Stage, ends: _Ends, rehearsal: Rehearsal | None
    ) -> tuple[RuleText, ...]:
        """With a rehearsal, packets go through that as well, where it begins, and come back."""
        texts: list[RuleText] = []
        aside = text.rule(text.jump(self._rehearsal_chain(0)))
        for index, rule in enumerate(stage.rules):
            if rehearsal is not None and rehearsal.rule == index:
                texts.append(aside)
            note = self._note(rule.action, rule.origin)
            target = _target(rule.action, ends, note)
            rendered = render_rule(rule, self._group.direction, self._version, target)
            texts += rendered.texts
            self._nets |= {made.ipset.name: made for made in rendered.nets}
            if note is not None and rendered.texts:
                self._notes[note.name] = note
            if rendered.is_unconditional and rule.action is not Action.LOG:
                return tuple(texts)
        if rehearsal is not None and rehearsal.rule == len(stage.rules):
            texts.append(aside)
        note = self._note(stage.end, stage.end_origin)
        if note is not None:
            self._notes[note.name] = note
        return (*texts, text.rule(_target(stage.end, ends, note)))

    def _rehearsal(self) -> Rehearsal | None:
        """What is rehearsed, up to the last that a staged policy would do; None: nothing is."""
        rehearsal = self._group.rehearsal
        if rehearsal is None or not self._tells:
            return None
        stages = list(rehearsal.stages)
        while stages and not _is_staged(stages[-1]):
            stages.pop()
        if not stages or rehearsal.stage + 1 + len(stages) > REHEARSED_MAX:
            return None
        return msgspec.structs.replace(rehearsal, stages=tuple(stages))

    def _rehearsal_chain(self, stage: int) -> ChainName:
        group = self._group
        return stage_chain(group.id, group.direction, stage, group.hook, rehearses=True)

    def _rehearsed(self, rehearsal: Rehearsal) -> dict[ChainName, tuple[RuleText, ...]]:
        """Chains that every packet leaves as it came: each decision is a return, or is counted."""
        chains: dict[ChainName, tuple[RuleText, ...]] = {}
        for place, stage in enumerate(rehearsal.stages):
            is_last = place + 1 == len(rehearsal.stages)
            after = RETURN if is_last else text.goto(self._rehearsal_chain(place + 1))
            texts: list[RuleText] = []
            decisions = [(rule, rule.action, rule.origin) for rule in stage.rules]
            for rule, action, origin in (*decisions, (ALWAYS, stage.end, stage.end_origin)):
                if action is Action.LOG:
                    continue
                note = self._rehearsed_note(action, origin)
                target = after if action is Action.PASS else RETURN
                target = text.goto(note.name) if note is not None else target
                rendered = render_rule(rule, self._group.direction, self._version, target)
                texts += rendered.texts
                self._nets |= {made.ipset.name: made for made in rendered.nets}
                if note is not None and rendered.texts:
                    self._notes[note.name] = note
                if rendered.is_unconditional:
                    break
            chains[self._rehearsal_chain(place)] = tuple(texts)
        return chains

    def _rehearsed_note(self, action: Action, origin: Origin) -> Note | None:
        kind = _REHEARSED_KINDS.get(action)
        if kind is None or origin.kind not in STAGED_KINDS:
            return None
        return self._noted(kind, origin)

    def _note(self, action: Action, origin: Origin) -> Note | None:
        kind = _NOTE_KINDS.get(action)
        if kind is None or not self._tells:
            return None
        return self._noted(kind, origin)

    def _noted(self, kind: NoteKind, cause: Origin) -> Note:
        return Note(kind, self._group.direction, cause, self._group.hook is not None)


_NOTE_KINDS = {Action.DENY: NoteKind.DENY, Action.LOG: NoteKind.LOG}
_REHEARSED_KINDS = {Action.DENY: NoteKind.WOULD_DENY, Action.ALLOW: NoteKind.WOULD_ALLOW}

ALWAYS = ResolvedRule(Action.LOG, Origin(kind=""))
"""A rule that every packet meets."""


def _is_staged(stage: Stage) -> bool:
    """Whether a staged policy decides anything there."""
    origins = (stage.end_origin, *(rule.origin for rule in stage.rules))
    return any(origin.kind in STAGED_KINDS for origin in origins)


def _leads_to(chains: Mapping[ChainName, tuple[RuleText, ...]], chain: ChainName) -> bool:
    aside = text.rule(text.jump(chain))
    return any(aside in rules for rules in chains.values())


def _target(action: Action, ends: _Ends, note: Note | None) -> Target:
    match action:
        case Action.ALLOW:
            return ends.allow
        case Action.DENY:
            return text.goto(note.name) if note is not None else ends.deny
        case Action.PASS:
            return ends.passed
        case Action.LOG:
            return log_target(note) if note is not None else text.log(LOG_PREFIX)
