"""A node's tables, put together from static chains, mark trees and groups.

In: settings, and what each direction's mark tree leads to.  Out: the tables of one family, whole;
what did not change is the same object, so an agent that renders only changed groups pays for
those.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction
from calico_k8s.render import names, text
from calico_k8s.render.answers import answer_chains, answer_jumps
from calico_k8s.render.dispatch import render_tree
from calico_k8s.render.groups import RenderedGroup
from calico_k8s.render.hosts import NO_HOSTS, HostTables
from calico_k8s.render.marks import MarkLayout, mark_layout
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.static import filter_chains, mangle_chains
from calico_k8s.render.tables import ChainName, HookName, RuleText, Table

Chains = Mapping[ChainName, tuple[RuleText, ...]]
Leaves = Mapping[Direction, Mapping[ChainName, int]]
"""By direction, each group's first chain and its number."""


def render_tables(
    config: RenderConfig,
    version: Version,
    groups: Iterable[RenderedGroup],
    leaves: Leaves,
    hosts: HostTables = NO_HOSTS,
) -> tuple[Table, ...]:
    """What is ours in the mangle and the filter table of one family, and in raw if need be.

    Every chain that ``leaves`` names is among the groups'.  A group that no leaf names is kept:
    its endpoints have left it, and packets of theirs may still be inside.
    """
    layout = mark_layout(config.mark_mask)
    chains = {**_static_chains(config, version)}
    for direction in Direction:
        led_to = tuple(leaves.get(direction, {}).items())
        chains |= _tree_chains(direction, led_to, layout, is_flat=config.has_own_table)
    for group in groups:
        chains |= group.chains
    first: dict[HookName, tuple[RuleText, ...]] = {
        "INPUT": (text.rule(text.jump(names.INPUT)),),
        "FORWARD": (text.rule(text.jump(names.FORWARD)),),
        "OUTPUT": (text.rule(text.jump(names.OUTPUT)),),
    }
    for (table, hook), jump in hosts.jumps.items():
        if table == "mangle":
            first[hook] = (jump, *first.get(hook, ()))
    return (
        Table(
            "mangle",
            version,
            chains=chains | hosts.chains.get("mangle", {}),
            first=first,
            last=answer_jumps(config),
        ),
        _filter_table(config, version),
        *_raw_table(version, hosts),
    )


@lru_cache(maxsize=4)
def _static_chains(config: RenderConfig, version: Version) -> Chains:
    """The same for as long as settings are."""
    return mangle_chains(config, version) | answer_chains(config, version)


@lru_cache(maxsize=4)
def _tree_chains(
    direction: Direction,
    leaves: tuple[tuple[ChainName, int], ...],
    layout: MarkLayout,
    *,
    is_flat: bool,
) -> Chains:
    """The same in both families, and in the direction that a batch does not change."""
    return render_tree(direction, dict(leaves), layout, is_flat=is_flat)


def _raw_table(version: Version, hosts: HostTables) -> Iterable[Table]:
    chains = hosts.chains.get("raw")
    if chains:
        jumps = {hook: (jump,) for (table, hook), jump in hosts.jumps.items() if table == "raw"}
        yield Table("raw", version, chains=chains, first=jumps)


def _filter_table(config: RenderConfig, version: Version) -> Table:
    accept = (text.rule(text.jump(names.ACCEPT)),)
    last: dict[HookName, tuple[RuleText, ...]] = {}
    if config.accepts_to_host:
        last["INPUT"] = accept
    if config.accepts:
        last["FORWARD"] = accept
    return Table("filter", version, chains=filter_chains(config) if last else {}, last=last)
