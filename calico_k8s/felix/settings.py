"""The settings of a running agent: flags and environment, and what the datastore says meanwhile.

In: layers of text.  Out: the configuration that holds, and what was wrong with what was passed
over.  Some are not the datastore's to give: what is in the kernel depends on them from the start.
"""

from collections.abc import Mapping

import msgspec

from calico_k8s.config import Layer, resolve
from calico_k8s.model.addresses import Net
from calico_k8s.render.settings import RenderConfig, interface_pattern

START_SETTINGS = ("mark_mask", "iptables_backend", "lock_timeout_s")


class Settings:
    """One agent's settings; ``layers`` come before the datastore's."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._layers = layers
        self.config = resolve(layers).config
        self.problems: tuple[str, ...] = ()
        """One sentence for each setting of the datastore that was passed over."""

    def take(self, stored: Mapping[str, str]) -> None:
        """The datastore says this now."""
        resolved = resolve((*self._layers, Layer("datastore", stored)))
        refused = [
            f"datastore: {name.replace('_', '-')} is a flag's or the environment's to give"
            for name in START_SETTINGS
            if getattr(resolved.config, name) != getattr(self.config, name)
        ]
        kept = {name: getattr(self.config, name) for name in START_SETTINGS}
        self.config = msgspec.structs.replace(resolved.config, **kept)
        self.problems = (*resolved.problems, *refused)

    def render_config(
        self,
        pod_nets: tuple[Net, ...] = (),
        *,
        learns_names: bool = False,
    ) -> RenderConfig:
        """What chains show of them, with the pod nets that hold."""
        config = self.config
        return RenderConfig(
            mark_mask=config.mark_mask,
            allow_action=config.allow_action,
            pod_to_host_action=config.pod_to_host_action,
            unknown_endpoint_action=config.unknown_endpoint_action,
            invalid_action=config.invalid_action,
            workload_interfaces=tuple(interface_pattern(p) for p in config.workload_interfaces),
            tells=config.denials,
            pod_nets=pod_nets,
            failsafe_inbound=config.failsafe_inbound_ports,
            failsafe_outbound=config.failsafe_outbound_ports,
            learns_names=learns_names,
        )
