"""Policy groups: their identity, and what their chains will hold.

In: a recipe, that is an outline with the answers to its rules' local questions.  Out: a
:class:`~calico_k8s.calc.deltas.Group` and the expressions of the sets it asks.  Who is in a group
is :mod:`.placement`'s.
"""

from collections.abc import Iterator
from itertools import repeat
from typing import Literal, NamedTuple

from calico_k8s.calc.deltas import Group, GroupId, Ipset, ResolvedRule, Stage
from calico_k8s.calc.expressions import Expression, short_hash
from calico_k8s.calc.local import LocalEnd, LocalMatch
from calico_k8s.calc.resolve import (
    Resolved,
    Sheet,
    local_entity,
    resolve_host_sheet,
    resolve_sheet,
)
from calico_k8s.calc.rulebook import Outline, Rulebook
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
    return GroupId(short_hash(recipe[:2] if recipe.hook is None else recipe))


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
        answers: Iterator[Answers | None] = iter(recipe.answers)
        if recipe.hook is not None:
            answers = repeat(None)
        expressions: dict[Ipset, Expression] = {}
        stages: list[Stage] = []
        for name, policies in outline.tiers:
            rules: list[ResolvedRule] = []
            for policy in policies:
                resolved = self._resolve(outline, policy, next(answers))
                rules += resolved.rules
                expressions |= resolved.expressions
            tier = self._rulebook.tier(name)
            end_origin = Origin(kind="Tier", name=name)
            end = Action.PASS if recipe.hook in EARLY_HOOKS else tier.default_action
            stages.append(Stage(name, tuple(rules), end, end_origin))
        rules = []
        for profile in outline.profiles:
            resolved = self._resolve(outline, profile, next(answers))
            rules += resolved.rules
            expressions |= resolved.expressions
        owner = self._rulebook.origin(outline.owner) if outline.owner is not None else None
        decides = recipe.hook in (None, HostHook.LOCAL)
        last: Literal[Action.PASS, Action.DENY] = Action.DENY if decides else Action.PASS
        stages.append(Stage(None, tuple(rules), last, owner or Origin(kind="Profile")))
        group = Group(identity, outline.direction, tuple(stages), recipe.hook)
        return BuiltGroup(group, expressions)

    def _resolve(
        self, outline: Outline, source: PolicyKey | ProfileId, answers: Answers | None
    ) -> Resolved:
        """The rules of one source; ``answers`` None: for host endpoints."""
        key = (source, outline.direction, answers)
        resolved = self._resolved.get(key)
        if resolved is None:
            sheet = self._rulebook.sheet(source, outline.direction)
            is_profile = not isinstance(source, PolicyKey)
            pass_as: Literal[Action.PASS, Action.DENY] = Action.DENY if is_profile else Action.PASS
            if answers is None:
                resolved = resolve_host_sheet(sheet, pass_as)
            else:
                resolved = resolve_sheet(sheet, answers, pass_as)
            self._resolved[key] = resolved
        return resolved
