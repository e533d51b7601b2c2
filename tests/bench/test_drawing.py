"""A plot is a document that shows each figure at its place."""

from xml.etree import ElementTree as ET

from tests.bench.drawing import LEFT, drawing
from tests.bench.figure import Figure, Floor
from tests.bench.ratios import Taken, accepted

SVG = "{http://www.w3.org/2000/svg}"


def test_each_figure_has_its_bar_its_floor_and_its_goal() -> None:
    figures = [
        Taken("x", Figure("a <label>", 10.0, 0, Floor("hop", 0.1), goal=2.5)),
        Taken("x", Figure("nothing to wait for", 0.0, 0, Floor("hop", 0.1))),
        Taken("x", Figure("a pod", 100.0, 0, Floor("hop", 0.1))),
    ]
    drawn = ET.fromstring(drawing("milliseconds", accepted(figures, {}, "today", "here")))
    texts = [each.text for each in drawn.iter(f"{SVG}text")]
    assert {"a <label>", "a pod", "10 ms", "100 ms", "0 ms", "floor", "goal", "0.1"} <= {*texts}
    first, second = (
        float(each.attrib["width"]) for each in drawn.iter(f"{SVG}rect") if "x" in each.attrib
    )
    assert first * 3 == second * 2, "two and three powers of ten from the least"
    places = {float(each.attrib["x1"]) for each in drawn.iter(f"{SVG}line")}
    assert LEFT in places, "the floor of all is the least"
