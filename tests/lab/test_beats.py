"""A record of beats tells when a verdict changed, and holds back what is not known yet."""

from calico_k8s.lab.beats import SETTLE_S, Beat, Gap, Record, Run, arrival_gaps, verdict_runs
from calico_k8s.model.resources import Action


def record(*beats: tuple[float, float | None]) -> Record:
    made = Record()
    for sent_s, answered_s in beats:
        number = made.sent(sent_s)
        if answered_s is not None:
            made.answered(number, answered_s)
    return made


def test_a_beat_that_may_still_arrive_holds_back_those_after_it() -> None:
    beats = record((1.0, 1.1), (1.2, None), (1.3, 1.4))
    assert beats.beats(1.2 + SETTLE_S - 0.01) == (Beat(1.0, 1.1),)
    assert beats.beats(1.2 + SETTLE_S) == (Beat(1.0, 1.1), Beat(1.2, None), Beat(1.3, 1.4))


def test_beats_can_be_had_since_a_time() -> None:
    assert record((1.0, 1.1), (1.2, 1.3)).beats(9.0, since_s=1.2) == (Beat(1.2, 1.3),)


def test_the_first_arrival_counts_and_unknown_numbers_do_not() -> None:
    beats = record((1.0, 1.1))
    beats.answered(0, 1.5)
    beats.answered(7, 1.5)
    assert beats.beats(9.0) == (Beat(1.0, 1.1),)


def test_runs_are_bounded_by_changes_of_verdict() -> None:
    beats = record((1.0, 1.1), (2.0, 2.1), (3.0, None), (4.0, 4.1)).beats(9.0)
    assert verdict_runs(beats) == [
        Run(Action.ALLOW, 1.0, 2.0, 2),
        Run(Action.DENY, 3.0, 3.0, 1),
        Run(Action.ALLOW, 4.0, 4.0, 1),
    ]


def test_no_beats_have_no_runs() -> None:
    assert verdict_runs(()) == []


def test_a_cut_that_was_repaired_shows_as_a_gap_between_arrivals() -> None:
    beats = record((1.0, 1.0), (1.1, 3.0), (1.2, 3.0), (3.1, 3.1)).beats(9.0)
    assert {beat.verdict for beat in beats} == {Action.ALLOW}
    assert arrival_gaps(beats, 0.5) == [Gap(1.0, 3.0)]
