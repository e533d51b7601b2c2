"""What an earlier run left: numbers and chains, in either backend's spelling, whole or in pieces."""

import pytest

from calico_k8s.felix.recover import merge_numbers, recover
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction
from calico_k8s.render.marks import FIRST_GROUP, mark_layout
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from tests.render.kernels import restore_text
from tests.render.states import GOLDEN, numbers, rendered, tables

LAYOUT = mark_layout(DEFAULT_MARK_MASK)
PLAIN = {
    name: state for name, state in GOLDEN.items() if state.config.mark_mask == DEFAULT_MARK_MASK
}


def saved(name: str, version: Version = 4) -> str:
    return restore_text(tables(GOLDEN[name], version)[0])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", PLAIN)
def test_every_group_is_found_with_its_number_and_its_chains(name: str, version: Version) -> None:
    state = PLAIN[name]
    found = recover(saved(name, version), LAYOUT)
    given, made = numbers(state), rendered(state, version)
    # A host's groups have no number: nothing leads to them by a mark.
    parted = [each.id for each in state.groups if given.get(each.id, 0) >= FIRST_GROUP]
    told = {chain: n for by_chain in found.numbers.values() for chain, n in by_chain.items()}
    assert told == {made[group].entry: given[group] for group in parted}
    for group in parted:
        assert found.groups[made[group].entry].chains == made[group].chains
    assert found.has_chains
    assert not found.has_other_marks


@pytest.mark.parametrize(
    "comment",
    [' -m comment --comment "cali:Ab_-9876"', " -m comment --comment cali:Ab_-9876"],
    ids=["quoted", "bare"],
)
def test_a_hash_is_no_part_of_a_rule_wherever_it_stands(comment: str) -> None:
    text = saved("one-annotation")
    lines = [
        line.replace(" -j ", f"{comment} -j ").replace(" -g ", f"{comment} -g ")
        for line in text.splitlines()
    ]
    trailers = [f"-A {line[1:].split()[0]}{comment}" for line in lines if line.startswith(":cali")]
    assert recover("\n".join((*lines, *trailers)), LAYOUT) == recover(text, LAYOUT)


def test_marks_of_another_mask_are_told_and_no_number_is_taken_from_them() -> None:
    found = recover(saved("many-groups"), mark_layout(0xFFFF0000))
    assert found.has_other_marks
    assert not any(found.numbers.values())


def test_a_node_without_chains_of_ours_leaves_nothing() -> None:
    text = "*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j KUBE-FORWARD\nCOMMIT\n"
    found = recover(text, LAYOUT)
    assert not found.has_chains
    assert not found.has_other_marks
    assert not found.groups


def test_families_that_disagree_give_each_number_to_one_chain_the_first() -> None:
    first = recover(saved("many-groups"), LAYOUT)
    assert merge_numbers([first, first]) == first.numbers
    assert merge_numbers([]) == {direction: {} for direction in Direction}
    (chain, number), *_ = first.numbers[Direction.INGRESS].items()
    other = first._replace(numbers={Direction.INGRESS: {"cali-i0-other": number, chain: 999}})  # type: ignore[dict-item]  # a name
    assert merge_numbers([first, other]) == first.numbers
    merged = merge_numbers([other, first])[Direction.INGRESS]
    assert merged["cali-i0-other"] == number  # type: ignore[index]  # a name
    assert merged[chain] == 999
