"""Bars and lines are as long and as high as their values, and what is written fits."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from sam2edge.calibration.measure.page import bars, lines


def shapes(svg: str, tag: str) -> list[dict[str, str]]:
    return [
        dict(element.attrib) for element in ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{tag}")
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars("t <1>", ["a", "b"], [("one", [1.0, 2.0], "3"), ("two", [6.0, 0.0], "6")])
    rects = [rect for rect in shapes(svg, "rect") if rect["height"] == "19"]
    widths = [float(rect["width"]) for rect in rects]
    assert np.array(widths) / widths[2] == pytest.approx(np.array([1, 2, 6]) / 6, abs=1e-3)
    assert float(rects[1]["x"]) == pytest.approx(float(rects[0]["x"]) + widths[0], abs=0.1)
    assert texts(svg) == ["t <1>", "a", "b", "one", "3", "two", "6"]


def test_lines_are_as_high_as_their_values() -> None:
    svg = lines("t", "x", {"a": [(4, 30.0), (1, 60.0)], "b": [(1, 15.0)]})
    (x1, y1), (x4, y4), (_, low) = ((float(c["cx"]), float(c["cy"])) for c in shapes(svg, "circle"))
    assert x1 < x4
    bottom = 330
    assert [(bottom - y) / (bottom - y1) for y in (y4, low)] == pytest.approx([0.5, 0.25], abs=1e-3)
    assert texts(svg)[1:8] == ["0", "10", "20", "30", "40", "50", "60"]


def test_an_axis_may_begin_above_zero() -> None:
    svg = lines("t", "x", {"a": [(0, 0.95), (1, 1.0)]}, bottom=0.9, colours=["#123456"])
    [polyline] = shapes(svg, "polyline")
    (_, middle), (_, top) = (map(float, point.split(",")) for point in polyline["points"].split())
    assert polyline["stroke"] == "#123456"
    assert (330 - middle) / (330 - top) == pytest.approx(0.5, abs=1e-3)
    assert texts(svg)[1:7] == ["0.9", "0.92", "0.94", "0.96", "0.98", "1"]


@pytest.mark.parametrize("name", ["b", "b" * 90])
def test_names_fit(name: str) -> None:
    """Letters are some 7 wide."""
    for svg in (bars("t", [""], [(name, [1.0], "2.0 ms")]), lines("t", "x", {name: [(1, 1)]})):
        picture = float(ElementTree.fromstring(svg).attrib["width"])
        for text, at in zip(texts(svg), shapes(svg, "text"), strict=True):
            width = 7 * len(text)
            left = float(at["x"]) - {"start": 0, "middle": 0.5, "end": 1}[at.get("text-anchor", "start")] * width
            assert 0 <= left <= picture - width


def test_numbers_of_an_axis_do_not_overlap() -> None:
    assert texts(lines("t", "x", {"a": [(1, 1), (2, 1), (64, 1)]}))[-4:] == ["1", "64", "x", "a"]


@pytest.mark.parametrize(
    ("largest", "marks"), [(0.03, ["0", "0.005"]), (7, ["0", "1"]), (66, ["0", "10"]), (90000, ["0", "20000"])]
)
def test_axis_has_round_numbers(largest: float, marks: list[str]) -> None:
    assert texts(lines("t", "x", {"a": [(1, largest)]}))[1:3] == marks
