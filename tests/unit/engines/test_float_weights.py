"""INT8 graphs as TensorRT 8.6 reads them compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx.numpy_helper import to_array

from sam2edge import Bundle
from sam2edge.bundle import GRAPHS
from sam2edge.engines.float_weights import with_float_weights
from tests.helpers import assert_close, graph_inputs


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_are_quantised_in_the_graph(nano_int8: Bundle, graph: str) -> None:
    model = onnx.load(nano_int8.graph_path(graph))
    floats = with_float_weights(model)
    before, after = constants(model), constants(floats)
    data = {name for node in floats.graph.node for name in node.input[:1]}
    assert not [name for name in data if name in after and after[name].dtype == np.int8]
    weights = [node for node in floats.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in after]
    assert weights
    for node in weights:
        values, scale = (after[name] for name in node.input[:2])
        shape = [-1 if side == node.attribute[0].i else 1 for side in range(values.ndim)]
        np.testing.assert_array_equal(np.rint(values / scale.reshape(shape)), before[node.output[0]])
    inputs = graph_inputs(nano_int8, graph, {"B": 1, "N": 2, "T": 2, "K": 3, "P": 2})
    expected, actual = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, inputs) for each in (model, floats)
    )
    assert_close(actual, expected, 1e-6)


def test_a_table_becomes_floats(nano_int8: Bundle) -> None:
    """Nothing quantises what no layer of INT8 reads."""
    model = onnx.load(nano_int8.graph_path("image_encoder"))
    floats = with_float_weights(model)
    (table,) = (
        constants(floats).keys()
        - constants(model).keys()
        - {node.input[0] for node in floats.graph.node if node.op_type == "QuantizeLinear"}
    )
    assert constants(floats)[table].dtype == np.float32
