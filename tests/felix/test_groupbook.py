"""Groups and their numbers: kept, retired, come back, without room, and as another run left them."""

import msgspec

from calico_k8s.calc.deltas import Group
from calico_k8s.felix.groupbook import RETIRE_S, GroupBook
from calico_k8s.felix.recover import recover
from calico_k8s.model.addresses import Version
from calico_k8s.model.resources import Direction
from calico_k8s.render.dispatch import split_leaf
from calico_k8s.render.marks import FIRST_GROUP, REUSE_AFTER_S, Number, mark_layout
from calico_k8s.render.names import ROOTS
from calico_k8s.render.settings import STAGES_MAX, RenderConfig
from calico_k8s.render.tables import ChainName
from tests.render.kernels import restore_text
from tests.render.states import INGRESS, TCP, allow, group, ports, profiles
from tests.render.states import deep as deep_in_tiers

BOTH: tuple[Version, ...] = (4, 6)
CONFIG = RenderConfig()
SMALL = RenderConfig(mark_mask=0b1111)
"""Room for four groups of a direction."""


def policy(name: str, port: int = 80) -> Group:
    return group(name, INGRESS, profiles(allow(protocol=TCP, dst_ports=ports(port))))


def open_to_all(name: str) -> Group:
    return group(name, INGRESS, profiles(allow()))


def book(config: RenderConfig = CONFIG) -> GroupBook:
    return GroupBook(mark_layout(config.mark_mask), BOTH, {}, 0.0)


def chains(groups: GroupBook, version: Version = 4) -> set[ChainName]:
    mangle = next(t for t in groups.tables(CONFIG) if (t.name, t.version) == ("mangle", version))
    return {name for name in mangle.chains if name.startswith(("cali-i0-", "cali-e0-"))}


def test_a_group_keeps_its_number_whatever_its_rules_become() -> None:
    groups = book()
    first, second = (groups.update(policy(name), 0.0).number for name in "ab")
    assert (first, second) == (FIRST_GROUP, FIRST_GROUP + 1)
    assert groups.update(policy("a", 81), 1.0).number == first
    assert len(groups) == 2


def test_a_group_that_allows_everything_needs_no_chain_and_gets_one_when_it_does_not() -> None:
    groups = book()
    assert groups.update(open_to_all("a"), 0.0).number == Number.ALLOW_ALL
    assert chains(groups) == set()
    assert groups.update(policy("a"), 1.0).number == FIRST_GROUP
    assert groups.update(open_to_all("a"), 2.0).number == Number.ALLOW_ALL
    assert chains(groups) == {"cali-i0-a"}, "packets may be inside"
    assert groups.update(policy("a", 81), 3.0).number == FIRST_GROUP, "its own number, still"
    assert not groups.collect(2.0 + RETIRE_S)


def test_a_group_without_endpoints_is_retired_then_dropped_and_its_number_rests() -> None:
    groups = book()
    number = groups.update(policy("a"), 0.0).number
    groups.remove(policy("a").id, 1.0)
    assert "a" not in groups
    assert chains(groups) == {"cali-i0-a"}
    assert not groups.collect(0.9 + RETIRE_S)
    assert groups.collect(1.0 + RETIRE_S)
    assert chains(groups) == set()
    gone_s = 1.0 + RETIRE_S
    assert groups.update(policy("b"), gone_s + REUSE_AFTER_S - 1).number != number
    assert groups.update(policy("c"), gone_s + REUSE_AFTER_S).number == number


def test_a_retired_group_that_comes_back_has_its_number_and_its_new_rules() -> None:
    groups = book()
    number = groups.update(policy("a"), 0.0).number
    groups.remove(policy("a").id, 1.0)
    assert groups.update(policy("a", 81), 5.0).number == number
    assert not groups.collect(100.0)
    mangle = groups.tables(CONFIG)[0]
    assert "--dport 81" in mangle.chains[ChainName("cali-i0-a")][0]


def test_without_room_a_group_is_held_and_told_until_there_is() -> None:
    groups = book(SMALL)
    for name in "abcd":
        groups.update(policy(name), 0.0)
    assert groups.update(policy("e"), 0.0).number == Number.HELD
    assert ["mark-mask" in problem for problem in groups.closed.values()] == [True]
    assert groups.rehome(1.0) == set()
    groups.remove(policy("a").id, 1.0)
    assert groups.collect(1.0 + RETIRE_S)
    assert groups.rehome(1.0 + RETIRE_S) == set(), "the number rests"
    later_s = 1.0 + RETIRE_S + REUSE_AFTER_S
    assert groups.rehome(later_s) == {"e"}
    assert not groups.closed
    assert groups[policy("e").id].number == FIRST_GROUP


def deep(name: str, count: int) -> Group:
    stage = policy(name).stages[0]
    return msgspec.structs.replace(policy(name), stages=(stage,) * count)


def test_a_group_of_more_stages_than_the_kernel_follows_is_held_and_told_alone() -> None:
    groups = GroupBook(mark_layout(CONFIG.mark_mask), BOTH, {}, 0.0, stages_max=2)
    assert groups.update(deep("a", 2), 0.0).number == FIRST_GROUP
    assert groups.update(deep("a", 3), 1.0).number == Number.HELD
    assert ["3 tiers and profiles" in problem for problem in groups.closed.values()] == [True]
    assert groups.update(policy("b"), 1.0).number == FIRST_GROUP + 1
    assert groups.rehome(2.0) == set()
    assert groups.update(deep("a", 2), 3.0).number >= FIRST_GROUP
    assert not groups.closed


OVER_NFTABLES = RenderConfig(is_over_nftables=True)


def test_over_nftables_a_group_that_a_higher_tree_puts_out_of_reach_is_told_and_has_no_leaf() -> (
    None
):
    groups = GroupBook(
        mark_layout(CONFIG.mark_mask), BOTH, {}, 0.0, stages_max=OVER_NFTABLES.stages_max
    )
    groups.update(deep_in_tiers("a", INGRESS, STAGES_MAX), 0.0)
    assert leaves(groups) == {"cali-i0-a"}
    assert not groups.closed
    others = [policy(f"other{n}") for n in range(12)]
    for other in others:
        groups.update(other, 1.0)
    assert leaves(groups) == {f"cali-i0-{other.id}" for other in others}
    told = " ".join(groups.closed.values())
    assert f"in {STAGES_MAX} tiers and profiles" in told
    for other in others:
        groups.remove(other.id, 2.0)
    assert groups.collect(2.0 + RETIRE_S)
    assert leaves(groups) == {"cali-i0-a"}
    assert not groups.closed
    # iptables-legacy follows as far as it is led.
    for other in others:
        groups.update(other, 50.0)
    assert len(leaves(groups, CONFIG)) == len(others) + 1
    assert not groups.closed


def leaves(groups: GroupBook, config: RenderConfig = OVER_NFTABLES) -> set[str]:
    """What the ingress tree leads to."""
    mangle = next(t for t in groups.tables(config) if (t.name, t.version) == ("mangle", 4))
    found = [split_leaf(rule) for rules in mangle.chains.values() for rule in rules]
    return {leaf.chain for leaf in found if leaf is not None and leaf.chain.startswith("cali-i0")}


def test_a_group_without_room_that_goes_or_opens_is_told_no_more() -> None:
    groups = book(SMALL)
    for name in "abcdef":
        groups.update(policy(name), 0.0)
    groups.remove(policy("e").id, 1.0)
    groups.update(open_to_all("f"), 1.0)
    assert not groups.closed


def left_by(groups: GroupBook, *versions: Version) -> GroupBook:
    layout = mark_layout(CONFIG.mark_mask)
    found = {
        table.version: recover(restore_text(table) if table.version in versions else "", layout)
        for table in groups.tables(CONFIG)
        if table.name == "mangle"
    }
    return GroupBook(layout, BOTH, found, 100.0)


def test_a_restart_goes_on_with_numbers_and_keeps_what_it_does_not_know_for_a_while() -> None:
    before = book()
    for name in "abc":
        before.update(policy(name), 0.0)
    before.remove(policy("b").id, 0.0)
    after = left_by(before, 4, 6)
    assert after.update(policy("c"), 100.0).number == FIRST_GROUP + 2
    assert after.update(policy("d"), 100.0).number == FIRST_GROUP + 3, "not one of another's"
    assert chains(after) == {"cali-i0-a", "cali-i0-b", "cali-i0-c", "cali-i0-d"}
    assert after.collect(100.0 + RETIRE_S)
    assert chains(after) == {"cali-i0-c", "cali-i0-d"}


def test_a_chain_that_was_written_in_one_family_only_is_asked_there_only() -> None:
    before = book()
    before.update(policy("a"), 0.0)
    after = left_by(before, 4)
    assert chains(after, 4) == {"cali-i0-a"}
    assert chains(after, 6) == set()
    v6 = next(t for t in after.tables(CONFIG) if (t.name, t.version) == ("mangle", 6))
    assert not any("cali-i0-a" in rule for rule in v6.chains[ROOTS[Direction.INGRESS]])


def test_a_group_that_goes_and_comes_back_leaves_the_edition_of_the_tables() -> None:
    groups = book()
    groups.update(policy("a"), 0.0)
    groups.update(policy("b"), 0.0)
    edition, tables = groups.edition, groups.tables(CONFIG)
    groups.remove(policy("a").id, 1.0)
    assert (groups.edition, groups.tables(CONFIG)) == (edition, tables), "retired"
    groups.update(policy("a"), 2.0)
    assert (groups.edition, groups.tables(CONFIG)) == (edition, tables), "as it was"
    groups.update(policy("a", 81), 3.0)
    assert groups.edition != edition, "with another rule"
    edition = groups.edition
    groups.remove(policy("a").id, 4.0)
    assert groups.collect(4.0 + RETIRE_S)
    assert groups.edition != edition, "dropped"


def test_a_group_that_comes_back_is_rendered_again_only_where_it_is_another() -> None:
    groups, name = book(), policy("a").id
    before = groups.update(policy("a"), 0.0).rendered
    groups.remove(name, 1.0)
    assert groups.update(policy("a"), 2.0).rendered is before
    groups.remove(name, 3.0)
    assert (
        groups.update(policy("a", 81), 4.0).rendered == book().update(policy("a", 81), 0.0).rendered
    )
    groups.remove(name, 5.0)
    groups.tell(tells=True)
    assert groups.update(policy("a", 81), 6.0).rendered[4].notes
