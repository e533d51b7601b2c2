"""The mark tree leads each number to its chain, and every other number to a drop."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.model.addresses import Address
from calico_k8s.model.resources import Direction
from calico_k8s.render.dispatch import (
    Leaf,
    leaf_depth,
    parse_leaf,
    render_tree,
    split_leaf,
    tree_height,
)
from calico_k8s.render.marks import FIRST_GROUP, MarkLayout, Number, mark_layout
from calico_k8s.render.names import ROOTS
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from calico_k8s.render.tables import ChainName, RuleText, Table
from tests.simulate import Kernel
from tests.simulated_rules import Packet

EGRESS = Direction.EGRESS
DEFAULT = mark_layout(DEFAULT_MARK_MASK)
ENTRY = RuleText(f"-j {ROOTS[EGRESS]}")


def chain(number: int) -> ChainName:
    return ChainName(f"cali-e0-g{number}")


def kernel(numbers: set[int], layout: MarkLayout) -> Kernel:
    """A table whose FORWARD hook jumps into the tree; each group returns."""
    groups = {chain(number): (RuleText("-j RETURN"),) for number in numbers}
    tree = render_tree(EGRESS, {chain(number): number for number in numbers}, layout)
    table = Table("mangle", 4, chains=tree | groups, first={"FORWARD": (ENTRY,)})
    return Kernel(tables=[table], ipsets={})


def reached(held: Kernel, number: int, layout: MarkLayout) -> str | None:
    """The chain that a number is led to; the root for one that returns there, None: dropped."""
    packet = Packet(Address("10.0.0.1"), Address("10.0.0.2"), mark=layout.mark(number))
    outcome = held.forward(packet)
    return outcome.trace[-1].chain if outcome.is_accepted else None


@given(st.sets(st.integers(FIRST_GROUP, 2**19 - 1), max_size=40), st.integers(0, 2**19 - 1))
def test_a_number_reaches_its_chain_and_no_other(numbers: set[int], stranger: int) -> None:
    held = kernel(numbers, DEFAULT)
    for number in numbers:
        assert reached(held, number, DEFAULT) == chain(number)
    if stranger not in numbers and stranger != Number.ALLOW_ALL:
        assert reached(held, stranger, DEFAULT) is None


@given(st.sets(st.integers(FIRST_GROUP, 2**15 - 1), min_size=1, max_size=40))
def test_a_leaf_is_as_deep_as_is_said_and_no_deeper_than_the_tree_is_high(
    numbers: set[int],
) -> None:
    tree = render_tree(EGRESS, {chain(number): number for number in numbers}, DEFAULT)
    found: dict[str, int] = {}
    chains = [(ROOTS[EGRESS], 0)]
    for name, depth in chains:
        for jumped in (split_leaf(rule) for rule in tree[name]):
            if jumped is not None and jumped.chain in tree:
                chains.append((jumped.chain, depth + 1))
            elif jumped is not None:
                found[jumped.chain] = depth
    assert found == {chain(number): leaf_depth(number, numbers) for number in numbers}
    assert max(found.values()) <= tree_height(numbers)


@given(st.sets(st.integers(FIRST_GROUP, 127)), st.integers(0, 0xFFFFFFFF))
def test_bits_that_are_not_ours_are_not_asked(numbers: set[int], noise: int) -> None:
    layout = mark_layout(0x0F0F00)
    held = kernel(numbers, layout)
    for number in numbers:
        packet = Packet(
            Address("10.0.0.1"),
            Address("10.0.0.2"),
            mark=layout.mark(number) | noise & ~0x0F0F00,
        )
        assert held.forward(packet).trace[-1].chain == chain(number)


def test_what_allows_all_returns_at_once() -> None:
    assert reached(kernel({9, 10}, DEFAULT), Number.ALLOW_ALL, DEFAULT) == ROOTS[EGRESS]


def test_a_held_endpoint_and_an_accepted_packet_have_no_chain() -> None:
    held = kernel(set(range(FIRST_GROUP, 70)), DEFAULT)
    assert reached(held, Number.HELD, DEFAULT) is None
    assert reached(held, Number.ACCEPTED, DEFAULT) is None


def longest_way(chains: Mapping[ChainName, tuple[RuleText, ...]], numbers: set[int]) -> int:
    """The most rules that a packet of one of these numbers is compared with."""
    groups = {chain(number): (RuleText("-j RETURN"),) for number in numbers}
    ways = []
    for number in numbers:
        name, count = ROOTS[EGRESS], 0
        while name not in groups:
            for rule in chains[name]:
                count += 1
                _, _, rest = rule.partition("--mark ")
                value, _, mask = rest.split(" ")[0].partition("/")
                if DEFAULT.mark(number) & int(mask, 16) == int(value, 16):
                    name = ChainName(rule.split(" -g ")[1])
                    break
        ways.append(count)
    return max(ways)


def test_a_hundred_groups_cost_at_most_seventeen_comparisons() -> None:
    numbers = set(range(FIRST_GROUP, FIRST_GROUP + 100))
    chains = render_tree(EGRESS, {chain(number): number for number in numbers}, DEFAULT)
    assert longest_way(chains, numbers) <= 17


@given(st.sets(st.integers(FIRST_GROUP, 300), max_size=40))
def test_a_tree_read_back_gives_the_numbers(numbers: set[int]) -> None:
    leaves = {chain(number): number for number in numbers}
    chains = render_tree(EGRESS, leaves, DEFAULT)
    found = [
        leaf
        for rules in chains.values()
        for rule in rules
        if (leaf := parse_leaf(rule, DEFAULT)) is not None and leaf.chain not in chains
    ]
    assert sorted(found) == sorted(Leaf(number, name) for name, number in leaves.items())


def test_a_leaf_is_read_with_and_without_a_comment_and_under_its_mask_only() -> None:
    leaf = f"-m mark --mark {DEFAULT.mark(9):#x}/{DEFAULT.field:#x} -g cali-e0-x"
    assert parse_leaf(f"-A cali-egress {leaf}", DEFAULT) == Leaf(9, ChainName("cali-e0-x"))
    commented = leaf.replace(" -g", ' -m comment --comment "cali:abc" -g')
    assert parse_leaf(commented, DEFAULT) == Leaf(9, ChainName("cali-e0-x"))
    assert parse_leaf(leaf, mark_layout(0xFF00)) is None
    assert parse_leaf("-j DROP", DEFAULT) is None
