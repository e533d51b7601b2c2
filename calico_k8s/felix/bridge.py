"""Anti-spoofing between the ports of the pods' bridges: one nftables table of family ``bridge``.

In: which ports lead to pods, and which address is behind which.  Out: the table ``calico_k8s``,
written by ``nft``.  iptables sees the bridge and not the port, so it alone cannot tell two pods
of one bridge apart.  Other programs' tables are not touched.

====================  ==========================================================================
from a port of pods   what happens
====================  ==========================================================================
IPv4, IPv6 forwarded  only from an address that is bound to the port
... to the node       not from an address bound to another port, nor from the node's own
ARP, ND               may not speak for an address bound to another port, nor for the node's own
RA, redirect          dropped
VLAN and the rest     dropped: iptables would not look inside
====================  ==========================================================================

An endpoint whose port is not known yet may answer ARP and ND, which is how its port is found; it
forwards nothing until then.  MAC addresses are not checked: who claims another pod's MAC can draw
its packets, but never speak with its address.
"""

import ipaddress
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from calico_k8s.errors import KernelError
from calico_k8s.felix.delta import DeltaTracker
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.interfaces import Interfaces
from calico_k8s.model.addresses import Address, address_version
from calico_k8s.netlink.nftables import NftSocket

TABLE: Final = "calico_k8s"
NFT_TIMEOUT_S: Final = 30
_INTERFACE_NAME: Final = re.compile(r"[\w.@+-]+")
"""nft has no escape for quotes, and reads a last ``*`` as a wildcard."""

# In the very form `nft list` prints: a table that reads the same needs no writing.
RULES: Final = f"""\
table bridge {TABLE} {{
	set ports {{
		type ifname
	}}

	set bound4 {{
		type ifname . ipv4_addr
	}}

	set bound6 {{
		type ifname . ipv6_addr
	}}

	set bound_nd {{
		typeof iifname . @th,64,128
	}}

	set claimed4 {{
		type ipv4_addr
	}}

	set claimed6 {{
		type ipv6_addr
	}}

	set claimed_nd {{
		typeof @th,64,128
	}}

	chain check_arp {{
		iifname . arp saddr ip @bound4 accept
		arp saddr ip @claimed4 drop
		accept
	}}

	chain check_icmp6 {{
		icmpv6 type {{ nd-router-advert, nd-redirect }} drop
		icmpv6 type nd-neighbor-advert iifname . @th,64,128 @bound_nd accept
		icmpv6 type nd-neighbor-advert @th,64,128 @claimed_nd drop
		iifname . ip6 saddr @bound6 accept
		ip6 saddr @claimed6 drop
		icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }} accept
		icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done }} accept
		icmpv6 type mld2-listener-report accept
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname != @ports accept
		ether type arp goto check_arp
		iifname . ip saddr @bound4 accept
		meta l4proto ipv6-icmp jump check_icmp6
		iifname . ip6 saddr @bound6 accept
		drop
	}}

	chain input {{
		type filter hook input priority filter; policy accept;
		iifname != @ports accept
		ether type arp goto check_arp
		iifname . ip saddr @bound4 accept
		ip saddr @claimed4 drop
		meta l4proto ipv6-icmp jump check_icmp6
		iifname . ip6 saddr @bound6 accept
		ip6 saddr @claimed6 drop
		ether type {{ ip, ip6 }} accept
		drop
	}}
}}
"""


_RULES_BY_CHAIN: Final = {
    name: sum(not line.strip().startswith("type ") for line in body.splitlines())
    for name, body in re.findall(r"\tchain (\w+) {\n(.*?)\n\t}", RULES, re.DOTALL)
}


class Element(NamedTuple):
    """An element of one of the table's sets, in nft's spelling."""

    set_name: str
    text: str


def bridge_elements(interfaces: Interfaces) -> frozenset[Element]:
    """What the table's sets should hold; nothing where no port leads to a pod.

    Raises:
        KernelError: an interface has a name nft cannot be told.
    """
    elements = {Element("ports", _quote(port)) for port in interfaces.workload_ports}
    if not elements:
        return frozenset()
    for address, port in interfaces.ports_by_address.items():
        name = _quote(port)
        if address_version(address) == 4:
            elements.add(Element("bound4", f"{name} . {address}"))
        else:
            elements.add(Element("bound6", f"{name} . {address}"))
            elements.add(Element("bound_nd", f"{name} . {_number(address)}"))
    for address in interfaces.ports_by_address.keys() | interfaces.own_addresses:
        if address_version(address) == 4:
            elements.add(Element("claimed4", address))
        else:
            elements.add(Element("claimed6", address))
            elements.add(Element("claimed_nd", _number(address)))
    return frozenset(elements)


class BridgeDriver:
    """The table of the network namespace it works in.

    Raises:
        KernelError: from :meth:`resync`, :meth:`apply` and :meth:`clean`, when ``nft`` is missing
            or refuses.
    """

    def __init__(self) -> None:
        self._tracker: DeltaTracker[Element, None] = DeltaTracker()
        self._listing = RULES
        self._has_table = False
        self._has_rules = False
        self._socket: NftSocket | None = None
        self._seen: int | None = None
        """The nft generation at which every rule was in its chain."""
        self.needs_resync = True

    def close(self) -> None:
        """Release what it has open; the kernel keeps the table."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def has_lost_rules(self) -> bool:
        """Whether the table, a chain or a rule has gone since it was written, or one has come.

        Cost: 10 us where the nft generation stands still, else some 0.1 ms.
        """
        if not self._has_rules:
            return False
        if self._socket is None:
            self._socket = NftSocket()
        generation = self._socket.generation()
        if generation == self._seen:
            return False
        rules = Counter(rule.chain for rule in self._socket.rules("bridge", TABLE))
        self._seen = generation if rules == _RULES_BY_CHAIN else None
        return self._seen is None

    def set_desired(self, interfaces: Interfaces) -> None:
        """The table should say this; :meth:`apply` writes it."""
        self._tracker.replace_desired(dict.fromkeys(bridge_elements(interfaces)))

    def resync(self) -> int:
        """Read the table back; how many elements were other than believed, a lost rule as one.

        Cost: 12 ms, two processes.
        """
        listing = _nft("-s", "-t", "list", "table", "bridge", TABLE, may_miss=True)
        had_rules, self._has_table = self._has_rules, bool(listing)
        # From 1.0.9 on nft prints those 128 bits by the name that older ones cannot read.
        as_written = listing.replace("icmpv6 taddr", "@th,64,128")
        self._has_rules = as_written == RULES or listing == self._listing
        held = _held_elements() if listing else frozenset()
        drifted = self._tracker.replace_programmed(dict.fromkeys(held))
        self.needs_resync = False
        return drifted + (had_rules and not self._has_rules)

    def differences(self) -> Iterator[Difference]:
        """What the table is otherwise than desired; reads it, writes nothing.

        Without ``nft`` on the node, and no port that leads to a pod, there is nothing to read.
        """
        if not self._tracker.desired and shutil.which("nft") is None:
            return
        self.resync()
        place = f"nft bridge {TABLE}"
        if not self._tracker.desired:
            if self._has_table:
                yield Difference("bridge", place, "the table is not wanted")
            return
        if not self._has_table:
            yield Difference("bridge", place, "the table is missing")
        elif not self._has_rules:
            yield Difference("bridge", place, "the table has other rules")
        wanted, held = (
            tuple(f"{element.set_name}: {element.text}" for element in sorted(elements))
            for elements in (self._tracker.updates, self._tracker.deletes)
        )
        if wanted or held:
            yield Difference("bridge", place, "the sets have other elements", wanted, held)

    def bound_ports(self) -> dict[Address, str]:
        """The port that the kernel's table binds each address to, as it was last read."""
        bound = (e for e in self._tracker.programmed if e.set_name in ("bound4", "bound6"))
        pairs = (element.text.rsplit(" . ", 1) for element in bound)
        return {Address(address): port.strip('"') for port, address in pairs}

    def apply(self) -> int:
        """Write what differs in one transaction; how many elements, 0 where nothing does.

        Cost: 5 ms, one process.
        """
        if self.needs_resync:
            self.resync()
        if not self._tracker.desired:
            return self._delete()
        if self._has_rules:
            adds, deletes = list(self._tracker.updates), list(self._tracker.deletes)
            text = ""
        else:
            adds, deletes = list(self._tracker.desired), []
            text = f"add table bridge {TABLE}\ndelete table bridge {TABLE}\n{RULES}"
        if not adds and not deletes:
            return 0
        text += _edits("delete", deletes) + _edits("add", adds)
        try:
            _nft("-f", "-", stdin=text)
        except KernelError:
            self.needs_resync = True
            raise
        if not self._has_rules:
            self._tracker.replace_programmed({})
            self._listing = _nft("-s", "-t", "list", "table", "bridge", TABLE)
            self._has_table = self._has_rules = True
        for element in adds:
            self._tracker.mark_programmed(element)
        self._tracker.mark_deleted(deletes)
        return len(adds) + len(deletes)

    def _delete(self) -> int:
        if not self._has_table:
            return 0
        removed = len(self._tracker.programmed)
        clean_bridges()
        self._tracker.replace_programmed({})
        self._has_table = self._has_rules = False
        return removed


def clean_bridges() -> None:
    """Delete the table, if it is there; without ``nft`` on the node it cannot have been made.

    Raises:
        KernelError: ``nft`` refused.
    """
    if shutil.which("nft") is None:
        return
    _nft("delete", "table", "bridge", TABLE, may_miss=True)


def _held_elements() -> frozenset[Element]:
    listed = msgspec.json.decode(_nft("-j", "list", "table", "bridge", TABLE))
    held: set[Element] = set()
    for item in listed["nftables"]:
        found = item.get("set")
        if found is not None:
            name = found["name"]
            held |= {Element(name, _spell(name, value)) for value in found.get("elem", ())}
    return frozenset(held)


def _spell(set_name: str, value: Any) -> str:
    """From nft's JSON, a string or ``{"concat": [string, string]}`` (hence Any), to its words."""
    if isinstance(value, dict):
        port, rest = value["concat"]
        return f'"{port}" . {rest}'
    return f'"{value}"' if set_name == "ports" else str(value)


def _quote(name: str) -> str:
    if not _INTERFACE_NAME.fullmatch(name):
        raise KernelError(f"interface {name!r} has a name that nftables cannot be told: rename it")
    return f'"{name}"'


def _number(address: Address) -> str:
    """An IPv6 address as nft writes 128 bits of a packet."""
    return f"{int(ipaddress.IPv6Address(address)):#034x}"


def _edits(verb: str, elements: list[Element]) -> str:
    by_set: dict[str, list[str]] = {}
    for element in sorted(elements):
        by_set.setdefault(element.set_name, []).append(element.text)
    return "".join(
        f"{verb} element bridge {TABLE} {name} {{ {', '.join(texts)} }}\n"
        for name, texts in by_set.items()
    )


def _nft(*words: str, stdin: str = "", may_miss: bool = False) -> str:
    """What ``nft`` printed; empty where the table it speaks of may be missing, and is."""
    try:
        done = subprocess.run(
            ("nft", *words),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=NFT_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise KernelError("nft was not found: pods on a bridge need nftables 1.0") from error
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"nft did not end within {NFT_TIMEOUT_S} s") from error
    if done.returncode:
        if may_miss and "No such file or directory" in done.stderr:
            return ""
        raise KernelError(f"nft {' '.join(words)}: {' '.join(done.stderr.split())}")
    return done.stdout
