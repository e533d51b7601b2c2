"""Everything of ours that a network namespace's kernel holds: after a ``clean`` there is nothing.

In: the namespace this runs in.  Out: one :class:`~.differences.Difference` for each thing found.
Nothing is written, and nothing that was done before is believed: every place is read anew.

=====================  =========================================================================
where                  what is ours there
=====================  =========================================================================
iptables, each one     chains ``cali-...``; elsewhere rules that jump to one or have our comment
ipsets                 ``cali4-...``, ``cali6-...``
nftables               tables ``calico_k8s...``, of any family
interfaces             our bit of the link group
conntrack              our bit of the mark, on flows that were cut
=====================  =========================================================================
"""

from collections.abc import Iterator, Sequence
from contextlib import closing

from calico_k8s.errors import IptablesError
from calico_k8s.felix.bridge import TABLE
from calico_k8s.felix.conntrack import FlowCutter
from calico_k8s.felix.differences import Difference
from calico_k8s.felix.ipsets import is_our_ipset
from calico_k8s.felix.iptables.backend import VERSIONS
from calico_k8s.felix.iptables.compare import is_ours, read_saved
from calico_k8s.felix.iptables.plan import own_chain
from calico_k8s.felix.iptables.programs import Backend, save
from calico_k8s.felix.nftables.driver import has_table
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import IpsetSocket
from calico_k8s.netlink.nftables import NftSocket
from calico_k8s.netlink.routing import RoutingSocket
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP


def find_leftovers(mark_mask: int) -> Iterator[Difference]:
    """Everything of ours, in the order of the table above.

    Raises:
        NetlinkError: the kernel refused to be read.
    """
    yield from rules_left(tuple(Backend))
    with closing(IpsetSocket()) as ipsets:
        for ipset in sorted(filter(is_our_ipset, ipsets.headers())):
            yield Difference("leftover", f"ipset {ipset}", "is left")
    with closing(NftSocket()) as tables:
        for family, name in tables.tables():
            if name.startswith(TABLE):
                yield Difference("leftover", f"nft {family} {name}", "the table is left")
    with closing(RoutingSocket()) as routing:
        for link in routing.links():
            if link.group & WORKLOAD_LINK_GROUP:
                what = "is still marked as leading to workloads"
                yield Difference("leftover", f"interface {link.name}", what)
    with closing(FlowCutter(mark_layout(mark_mask).cut)) as cutter:
        count = cutter.cut_count()
        if count:
            what = f"{count} flows still carry the mark that cut them"
            yield Difference("leftover", "conntrack", what)


def tables_left() -> Iterator[Difference]:
    """Our native tables, where another backend is used.

    Raises:
        NetlinkError: the kernel refused to be read.
    """
    with closing(NftSocket()) as tables:
        for version in VERSIONS:
            if has_table(tables, version):
                yield Difference("leftover", f"IPv{version} nftables {TABLE}", "the table is left")


def rules_left(backends: Sequence[Backend]) -> Iterator[Difference]:
    """The chains and rules of ours in these iptables, of both families and every table in use."""
    for backend in backends:
        for version in VERSIONS:
            try:
                saved = save(backend, version)
            except IptablesError as error:
                yield Difference("unread", f"IPv{version} {backend}", str(error))
                continue
            yield from _rules_in(saved, backend, version)


def _rules_in(saved: str, backend: Backend, version: Version) -> Iterator[Difference]:
    for table in read_saved(saved):
        place = f"IPv{version} {backend} {table.name}"
        for name, rules in table.chains.items():
            if own_chain(name):
                what = f"chain {name} is left, with {len(rules)} rules"
                yield Difference("leftover", place, what)
            elif ours := tuple(filter(is_ours, rules)):
                yield Difference("leftover", place, f"chain {name} has rules of ours", held=ours)
