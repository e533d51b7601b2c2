"""What is written past iptables' programs and by them, to be compared: chains of random groups."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from hypothesis import strategies as st

from calico_k8s.felix.iptables.extensions import asked_sets
from calico_k8s.felix.iptables.plan import Plan
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction
from calico_k8s.render.endpoints import endpoint_ipsets, render_ipset
from calico_k8s.render.groups import render_group
from calico_k8s.render.names import DENY
from calico_k8s.render.tables import ChainName
from tests.namespaces import run
from tests.render.kernels import VERSIONS, ipset_text
from tests.render.strategies import groups
from tests.render.strategies import ipsets as asked_by_rules
from tests.simulated_rules import SimulatedIpset

Compile = Callable[[str, Version, Mapping[str, int]], object]
Chains = Mapping[ChainName, Iterable[str]]


def is_known(compiled: Compile, rule: str, version: Version) -> bool:
    """Whether a rule need not be left to a program."""
    return compiled(rule, version, dict.fromkeys(asked_sets(rule), 0)) is not None


def known_plan(compiled: Compile, version: Version, chains: Chains) -> Plan:
    """What makes chains of those of the rules that are not left to a program."""
    lines = [f":{name} - [0:0]" for name in chains]
    for name, rules in chains.items():
        lines += [f"-A {name} {rule}" for rule in rules if is_known(compiled, rule, version)]
    return Plan(tuple(lines), ())


def deleting(plan: Plan) -> Plan:
    """What takes away the chains that a plan makes."""
    names = [line[1:].split()[0] for line in plan.lines if line.startswith(":")]
    emptied = tuple(f":{name} - [0:0]" for name in names)
    return Plan(emptied, tuple(f"-X {name}" for name in names))


def random_plans(compiled: Compile, data: st.DataObject) -> Iterator[tuple[Version, Plan]]:
    """In each family the chains of some group, whose sets are made here; each rule is known.

    A chain with a rule that is not known would be left to the program whole.
    """
    direction, tells = data.draw(st.sampled_from(Direction)), data.draw(st.booleans())
    group = data.draw(groups("some", direction))
    for version in VERSIONS:
        made = render_group(group, version, tells=tells)
        sets = [render_ipset(each, version) for each in asked_by_rules(direction)]
        every = {each.name: SimulatedIpset(each) for each in sets}
        every |= {each.ipset.name: SimulatedIpset(each.ipset) for each in made.nets}
        every |= {each.name: SimulatedIpset(each) for each in endpoint_ipsets(version)}
        run("ipset", "restore", stdin=ipset_text(every, version))
        chains: Chains = {**made.chains, DENY: ()}
        texts = [rule for rules in chains.values() for rule in rules]
        assert [rule for rule in texts if not is_known(compiled, rule, version)] == []
        yield version, known_plan(compiled, version, chains)
