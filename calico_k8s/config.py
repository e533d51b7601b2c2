"""Settings: what can be set, what each value means, and which of several places wins.

In: text by name, from the command line, the environment, and the datastore's two layers.  Out: a
:class:`Config`, or an ``InputError`` that names the place.  The first place that has a setting
wins: flag, environment, this node's configuration in the datastore, the global one, the default.
A bad value in the datastore must not stop a running agent: :func:`resolve` keeps the next place's
value and hands the problem back.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Net, parse_net
from calico_k8s.model.dns_servers import DEFAULT_SERVERS, DnsServers, parse_dns_servers
from calico_k8s.model.failsafes import (
    DEFAULT_INBOUND,
    DEFAULT_OUTBOUND,
    INBOUND_SETTING,
    OUTBOUND_SETTING,
    Failsafes,
    parse_failsafes,
)
from calico_k8s.render.settings import DEFAULT_MARK_MASK

ENVIRONMENT_PREFIX = "CALICO_K8S_"

MARK_BITS_MIN = 8
"""One for accepted packets, one for cut flows, and six for 63 policy groups a direction."""


class Config(msgspec.Struct, frozen=True):
    """Every setting of controller and Felix, as values."""

    default_namespace_policy: Literal["open", "closed"] = "open"
    annotation_keys: tuple[str, ...] = ("projectcalico.org/policy", "policy")
    iptables_backend: Literal["auto", "legacy", "nft", "nftables"] = "auto"
    mark_mask: int = DEFAULT_MARK_MASK
    allow_action: Literal["accept", "return"] = "accept"
    pod_to_host_action: Literal["accept", "drop", "return"] = "accept"
    unknown_endpoint_action: Literal["deny", "allow"] = "deny"
    invalid_action: Literal["drop", "allow"] = "drop"
    workload_interfaces: tuple[str, ...] = ()
    pod_cidr: tuple[Net, ...] = ()
    auto_host_endpoints: bool = False
    failsafe_inbound_ports: Failsafes = parse_failsafes(DEFAULT_INBOUND)
    failsafe_outbound_ports: Failsafes = parse_failsafes(DEFAULT_OUTBOUND)
    dns_trusted_servers: DnsServers = parse_dns_servers(DEFAULT_SERVERS)
    dns_extra_ttl_s: float = 30.0
    cut_connections: bool = True
    denials: bool = False
    resync_interval_s: float = 90.0
    place_check_interval_s: float = 1.0
    status_interval_s: float = 10.0
    lock_timeout_s: float = 10.0


class Option(NamedTuple):
    """A setting: its name as flags and the datastore write it, how it is read, what it does."""

    name: str
    parse: Callable[[str], Any]  # Any: the type of the field of that name
    help: str

    @property
    def field(self) -> str:
        """The field of :class:`Config`."""
        return self.name.replace("-", "_")


class Layer(NamedTuple):
    """One place that settings come from."""

    place: str
    values: Mapping[str, str]


class Resolved(NamedTuple):
    """The settings that hold, and what was wrong with those passed over."""

    config: Config
    problems: tuple[str, ...]


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise InputError(f"'{text}' is not one of {', '.join(words)}")
        return text.lower()

    return parse


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _nets(text: str) -> tuple[Net, ...]:
    return tuple(map(parse_net, _names(text)))


def _switch(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if text.lower() not in words:
        raise InputError(f"'{text}' is neither true nor false")
    return words[text.lower()]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise InputError(f"'{text}' is not a number of seconds") from None
    if not 0 < seconds < 86_400:
        raise InputError(f"'{text}' seconds: give more than 0 and less than a day")
    return seconds


def _seconds_or_none(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else _seconds(text)


def _mark_mask(text: str) -> int:
    try:
        mask = int(text, 0)
    except ValueError:
        raise InputError(f"'{text}' is not a number, as in 0xff001f7f") from None
    if not 0 < mask <= 0xFFFFFFFF or mask.bit_count() < MARK_BITS_MIN:
        raise InputError(f"mark mask '{text}' has too few bits: give {MARK_BITS_MIN} or more of 32")
    return mask


OPTIONS = (
    Option("default-namespace-policy", _choice("open", "closed"), "namespaces without a flag"),
    Option("annotation-keys", _names, "annotations that hold a pod's policy, the first wins"),
    Option("iptables-backend", _choice("auto", "legacy", "nft", "nftables"), "what rules go to"),
    Option("mark-mask", _mark_mask, "the packet mark bits that are ours"),
    Option("allow-action", _choice("accept", "return"), "what becomes of an allowed packet"),
    Option("pod-to-host-action", _choice("accept", "drop", "return"), "a pod to its own node"),
    Option("unknown-endpoint-action", _choice("deny", "allow"), "a workload not yet known"),
    Option("invalid-action", _choice("drop", "allow"), "packets conntrack calls invalid"),
    Option("workload-interfaces", _names, "host-side pod interfaces, as in cali*,veth*"),
    Option("pod-cidr", _nets, "this node's own pod nets, in place of its spec.podCIDRs"),
    Option("auto-host-endpoints", _switch, "a host endpoint for each node, open but for policy"),
    Option(INBOUND_SETTING, parse_failsafes, "ports of the node that no policy closes, or none"),
    Option(OUTBOUND_SETTING, parse_failsafes, "ports the node always reaches, or none"),
    Option("dns-trusted-servers", parse_dns_servers, "whose answers name domains' addresses"),
    Option("dns-extra-ttl-s", _seconds_or_none, "how long an address outlives its DNS answer"),
    Option("cut-connections", _switch, "end live connections of flows that become denied"),
    Option("denials", _switch, "tell which rule denied a packet; while off, no rule is for it"),
    Option("resync-interval-s", _seconds, "how often the kernel is compared whole"),
    Option("place-check-interval-s", _seconds, "how often our jumps' place is checked"),
    Option("status-interval-s", _seconds, "how often status is written"),
    Option("lock-timeout-s", _seconds, "how long to wait for the iptables lock"),
)

OPTION_BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}


def resolve(layers: tuple[Layer, ...]) -> Resolved:
    """The settings that hold, from places in order of precedence."""
    chosen: dict[str, Any] = {}  # Any: as Option.parse
    problems: list[str] = []
    for layer in reversed(layers):
        for name, text in sorted(layer.values.items()):
            option = OPTION_BY_NAME.get(name)
            if option is None:
                problems.append(f"{layer.place}: there is no setting '{name}'")
                continue
            try:
                chosen[option.field] = option.parse(text)
            except InputError as error:
                problems.append(f"{layer.place}: {name}: {error}")
    return Resolved(msgspec.structs.replace(Config(), **chosen), tuple(problems))


def from_environment(environment: Mapping[str, str]) -> Layer:
    """The settings among environment variables, ``CALICO_K8S_MARK_MASK`` and so on."""
    values = {
        option.name: environment[variable]
        for option in OPTIONS
        if (variable := ENVIRONMENT_PREFIX + option.field.upper()) in environment
    }
    return Layer("environment", values)
