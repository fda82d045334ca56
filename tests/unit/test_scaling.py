"""The scaling model (docs/explanation/scaling.md)."""

from __future__ import annotations

import pytest

from tests.conftest import REPO
from tools.scaling import FRAMES, GPUS, Cost, Graphs, Host, Load, cost, hours_table, main

PAGE = REPO / "docs" / "explanation" / "scaling.md"


def test_a_frame_costs_by_its_pixels_and_objects() -> None:
    found = cost(Host(decode=0.01, output=0.002, pixels=0.001), Graphs(0.02, 0.005), Load(megapixels=2, objects=3))
    assert (found.decode, found.output, found.graphs) == pytest.approx((0.02, 0.012, 0.035))
    assert found.host == pytest.approx(0.032)
    assert found.on_cores(2) == pytest.approx(2 / 0.067)


@pytest.mark.parametrize(
    ("cores", "workers", "rate", "limit"),
    [
        (16, 16, 1 / 0.004, "GPU"),  # 250 frames a second; the cores could feed 320, and the workers 400
        (4, 8, 4 / 0.05, "cores"),
        (16, 1, 1 / 0.04, "workers"),  # the decoder's thread, which is slower than what the other one does
    ],
)
def test_bottleneck_of_a_gpu(cores: int, workers: int, rate: float, limit: str) -> None:
    found, name = Cost(decode=0.04, output=0.01, graphs=0.004).on_gpu(cores, workers)
    assert (name, found) == (limit, pytest.approx(rate))


def test_page_has_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 2 + len(GPUS) * len(FRAMES)
    assert table in PAGE.read_text()


def test_hours_follow_from_the_formula() -> None:
    """An H100 takes a tiny's frame with three objects 1.35 + 3 × 1.66 ms as written: 900,000 of them 1.58 hours."""
    rows = {row[:3]: row[3:] for row in hours_table(videos=1000, frames=900, objects=3)}
    assert rows["tiny", "H100", "720p"][1] == f"{900_000 * (1.35 + 3 * 1.66) / 3.6e6:.1f}" == "1.6"
