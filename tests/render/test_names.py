"""Names stay within the kernel's limits and apart from each other."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.calc.deltas import GroupId, IpsetId
from calico_k8s.model.resources import Direction
from calico_k8s.render.names import ipset_name, nets_name, stage_chain, tree_chain
from calico_k8s.render.tables import CHAIN_NAME_MAX, CHAIN_PREFIX, IPSET_NAME_MAX, IPSET_PREFIXES

HASH = "0123456789abcdef0123"
"""As calc makes ids: 80 bits in hexadecimal."""


def test_calcs_ids_are_written_out() -> None:
    assert stage_chain(GroupId(HASH), Direction.INGRESS, 9) == f"cali-i9-{HASH}"
    assert ipset_name(IpsetId(HASH), 6) == f"cali6-s-{HASH}"


@given(st.text(), st.sampled_from(Direction), st.integers(0, 200))
def test_every_chain_name_is_ours_and_fits(text: str, direction: Direction, stage: int) -> None:
    name = stage_chain(GroupId(text), direction, stage)
    assert name.startswith(CHAIN_PREFIX)
    assert len(name) <= CHAIN_NAME_MAX
    assert name.isascii()
    assert not set(name) & set(" \t\n\"'!")


@given(st.text(), st.sampled_from((4, 6)))
def test_every_ipset_name_is_ours_and_fits(text: str, version: int) -> None:
    for name in (
        ipset_name(IpsetId(text), 4 if version == 4 else 6),
        nets_name(text, 4 if version == 4 else 6),
    ):
        assert name.startswith(IPSET_PREFIXES[4 if version == 4 else 6])
        assert len(name) <= IPSET_NAME_MAX
        assert name.isascii()


def test_a_tree_chain_fits_at_the_highest_level_of_the_widest_field() -> None:
    assert len(tree_chain(Direction.EGRESS, 15, 2**31)) <= CHAIN_NAME_MAX


@given(st.text(), st.text())
def test_different_ids_have_different_names(one: str, other: str) -> None:
    same = one == other
    assert (ipset_name(IpsetId(one), 4) == ipset_name(IpsetId(other), 4)) is same
    chains = {stage_chain(GroupId(text), Direction.EGRESS) for text in (one, other)}
    assert len(chains) == (1 if same else 2)


def test_directions_and_stages_have_names_of_their_own() -> None:
    group = GroupId("x" * 100)
    names = {stage_chain(group, direction, n) for direction in Direction for n in range(12)}
    assert len(names) == 24
