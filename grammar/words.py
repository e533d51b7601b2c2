"""The single words of a statement: ports, labels, CIDRs, names, numbers.

In: one word, as written.  Out: its value in canonical form, or a :class:`WordError` that says what
is wrong with it and what would be right.  Places in a text are not known here.
"""

import ipaddress
import re

from grammar.errors import quoted
from grammar.nodes import LabelMatch, PortRange

CLAUSE_WORDS = ("from", "to", "port", "ports", "label", "cidr", "namespace", "selector")
"""The words that go on with a statement, and so are no name of a port or of a namespace.

Without this ``allow tcp from namespace to port 80``, which has lost a word, would be read as
namespace ``to``.  Every other keyword is a good name: ports called ``tcp`` exist.
"""

PORT_MAX = 65535
ICMP_TYPE_MAX = 254  # Calico v3 ICMPFields: 255 is reserved and refused
ICMP_CODE_MAX = 255
PORT_NAME_MAX = 15  # Kubernetes IsValidPortName, of RFC 6335 section 5.1
LABEL_NAME_MAX = 63  # Kubernetes IsQualifiedName, IsValidLabelValue
LABEL_PREFIX_MAX = 253  # Kubernetes IsDNS1123Subdomain
NAMESPACE_MAX = 63  # Kubernetes IsDNS1123Label

_NUMBER = re.compile(r"[0-9]+")
_RANGE = re.compile(r"([0-9]+)[:-]([0-9]+)")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_CIDR = re.compile(r"([0-9A-Fa-f:.]+)(?:/([0-9]{1,4}))?")


class WordError(ValueError):
    """A word that cannot be what it stands for; ``hint`` is the way out, or None."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message)


def parse_port(word: str) -> PortRange | str:
    """A port, a range ``low:high`` or ``low-high``, or the name of a container port.

    Raises:
        WordError: none of the three, or out of range.
    """
    if _NUMBER.fullmatch(word):
        port = _port_number(word)
        return PortRange(port, port)
    if bounds := _RANGE.fullmatch(word):
        low, high = _port_number(bounds[1]), _port_number(bounds[2])
        if low > high:
            raise WordError(
                f"port range {quoted(word)} ends before it begins", f"write '{high}:{low}'"
            )
        return PortRange(low, high)
    return _port_name(word)


def _port_number(digits: str) -> int:
    port = _number(digits, PORT_MAX)
    if port > PORT_MAX:
        raise WordError(f"port {quoted(digits)} is above {PORT_MAX}, the highest port")
    if port == 0:
        raise WordError("port 0 is no port: they begin at 1", "leave 'port' out for every port")
    return port


def _port_name(word: str) -> str:
    if word.lower() in CLAUSE_WORDS:
        raise WordError(
            f"expected a port, found the keyword '{word}'",
            "give a port named like a keyword by its number",
        )
    if not _PORT_NAME.fullmatch(word):
        lower = word.lower()
        hint = f"did you mean '{lower}'?" if _PORT_NAME.fullmatch(lower) else None
        raise WordError(
            f"{quoted(word)} is neither a port number, a range like 8000:8080, nor the name of a "
            "container port: lower-case letters, digits and single dashes between them",
            hint,
        )
    if len(word) > PORT_NAME_MAX:
        raise WordError(
            f"port name {quoted(word)} is longer than {PORT_NAME_MAX} characters, "
            "the most Kubernetes allows"
        )
    return word


def parse_label(word: str) -> LabelMatch:
    """A label ``key=value``; the value may be empty.

    Raises:
        WordError: no ``=``, or a key or value that Kubernetes would not take.
    """
    if "," in word:
        raise WordError(
            "'label' takes one label, without a comma",
            "write 'label' again for each label that must hold",
        )
    key, equals, value = word.partition("=")
    if not equals:
        raise WordError(
            f"expected a label like key=value, found {quoted(word)}",
            f"a label that is merely there is 'selector (has({word}))'" if _is_key(word) else None,
        )
    if value.startswith("="):
        raise WordError(f"a label has one '=', {quoted(word)} has two", f"write '{key}{value}'")
    _check_label_key(key)
    if value and not _LABEL_NAME.fullmatch(value):
        raise WordError(
            f"{quoted(value)} is no label value: letters, digits, '-', '_' and '.', "
            "a letter or digit at both ends"
        )
    if len(value) > LABEL_NAME_MAX:
        raise WordError(
            f"label value {quoted(value)} is longer than {LABEL_NAME_MAX} characters, "
            "the most Kubernetes allows"
        )
    return LabelMatch(key, value)


def _is_key(word: str) -> bool:
    try:
        _check_label_key(word)
    except WordError:
        return False
    return True


def _check_label_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and not (_DNS_SUBDOMAIN.fullmatch(prefix) and len(prefix) <= LABEL_PREFIX_MAX):
        raise WordError(
            f"{quoted(key)} is no label key: what stands before '/' must be a DNS name "
            f"of at most {LABEL_PREFIX_MAX} lower-case characters"
        )
    if not _LABEL_NAME.fullmatch(name):
        raise WordError(
            f"{quoted(key)} is no label key: letters, digits, '-', '_' and '.', "
            "a letter or digit at both ends, perhaps after a DNS name and '/'"
        )
    if len(name) > LABEL_NAME_MAX:
        raise WordError(
            f"label key {quoted(key)} is longer than {LABEL_NAME_MAX} characters, "
            "the most Kubernetes allows"
        )


def parse_cidr(word: str) -> str:
    """A CIDR in canonical text: host bits masked off, a bare address as its own /32 or /128.

    Raises:
        WordError: no IPv4 or IPv6 CIDR.
    """
    parts = _CIDR.fullmatch(word)
    if not parts:
        raise WordError(f"{quoted(word)} is no CIDR like 10.0.0.0/8 or fd00::/8")
    try:
        address = ipaddress.ip_address(parts[1])
    except ValueError:
        raise WordError(f"{quoted(parts[1])} is no IP address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise WordError(
            f"{quoted(word)} is an IPv4 address written as IPv6, which no packet carries",
            f"write the IPv4 address, {address.ipv4_mapped}",
        )
    length = address.max_prefixlen if parts[2] is None else int(parts[2])
    if length > address.max_prefixlen:
        raise WordError(
            f"the length /{length} is above {address.max_prefixlen}, "
            f"the number of bits of an IPv{address.version} address"
        )
    return str(ipaddress.ip_network((address, length), strict=False))


def parse_namespace(word: str) -> str:
    """The name of a namespace, which is a DNS label.

    Raises:
        WordError: Kubernetes would not take the name.
    """
    if "," in word:
        raise WordError(
            "'namespace' takes one name, without a comma",
            "write a statement for each namespace",
        )
    if word.lower() in CLAUSE_WORDS:
        raise WordError(
            f"expected the name of a namespace, found the keyword '{word}'",
            "a namespace named like a keyword cannot be written here",
        )
    if not _DNS_LABEL.fullmatch(word) or len(word) > NAMESPACE_MAX:
        lower = word.lower()
        hint = f"did you mean '{lower}'?" if word != lower and _DNS_LABEL.fullmatch(lower) else None
        raise WordError(
            f"{quoted(word)} is no name of a namespace: at most {NAMESPACE_MAX} lower-case "
            "letters, digits and dashes, a letter or digit at both ends",
            hint,
        )
    return word


def parse_icmp_type(word: str) -> int:
    """The type of an ICMP message.

    Raises:
        WordError: no number, or above ``ICMP_TYPE_MAX``.
    """
    return _icmp_number(word, "type", ICMP_TYPE_MAX)


def parse_icmp_code(word: str) -> int:
    """The code of an ICMP message.

    Raises:
        WordError: no number, or above ``ICMP_CODE_MAX``.
    """
    return _icmp_number(word, "code", ICMP_CODE_MAX)


def _icmp_number(word: str, what: str, highest: int) -> int:
    if not _NUMBER.fullmatch(word):
        raise WordError(f"an ICMP {what} is a number from 0 to {highest}, not {quoted(word)}")
    number = _number(word, highest)
    if number > highest:
        raise WordError(f"ICMP {what} {quoted(word)} is above {highest}, the highest {what}")
    return number


def _number(digits: str, highest: int) -> int:
    """The number, or one above ``highest``: Python refuses to convert very long ones."""
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= len(str(highest)) else highest + 1
