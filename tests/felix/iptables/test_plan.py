"""Plans, carried out on a model of a table: ours becomes what is desired, others' stays."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.iptables.hashes import (
    FOREIGN,
    HashedTable,
    Hasher,
    RuleHash,
    is_bare_jump,
    jump_hash,
)
from calico_k8s.felix.iptables.plan import HOOKS, Plan, expected_after, hook_texts, make_plan
from calico_k8s.render.tables import ChainName, HookName, RuleText, Table

TEXTS = st.sampled_from(["-j DROP", "-j ACCEPT", "-i v0 -j RETURN"]).map(RuleText)
RULES = st.lists(TEXTS, max_size=3).map(tuple)
CHAINS = st.dictionaries(st.sampled_from(["cali-a", "cali-b", "cali-c"]).map(ChainName), RULES)
HOOK_NAMES: st.SearchStrategy[HookName] = st.sampled_from(["INPUT", "FORWARD"])
HOOK_TEXTS = st.one_of(TEXTS, st.just(RuleText("-j cali-a")))
HOOK_RULES = st.dictionaries(HOOK_NAMES, st.lists(HOOK_TEXTS, max_size=3).map(tuple))
TABLES = st.builds(
    Table, st.just("filter"), st.just(4), chains=CHAINS, first=HOOK_RULES, last=HOOK_RULES
)
OTHERS = st.lists(st.integers(0, 9).map(lambda number: f"other {number}"), max_size=3, unique=True)

Model = dict[str, list[str]]
"""A table as chains of rule texts, ours with their comment."""


def held(model: Model) -> dict[str, tuple[RuleHash, ...]]:
    def hashed(name: str, text: str) -> RuleHash:
        found = re.search(r"cali:([\w-]{8})", text)
        if found is None and name in HOOKS and is_bare_jump(text):
            return jump_hash(text)
        return RuleHash(found[1]) if found else FOREIGN

    return {name: tuple(hashed(name, text) for text in rules) for name, rules in model.items()}


def carry_out(model: Model, plan: Plan) -> None:
    """What iptables-restore does with the lines; an impossible line fails the test."""
    for line in (*plan.lines, *plan.deletes):
        verb, _, rest = line.partition(" ")
        name, _, text = rest.partition(" ")
        if verb == "-A":
            model[name].append(text)
        elif verb == "-D":
            model[name].remove(text)
        elif verb == "-I":
            place, _, text = text.partition(" ")
            model[name].insert(int(place) - 1, text)
        elif verb == "-X":
            assert model.pop(name) == []
        else:
            assert verb.startswith(":cali-"), line
            model[verb[1:]] = []


def model_of(table: HashedTable, others: dict[HookName, list[str]]) -> Model:
    model: Model = {
        str(name): [rule.text for rule in rules] for name, rules in table.chains.items()
    }
    for hook in HOOKS:
        model[hook] = [
            *(rule.text for rule in table.first.get(hook, ())),
            *others.get(hook, ()),
            *(rule.text for rule in table.last.get(hook, ())),
        ]
    return model


@given(TABLES, TABLES, st.dictionaries(HOOK_NAMES, OTHERS), st.randoms(use_true_random=False))
def test_from_any_state_ours_becomes_what_is_desired_and_others_rules_stay_in_order(
    before: Table, after: Table, others: dict[HookName, list[str]], chance: Random
) -> None:
    old, new = Hasher().hash_table(before), Hasher().hash_table(after)
    model = model_of(old, others)
    for hook in others:
        chance.shuffle(model[hook])  # another program moved rules
    kept = {hook: [text for text in model[hook] if "cali" not in text] for hook in others}
    before_held = held(model)
    plan = make_plan(new, before_held, hook_texts(old) | hook_texts(new))
    carry_out(model, plan)
    assert model == model_of(new, kept)
    assert held(model) == expected_after(new, before_held, ())
    assert make_plan(new, held(model), hook_texts(new)) == Plan((), ())


@given(TABLES, st.dictionaries(HOOK_NAMES, OTHERS))
def test_what_is_as_desired_is_left_alone(table: Table, others: dict[HookName, list[str]]) -> None:
    hashed = Hasher().hash_table(table)
    assert make_plan(hashed, held(model_of(hashed, others)), {}) == Plan((), ())


def table(
    chains: dict[str, tuple[str, ...]], first: tuple[str, ...] = (), last: tuple[str, ...] = ()
) -> HashedTable:
    return Hasher().hash_table(
        Table(
            "filter",
            4,
            {ChainName(name): tuple(map(RuleText, rules)) for name, rules in chains.items()},
            first={"FORWARD": tuple(map(RuleText, first))} if first else {},
            last={"FORWARD": tuple(map(RuleText, last))} if last else {},
        )
    )


def verbs(plan: Plan) -> list[str]:
    """Each line as far as its chain."""
    return [" ".join(line.split(" ")[: 2 if line[0] == "-" else 1]) for line in plan.lines]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (("-j LOG",), ("-j LOG",), []),
        ((), ("-j DROP",), ["-A cali-a"]),
        (("-j LOG",), ("-j LOG", "-j DROP"), [":cali-a", "-A cali-a", "-A cali-a"]),
        (("-j LOG", "-j DROP"), ("-j LOG",), [":cali-a", "-A cali-a"]),
        (("-j LOG",), ("-j DROP",), [":cali-a", "-A cali-a"]),
    ],
)
def test_a_chain_that_differs_is_written_whole(
    old: tuple[str, ...], new: tuple[str, ...], expected: list[str]
) -> None:
    before, after = table({"cali-a": old}), table({"cali-a": new})
    assert verbs(make_plan(after, held(model_of(before, {})), {})) == expected


def test_a_chain_with_somebodys_rule_in_it_is_written_again() -> None:
    hashed = table({"cali-a": ("-j LOG", "-j DROP")})
    for spoiled in (("foreign",), ("foreign", "-j LOG", "-j DROP"), ("-j LOG",)):
        model = model_of(hashed, {})
        own = model["cali-a"]
        model["cali-a"] = [
            own[["-j LOG", "-j DROP"].index(t)] if t in ("-j LOG", "-j DROP") else t
            for t in spoiled
        ]
        carry_out(model, make_plan(hashed, held(model), {}))
        assert model == model_of(hashed, {})


def test_a_jump_in_its_place_is_not_touched_when_another_leaves() -> None:
    before, after = table({}, ("-j A",), ("-j Z",)), table({}, ("-j A",))
    plan = make_plan(after, held(model_of(before, {})), hook_texts(before))
    assert verbs(plan) == ["-D FORWARD"]


def test_a_copy_of_our_jump_further_down_goes_and_the_jump_stays_first() -> None:
    hashed = table({}, ("-j A",))
    model = model_of(hashed, {"FORWARD": ["other"]})
    model["FORWARD"].append(model["FORWARD"][0])
    plan = make_plan(hashed, held(model), hook_texts(hashed))
    assert verbs(plan) == ["-D FORWARD", "-D FORWARD", "-I FORWARD"]
    carry_out(model, plan)
    assert model == model_of(hashed, {"FORWARD": ["other"]})


def test_a_chain_that_cannot_be_deleted_is_emptied_once() -> None:
    before, after = table({"cali-a": ("-j DROP",)}), table({})
    state = held(model_of(before, {}))
    assert make_plan(after, state, {}, {"cali-a"}) == Plan((":cali-a - [0:0]",), ())
    assert make_plan(after, {"cali-a": ()}, {}, {"cali-a"}) == Plan((), ())


def test_the_text_of_a_rule_that_must_leave_has_to_be_known() -> None:
    with pytest.raises(KeyError):
        make_plan(table({}), held(model_of(table({}, ("-j A",)), {})), {})
