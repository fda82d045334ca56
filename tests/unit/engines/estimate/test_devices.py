"""The table of boards and cards, and the lower bounds of a frame on them."""

from __future__ import annotations

import re

import onnx
import pytest

from sam2edge import Bundle, cli
from sam2edge.bundle import GRAPHS
from sam2edge.engines.estimate.cost import graph_cost, least_bytes
from sam2edge.engines.estimate.devices import DEVICES, Device, find_device
from sam2edge.engines.estimate.roofline import Bound, frame_sizes, graph_bounds, parts
from sam2edge.engines.low_precision import FP16, lowered


@pytest.mark.parametrize("name", DEVICES)
def test_figures_are_plausible(name: str) -> None:
    """INT8 is twice FP16 on all of them, and bandwidth and memory are in the documented units."""
    device = DEVICES[name]
    assert device.int8 / device.fp16 == pytest.approx(2, rel=0.07)
    assert 40 < device.bandwidth < 10_000
    assert 8 <= device.memory <= 141
    assert device.source.startswith("https://")


def test_derived_peaks() -> None:
    """If a note has operations, tensor cores and clock, the peaks are their product."""
    product = re.compile(r"clock × (\d+) FP16 or (\d+) INT8 operations, (\d+) at (\d+) MHz")
    derived = [(device, match) for device in DEVICES.values() if (match := product.search(device.note))]
    assert len(derived) > 10
    for device, match in derived:
        fp16, int8, cores, clock = map(int, match.groups())
        assert device.fp16 == pytest.approx(fp16 * cores * clock / 1e6, rel=0.01)
        assert device.int8 == pytest.approx(int8 * cores * clock / 1e6, rel=0.01)


def test_floor_of_arithmetic(nano: Bundle) -> None:
    """If bytes cost nothing, all products count in FP16; in INT8 those of two activations are not faster."""
    bounds = graph_bounds(nano, Device("", 1e-3, 2e-3, 1e6, 8, ""), 2)
    for name in GRAPHS:
        costs = graph_cost(onnx.load(nano.graph_path(name)), frame_sizes(nano, 2))
        assert bounds[name].flops == sum(cost.flops for cost in costs)
        assert bounds[name].fp16 == pytest.approx(bounds[name].flops / 1e9)
    scores = graph_bounds(nano, Device("", 1e-3, 1e9, 1e6, 8, ""), 2)["memory_attention"]
    assert 0.1 * scores.fp16 < scores.int8 < 0.9 * scores.fp16
    assert bounds["memory_encoder"].int8 == pytest.approx(bounds["memory_encoder"].fp16 / 2)


def test_floor_of_bytes(nano: Bundle) -> None:
    """If arithmetic costs nothing, inputs, outputs and weights count, and INT8 halves the weights of products."""
    bounds = graph_bounds(nano, Device("", 1e9, 1e9, 1e-3, 8, ""), 1)
    for name in GRAPHS:
        model = lowered(onnx.load(nano.graph_path(name)), FP16)
        assert bounds[name].least == least_bytes(model, frame_sizes(nano, 1))
        assert bounds[name].fp16 == pytest.approx(bounds[name].least / 1e6)
        assert 0.45 < bounds[name].int8 / bounds[name].fp16 < 1


def test_as_written_it_is_no_quicker_than_the_floor_and_its_parts_add_up(nano: Bundle) -> None:
    device = find_device("orin-nx")
    slowest_parts = list(parts(nano, device, 4, 1000))
    for name, bound in graph_bounds(nano, device, 4).items():
        assert bound.written >= bound.fp16 >= bound.int8
        assert bound.moved >= bound.least
        flops, moved, times = (sum(part[n] for part in slowest_parts if part[0] == name) for n in (2, 3, 4))
        assert (flops, moved) == (bound.flops, bound.moved)
        assert times == pytest.approx(bound.written)


def test_bounds_add_up() -> None:
    assert Bound(1, 2, 3.0, 4.0, 5, 6.0) + Bound(10, 20, 30.0, 40.0, 50, 60.0) == Bound(11, 22, 33.0, 44.0, 55, 66.0)


def test_command(nano: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["inspect", str(nano.path), "--device", "orin-nx", "--objects", "3", "--parts", "1"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert out.startswith("Jetson Orin NX 16 GB: 15 TFLOP/s FP16 and 30 TOPS INT8, dense; 102 GB/s, 16 GB\nhttps://")
    assert "A bound, not a measurement: no frame with 3 objects" in out
    bounds = graph_bounds(nano, find_device("orin-nx"), 3)
    rows = dict(re.findall(r"^(\w+) +[\d.]+ +[\d.]+ +([\d.]+) ", out, re.MULTILINE))
    assert rows == {
        **{name: f"{1e3 * bound.fp16:.3f}" for name, bound in bounds.items()},
        "frame": f"{1e3 * sum(bound.fp16 for bound in bounds.values()):.3f}",
    }
    assert [row.split()[0] for row in out.partition("graph ")[2].splitlines()[1:]] == list(GRAPHS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "pi"], "unknown device 'pi'; choose from orin-nano"),
        (["--device", "l4", "--objects", "0"], "--objects must be an integer of at least 1 but got 0"),
        (["--device", "l4", "--parts", "-1"], "--parts must be an integer of at least 0 but got -1"),
    ],
)
def test_wrong_arguments(nano: Bundle, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert cli.main(["inspect", str(nano.path), *words]) == 2
    assert message in capsys.readouterr().err


def test_without_onnx(nano: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["inspect", str(nano.path), "--device", "l4"]) == 2
    assert "--device reads the graphs with onnx, which is not installed: pip install onnx" in capsys.readouterr().err
