"""The tiers that are always there, and what every policy's place among them is.

In: nothing.  Out: tiers.  Source: Calico, api/pkg/apis/projectcalico/v3/tier.go.
"""

from collections.abc import Mapping

from calico_k8s.model.names import TierName
from calico_k8s.model.resources import Action, Tier

ADMIN_TIER = TierName("kube-admin")
"""ClusterNetworkPolicies of tier Admin: before everything of the default tier."""
DEFAULT_TIER = TierName("default")
"""NetworkPolicies, and Calico policies that name no tier."""
BASELINE_TIER = TierName("kube-baseline")
"""ClusterNetworkPolicies of tier Baseline: for pods of which nobody else has spoken."""

BUILT_IN_TIERS: Mapping[TierName, Tier] = {
    tier.name: tier
    for tier in (
        Tier(ADMIN_TIER, 1_000.0, Action.PASS),
        Tier(DEFAULT_TIER, 1_000_000.0, Action.DENY),
        Tier(BASELINE_TIER, 10_000_000.0, Action.PASS),
    )
}
"""They are there whether an object names them or not, and no object changes them."""
