"""``scripts/bench`` as a whole, on benches that say at once what they are told to."""

import json
from pathlib import Path

import pytest

from tests.bench import runner
from tests.bench.runner import BEGIN, END, Place, main

BENCH = """
from pathlib import Path
from tests.bench.figure import Figure, Floor, report
times = Path("{values}").read_text().split()
Path("{values}").write_text(" ".join(times[1:] or times))
report(Figure("a label", float(times[0]), 0, Floor("hop", 1.0)))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """One bench, which takes its figure from a file: the first word, and then the next."""
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    (tmp_path / "tests").symlink_to(Path(__file__).parents[1])
    (tmp_path / "calico_k8s").symlink_to(Path(__file__).parents[2] / "calico_k8s")
    for name in ("benches", "docs"):
        (tmp_path / name).mkdir()
    made = Place(tmp_path / "benches", tmp_path / "build" / "bench.json", tmp_path / "docs")
    (made.benches / "bench_one.py").write_text(BENCH.format(values=tmp_path / "values"))
    (made.docs / "performance.md").write_text(f"# Before\n{BEGIN}\nold\n{END}\nAfter.\n")
    return made


def told(place: Place, *values: float) -> None:
    """The figures of the next runs."""
    (place.docs.parent / "values").write_text(" ".join(map(str, values)))


def stored_ratio(place: Place) -> float:
    ratio = json.loads(place.ratios.read_text())["a label"]["ratio"]
    assert isinstance(ratio, float)
    return ratio


def test_a_regression_fails_and_can_be_accepted(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    told(place, 10)
    assert main(["--anew"], place) == 0
    assert stored_ratio(place) == 10
    page = (place.docs / "performance.md").read_text()
    assert page.startswith("# Before\n")
    assert page.endswith("\nAfter.\n")
    assert "| a label | 10 ms |" in page
    assert "old" not in page

    told(place, 11)
    assert main([], place) == 0
    assert stored_ratio(place) == 10, "nothing is stored that nobody asked for"

    told(place, 13, 14)
    assert main(["one"], place) == 1
    said = capfd.readouterr().out
    assert "a label: 13 ms is 13 times its floor (hop, 1 ms)" in said
    assert "scripts/bench --accept" in said
    assert main(["--accept"], place) == 0
    assert stored_ratio(place) == 13


def test_what_is_worse_once_is_not_worse(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    told(place, 10)
    main(["--anew"], place)
    told(place, 20, 10)
    assert main([], place) == 0
    assert "measured again: one" in capfd.readouterr().out


def test_a_bench_that_fails_is_said(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    (place.benches / "bench_two.py").write_text("raise SystemExit('no such kernel')")
    told(place, 10)
    assert main([], place) == 1
    assert "bench two failed" in capfd.readouterr().out


def test_a_name_that_there_is_not_is_said(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["won"], place)
    assert "there is no bench won: there are one" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["--accept"], place)
    assert "run scripts/bench first" in capfd.readouterr().err
