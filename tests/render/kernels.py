"""A state as the simulated kernel holds it, and as text for the real programs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

import msgspec

from calico_k8s.felix.nftables.driver import Nftables
from calico_k8s.felix.nftables.images import Image
from calico_k8s.model.addresses import Version
from calico_k8s.netlink.ipset import Edit, MemberCommand
from calico_k8s.render.endpoints import (
    Numbers,
    endpoint_ipsets,
    render_endpoint,
    render_ipset,
    render_member,
)
from calico_k8s.render.hosts import hold_ipset
from calico_k8s.render.marks import mark_layout
from calico_k8s.render.tables import WORKLOAD_LINK_GROUP, IpsetName, KernelIpset, RuleText, Table
from tests.render.states import State, numbers, rendered, tables
from tests.simulate import Kernel, Verdict
from tests.simulated_rules import SimulatedIpset

VERSIONS: tuple[Version, ...] = (4, 6)
UPLINK = "eth0"


def ipsets(state: State) -> dict[IpsetName, SimulatedIpset]:
    """Every set that the state's rules ask, with its members, both families."""
    made = {ipset.name: SimulatedIpset(ipset) for ipset in _empty(state)}
    for version in VERSIONS:
        for group in rendered(state, version).values():
            for nets in group.nets:
                made[nets.ipset.name] = SimulatedIpset(
                    nets.ipset, {member.text: member for member in nets.members}
                )
    for asked, members in state.members.items():
        for member in map(render_member, members):
            name = render_ipset(asked, member.version).name
            made[name].members[member.member.text] = member.member
    layout, given = mark_layout(state.config.mark_mask), numbers(state)
    for endpoint, attachment in state.endpoints.items():
        both = Numbers(given[endpoint.egress], given[endpoint.ingress])
        for entry in render_endpoint(endpoint, attachment, both, layout):
            made[entry.ipset].members[entry.member.text] = entry.member
    return made


def _empty(state: State) -> Iterator[KernelIpset]:
    for version in VERSIONS:
        yield from endpoint_ipsets(version)
        if state.hosts:
            yield hold_ipset(version)
        yield from (render_ipset(asked, version) for asked in state.members)


def simulated(state: State, policy: Verdict = Verdict.ACCEPT) -> Kernel:
    """The state in a simulated kernel, its endpoints' interfaces marked as workloads'."""
    attached = [place for place in state.endpoints.values() if place is not None]
    return Kernel(
        tables=[table for version in VERSIONS for table in tables(state, version)],
        ipsets=ipsets(state),
        link_groups={place.interface: WORKLOAD_LINK_GROUP for place in attached},
        policy=policy,
    )


def restore_text(table: Table) -> str:
    """The table as ``iptables-restore`` takes it."""
    lines = [f"*{table.name}", *(f":{name} - [0:0]" for name in table.chains)]
    for chains in (table.chains, table.first, table.last):
        lines += _appended(chains.items())
    return "\n".join((*lines, "COMMIT", ""))


def _appended(chains: Iterable[tuple[str, tuple[RuleText, ...]]]) -> list[str]:
    return [f"-A {name} {rule}" for name, rules in chains for rule in rules]


def ipset_text(made: Mapping[IpsetName, SimulatedIpset], version: Version) -> str:
    """The sets of one family as ``ipset restore`` takes them."""
    lines: list[str] = []
    family = {4: "inet", 6: "inet6"}[version]
    for name, held in made.items():
        if held.ipset.version != version:
            continue
        marks = " skbinfo" if held.ipset.has_marks else ""
        lines.append(f"create {name} {held.ipset.type} family {family}{marks}")
        for member in held.members.values():
            mark = f" skbmark {member.mark:#x}/{member.mark_mask:#x}" if member.mark_mask else ""
            lines.append(f"add {name} {member.text}{mark}")
    return "\n".join((*lines, ""))


def as_native(state: State) -> State:
    """The state for a node whose chains are a table of their own."""
    own = msgspec.structs.replace(state.config, has_own_table=True)
    return state._replace(config=own)


def write_native(state: State, version: Version) -> Mapping[str, Image]:
    """One family's sets and chains by the native backend, in one transaction; as read back."""
    native, kernel = as_native(state), Nftables((version,))
    with closing(kernel):
        writers = kernel.writers(("raw", "mangle", "filter"))
        with kernel.transaction():
            for held in ipsets(native).values():
                if held.ipset.version == version:
                    kernel.sets.create(held.ipset, 0, 0)
                    members = list(held.members.values())
                    kernel.sets.edit([Edit(held.ipset, MemberCommand.ADD, members)])
            for table in tables(native, version):
                writers[version, table.name].set_desired(table)
                writers[version, table.name].write()
        kernel.forget()
        return kernel.held(version)
