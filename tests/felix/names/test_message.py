"""DNS messages: any bytes are read or refused, and what is read is what dnspython reads."""

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_k8s.felix.names.message import Answer, Found, read_answer
from calico_k8s.model.addresses import Address
from calico_k8s.model.domains import DomainName

NAMES = ("api.example.com", "x.cdn.test", "y.cdn.test", "a.b.c.d.e", "_srv.example.com")
V4, V6 = ("198.51.100.7", "203.0.113.9", "10.0.0.1"), ("2001:db8::7", "fd00::1")

records = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.just("A"), st.sampled_from(V4)),
    st.tuples(st.sampled_from(NAMES), st.just("AAAA"), st.sampled_from(V6)),
    st.tuples(st.sampled_from(NAMES), st.just("CNAME"), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(NAMES), st.just("TXT"), st.just('"text"')),
)
answers = st.lists(st.tuples(records, st.integers(0, 900)), max_size=8)

Records = list[tuple[tuple[str, str, str], int]]


def fully_qualified(drawn: Records) -> Records:
    return [
        ((owner, kind, value + "." if kind == "CNAME" else value), ttl)
        for (owner, kind, value), ttl in drawn
    ]


def wire(asked: str, drawn: Records) -> bytes:
    made = dns.message.make_response(dns.message.make_query(asked, "A"))
    for (owner, kind, value), ttl in fully_qualified(drawn):
        made.answer.append(dns.rrset.from_text(owner + ".", ttl, "IN", kind, value))
    return made.to_wire()


def slowly_read(data: bytes) -> tuple[list[str], set[tuple[str, str, int]]]:
    """The names on the way and what each has, from dnspython's reading."""
    read = dns.message.from_wire(data, one_rr_per_rrset=True)
    held = [
        (str(r.name).rstrip("."), dns.rdatatype.to_text(r.rdtype), r[0], r.ttl) for r in read.answer
    ]
    chain, ttls = [str(read.question[0].name).rstrip(".")], list[int]()
    found: set[tuple[str, str, int]] = set()
    while True:
        own = [each for each in held if each[0] == chain[-1]]
        for _, kind, data_, ttl in own:
            if kind in ("A", "AAAA"):
                for place, name in enumerate(chain):
                    found.add((name, str(data_), min([ttl, *ttls[place:]])))
        aliases = [each for each in own if each[1] == "CNAME"]
        target = str(aliases[0][2]).rstrip(".") if aliases else chain[0]
        if target in chain:
            return chain, found
        chain.append(target)
        ttls.append(aliases[0][3])


@given(st.sampled_from(NAMES), answers)
def test_what_is_read_is_what_a_library_reads(asked: str, drawn: Records) -> None:
    data = wire(asked, drawn)
    answer = read_answer(data)
    assert answer is not None
    chain, found = slowly_read(data)
    assert list(answer.names) == chain
    assert set(answer.found) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_are_none(data: bytes) -> None:
    assert read_answer(data) is None or isinstance(read_answer(data), Answer)


@given(
    st.sampled_from(NAMES),
    answers,
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 400),
)
def test_a_damaged_message_never_harms(
    asked: str, drawn: Records, damage: list[tuple[int, int]], end: int
) -> None:
    data = bytearray(wire(asked, drawn))
    for place, byte in damage:
        data[place % len(data)] = byte
    for each in (bytes(data), bytes(data[:end])):
        answer = read_answer(each)
        assert answer is None or all(len(name) <= 253 for name in answer.names)


def test_a_name_that_points_to_itself_is_refused() -> None:
    header = bytes.fromhex("0001 8180 0001 0000 0000 0000")
    for name in ("c00c", "0161c00c", "c00e", "ff"):
        assert read_answer(header + bytes.fromhex(name + "0001 0001")) is None


@pytest.mark.parametrize(
    ("flags", "questions"),
    [(0x0100, 1), (0x8183, 1), (0x8182, 1), (0xA180, 1), (0x8180, 0), (0x8180, 2)],
)
def test_what_is_no_answer_to_one_question_is_none(flags: int, questions: int) -> None:
    data = bytearray(wire("api.example.com", [(("api.example.com", "A", V4[0]), 60)]))
    assert read_answer(bytes(data)) is not None
    data[2:6] = flags.to_bytes(2, "big") + questions.to_bytes(2, "big")
    assert read_answer(bytes(data)) is None


def test_case_means_nothing_and_every_alias_has_the_address_for_the_shortest_time() -> None:
    made = dns.message.make_response(dns.message.make_query("WWW.Example.COM", "A"))
    for text in (
        ("www.example.com.", 300, "IN", "CNAME", "Edge.CDN.test."),
        ("edge.cdn.test.", 20, "IN", "CNAME", "n1.cdn.test."),
        ("n1.cdn.test.", 60, "IN", "A", V4[0]),
        ("elsewhere.test.", 60, "IN", "A", V4[1]),
    ):
        made.answer.append(dns.rrset.from_text(*text))
    answer = read_answer(made.to_wire())
    assert answer is not None
    assert set(answer.found) == {
        Found(DomainName(name), Address(V4[0]), ttl_s)
        for name, ttl_s in (("n1.cdn.test", 60), ("edge.cdn.test", 20), ("www.example.com", 20))
    }


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"]
)
def test_nobody_is_led_to_their_own_node_by_a_name(address: str) -> None:
    for kind, value in (
        ("A", address),
        ("AAAA", f"::ffff:{address}"),
        ("AAAA", "fe80::1"),
        ("AAAA", "::1"),
    ):
        answer = read_answer(wire("api.example.com", [(("api.example.com", kind, value), 60)]))
        assert answer is not None
        assert answer.found == ()
