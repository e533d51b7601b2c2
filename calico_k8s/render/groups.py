"""A policy group as chains: what its endpoints say to a new flow in one direction.

In: a :class:`~calico_k8s.calc.deltas.Group`.  Out: one chain for each stage, in one family.
A chain is entered by ``goto`` and every packet leaves it by a verdict: allow is ``RETURN``, to
whoever jumped into the mark tree; deny is ``goto`` :data:`~.names.DENY`; pass is ``goto`` the next
stage.  Nothing is asked about the local end: calc has decided that.
"""

from collections.abc import Mapping

import msgspec

from calico_k8s.calc.deltas import Group, ResolvedRule, Stage
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Action
from calico_k8s.render import text
from calico_k8s.render.names import DENY, stage_chain
from calico_k8s.render.rules import NetsIpset, render_rule
from calico_k8s.render.tables import ChainName, RuleText
from calico_k8s.render.text import RETURN, Target

LOG_PREFIX = "calico-packet: "

_ALLOW_ALL = (text.rule(RETURN),)


class RenderedGroup(msgspec.Struct, frozen=True):
    """A group in one family."""

    chains: Mapping[ChainName, tuple[RuleText, ...]]
    """The first is where the mark tree sends the group's packets."""
    nets: tuple[NetsIpset, ...] = ()
    """Sets that its rules ask beside calc's: needed before the chains, useless after them."""

    @property
    def entry(self) -> ChainName:
        """The first stage's chain."""
        return next(iter(self.chains))

    @property
    def allows_all(self) -> bool:
        """Whether every packet is allowed without being looked at."""
        return self.chains[self.entry] == _ALLOW_ALL


def render_group(group: Group, version: Version) -> RenderedGroup:
    """The chains of a group in one family.  Cost: some 10 us a rule."""
    names = [stage_chain(group.id, group.direction, place) for place in range(len(group.stages))]
    nets: dict[str, NetsIpset] = {}
    chains: dict[ChainName, tuple[RuleText, ...]] = {}
    for place, stage in enumerate(group.stages):
        after = text.goto(names[place + 1] if place + 1 < len(names) else DENY)
        chains[names[place]] = _render_stage(group, stage, version, after, nets)
        if not any(rule.endswith(after) for rule in chains[names[place]]):
            break  # nothing goes on to the stages behind
    return RenderedGroup(chains, tuple(nets.values()))


def _render_stage(
    group: Group, stage: Stage, version: Version, after: Target, nets: dict[str, NetsIpset]
) -> tuple[RuleText, ...]:
    texts: list[RuleText] = []
    for rule in stage.rules:
        target = _target(rule, after)
        rendered = render_rule(rule, group.direction, version, target)
        texts += rendered.texts
        nets |= {made.ipset.name: made for made in rendered.nets}
        if rendered.is_unconditional and rule.action is not Action.LOG:
            return tuple(texts)
    return (*texts, text.rule(after if stage.end is Action.PASS else text.goto(DENY)))


def _target(rule: ResolvedRule, after: Target) -> Target:
    match rule.action:
        case Action.ALLOW:
            return RETURN
        case Action.DENY:
            return text.goto(DENY)
        case Action.PASS:
            return after
        case Action.LOG:
            return text.log(LOG_PREFIX)
