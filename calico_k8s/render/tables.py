"""The kernel's terms as values: rules, chains, tables, ipsets.

In: nothing.  Out: what the renderer makes and :mod:`calico_k8s.felix.iptables` and ``ipsets``
program.  A rule is its text in ``iptables-save`` syntax, without ``-A CHAIN`` and without any
comment: how a chain is recognised is the driver's business.  A comment match costs a packet more
than most rules do (34 ns legacy, 44 ns nft: ``docs/design/kernel.md``), so the driver keeps a chain's
hash in its last rule; each chain therefore ends in a verdict, a goto or ``RETURN`` that few
packets reach, and rules in built-in chains are nothing but a jump to a chain of ours.
"""

from collections.abc import Mapping
from typing import Literal, NewType

import msgspec

from calico_k8s.model.addresses import Version

ChainName = NewType("ChainName", str)
IpsetName = NewType("IpsetName", str)
RuleText = NewType("RuleText", str)

CHAIN_PREFIX = "cali-"
"""Every chain with it is ours, and no other."""
CHAIN_NAME_MAX = 28  # xtables, XT_EXTENSION_MAXNAMELEN - 1
IPSET_NAME_MAX = 31  # IPSET_MAXNAMELEN - 1
IPSET_PREFIXES: Mapping[Version, str] = {4: "cali4-", 6: "cali6-"}

WORKLOAD_LINK_GROUP = 0x40000000
"""The bit of a link's group (``IFLA_GROUP``) that says: host-side interface of workloads.

The agent sets it, beside the other bits, on each workload interface it finds (on a bridge, not
its ports) before it adds that interface's endpoints; rules ask it by ``-m devgroup``.  A set of
interfaces will not do: hash:net,iface holds at most 64 interfaces for one net (tried).
"""

TableName = Literal["raw", "mangle", "nat", "filter"]
HookName = Literal["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]


class Table(msgspec.Struct, frozen=True):
    """What is ours in one table of one family.

    ``chains`` are whole chains of ours.  ``first`` are rules kept first in a built-in chain, and
    ``last`` are rules kept last there; neither touches what others have between.
    """

    name: TableName
    version: Version
    chains: Mapping[ChainName, tuple[RuleText, ...]]
    first: Mapping[HookName, tuple[RuleText, ...]] = {}
    last: Mapping[HookName, tuple[RuleText, ...]] = {}


IpsetType = Literal["hash:ip", "hash:net", "hash:ip,port", "hash:net,iface", "hash:net,net"]


class KernelIpset(msgspec.Struct, frozen=True):
    """An ipset as the kernel has it: its members are the text ``ipset`` itself prints.

    With ``skbinfo`` a member may carry a mark that ``-j SET --map-set`` writes to the packet.
    """

    name: IpsetName
    type: IpsetType
    version: Version
    has_marks: bool = False


class KernelMember(msgspec.Struct, frozen=True):
    """A member: ``10.0.0.1``, ``10.0.0.0/8``, ``10.0.0.1,tcp:80``, ``10.0.0.1,eth0``.

    ``mark`` and ``mark_mask`` are given in sets with marks; ``nomatch`` turns a more specific
    net into an exception.
    """

    text: str
    mark: int = 0
    mark_mask: int = 0
    nomatch: bool = False
