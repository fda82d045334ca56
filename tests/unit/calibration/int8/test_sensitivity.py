"""Blocks measured one by one on the bundled model, with a range that is wrong on purpose."""

import csv
import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

from sam2edge.bundle import GRAPHS
from sam2edge.calibration.int8 import sensitivity as module
from sam2edge.calibration.int8.quantize import layers
from sam2edge.calibration.int8.ranges import collect, load_graph
from sam2edge.calibration.int8.recipe import Block, Recipe, blocks
from sam2edge.calibration.int8.sensitivity import sensitivity, table, write_sensitivity
from sam2edge.calibration.measure.clip import Clip
from sam2edge.engines.low_precision import Fp32Island, island_nodes
from sam2edge.errors import MediaError
from tests.helpers import CLIP

FRAMES = 2
BROKEN = "/blocks.0/norm2/LayerNormalization_output_0"


@pytest.fixture(scope="module")
def ranges(nano, prompts):
    return collect(nano, Clip(CLIP, 8), prompts, {0, 1, 4, 7})


@pytest.fixture(scope="module")
def few_frames():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FRAMES", FRAMES)
        yield


@pytest.fixture(scope="module")
def effects(nano, prompts, ranges, few_frames):
    return sensitivity(nano, ranges, Recipe(), Clip(CLIP), prompts)


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_layer_is_in_one_block(nano, graph):
    model, kept = load_graph(nano.graph_path(graph)), Recipe().of(graph)
    stays = island_nodes(model.graph, kept)
    found = blocks(model, graph, kept)
    counts = Counter()
    for layer in layers(model):
        matching = [block for block in found if re.match(block.nodes, layer.node)]
        assert len(matching) == (layer.node not in stays), layer.node
        counts.update(matching)
    assert counts == {block: block.layers for block in found}


def test_blocks_of_a_graph(nano):
    model = load_graph(nano.graph_path("memory_attention"))
    assert blocks(model, "memory_attention", Recipe().of("memory_attention")) == [
        Block("memory_attention", pattern.format(layer), count)
        for layer in (0, 1)
        for pattern, count in (
            (r"/layers\.{}/(?:query|key|value|output)/", 4),
            (r"/layers\.{}/memory_", 4),
            (r"/layers\.{}/linear", 2),
        )
    ]


def test_the_others_of_a_block_are_everything_else(nano):
    graph = load_graph(nano.graph_path("image_encoder")).graph
    block = Block("image_encoder", r"/blocks\.1/", 5)
    mine = island_nodes(graph, [block.kept("test")])
    assert mine == {node.name for node in graph.node if node.name.startswith("/blocks.1/")}
    assert island_nodes(graph, [block.others()]) == {node.name for node in graph.node} - mine


def test_effects(nano, effects):
    assert 20 <= len(effects) <= 40
    assert {effect.block.graph for effect in effects} == set(GRAPHS)
    errors = [effect.error for effect in effects]
    assert errors == sorted(errors, reverse=True)
    # INT8 has steps of 1/127 of the largest magnitude: no block is exact, none is off by a tenth
    assert 1e-4 < errors[-1] < errors[0] < 0.1
    assert all(effect.agreement.iou.shape == (FRAMES, 3) for effect in effects)
    assert min(effect.agreement.mean for effect in effects) > 0.99


def test_a_wrong_range_is_found(nano, ranges, prompts, few_frames):
    """An eighth of the range of one tensor clips nearly all of it; only its own block may show that."""
    wrong = {**ranges, "image_encoder": {**ranges["image_encoder"], BROKEN: ranges["image_encoder"][BROKEN] / 8}}
    others = [Fp32Island(graph, ".*", "not measured") for graph in GRAPHS if graph != "image_encoder"]
    first, second, *rest = sensitivity(nano, wrong, Recipe(kept=tuple(others)), Clip(CLIP), prompts)
    assert {effect.block.graph for effect in (first, second, *rest)} == {"image_encoder"}
    assert (first.block.graph, first.block.nodes) == ("image_encoder", r"/blocks\.0/")
    assert first.error > 5 * second.error
    assert first.agreement.mean < second.agreement.mean


def test_files(effects, tmp_path):
    data, shown = write_sensitivity(tmp_path / "new" / "folder", Clip(CLIP), effects)
    with data.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["block"] for row in rows] == [effect.block.nodes for effect in effects]
    np.testing.assert_allclose([float(row["RMS error"]) for row in rows], [e.error for e in effects], rtol=5e-3)
    assert float(rows[0]["mean IoU"]) == pytest.approx(effects[0].agreement.mean, abs=5e-5)
    page = shown.read_text()
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="19"', page)]
    np.testing.assert_allclose(widths, [480 * effect.error / effects[0].error for effect in effects], atol=0.1)
    assert page.count("<tr>") == len(effects) + 1


def test_ious_are_dashes_where_nothing_was_tracked(effects):
    assert table([dataclasses.replace(effects[0], agreement=None)])[1][-2:] == ["–", "–"]


def test_a_folder_that_cannot_be_written(effects, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match=r"file/sensitivity\.csv: cannot be written"):
        write_sensitivity(tmp_path / "file", Clip(CLIP), effects)
