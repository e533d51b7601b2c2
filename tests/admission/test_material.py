"""When a webhook's certificate is of no use, when it is renewed, and who is believed meanwhile."""

import datetime as dt

import pytest

from calico_k8s.admission.material import VALID_FOR, Material, make_material, webhook_subject
from calico_k8s.certificates.authority import Subject, is_signed_by, load_certificates

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SUBJECT = webhook_subject(("calico-k8s-webhook.calico-k8s.svc", "192.0.2.1"))


def test_what_is_made_holds_and_is_of_its_names_and_addresses() -> None:
    made = make_material(NOW, SUBJECT, Material())
    (certificate,) = load_certificates(made.certificate)
    assert made.problem(NOW) is None
    assert made.expires == NOW + VALID_FOR
    assert is_signed_by(certificate, load_certificates(made.authorities))
    assert Subject.of(certificate) == SUBJECT
    assert SUBJECT.addresses == ("192.0.2.1",)
    assert SUBJECT.names == ("calico-k8s-webhook.calico-k8s.svc",)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (-DAY, "is of a time to come"),
        (VALID_FOR - DAY, None),
        (VALID_FOR + DAY, "has expired, 2027-02-23 00:00 UTC"),
    ],
)
def test_what_nobody_can_be_served_by_says_why(after: dt.timedelta, words: str | None) -> None:
    problem = make_material(NOW, SUBJECT, Material()).problem(NOW + after)
    assert problem is None if words is None else words in (problem or "")


@pytest.mark.parametrize(
    "broken", [Material(), Material(b"x", b"y", b"z"), Material(certificate=b"-----BEGIN")]
)
def test_what_is_no_certificate_is_none_yet(broken: Material) -> None:
    assert broken.problem(NOW) == "the webhook has no certificate yet"
    assert broken.is_due(NOW, SUBJECT)


def test_a_key_of_another_certificate_is_of_no_use() -> None:
    made, other = (make_material(NOW, SUBJECT, Material()) for _ in range(2))
    for key in (other.key, b"no key"):
        mixed = Material(made.authorities, made.certificate, key)
        assert "do not fit" in (mixed.problem(NOW) or "")


@pytest.mark.parametrize(("days", "is_due"), [(0, False), (59, False), (61, True), (91, True)])
def test_it_is_renewed_after_two_thirds_of_its_life(days: int, is_due: bool) -> None:
    assert make_material(NOW, SUBJECT, Material()).is_due(NOW + days * DAY, SUBJECT) is is_due


def test_it_is_made_anew_where_it_is_asked_by_another_name() -> None:
    made = make_material(NOW, SUBJECT, Material())
    assert made.is_due(NOW, webhook_subject(("other.svc",)))


def test_a_bundle_has_the_authority_before_only_while_that_holds() -> None:
    first = make_material(NOW, SUBJECT, Material())
    second = make_material(NOW + 61 * DAY, SUBJECT, first)
    third = make_material(NOW + 122 * DAY, SUBJECT, second)
    late = make_material(NOW + 400 * DAY, SUBJECT, third)
    old, new = (load_certificates(each.authorities)[0] for each in (first, second))
    assert load_certificates(second.authorities) == (new, old)
    assert load_certificates(third.authorities)[1:] == (new,)
    assert len(load_certificates(late.authorities)) == 1
