"""Whatever nets come and go, the kernel's intervals are disjoint and hold the same addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.nftables.disjoint import Bounds, DisjointNets, Edits

SMALL = 6
"""All nets lie within the last bits of IPv4, so that they meet."""

nets = st.integers(0, SMALL).flatmap(
    lambda free: st.integers(0, (1 << SMALL) - 1).map(
        lambda address: Bounds(address >> free << free, 32 - free)
    )
)
changes = st.lists(st.tuples(st.booleans(), nets), max_size=40)


def addresses(of: set[Bounds]) -> set[int]:
    return {net.first + offset for net in of for offset in range(1 << 32 - net.length)}


def carry_out(held: set[Bounds], edits: Edits) -> None:
    for net in edits.deletes:
        held.remove(net)
    for net in edits.adds:
        assert net not in held
        held.add(net)


@given(changes)
def test_intervals_are_disjoint_and_hold_what_was_asked_for(
    history: list[tuple[bool, Bounds]],
) -> None:
    kept, held, asked = DisjointNets(4), set[Bounds](), set[Bounds]()
    for is_add, net in history:
        carry_out(held, kept.add(net) if is_add else kept.remove(net))
        (asked.add if is_add else asked.discard)(net)
        assert set(kept) == asked
        assert addresses(held) == addresses(asked)
        assert sum(1 << 32 - net.length for net in held) == len(addresses(held))


@given(changes, st.sets(nets, max_size=4))
def test_what_is_read_back_is_gone_on_from(
    history: list[tuple[bool, Bounds]], lost: set[Bounds]
) -> None:
    kept, held = DisjointNets(4), set[Bounds]()
    for is_add, net in history:
        carry_out(held, kept.add(net) if is_add else kept.remove(net))
    held -= lost
    kept.replace_held(held)
    assert addresses(set(kept)) == addresses(held)
    for net in list(kept):
        carry_out(held, kept.remove(net))
    assert held == set()


@pytest.mark.parametrize("version", [4, 6])
def test_the_whole_of_a_family_holds_everything(version: int) -> None:
    kept = DisjointNets(4 if version == 4 else 6)
    bits = 32 if version == 4 else 128
    host, half, whole = Bounds(5, bits), Bounds(0, 1), Bounds(0, 0)
    assert kept.add(host) == Edits((), (host,))
    assert kept.add(half) == Edits((host,), (half,))
    assert kept.add(whole) == Edits((half,), (whole,))
    assert kept.remove(half) == Edits()
    assert kept.remove(whole) == Edits((whole,), (host,))
