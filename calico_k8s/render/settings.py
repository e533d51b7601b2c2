"""What a node's chains depend on beside its groups and endpoints.

In: nothing.  Out: :class:`RenderConfig`, made by the agent from its settings.  Where each value
comes from, and which place wins, is :mod:`calico_k8s.config`'s business.
"""

from typing import Literal

import msgspec

from calico_k8s.model.addresses import Net
from calico_k8s.model.failsafes import (
    DEFAULT_INBOUND,
    DEFAULT_OUTBOUND,
    Failsafes,
    parse_failsafes,
)

DEFAULT_MARK_MASK = 0xFF001F7F
"""The bits that none of kube-proxy (0x4000, 0x8000), portmap (0x2000), the AWS CNI (0x80) and
Tailscale (0xff0000) uses."""


STAGES_MAX = 9
"""nftables takes no chain that is 16 jumps or gotos away (NFT_JUMP_STACK_SIZE): the static chains
before a group's first, and the one that denies after its last, leave so many.  Each level of a mark
tree below its root takes one of them."""
HOST_STAGES_MAX = 13
"""The same for a group of host endpoints, which no tree leads to: one chain before its first and the
one that denies after its last, or, of what passes through, two before it and none after."""


class RenderConfig(msgspec.Struct, frozen=True):
    """A node's settings, as far as its chains show them."""

    mark_mask: int = DEFAULT_MARK_MASK
    """The bits of packet and connection marks that are ours; see :mod:`.marks`."""
    allow_action: Literal["accept", "return"] = "accept"
    """Whether a forwarded packet that policy allows is accepted last in ``FORWARD``, after every
    other program's rules, or left to the chain's end."""
    pod_to_host_action: Literal["accept", "drop", "return"] = "accept"
    """The same for what a pod sends to its own node, once its egress policy allowed it."""
    unknown_endpoint_action: Literal["deny", "allow"] = "deny"
    """What becomes of traffic of a workload interface that is no known endpoint's."""
    invalid_action: Literal["drop", "allow"] = "drop"
    """Whether an endpoint's packets that conntrack calls invalid are dropped, or judged as new."""
    workload_interfaces: tuple[str, ...] = ()
    """Names of host-side workload interfaces as iptables takes them (``cali+``): closed from the
    moment such an interface appears, before the agent has seen it."""
    tells: bool = False
    """Whether rules tell of the packets that they deny or log; see :mod:`.notes`."""
    pod_nets: tuple[Net, ...] = ()
    """Nets from which this node's pods, and nobody else, get their addresses: one of those that is
    no known endpoint's is closed, whatever interface it is behind, before the agent has seen it."""
    failsafe_inbound: Failsafes = parse_failsafes(DEFAULT_INBOUND)
    """The node's ports that stay open whatever its host endpoints' policy says."""
    failsafe_outbound: Failsafes = parse_failsafes(DEFAULT_OUTBOUND)
    """Ports of others that the node reaches whatever its host endpoints' policy says."""
    learns_names: bool = False
    """Whether DNS answers are held for whoever learns from them; see :mod:`.answers`."""
    has_own_table: bool = False
    """Whether the chains are a table of their own, nftables', which looks leaves of the mark trees
    up, and where an accept would end nothing for other programs' tables."""
    is_over_nftables: bool = False
    """Whether nftables has the chains of iptables."""

    @property
    def stages_max(self) -> int | None:
        """How many stages a group may have in a flat tree; None: as many as there are."""
        return STAGES_MAX if self._is_followed_so_far else None

    @property
    def host_stages_max(self) -> int | None:
        """The same for a group of host endpoints, at every hook."""
        return HOST_STAGES_MAX if self._is_followed_so_far else None

    @property
    def _is_followed_so_far(self) -> bool:
        """Whether the kernel refuses chains that are too many jumps away."""
        return self.has_own_table or self.is_over_nftables

    @property
    def accepts(self) -> bool:
        """Whether what is forwarded keeps its mark for a last rule that accepts it."""
        return self.allow_action == "accept" and not self.has_own_table

    @property
    def accepts_to_host(self) -> bool:
        """The same for what a pod sends to its own node."""
        return self.pod_to_host_action == "accept" and not self.has_own_table


def interface_pattern(text: str) -> str:
    """An interface name as people write it, ``cali*``, in the spelling of iptables, ``cali+``."""
    return text.removesuffix("*") + "+" if text.endswith("*") else text
