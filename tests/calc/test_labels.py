"""The index of labels says what asking every selector of every item would say."""

from hypothesis import given
from hypothesis import strategies as st

import grammar
from calico_k8s.calc.expressions import Criterion, selector_criterion, tag_criterion
from calico_k8s.calc.labels import Change, LabelIndex, compiled
from calico_k8s.model.names import SelectorText
from calico_k8s.policy.snapshot import selector
from tests.model_strategies import SELECTORS, TAGS, label_maps

TOKENS = tuple(map(tag_criterion, TAGS))
criteria = st.sampled_from((*map(selector_criterion, SELECTORS), *TOKENS))
tokens = st.frozensets(st.sampled_from(TOKENS))

steps = st.one_of(
    st.tuples(st.just("update"), st.integers(0, 3), label_maps, tokens),
    st.tuples(st.just("remove"), st.integers(0, 3)),
    st.tuples(st.just("activate"), criteria),
    st.tuples(st.just("deactivate"), criteria),
)


def slowly_met(
    labels: dict[str, str], own: frozenset[Criterion], active: list[Criterion]
) -> set[Criterion]:
    return {
        criterion
        for criterion in active
        if criterion in own
        or (
            criterion.kind == "selector"
            and grammar.evaluate(selector(SelectorText(criterion.text)), labels)
        )
    }


@given(st.lists(steps, max_size=40))
def test_the_index_says_what_asking_everything_says(history: list[tuple[object, ...]]) -> None:
    index = LabelIndex[int]()
    items: dict[int, tuple[dict[str, str], frozenset[Criterion]]] = {}
    active: list[Criterion] = []
    for step in history:
        match step:
            case ("update", int(item), dict(labels), frozenset(own)):
                before = set(index.criteria_of(item))
                change = index.update(item, labels, own)
                items[item] = (labels, own)
                now = slowly_met(labels, own, active)
                assert change == Change(now - before, before - now)
            case ("remove", int(item)):
                before = set(index.criteria_of(item))
                assert index.remove(item) == Change(set(), before)
                items.pop(item, None)
            case ("activate", Criterion() as criterion):
                index.activate(criterion)
                active.append(criterion)
            case ("deactivate", Criterion() as criterion) if criterion in active:
                index.deactivate(criterion)
                active.remove(criterion)
    for item, (labels, own) in items.items():
        assert index.criteria_of(item) == slowly_met(labels, own, active)
    for criterion in set(active):
        assert index.items_of(criterion) == {i for i in items if criterion in index.criteria_of(i)}
    assert index.criteria_of(99) == set()


def test_what_is_no_longer_active_is_true_of_nothing() -> None:
    index = LabelIndex[str]()
    wanted = selector_criterion(SelectorText('a == "x"'))
    index.update("item", {"a": "x"})
    index.activate(wanted)
    index.activate(wanted)
    index.deactivate(wanted)
    assert index.items_of(wanted) == {"item"}
    index.deactivate(wanted)
    assert index.items_of(wanted) == set()
    assert index.update("item", {"a": "x", "b": "y"}) == Change(set(), set())


def test_a_set_of_criteria_that_was_read_stays_as_it_was() -> None:
    index = LabelIndex[str]()
    wanted = selector_criterion(SelectorText('a == "x"'))
    index.activate(wanted)
    index.update("item", {"a": "x"})
    before = index.criteria_of("item")
    index.update("item", {})
    assert before == {wanted}


def test_a_selector_is_looked_at_only_for_items_with_the_rarest_label_it_needs() -> None:
    index = LabelIndex[int]()
    for item in range(100):
        index.update(item, {"namespace": "prod", "app": f"app{item}"})
    index.activate(selector_criterion(SelectorText('namespace == "prod" && app == "app7"')))
    assert index._candidates({"namespace": "prod", "app": "app8"}) == set()
    assert len(index._candidates({"namespace": "prod", "app": "app7"})) == 1


def test_a_selector_that_does_not_parse_is_true_of_nothing() -> None:
    broken = SelectorText("a ==")
    assert not compiled(broken)({})
    index = LabelIndex[str]()
    index.update("item", {"a": ""})
    index.activate(selector_criterion(broken))
    assert index.items_of(selector_criterion(broken)) == set()
