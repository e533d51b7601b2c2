"""Policy groups: their identity, and what their chains will hold.

In: a recipe, that is an outline with the answers to its rules' local questions.  Out: a
:class:`~calico_k8s.calc.deltas.Group` and the expressions of the sets it asks.  Who is in a group
is :mod:`.placement`'s.
"""

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Literal, NamedTuple

import msgspec

from calico_k8s.calc.deltas import Group, GroupId, Ipset, Rehearsal, Stage
from calico_k8s.calc.expressions import Expression, short_hash
from calico_k8s.calc.local import LocalEnd, LocalMatch
from calico_k8s.calc.resolve import (
    Resolved,
    Sheet,
    local_entity,
    resolve_host_sheet,
    resolve_sheet,
)
from calico_k8s.calc.rulebook import Outline, Rulebook, Tiers
from calico_k8s.model.keys import PolicyKey
from calico_k8s.model.names import ProfileId
from calico_k8s.model.resources import EARLY_HOOKS, Action, Direction, HostHook, Origin

Answers = tuple[LocalMatch | None, ...]


class Recipe(NamedTuple):
    """All that tells one group from another; a rule's other content may change under it."""

    outline: Outline
    answers: tuple[Answers, ...]
    """For each sheet of the outline, to each of its questions."""
    hook: HostHook | None = None
    """Where host endpoints ask it: nothing is answered beforehand then."""


class BuiltGroup(NamedTuple):
    """A group, and what the sets that its rules ask are made of."""

    group: Group
    expressions: dict[Ipset, Expression]


def group_id(recipe: Recipe) -> GroupId:
    """The name of the group that a recipe makes."""
    # Without a rehearsal it is what it was before there were any: nothing is written anew for them.
    outline = recipe.outline if recipe.outline.rehearsal is not None else recipe.outline[:4]
    return GroupId(short_hash((outline, *recipe[1 : 2 if recipe.hook is None else 3])))


def answer_all(outline: Outline, rulebook: Rulebook, end: LocalEnd) -> Recipe:
    """The recipe of the group that an endpoint with this outline is in."""
    return Recipe(
        outline,
        tuple(_answer(rulebook.sheet(s, outline.direction), end) for s in outline.sheets()),
    )


def _answer(sheet: Sheet, end: LocalEnd) -> Answers:
    asking = (sheet.rules[index] for index in sheet.asking)
    return tuple(end.decide(rule, local_entity(rule, sheet.direction)) for rule in asking)


class Builder:
    """Builds groups from one state of the rules; what they share is resolved once."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._resolved: dict[tuple[PolicyKey | ProfileId, Direction, Answers | None], Resolved] = {}

    def build(self, identity: GroupId, recipe: Recipe) -> BuiltGroup:
        """The group that a recipe makes."""
        outline = recipe.outline
        answers: Iterable[Answers | None] = recipe.answers
        if recipe.hook is not None:
            answers = repeat(None)
        resolved = {
            sheet: self._resolve(outline, sheet, answer)
            for sheet, answer in zip(outline.sheets(), answers, strict=False)
        }
        stages = self._stages(recipe, outline.tiers, resolved)
        rehearsal = None
        if outline.rehearsal is not None:
            rehearsed = self._stages(recipe, outline.rehearsal, resolved)
            rehearsal = _rehearsal(stages, rehearsed)
        group = Group(identity, outline.direction, stages, recipe.hook, rehearsal)
        expressions = {i: e for each in resolved.values() for i, e in each.expressions.items()}
        asked = set(group.ipsets())
        return BuiltGroup(group, {i: e for i, e in expressions.items() if i in asked})

    def _stages(
        self, recipe: Recipe, tiers: Tiers, resolved: Mapping[PolicyKey | ProfileId, Resolved]
    ) -> tuple[Stage, ...]:
        """Tiers with their policies, and the profiles."""
        outline = recipe.outline
        asked = dict(outline.tiers)
        stages: list[Stage] = []
        for name, policies in tiers:
            rules = (rule for policy in policies for rule in resolved[policy].rules)
            end = (
                Action.PASS
                if recipe.hook in EARLY_HOOKS
                else self._rulebook.tier(name).default_action
            )
            end_origin = Origin(kind="Tier", name=name)
            if name not in asked:  # it is asked for the sake of a staged policy
                end_origin = Origin(*self._rulebook.policy(policies[0]).id)
            stages.append(Stage(name, tuple(rules), end, end_origin))
        rules = (rule for profile in outline.profiles for rule in resolved[profile].rules)
        owner = self._rulebook.origin(outline.owner) if outline.owner is not None else None
        decides = recipe.hook in (None, HostHook.LOCAL)
        last: Literal[Action.PASS, Action.DENY] = Action.DENY if decides else Action.PASS
        stages.append(Stage(None, tuple(rules), last, owner or Origin(kind="Profile")))
        return tuple(stages)

    def _resolve(
        self, outline: Outline, source: PolicyKey | ProfileId, answers: Answers | None
    ) -> Resolved:
        """The rules of one source; ``answers`` None: for host endpoints."""
        key = (source, outline.direction, answers)
        resolved = self._resolved.get(key)
        if resolved is None:
            sheet = self._rulebook.sheet(source, outline.direction)
            pass_as: Literal[Action.PASS, Action.DENY] = Action.DENY
            decides = True
            if isinstance(source, PolicyKey):
                pass_as, decides = Action.PASS, self._rulebook.policy(source).staged is None
            if answers is None:
                resolved = resolve_host_sheet(sheet, pass_as, decides=decides)
            else:
                resolved = resolve_sheet(sheet, answers, pass_as, decides=decides)
            self._resolved[key] = resolved
        return resolved


def _rehearsal(now: tuple[Stage, ...], then: tuple[Stage, ...]) -> Rehearsal | None:
    """What would be, from where it is not what is; None where that is nowhere.

    The profiles, which come last, are the same in both.
    """
    for place, (old, new) in enumerate(zip(now, then, strict=False)):
        if old == new:
            continue
        if old.tier != new.tier:
            return Rehearsal(place, 0, then[place:])
        pairs = enumerate(zip(old.rules, new.rules, strict=False))
        shorter = min(len(old.rules), len(new.rules))
        first = next((index for index, (one, other) in pairs if one != other), shorter)
        rest = msgspec.structs.replace(new, rules=new.rules[first:])
        return Rehearsal(place, first, (rest, *then[place + 1 :]))
    return None
