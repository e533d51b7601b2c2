"""A table differs, word by word, exactly where there is something to write; and what is said of it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.differences import Difference
from calico_k8s.felix.iptables.compare import is_ours, read_saved, table_differences
from calico_k8s.felix.iptables.hashes import HashedTable, Hasher
from calico_k8s.felix.iptables.plan import Plan, hook_texts, make_plan
from calico_k8s.felix.iptables.texts import comment_last, split_comment
from calico_k8s.render.tables import HookName, Table
from tests.felix.iptables.test_plan import HOOK_NAMES, OTHERS, TABLES, Model, held, model_of, table


def saved(model: Model) -> str:
    """As ``iptables-save`` prints it: a target after the comment."""
    lines = ["*filter", *(f":{name} - [0:0]" for name in model)]
    for name, rules in model.items():
        for rule in rules:
            text, comment = split_comment(rule)
            match, _, target = text.rpartition("-j ")
            words = f'{match}-m comment --comment "{comment}" -j {target}' if comment else rule
            lines.append(f"-A {name} {words}")
    return "\n".join((*lines, "COMMIT", ""))


def differences(desired: HashedTable, model: Model) -> list[Difference]:
    return list(table_differences(desired, saved(model), "here"))


@given(TABLES, TABLES, st.dictionaries(HOOK_NAMES, OTHERS), st.randoms(use_true_random=False))
def test_a_table_differs_exactly_where_there_is_something_to_write(
    before: Table, after: Table, others: dict[HookName, list[str]], chance: Random
) -> None:
    old, new = Hasher().hash_table(before), Hasher().hash_table(after)
    model = model_of(old, others)
    for hook in others:
        chance.shuffle(model[hook])
    plan = make_plan(new, held(model), hook_texts(old) | hook_texts(new))
    assert bool(differences(new, model)) == (plan != Plan((), ()))


@given(TABLES, st.dictionaries(HOOK_NAMES, OTHERS), st.data())
def test_a_rule_of_ours_that_was_replaced_where_it_stands_is_found(
    before: Table, others: dict[HookName, list[str]], data: st.DataObject
) -> None:
    hashed = Hasher().hash_table(before)
    model = model_of(hashed, others)
    places = [(name, at) for name in hashed.chains for at in range(len(model[name]))]
    if places:
        name, at = data.draw(st.sampled_from(places))
        model[name][at] = "-s 192.0.2.1 -j ACCEPT"
        (found,) = differences(hashed, model)
        assert (found.kind, found.held) == ("chain", ("-s 192.0.2.1 -j ACCEPT",))


CHAIN: dict[str, tuple[str, ...]] = {"cali-a": ("-j LOG", "-j DROP")}


@pytest.mark.parametrize(
    ("model", "kind", "problem", "wanted", "held_rules"),
    [
        ({}, "chain", "chain cali-a is missing", ("-j LOG", "-j DROP"), ()),
        ({"cali-a": ["-j LOG"]}, "chain", "chain cali-a has other rules", ("-j DROP",), ()),
        (
            {"cali-a": ["-j LOG", "-j ACCEPT"]},
            "chain",
            "chain cali-a has other rules",
            ("-j DROP",),
            ("-j ACCEPT",),
        ),
        (
            {"cali-a": ["last", "-j LOG"]},
            "chain",
            "chain cali-a has its rules in another order",
            ("-j DROP",),
            ("-j DROP",),
        ),
    ],
)
def test_what_is_said_of_a_chain(
    model: Model, kind: str, problem: str, wanted: tuple[str, ...], held_rules: tuple[str, ...]
) -> None:
    hashed = table(CHAIN)
    last = hashed.chains[next(iter(hashed.chains))][-1].text
    there = {name: [last if r == "last" else r for r in rules] for name, rules in model.items()}
    (found,) = differences(hashed, there)
    assert (found.kind, found.problem) == (kind, problem)
    bare = [tuple(split_comment(r)[0] for r in rules) for rules in (found.wanted, found.held)]
    assert bare == [wanted, held_rules]


@pytest.mark.parametrize(
    ("forward", "problem"),
    [
        (["x", "y", "-j cali-a", "LAST"], "are not first: 2 of others stand before them"),
        (["-j cali-a", "LAST", "x"], "are not last: 1 of others stand after them"),
        (["LAST"], "has other rules of ours"),
        (["-j cali-a", "-j cali-a", "LAST"], "has other rules of ours"),
    ],
)
def test_what_is_said_of_a_built_in_chain(forward: list[str], problem: str) -> None:
    hashed = table({"cali-a": ("-j DROP",)}, first=("-j cali-a",), last=("-j ACCEPT",))
    model = model_of(hashed, {})
    last = hashed.last["FORWARD"][0].text
    model["FORWARD"] = [last if rule == "LAST" else rule for rule in forward]
    (found,) = differences(hashed, model)
    assert (found.kind, problem in found.problem) == ("hook", True), found


def test_every_table_that_was_printed_is_read() -> None:
    text = (
        "# now\n*raw\n:PREROUTING ACCEPT [1:2]\nCOMMIT\n*filter\n:cali-a - [0:0]\n-A cali-a -j X\n"
    )
    assert read_saved(text) == [("raw", {"PREROUTING": []}), ("filter", {"cali-a": ["-j X"]})]


@pytest.mark.parametrize(
    ("rule", "ours"),
    [
        ("-j cali-FORWARD", True),
        ('-m mark --mark 0x1 -m comment --comment "cali:abc_-123" -j ACCEPT', True),
        ("-m comment --comment cali:abc -j ACCEPT", True),
        ("-s 192.0.2.1 -j cali-x", False),
        ('-m comment --comment "californian" -j ACCEPT', False),
    ],
)
def test_a_rule_outside_our_chains_is_known_by_its_jump_or_its_comment(
    rule: str, ours: bool
) -> None:
    assert is_ours(rule) is ours


def test_a_comment_is_moved_to_where_we_write_it() -> None:
    assert (
        comment_last('-p tcp -m comment --comment "cali:a" -j DROP')
        == '-p tcp -j DROP -m comment --comment "cali:a"'
    )
    assert comment_last("-p tcp -j DROP") == "-p tcp -j DROP"
