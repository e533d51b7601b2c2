"""The ports of a node that stay open whatever policy says of its host endpoints.

In: text, ``tcp:22,udp:68,tcp:192.0.2.0/24:6443``; ``none`` for no port at all.  Out: values.

Source of the defaults: Calico, felix/config/config_params.go, FailsafeInboundHostPorts and
FailsafeOutboundHostPorts.
"""

from functools import lru_cache
from typing import NamedTuple

from calico_k8s.errors import InputError
from calico_k8s.model.addresses import Address, Net, address_version, net_contains, parse_net
from calico_k8s.model.resources import PROTOCOL_NUMBERS, Protocol

INBOUND_SETTING, OUTBOUND_SETTING = "failsafe-inbound-ports", "failsafe-outbound-ports"
"""The settings that hold them."""

NO_PORTS = "none"
PORT_MAX = 65535


class Failsafe(NamedTuple):
    """A port that stays open: inbound of the node itself, outbound of whom it speaks to."""

    protocol: Protocol
    port: int
    net: Net | None = None
    """The peers that it is open for; None: all."""

    def opens(self, protocol: Protocol, peer: Address, port: int) -> bool:
        """Whether traffic with such a peer, to this port, passes."""
        is_peer = self.net is None or (
            address_version(self.net) == address_version(peer) and net_contains(self.net, peer)
        )
        return is_peer and (protocol, port) == (self.protocol, self.port)


Failsafes = tuple[Failsafe, ...]

DEFAULT_INBOUND = "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667"
"""SSH, DHCP, BGP, etcd, Typha, the API server, and etcd's old ports."""
DEFAULT_OUTBOUND = "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667"
"""DNS in place of SSH; else the same."""


@lru_cache(maxsize=64)
def parse_failsafes(text: str) -> Failsafes:
    """The ports that a setting names, sorted; TCP where an entry names no protocol.

    Raises:
        InputError: an entry is no port.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if [word.lower() for word in words] == [NO_PORTS]:
        return ()
    if not words:
        raise InputError(f"no port is named: give ports, as in tcp:22, or '{NO_PORTS}'")
    return tuple(sorted({_parse_entry(word) for word in words}, key=str))


def _parse_entry(word: str) -> Failsafe:
    head, _, port = word.rpartition(":")
    protocol, _, net = head.partition(":")
    number = PROTOCOL_NUMBERS.get(protocol.lower() or "tcp")
    if number is None or protocol.lower() not in ("", "tcp", "udp", "sctp"):
        raise InputError(f"'{word}': '{protocol}' is neither tcp, udp nor sctp, as in tcp:22")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= PORT_MAX):
        raise InputError(f"'{word}' ends in no port from 1 to {PORT_MAX}, as in tcp:22")
    return Failsafe(number, int(port), parse_net(net.strip("[]")) if net else None)
