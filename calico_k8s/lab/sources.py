"""Sockets that questions are asked from, in the namespaces of pods and nodes.

In: a :class:`~calico_k8s.lab.question.Probe`.  Out: a socket in its place's namespace with a
source port (or echo identifier) that nobody used for some 28,000 questions: so no
connection that was allowed earlier speaks for a new one.
"""

import errno
import itertools
import socket
from collections.abc import Mapping

from calico_k8s.errors import InputError, KernelError
from calico_k8s.lab.netns import Namespace, Traveller
from calico_k8s.lab.plan import Place
from calico_k8s.lab.question import SCTP, TCP, UDP, Probe
from calico_k8s.model.addresses import Version, address_version
from calico_k8s.model.resources import ICMP, ICMPV6, Protocol
from calico_k8s.query.reach import EPHEMERAL_PORTS

FIRST_SOURCE_PORT, LAST_SOURCE_PORT = EPHEMERAL_PORTS
_BIND_ATTEMPTS = 1000
_REUSING = frozenset({TCP, UDP})


class Sources:
    """Opens sockets in the places of a lab; for the loop's thread."""

    def __init__(self, traveller: Traveller, namespaces: Mapping[Place, Namespace]) -> None:
        self._traveller = traveller
        self._namespaces = namespaces
        self._next_port = FIRST_SOURCE_PORT
        self._tags = itertools.count(1)

    def open(self, probe: Probe) -> socket.socket:
        """A socket that does not block, bound and not connected; a raw one for SCTP.

        Raises:
            InputError: there is no such place, or the protocol cannot be probed.
            KernelError: the source port asked for is taken.
        """
        namespace = self._namespaces.get(probe.src)
        if namespace is None:
            raise InputError(f"there is no pod or node {probe.src} in the lab")
        version = address_version(probe.address)
        kind, number = socket_kind(probe.protocol, version)
        self._traveller.enter(namespace)
        opened = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind, number)
        opened.setblocking(False)
        if kind != socket.SOCK_RAW:
            self._bind(opened, probe)
        return opened

    def new_port(self) -> int:
        """The source port that no place has used for the longest time.

        Of all places: one that is new may have the address of one that is gone.
        """
        port = self._next_port
        self._next_port = port + 1 if port < LAST_SOURCE_PORT else FIRST_SOURCE_PORT
        return port

    def new_tag(self) -> int:
        """A tag for an association, never 0."""
        return next(self._tags) & 0x7FFFFFFF or 1

    def _bind(self, opened: socket.socket, probe: Probe) -> None:
        if probe.src_port and probe.protocol in _REUSING:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(_BIND_ATTEMPTS):
            port = probe.src_port or self.new_port()
            try:
                opened.bind(("", port))
                return
            except OSError as error:
                if error.errno == errno.EADDRINUSE and not probe.src_port:
                    continue  # the lab itself listens there
                opened.close()
                message = f"cannot probe from port {port} of {probe.src}: {error.strerror}"
                raise KernelError(message) from error
        opened.close()
        raise KernelError(f"no source port of {probe.src} is free")


def socket_kind(protocol: Protocol, version: Version) -> tuple[int, int]:
    """The type and the protocol of a socket that can ask.

    Raises:
        InputError: none can.
    """
    if protocol == TCP:
        return socket.SOCK_STREAM, 0
    if protocol == UDP:
        return socket.SOCK_DGRAM, 0
    if protocol == SCTP:
        return socket.SOCK_RAW, SCTP
    if protocol in (ICMP, ICMPV6):
        return socket.SOCK_DGRAM, ICMPV6 if version == 6 else ICMP
    raise InputError(f"cannot probe protocol {protocol}: give tcp, udp, sctp or icmp")
