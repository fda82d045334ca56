"""INT8 of the light trackers, whose random weights track nothing: graphs are compared one by one."""

import re
from collections import Counter

import pytest

from sam2edge.bundle import GRAPHS
from sam2edge.calibration.int8.quantize import layers
from sam2edge.calibration.int8.ranges import load_graph
from sam2edge.calibration.int8.recipe import Recipe, blocks
from sam2edge.calibration.measure.clip import Clip
from sam2edge.calibration.measure.closed_loop import track_clip
from sam2edge.calibration.measure.graph_errors import graph_errors
from sam2edge.engines.low_precision import island_nodes
from tests.helpers import CLIP

FAMILIES = ("edgetam", "efficienttam")


@pytest.fixture(params=FAMILIES)
def bundle(request):
    return request.getfixturevalue(request.param)


def test_every_layer_is_in_one_block(bundle):
    for graph in GRAPHS:
        model, kept = load_graph(bundle.graph_path(graph)), Recipe().of(graph)
        stays, found = island_nodes(model.graph, kept), blocks(model, graph, kept)
        counts = Counter()
        for layer in layers(model):
            matching = [block for block in found if re.match(block.nodes, layer.node)]
            if layer.node not in stays:  # a block may have layers that stay
                assert len(matching) == 1, layer.node
                counts.update(matching)
        assert counts == {block: block.layers for block in found}


@pytest.mark.parametrize("name", FAMILIES)
def test_graphs_in_int8(request, prompts, name):
    bundle, made = (request.getfixturevalue(fixture) for fixture in (name, f"{name}_int8"))
    size = [sum(graph.bytes for graph in one.manifest.graphs.values()) for one in (made, bundle)]
    assert size[0] < 0.4 * size[1]
    _, recorded = track_clip(bundle, Clip(CLIP, 4), {1: prompts[1]}, "onnx", record=(1, 3))
    found = graph_errors(made, recorded, "onnx")
    errors = {graph: max(error.rms for error in outputs.values()) for graph, outputs in found.items()}
    assert 1e-3 < min(errors.values()) < max(errors.values()) < 0.06, errors
