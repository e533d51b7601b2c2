"""The chain that holds DNS answers on their way to pods, while any policy is about names.

In: settings.  Out: a chain of the mangle table, and the jump to it.  It stands last in
``POSTROUTING``: a packet that was held goes on behind the table, so that what other programs have
there comes before.  Of replies alone, from servers that are trusted: to a packet that goes to no
workload it costs one match, without domains nothing.

An answer stands here as the server sent it, before its source is translated back: so the set has
the servers' own addresses and ports.
"""

from calico_k8s.calc.deltas import DNS_SERVERS
from calico_k8s.model.addresses import Version
from calico_k8s.render import text
from calico_k8s.render.names import NFQUEUE_NUMBER, TO_WORKLOAD, ipset_name
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP, ChainName, HookName, RuleText
from calico_k8s.render.text import RETURN, rule


def answer_chains(config: RenderConfig, version: Version) -> dict[ChainName, tuple[RuleText, ...]]:
    """The chain; none where nobody learns."""
    if not config.learns_names:
        return {}
    servers = text.in_set(ipset_name(DNS_SERVERS.id, version), "src,src")
    held = (text.REPLY, servers, text.queue(NFQUEUE_NUMBER))
    to_workloads = (
        text.to_group(WORKLOAD_LINK_GROUP),
        *map(text.to_interface, config.workload_interfaces),
    )
    return {TO_WORKLOAD: (*(rule(match, *held) for match in to_workloads), rule(RETURN))}


def answer_jumps(config: RenderConfig) -> dict[HookName, tuple[RuleText, ...]]:
    """What is kept last in the mangle table."""
    if not config.learns_names:
        return {}
    return {"POSTROUTING": (rule(text.jump(TO_WORKLOAD)),)}
