"""Domain names as policy writes them, and which names they mean.

In: text that a person wrote.  Out: patterns in canonical text (lower case, no dot at the end), or
an ``InputError`` in one sentence; and of a pattern and a name, whether it is meant::

    api.example.com     that name, and no name under it
    *.example.com       x.example.com, x.y.example.com; not example.com
    www.*.example.com   one whole label is a ``*``, for one label or more; never the last

Source: ``policy-semantics``, Calico's allowedEgressDomains, and NPEP-133.
"""

import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import NewType

from calico_k8s.errors import InputError
from calico_k8s.model.names import NetsetName

DomainName = NewType("DomainName", str)
"""A name as DNS answers give it, canonical: lower case, no dot at the end."""

DomainPattern = NewType("DomainPattern", str)
"""What a policy names: a :data:`DomainName`, or one with a ``*`` for a label."""

NAME_MAX = 253
LABEL_MAX = 63
"""Source: RFC 1035 section 2.3.4."""
WILDCARD = "*"

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_SERVERS = "dns/"


def parse_domain(text: str) -> DomainPattern:
    """The canonical form of a domain in a policy; case and a dot at the end mean nothing.

    Raises:
        InputError: it is none; the message says what is wrong with it, and what would be right.
    """
    name = text.strip().lower().removesuffix(".")
    labels = name.split(".")
    if not name.isascii():
        raise InputError(f"'{text}' is not ASCII: give the name as DNS has it, xn--...")
    if len(name) > NAME_MAX:
        raise InputError(f"'{text}' has {len(name)} characters: a name has at most {NAME_MAX}")
    if labels.count(WILDCARD) > 1:
        raise InputError(f"'{text}' has two wildcards: give one, for one label or more")
    if labels[-1] == WILDCARD:
        raise InputError(f"'{text}' ends in a wildcard: the last label has to be written out")
    for label in labels:
        if WILDCARD in label and label != WILDCARD:
            raise InputError(
                f"'{text}' has a wildcard for part of a label, '{label}': a '*' stands for whole labels"
            )
        if label != WILDCARD and not (len(label) <= LABEL_MAX and _LABEL.fullmatch(label)):
            raise InputError(
                f"'{text}' is no domain name: '{label}' should be 1 to {LABEL_MAX} letters, digits, - and _"
            )
    if re.fullmatch(r"[0-9.]+", name):
        raise InputError(f"'{text}' is an address, or part of one: give it as a net")
    return DomainPattern(name)


def domain_matches(pattern: DomainPattern, name: DomainName) -> bool:
    """Whether the pattern means the name."""
    before, star, after = pattern.partition(WILDCARD)
    if not star:
        return str(pattern) == name
    return name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)


class DomainIndex:
    """Patterns, to be asked by name.  Cost: of a question, the labels of the name."""

    def __init__(self, patterns: Iterable[DomainPattern] = ()) -> None:
        self._patterns: set[DomainPattern] = set()
        self._by_end: dict[str, set[DomainPattern]] = {}
        for pattern in patterns:
            self.add(pattern)

    @property
    def patterns(self) -> AbstractSet[DomainPattern]:
        """All of them; a live view."""
        return self._patterns

    def add(self, pattern: DomainPattern) -> None:
        """One more; twice is once."""
        self._patterns.add(pattern)
        _, star, end = pattern.partition(WILDCARD)
        if star:
            self._by_end.setdefault(end, set()).add(pattern)

    def remove(self, pattern: DomainPattern) -> None:
        """One less."""
        self._patterns.discard(pattern)
        _, star, end = pattern.partition(WILDCARD)
        if star:
            self._by_end[end].discard(pattern)
            if not self._by_end[end]:
                del self._by_end[end]

    def meaning(self, name: DomainName) -> Iterator[DomainPattern]:
        """The patterns that mean the name."""
        exact = DomainPattern(name)
        if exact in self._patterns:
            yield exact
        place = name.find(".") if self._by_end else -1
        while place >= 0:
            for pattern in self._by_end.get(name[place:], ()):
                if domain_matches(pattern, name):
                    yield pattern
            place = name.find(".", place + 1)


def servers_netset(protocol: int, port: int) -> NetsetName:
    """The network set of the DNS servers that are trusted, by protocol and port."""
    return NetsetName(f"{_SERVERS}{protocol}:{port}")


def parse_servers_netset(name: NetsetName) -> tuple[int, int] | None:
    """The protocol and port of such a set; None for any other set."""
    protocol, colon, port = name.removeprefix(_SERVERS).partition(":")
    is_one = name.startswith(_SERVERS) and colon and protocol.isdecimal() and port.isdecimal()
    return (int(protocol), int(port)) if is_one else None
