"""A question to a pod and what became of it, as values.

In: nothing.  Out: what :mod:`calico_k8s.lab.exchange` takes and gives.
"""

from enum import StrEnum
from typing import NamedTuple

from calico_k8s.lab.plan import Place
from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import PROTOCOL_NUMBERS, Action, Protocol

TCP, UDP, SCTP = (PROTOCOL_NUMBERS[name] for name in ("tcp", "udp", "sctp"))


class Probe(NamedTuple):
    """A question: can ``src`` open this?"""

    src: Place
    address: Address
    port: int
    """0 for an echo."""
    protocol: Protocol
    """TCP, UDP, SCTP, or ICMP, which is an echo of the address's family."""
    src_port: int = 0
    """0: one that was not used for long."""


class Outcome(StrEnum):
    """What became of a question."""

    ANSWERED = "answered"
    SILENT = "silent"
    """No packet came back in time."""
    REFUSED = "refused"
    """A reset or an ICMP error: nothing listens there, or a REJECT."""
    UNREACHABLE = "unreachable"
    """No route, here or on the way."""


class Answer(NamedTuple):
    """What was learned."""

    outcome: Outcome
    rtt_s: float | None = None
    """From the packet that was answered to its answer, this process's own delay included."""
    answered_by: str = ""
    """The name in the answer; the kernel gives none in an echo or an ABORT."""

    @property
    def verdict(self) -> Action:
        """ALLOW where something came back from the pod, DENY else."""
        return Action.ALLOW if self.outcome is Outcome.ANSWERED else Action.DENY


class Patience(NamedTuple):
    """When to ask, in seconds after the start and the first at 0, and when to give up."""

    sends_s: tuple[float, ...]
    settle_s: float
