"""How many stages a real kernel follows over nftables, whatever else a node has."""

import pytest

from calico_k8s.errors import IptablesError
from calico_k8s.felix.groupbook import GroupBook
from calico_k8s.felix.iptables.programs import Backend, restore, save
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction
from calico_k8s.render.dispatch import tree_height
from calico_k8s.render.groups import REHEARSED_MAX
from calico_k8s.render.marks import FIRST_GROUP, mark_layout
from calico_k8s.render.settings import STAGES_MAX, RenderConfig
from tests.namespaces import Namespace, run
from tests.render.kernels import VERSIONS, ipset_text, ipsets, restore_text
from tests.render.states import State, deep, rehearsing

pytestmark = pytest.mark.kernel

EVERYTHING = RenderConfig(
    is_over_nftables=True,
    tells=True,
    allow_action="return",
    pod_to_host_action="return",
    workload_interfaces=("cali+",),
)


def book_of(others: int, stages: int) -> GroupBook:
    """As many groups of one stage in each direction, and one of so many."""
    layout = mark_layout(EVERYTHING.mark_mask)
    groups = GroupBook(layout, VERSIONS, {}, 0.0, tells=True, stages_max=EVERYTHING.stages_max)
    for direction in Direction:
        for number in range(others):
            groups.update(deep(f"{direction}{number}", direction, 1), 0.0)
        groups.update(deep(f"deep-{direction}", direction, stages), 0.0)
    return groups


@pytest.mark.parametrize("others", [0, 3, 12, 60, 252])
def test_the_kernel_follows_as_many_stages_as_are_let_through(
    namespace: Namespace, others: int
) -> None:
    restore_sets(VERSIONS)
    surely = STAGES_MAX - tree_height([FIRST_GROUP + others])
    for stages in range(surely, STAGES_MAX + 1):
        groups = book_of(others, stages)
        for table in groups.tables(EVERYTHING):
            restore(Backend.NFT, table.version, restore_text(table))
        is_led_to = "-g cali-i0-deep" in save(Backend.NFT, 6, "mangle")
        assert is_led_to == (not groups.closed)
        assert is_led_to or stages > surely


@pytest.mark.parametrize("others", [60, 1020])
def test_what_is_rehearsed_beyond_where_the_kernel_follows_is_left_out(
    namespace: Namespace, others: int
) -> None:
    restore_sets(VERSIONS)
    groups = book_of(others, 1)
    for begins in (1, 3):
        rehearsed = rehearsing(f"r{begins}", Direction.INGRESS, begins, REHEARSED_MAX - begins)
        groups.update(rehearsed, 0.0)
    for table in groups.tables(EVERYTHING):
        restore(Backend.NFT, table.version, restore_text(table))
    rules = save(Backend.NFT, 4, "mangle")
    follows = STAGES_MAX - tree_height([FIRST_GROUP + others + 3])
    for begins in (1, 3):
        assert f"-g cali-i0-r{begins}" in rules
        assert (f"-j cali-I0-r{begins}" in rules) == (follows >= REHEARSED_MAX)
    assert not groups.closed


def test_one_stage_more_is_refused(namespace: Namespace) -> None:
    restore_sets((6,))
    groups = GroupBook(mark_layout(EVERYTHING.mark_mask), (6,), {}, 0.0)
    groups.update(deep("deep", Direction.INGRESS, STAGES_MAX + 1), 0.0)
    table = next(t for t in groups.tables(RenderConfig()) if t.name == "mangle")
    with pytest.raises(IptablesError, match="Too many links"):
        restore(Backend.NFT, 6, restore_text(table))


def restore_sets(versions: tuple[Version, ...]) -> None:
    for version in versions:
        run("ipset", "restore", stdin=ipset_text(ipsets(State("", (), {}, {})), version))
