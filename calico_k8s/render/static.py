"""The chains every node has, whatever its policies: the way of a packet to its group and past it.

In: settings.  Out: the chains that the three hooks of the mangle table jump to, and the one the
filter table ends with.  ``docs/design/kernel.md`` draws them and says what each rule costs.

::

    FORWARD ─► known source? ── yes ─ established ─► through
                    │            └─── new ─► egress group ─► receiver known? ─► ingress group
                    │                                             └ no: unknown workload: drop
                    └─ no ─ from a workload, or an endpoint's address from elsewhere ─► drop
                       └─ established ─► through ─ else ─► receiver known? ...
    INPUT   ─► from a workload: known source?, egress group, then pod-to-host-action
    OUTPUT  ─► by a workload interface, with a source that is not ours (IPVS): ingress group

A packet that is let through keeps a number in its mark until the filter table's last rule has
accepted it; with ``allow-action return`` it leaves the mangle table without one.

A chain's last rule is where the driver keeps its hash, in a comment that costs a packet more than
most rules.  So chains that every packet walks end in a ``RETURN`` that none reaches
(:data:`UNREACHED`).
"""

from collections.abc import Iterator, Mapping

from calico_k8s.model.addresses import Version, net_range
from calico_k8s.model.resources import ICMPV6, PROTOCOL_NUMBERS, Direction, IcmpMatch, PortRange
from calico_k8s.render import names, text
from calico_k8s.render.marks import MarkLayout, Number, mark_layout
from calico_k8s.render.names import ROOTS, dst_ipset, self_ipset, src_ipset
from calico_k8s.render.notes import Note, NoteKind, Unasked, denying_chain
from calico_k8s.render.settings import RenderConfig
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP, ChainName, RuleText
from calico_k8s.render.text import DROP, RETURN, TO_ACCEPT, Match, Target, goto, jump, rule

NEIGHBOUR_TYPES = (130, 131, 132, 133, 135, 136, 143)
"""ICMPv6 that always passes: MLD queries and reports, router solicitation, neighbour
solicitation (duplicate address detection too) and advertisement.  Source: RFC 4890."""
ROUTER_TYPES = (134, 137)
"""Router advertisement and redirect: never from a pod."""
DHCP_PORTS: Mapping[Version, tuple[int, int]] = {4: (68, 67), 6: (546, 547)}
"""Client and server."""

FROM_POD = ChainName("cali-from-pod")
FROM_ELSEWHERE = ChainName("cali-from-elsewhere")
ESTABLISHED_ELSEWHERE = ChainName("cali-est-elsewhere")
UNKNOWN_SRC = ChainName("cali-unknown-src")
UNKNOWN_DST = ChainName("cali-unknown-dst")
UNKNOWN_TO_HOST = ChainName("cali-unknown-to-host")
TO_POD = ChainName("cali-to-pod")
TO_HOST = ChainName("cali-to-host")
HOST_POLICY = ChainName("cali-host-policy")
NEIGHBOUR_POD = ChainName("cali-nd-pod")
NEIGHBOUR_ELSEWHERE = ChainName("cali-nd-elsewhere")
NEIGHBOUR_HOST = ChainName("cali-nd-host")
OUTPUT_TO_POD = ChainName("cali-output-to-pod")
PASS = ChainName("cali-pass")
PASS_TO_HOST = ChainName("cali-pass-to-host")
CLEAR = ChainName("cali-clear")

NO_SRC = Note(NoteKind.DENY, Direction.EGRESS, Unasked.UNKNOWN_SRC)
NO_DST = Note(NoteKind.DENY, Direction.INGRESS, Unasked.UNKNOWN_DST)
STOLEN = Note(NoteKind.DENY, Direction.EGRESS, Unasked.STOLEN)
NO_HOST = Note(NoteKind.DENY, Direction.EGRESS, Unasked.HOST)
STATIC_NOTES = (NO_SRC, NO_DST, STOLEN, NO_HOST)

UNREACHED = rule(RETURN)
"""Stands behind a verdict or a goto."""

Chains = dict[ChainName, tuple[RuleText, ...]]


def mangle_chains(config: RenderConfig, version: Version) -> Chains:
    """The static chains of the mangle table; they jump to the roots of both mark trees."""
    made = _Static(config, version)
    chains = made.forward() | made.input() | made.output() | made.ends()
    gone_to = {each.rpartition(" ")[2] for rules in chains.values() for each in rules}
    return chains | {
        note.name: denying_chain(note, version) for note in STATIC_NOTES if note.name in gone_to
    }


def filter_chains(config: RenderConfig) -> Chains:
    """The chain that accepts what the mangle table let through."""
    made = _Static(config, 4)
    return {
        names.ACCEPT: (rule(made.no_mark, RETURN), rule(made.clear), rule(TO_ACCEPT)),
    }


class _Static:
    """The words that all static chains share, from one configuration and family."""

    def __init__(self, config: RenderConfig, version: Version) -> None:
        self.config = config
        self.version: Version = version
        self.layout: MarkLayout = mark_layout(config.mark_mask)
        field = self.layout.field
        self.no_mark = text.mark_is(Number.NONE, field)
        self.has_mark = text.mark_is_not(Number.NONE, field)
        self.clear = text.set_mark(Number.NONE, field)
        self.accepted = text.set_mark(self.layout.mark(Number.ACCEPTED), field)
        self.is_accepted = text.mark_is(self.layout.mark(Number.ACCEPTED), field)
        # Another program's rule may have restored a stale mark: only a set of ours gives one.
        self.wipe = rule(self.has_mark, self.clear)
        self.egress_mark = rule(text.map_mark(src_ipset(version), "src,src"))
        self.ingress_mark = rule(text.map_mark(dst_ipset(version), "dst"))
        self.is_uncut = text.connmark_lacks(self.layout.cut)
        self.is_local_src = text.in_set(dst_ipset(version), "src")
        self.accepts = config.accepts
        self.accepts_to_host = config.accepts_to_host
        self.drops_unknown = config.unknown_endpoint_action == "deny"
        self.drops_invalid = config.invalid_action == "drop"
        self.ended = text.INVALID_OR_ESTABLISHED if self.drops_invalid else text.ESTABLISHED

    def forward(self) -> Chains:
        """What passes through the node."""
        chains = self._forward_from_pod() | self._forward_from_elsewhere()
        if self.version == 6:
            through = RETURN if self.accepts else goto(CLEAR)
            chains |= {
                NEIGHBOUR_POD: (
                    *self._icmpv6(NEIGHBOUR_TYPES, through),
                    *self._icmpv6(ROUTER_TYPES, DROP),
                    rule(goto(FROM_POD)),
                ),
                NEIGHBOUR_ELSEWHERE: (
                    *self._icmpv6(NEIGHBOUR_TYPES, goto(PASS)),
                    rule(goto(TO_POD)),
                ),
            }
        return chains

    def _forward_from_pod(self) -> Chains:
        return {
            names.FORWARD: (
                self.wipe,
                self.egress_mark,
                rule(
                    self.has_mark,
                    text.ESTABLISHED,
                    self.is_uncut,
                    RETURN if self.accepts else goto(CLEAR),
                ),
                rule(self.no_mark, goto(FROM_ELSEWHERE)),
                # Established ones that come this far are cut.
                rule(self.ended, DROP),
                *self._only_ipv6(NEIGHBOUR_POD),
                rule(goto(FROM_POD)),
                UNREACHED,
            ),
            FROM_POD: (
                rule(jump(ROOTS[Direction.EGRESS])),
                rule(self.accepted),
                self.ingress_mark,
                rule(self.is_accepted, goto(UNKNOWN_DST)),
                *self._ask_ingress(),
            ),
        }

    def _forward_from_elsewhere(self) -> Chains:
        unknown_src: Chains = (
            {UNKNOWN_SRC: (*self._neighbours(PASS), rule(self.deny(NO_SRC)))}
            if self.drops_unknown
            else {}
        )
        return unknown_src | {
            FROM_ELSEWHERE: (
                *self._from_workloads(goto(UNKNOWN_SRC), is_wanted=self.drops_unknown),
                rule(self.is_local_src, self.deny(STOLEN)),
                rule(text.ESTABLISHED, goto(ESTABLISHED_ELSEWHERE)),
                *self._in_pod_nets("src", goto(UNKNOWN_SRC)),
                *self._only_ipv6(NEIGHBOUR_ELSEWHERE),
                rule(goto(TO_POD)),
                UNREACHED,
            ),
            ESTABLISHED_ELSEWHERE: (
                rule(text.connmark_has(self.layout.cut), DROP),
                *self._to_workloads(self.accepted, is_wanted=self.accepts),
                rule(RETURN),
                UNREACHED,
            ),
            TO_POD: (
                self.ingress_mark,
                rule(self.no_mark, goto(UNKNOWN_DST)),
                *([rule(text.INVALID, DROP)] if self.drops_invalid else []),
                *self._ask_ingress(),
            ),
            UNKNOWN_DST: (
                *self._to_workloads(self.deny(NO_DST), is_wanted=self.drops_unknown),
                *self._in_pod_nets("dst", self.deny(NO_DST)),
                *([] if self.accepts else [rule(self.clear)]),
                rule(RETURN),
            ),
        }

    def _ask_ingress(self) -> tuple[RuleText, ...]:
        """The ingress group's verdict; the number stays in the mark as the sign to accept."""
        root = ROOTS[Direction.INGRESS]
        if self.accepts:
            return rule(goto(root)), UNREACHED
        return rule(jump(root)), rule(goto(CLEAR)), UNREACHED

    def input(self) -> Chains:
        """What pods send to the node; of everything else only stolen addresses are dropped."""
        through = RETURN if self.accepts_to_host else goto(CLEAR)
        chains: Chains = {
            names.INPUT: (
                *self._from_workloads(goto(TO_HOST), is_wanted=True),
                rule(text.NEW, self.is_local_src, self.deny(STOLEN)),
                rule(RETURN),
                UNREACHED,
            ),
            TO_HOST: (
                rule(*self._dhcp(), goto(PASS_TO_HOST)),
                self.wipe,
                self.egress_mark,
                rule(self.no_mark, goto(UNKNOWN_TO_HOST)),
                rule(text.ESTABLISHED, self.is_uncut, through),
                rule(self.ended, DROP),
                *self._only_ipv6(NEIGHBOUR_HOST),
                rule(goto(HOST_POLICY)),
            ),
            UNKNOWN_TO_HOST: (
                *self._neighbours(PASS_TO_HOST),
                rule(self.is_local_src, self.deny(STOLEN)),
                # The node's own probes of a pod that is not known yet.
                rule(text.REPLY, goto(PASS_TO_HOST)),
                rule(self.deny(NO_SRC) if self.drops_unknown else RETURN),
            ),
            HOST_POLICY: (
                rule(jump(ROOTS[Direction.EGRESS])),
                rule(self.deny(NO_HOST) if self.config.pod_to_host_action == "drop" else through),
            ),
            PASS_TO_HOST: (
                rule(self.accepted if self.accepts_to_host else self.clear),
                rule(RETURN),
            ),
        }
        if self.version == 6:
            chains[NEIGHBOUR_HOST] = (
                *self._icmpv6(NEIGHBOUR_TYPES, through),
                *self._icmpv6(ROUTER_TYPES, DROP),
                rule(goto(HOST_POLICY)),
            )
        return chains

    def output(self) -> Chains:
        """What the node sends on for others (IPVS); its own traffic to its pods always passes.

        The mark that was there is there again at the end: another would have the kernel look
        for another route.
        """
        return {
            names.OUTPUT: (
                *self._to_workloads(
                    goto(OUTPUT_TO_POD), text.FROM_ELSEWHERE_TO_ONE, is_wanted=True
                ),
                rule(RETURN),
                UNREACHED,
            ),
            OUTPUT_TO_POD: (
                rule(text.ESTABLISHED, self.is_uncut, RETURN),
                rule(self.ended, DROP),
                self.wipe,
                self.ingress_mark,
                rule(self.no_mark, goto(UNKNOWN_DST)),
                rule(jump(ROOTS[Direction.INGRESS])),
                rule(goto(CLEAR)),
            ),
        }

    def ends(self) -> Chains:
        """Where packets are let through or dropped."""
        version = self.version
        neighbours: Chains = {}
        if version == 6:
            neighbours[PASS] = (*([rule(self.accepted)] if self.accepts else []), rule(RETURN))
        return neighbours | {
            names.DENY: (
                # A pod reaches itself, whatever policy says of it.
                rule(text.SAME_ENDS[version], RETURN),
                rule(text.in_set(self_ipset(version), "dst,src"), RETURN),
                rule(DROP),
            ),
            CLEAR: (rule(self.clear), rule(RETURN)),
        }

    def deny(self, note: Note) -> Target:
        """Drops the packet, and tells it where denials are told."""
        return goto(note.name) if self.config.tells else DROP

    def _from_workloads(self, target: Target, *, is_wanted: bool) -> list[RuleText]:
        matches = (
            text.from_group(WORKLOAD_LINK_GROUP),
            *map(text.from_interface, self.config.workload_interfaces),
        )
        return [rule(match, target) for match in matches if is_wanted]

    def _to_workloads(self, target: Target, *conditions: Match, is_wanted: bool) -> list[RuleText]:
        matches = (
            text.to_group(WORKLOAD_LINK_GROUP),
            *map(text.to_interface, self.config.workload_interfaces),
        )
        return [rule(match, *conditions, target) for match in matches if is_wanted]

    def _in_pod_nets(self, end: str, target: Target) -> Iterator[RuleText]:
        """For an address that is no known endpoint's: it is a pod's all the same."""
        for net in self.config.pod_nets if self.drops_unknown else ():
            if net_range(net).version == self.version:
                yield rule(text.net_is(end, net), target)

    def _neighbours(self, chain: ChainName) -> Iterator[RuleText]:
        if self.version == 6:
            yield from self._icmpv6(NEIGHBOUR_TYPES, goto(chain))

    def _only_ipv6(self, chain: ChainName) -> Iterator[RuleText]:
        if self.version == 6:
            yield rule(text.protocol_is(ICMPV6), goto(chain))

    def _icmpv6(self, types: tuple[int, ...], target: Target) -> Iterator[RuleText]:
        for number in types:
            match = text.icmp_is(IcmpMatch(number), 6)
            yield rule(text.protocol_is(ICMPV6), match, target)

    def _dhcp(self) -> tuple[Match, Match]:
        udp = PROTOCOL_NUMBERS["udp"]
        client, server = DHCP_PORTS[self.version]
        ports = text.ports_are(udp, PortRange(client, client), PortRange(server, server))
        return text.protocol_is(udp), ports
