"""Bits of marks, and the numbers of groups over time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.errors import InputError
from calico_k8s.render.marks import (
    FIRST_GROUP,
    REUSE_AFTER_S,
    Number,
    NumberAllocator,
    mark_layout,
)
from calico_k8s.render.settings import DEFAULT_MARK_MASK
from calico_k8s.render.tables import ChainName

masks = st.integers(0, 0xFFFFFFFF).filter(lambda mask: mask.bit_count() >= 8)
DEFAULT = mark_layout(DEFAULT_MARK_MASK)
A, B, C = (ChainName(f"cali-i0-{letter}") for letter in "abc")


def test_the_default_mask_keeps_clear_of_other_programs() -> None:
    others = {"kube-proxy": 0xC000, "portmap": 0x2000, "AWS CNI": 0x80, "Tailscale": 0xFF0000}
    assert {name for name, bits in others.items() if bits & DEFAULT_MARK_MASK} == set()


def test_the_default_mask_holds_half_a_million_numbers() -> None:
    assert DEFAULT.numbers == 2**19


@given(masks)
def test_cut_bit_and_field_part_the_mask(mask: int) -> None:
    layout = mark_layout(mask)
    assert layout.cut | layout.field == mask
    assert layout.cut & layout.field == 0
    assert layout.cut.bit_count() == 1


@given(masks, st.data())
def test_a_number_comes_back_from_its_mark(mask: int, data: st.DataObject) -> None:
    layout = mark_layout(mask)
    number = data.draw(st.integers(0, layout.numbers - 1))
    mark = layout.mark(number)
    assert mark & ~layout.field == 0
    assert layout.number(mark | ~layout.field & 0xFFFFFFFF) == number


def test_reserved_numbers_have_marks_of_their_own_in_the_smallest_mask() -> None:
    layout = mark_layout(0xFF)
    assert len({layout.mark(number) for number in Number}) == len(Number)


def test_numbers_are_given_lowest_first_and_kept() -> None:
    numbers = NumberAllocator(DEFAULT)
    given_ = [numbers.assign(chain, 0.0) for chain in (A, B, A, C)]
    assert given_ == [FIRST_GROUP, FIRST_GROUP + 1, FIRST_GROUP, FIRST_GROUP + 2]


def test_a_number_rests_before_it_means_another_group() -> None:
    numbers = NumberAllocator(DEFAULT)
    first = numbers.assign(A, 0.0)
    numbers.release(A, 100.0)
    assert numbers.assign(B, 100.0 + REUSE_AFTER_S - 0.001) != first
    assert numbers.assign(C, 100.0 + REUSE_AFTER_S) == first


def test_a_restarted_agent_goes_on_with_the_kernels_numbers() -> None:
    numbers = NumberAllocator(DEFAULT, {A: 9, B: FIRST_GROUP})
    assert numbers.assign(A, 0.0) == 9
    assert numbers.assign(C, 0.0) == FIRST_GROUP + 1
    numbers.release_others({A, C}, 1.0)
    assert numbers.assign(B, 2.0) not in (FIRST_GROUP, FIRST_GROUP + 1, 9)


def test_a_recovered_number_that_means_no_group_is_not_taken_over() -> None:
    numbers = NumberAllocator(mark_layout(0xFF), {A: Number.HELD, B: 4096})
    assert {numbers.assign(A, 0.0), numbers.assign(B, 0.0)} == {FIRST_GROUP, FIRST_GROUP + 1}


def test_a_full_mask_is_told_with_its_size() -> None:
    numbers = NumberAllocator(mark_layout(0xFF))
    for n in range(124):
        numbers.assign(ChainName(f"g{n}"), 0.0)
    with pytest.raises(InputError, match=r"holds 124 policy groups.*mark-mask more bits"):
        numbers.assign(A, 0.0)


@given(
    st.lists(
        st.tuples(st.sampled_from("gr"), st.sampled_from((A, B, C)), st.floats(0, 30)), max_size=30
    )
)
def test_living_groups_never_share_a_number_and_none_is_reused_early(
    steps: list[tuple[str, ChainName, float]],
) -> None:
    numbers = NumberAllocator(mark_layout(0xFF))
    living: dict[ChainName, int] = {}
    released: dict[int, float] = {}
    now = 0.0
    for step, chain, wait in steps:
        now += wait
        if step == "r":
            numbers.release(chain, now)
            if chain in living:
                released[living.pop(chain)] = now
            continue
        number = numbers.assign(chain, now)
        if chain in living:
            assert number == living[chain]
        else:
            assert number not in living.values()
            assert now >= released.get(number, -REUSE_AFTER_S) + REUSE_AFTER_S
            living[chain] = number
