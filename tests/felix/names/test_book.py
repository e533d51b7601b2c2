"""The book of names: how long an address lasts, how many there are, and whose are pushed out."""

from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.names.book import ADDRESSES_MAX, LASTS_MIN_S, NAMES_MAX, NameBook
from calico_k8s.felix.names.message import Found
from calico_k8s.model.addresses import Address
from calico_k8s.model.domains import DomainName, parse_domain

NAMES = tuple(map(DomainName, ("api.example.com", "x.example.com", "other.test")))
ASKED = (parse_domain("*.example.com"), parse_domain("other.test"))
POOL = tuple(Address(f"198.51.100.{number}") for number in range(4))

found = st.builds(
    Found, st.sampled_from(NAMES), st.sampled_from(POOL), st.sampled_from((0, 5, 10, 60))
)
steps = st.lists(st.tuples(st.sampled_from((0.5, 3.0, 20.0)), st.lists(found, max_size=3)))


@given(steps, st.sampled_from((0.0, 7.0)))
def test_an_address_lasts_for_the_longest_ttl_it_was_given_and_a_margin(
    history: list[tuple[float, list[Found]]], margin_s: float
) -> None:
    book = NameBook(margin_s)
    book.ask(ASKED)
    now_s, said = 1000.0, list[tuple[float, Found]]()
    before: dict[DomainName, set[Address]] = {}
    for pause_s, answers in history:
        now_s += pause_s
        said += ((now_s, each) for each in answers)
        changed = book.expire(now_s) | book.learn(answers, now_s)
        held = {
            name: {
                each.address
                for at_s, each in said
                if each.name == name and at_s + max(each.ttl_s + margin_s, LASTS_MIN_S) > now_s
            }
            for name in NAMES
        }
        for name in NAMES:
            record = book.records.get(name)
            assert set(record.until_s if record else ()) == held[name]
            ever = {each.address for _, each in said if each.name == name}
            assert set(record.lapsed if record else ()) == ever - held[name]
            if held[name] != before.get(name, set()):
                assert name in changed
        before = held


def test_only_asked_names_are_kept_and_those_no_more_asked_are_forgotten() -> None:
    book = NameBook()
    book.ask(ASKED)
    assert book.learn([Found(DomainName("elsewhere.test"), POOL[0], 60)], 0.0) == set()
    book.learn([Found(name, POOL[0], 60) for name in NAMES], 0.0)
    assert set(book.records) == set(NAMES)
    assert book.ask(ASKED[1:]) == set(NAMES[:2])
    assert set(book.records) == {NAMES[2]}


def test_a_name_has_a_hundred_addresses_and_the_first_to_end_goes_for_one_more() -> None:
    book = NameBook()
    book.ask(ASKED)
    many = [Address(f"10.0.{number // 250}.{number % 250}") for number in range(ADDRESSES_MAX + 5)]
    book.learn([Found(NAMES[0], address, 60 + i) for i, address in enumerate(many)], 0.0)
    record = book.records[NAMES[0]]
    assert set(record.until_s) == set(many[5:])
    assert record.lapsed == many[:5]


def test_a_flood_of_names_costs_its_own_domain_alone() -> None:
    book = NameBook()
    book.ask(ASKED)
    book.learn([Found(NAMES[2], POOL[0], 60)], 0.0)
    for number in range(2 * NAMES_MAX):
        name = DomainName(f"n{number}.example.com")
        changed = book.learn([Found(name, POOL[1], 60)], 0.0)
        assert name in changed
        pushed_out = {DomainName(f"n{number - NAMES_MAX}.example.com")}
        assert changed == {name} | (pushed_out if number >= NAMES_MAX else set())
    assert len(book.records) == NAMES_MAX + 1
    assert NAMES[2] in book.records


def test_a_name_that_is_learnt_again_is_not_the_next_to_go() -> None:
    book = NameBook()
    book.ask(ASKED)
    book.learn([Found(NAMES[0], POOL[0], 60)], 0.0)
    for number in range(NAMES_MAX + 50):
        book.learn([Found(NAMES[0], POOL[0], 60)], 1.0)
        book.learn([Found(DomainName(f"n{number}.example.com"), POOL[1], 60)], 1.0)
    assert NAMES[0] in book.records
