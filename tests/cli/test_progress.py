"""The bar: for people, after a second, and gone at the end."""

import pytest

from calico_k8s.cli.progress import progress_bar
from tests.cli.program import run_on_terminal

WAITS = """
import sys, time
from calico_k8s.cli.progress import progress_bar
with progress_bar("judging") as advance:
    for done in range(1, 4):
        time.sleep(float(sys.argv[1]))
        advance(done, 3)
print("done")
"""


def test_what_takes_longer_than_a_second_shows_a_bar() -> None:
    shown = run_on_terminal(WAITS, 0.6)
    assert "judging" in shown
    assert "100%" in shown
    assert shown.endswith("done\r\n")


def test_what_ends_sooner_shows_nothing() -> None:
    assert run_on_terminal(WAITS, 0.01) == "done\r\n"


def test_nothing_is_shown_where_nobody_looks_on(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("judging") as advance:
        advance(1, 2)
    assert capfd.readouterr() == ("", "")
