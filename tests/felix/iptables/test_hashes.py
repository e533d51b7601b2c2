"""A rule's hash: the same for the same place and history, another for any other."""

from hypothesis import assume, given
from hypothesis import strategies as st

from calico_k8s.felix.iptables.hashes import HASH_LENGTH, Hasher, hash_chain, hash_rules, jump_hash
from calico_k8s.render.tables import ChainName, RuleText, Table

RULES = st.lists(st.sampled_from(["-j DROP", "-j ACCEPT", "-i v0 -j RETURN"]).map(RuleText)).map(
    tuple
)


def test_the_comment_stands_behind_the_rule_with_the_hash_in_it() -> None:
    (rule,) = hash_rules("cali-x", (RuleText("-p tcp -j DROP"),))
    assert rule.text == f'-p tcp -j DROP -m comment --comment "cali:{rule.hash}"'
    assert len(rule.hash) == HASH_LENGTH


def test_hashes_do_not_change_between_releases() -> None:
    rules = hash_rules("cali-x", (RuleText("-j DROP"), RuleText("-j DROP")))
    assert [rule.hash for rule in rules] == ["z4PzyPIe", "HmahoNfY"]


@given(RULES, RULES)
def test_hashes_agree_as_far_as_the_rules_do_and_no_further(
    ours: tuple[RuleText, ...], theirs: tuple[RuleText, ...]
) -> None:
    assume(ours and theirs)
    pairs = zip(hash_rules("cali-x", ours), hash_rules("cali-x", theirs), strict=False)
    for index, (a, b) in enumerate(pairs):
        assert (a.hash == b.hash) == (ours[: index + 1] == theirs[: index + 1])


@given(RULES)
def test_hashes_differ_between_places(rules: tuple[RuleText, ...]) -> None:
    ours, theirs = hash_rules("cali-x", rules), hash_rules("cali-y", rules)
    assert not {rule.hash for rule in ours} & {rule.hash for rule in theirs}


def test_a_chain_has_one_comment_behind_everything() -> None:
    rules = tuple(map(RuleText, ("-p tcp -j DROP", "-i v0 -j RETURN", "-j DROP")))
    hashed = hash_chain("cali-x", rules)
    assert [rule.text for rule in hashed[:2]] == ["-p tcp -j DROP", "-i v0 -j RETURN"]
    assert hashed[2] == hash_rules("cali-x", rules)[2]
    assert hash_chain("cali-x", ()) == ()


def test_a_bare_jump_in_a_built_in_chain_needs_no_comment() -> None:
    jump, other = RuleText("-j cali-x"), RuleText("-i v0 -j cali-x")
    hashed = hash_rules("FORWARD first", (jump, other))
    assert [rule.text == text for rule, text in zip(hashed, (jump, other), strict=True)] == [
        True,
        False,
    ]
    assert hashed[0].hash == jump_hash(jump)
    assert hash_chain("cali-y", (jump,))[0].text != jump


@given(RULES, RULES)
def test_chains_have_equal_hashes_only_if_they_are_equal(
    ours: tuple[RuleText, ...], theirs: tuple[RuleText, ...]
) -> None:
    found = [[rule.hash for rule in hash_chain("cali-x", rules)] for rules in (ours, theirs)]
    assert (found[0] == found[1]) == (ours == theirs)


@given(st.lists(st.dictionaries(st.sampled_from(["cali-x", "cali-y"]).map(ChainName), RULES)))
def test_what_a_hasher_remembers_never_shows(
    history: list[dict[ChainName, tuple[RuleText, ...]]],
) -> None:
    hasher = Hasher()
    for chains in history:
        table = Table("filter", 4, chains, first={"FORWARD": (RuleText("-j DROP"),)})
        assert hasher.hash_table(table) == Hasher().hash_table(table)
