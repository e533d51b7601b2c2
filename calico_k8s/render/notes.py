"""What the kernel tells of a packet that a rule denied or logged: the words of its NFLOG prefix.

In: the origin of a rule or of an end.  Out: a note, the prefix it is told by, and the chain that
tells it and drops.  Whoever reads the prefix finds the note again by its id, which is the same on
every node and after every restart, however long the names in it are::

    cali-di-5f3a0c71d2b94e88        cali-de-unknown-src
         ││ └ a hash of the origin       └ or what denies where no policy was asked
         │└ ingress or egress
         └ denied, logged, or what a staged policy would do: s deny it, a allow it

A denial has a chain of the same name, which all groups of pods share, and one that all of hosts
do: the packet is told, if neither its flow nor the rule has been too often of late, counted, and
dropped.  A packet that passes meets none of it, and without notes there is none.
"""

from enum import StrEnum

import msgspec

from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction, Origin
from calico_k8s.render import text
from calico_k8s.render.names import note_name, self_ipset
from calico_k8s.render.tables import CHAIN_PREFIX, ChainName, RuleText
from calico_k8s.render.text import DROP, RETURN, Target

NFLOG_GROUP = 3233
"""Of the network namespace's NFLOG groups, the one that is ours."""
PREFIX_MAX = 63  # struct xt_nflog_info, prefix[64]


class NoteKind(StrEnum):
    """What became of the packet."""

    DENY = "d"
    LOG = "l"
    """Nothing yet: a rule with the action Log was met."""
    WOULD_DENY = "s"
    """Nothing: a staged policy would deny it."""
    WOULD_ALLOW = "a"
    """Nothing: a staged policy would allow it."""


REHEARSED = frozenset({NoteKind.WOULD_DENY, NoteKind.WOULD_ALLOW})
"""What became of the packet is another's to say."""


class Unasked(StrEnum):
    """What denies a packet where no policy was asked."""

    UNKNOWN_SRC = "unknown-src"
    """It came from a workload with an address that is no known endpoint's there."""
    UNKNOWN_DST = "unknown-dst"
    """It goes to a workload with an address that is no known endpoint's."""
    STOLEN = "stolen"
    """Its source is a local endpoint's address, and it came from elsewhere."""
    HOST = "host"
    """From a pod to its own node, which the setting ``pod-to-host-action`` does not let it."""


class Note(msgspec.Struct, frozen=True):
    """What is told of a packet."""

    kind: NoteKind
    direction: Direction
    cause: Origin | Unasked
    """The rule, or the end of a tier or of the profiles, that decided."""
    is_of_host: bool = False
    """Whether a host endpoint was asked: a packet that is for its sender is judged there as any."""

    @property
    def name(self) -> ChainName:
        """Its prefix, and for a denial the name of its chain."""
        cause = self.cause
        if isinstance(cause, Unasked):
            return note_name(self.kind, self.direction, plain=cause)
        parts = [cause.kind, cause.namespace, cause.name, str(cause.index), cause.title]
        parts += ["host"] if self.is_of_host else []
        return note_name(self.kind, self.direction, hashed="\0".join(parts))


def is_rehearsed(prefix: str) -> bool:
    """Whether a prefix tells what a staged policy would do."""
    return prefix.removeprefix(CHAIN_PREFIX)[:1] in REHEARSED


def log_target(note: Note) -> Target:
    """Tells the packet, which then goes on, unless the rule has told too many of late."""
    return Target(f"{text.WITHIN_RATE} {text.nflog(note.name, NFLOG_GROUP)}")


def probing_rule() -> RuleText:
    """A rule that has all that telling takes of a kernel."""
    telling = text.nflog(f"{CHAIN_PREFIX}probe", NFLOG_GROUP)
    return text.rule(text.WITHIN_FLOW_RATE, text.WITHIN_RATE, telling)


def denying_chain(note: Note, version: Version) -> tuple[RuleText, ...]:
    """Tells the packet and drops it; one that policy denies and that is for its sender returns.

    The packets of the last rule are all that were denied, told or not.
    """
    return (
        *_to_itself(note, version),
        text.rule(text.WITHIN_FLOW_RATE, text.WITHIN_RATE, text.nflog(note.name, NFLOG_GROUP)),
        text.rule(DROP),
    )


def counting_chain(note: Note, version: Version) -> tuple[RuleText, ...]:
    """Tells what a staged policy would do with the packet, which then goes back to where it was.

    The packets of the last rule are all that it would have done so with, told or not.  No flow has
    a rate of its own: the kernel drops a packet for whose flow it has no room.
    """
    return (
        *_to_itself(note, version),
        text.rule(text.WITHIN_RATE, text.nflog(note.name, NFLOG_GROUP)),
        text.rule(RETURN),
    )


def _to_itself(note: Note, version: Version) -> tuple[RuleText, ...]:
    """A pod reaches itself, whatever policy says of it."""
    if note.is_of_host or isinstance(note.cause, Unasked):
        return ()
    return (
        text.rule(text.SAME_ENDS[version], RETURN),
        text.rule(text.in_set(self_ipset(version), "dst,src"), RETURN),
    )
