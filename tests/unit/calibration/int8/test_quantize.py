"""Q/DQ graphs against values computed by hand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sam2edge.bundle import GRAPHS
from sam2edge.calibration.int8.quantize import Layer, fp16_above, layers, quantize
from sam2edge.calibration.int8.ranges import load_graph
from sam2edge.calibration.int8.recipe import Recipe
from sam2edge.engines.low_precision import Fp32Island, island_nodes
from sam2edge.errors import BuildError, InputError
from sam2edge.runtime.backends.onnx import new_session

WEIGHT = np.array([[127, -64, 0], [1.4, 254, 0]], np.float32) / 128


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes, inputs, outputs, **constants):
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def linear():
    """Y = x @ w + b and z = relu(x) @ w beside it, with w read through an Identity as the exporter writes it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "/first/MatMul"),
        helper.make_node("Add", ["product", "b"], ["y"], "/first/Add"),
        helper.make_node("Identity", ["w"], ["alias"], "alias"),
        helper.make_node("MatMul", ["x", "alias"], ["z"], "/second/MatMul"),
    ]
    outputs = [value("y", [None, 3]), value("z", [None, 3])]
    return model(nodes, [value("x", [None, 2])], outputs, w=WEIGHT, b=np.array([1, 2, 3], np.float32))


def run(graph, **inputs):
    # without optimisations: by the operators' definitions
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def constants(graph):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def test_values(linear):
    new = quantize(linear, "g", {"x": 127 / 8})
    # Steps of 1/8 for x; of 1/128 and 1/64 for the first two columns of w; the third is all zeros.
    stored = constants(new)
    np.testing.assert_array_equal(stored["w/axis1/int8"], [[127, -32, 0], [1, 127, 0]])
    np.testing.assert_array_equal(stored["w/axis1/scale"], [1 / 128, 1 / 64, 1])
    assert stored["x/scale"] == 1 / 8
    for zero in ("x/zero", "w/axis1/zero"):
        assert stored[zero].dtype == np.int8
        assert not stored[zero].any()
    # 0.24 becomes 1/4, and -20 the lowest number of INT8, 128 steps below zero.
    y, z = run(new, x=np.array([[0.24, -20]], np.float32))
    product = np.array([[127 / 512 - 16 / 128, -1 / 8 - 16 * 127 / 64, 0]])
    np.testing.assert_allclose(y, product + np.array([1, 2, 3]), rtol=1e-5)
    np.testing.assert_allclose(z, product, rtol=1e-5)


def test_scales_are_numbers_of_fp16():
    scales = np.float32([0.1, 0.5, 1e-9, 3e-6, 65504, 65505])
    found = fp16_above(scales)
    # above 0.1 there are steps of 2^-14, below 6.1e-5 of 2^-24; what FP16 does not reach stays
    np.testing.assert_array_equal(found, np.float32([1639 / 2**14, 0.5, 2**-24, 51 / 2**24, 65504, 65505]))


def test_an_activation_is_quantised_once_and_a_weight_for_each_reader(linear):
    """ONNX Runtime's exact products on x86 without VNNI fail on a weight that two layers read."""
    new = quantize(linear, "g", {"x": 1.0})
    operators = [node.op_type for node in new.graph.node]
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("DequantizeLinear") == 3
    assert "Identity" not in operators
    stored = constants(new)
    assert "w" not in stored
    np.testing.assert_array_equal(stored["w/axis1/int8"], stored["w/axis1/2/int8"])
    first, second = (node for node in new.graph.node if node.op_type == "MatMul")
    assert list(first.input) == ["x/dequantized", "w/axis1/dequantized"]
    assert list(second.input) == ["x/dequantized", "w/axis1/2/dequantized"]


def test_products_are_not_cut_off(linear, tmp_path):
    """By default ONNX Runtime adds two products in 16 bits on x86 without VNNI; only there the values can tell."""
    source = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "n")],
        [value("x", [None, 64])],
        [value("y", [None, 4])],
        w=np.ones((64, 4), np.float32),
    )
    onnx.save(quantize(source, "g", {"x": 1.0}), str(tmp_path / "g.onnx"))
    session = new_session(tmp_path / "g.onnx", "CPUExecutionProvider", {})
    np.testing.assert_allclose(session.run(None, {"x": np.ones((2, 64), np.float32)})[0], 64, rtol=2e-3)
    assert session.get_session_options().get_session_config_entry("session.x64quantprecision") == "1"


def test_kept_layers(linear):
    new = quantize(linear, "g", {"x": 1.0}, [Fp32Island("g", "/first/", "a test")])
    first, second = (node for node in new.graph.node if node.op_type == "MatMul")
    assert list(first.input) == ["x", "w"]
    assert list(second.input) == ["x/dequantized", "w/axis1/dequantized"]
    with pytest.raises(BuildError, match="no node is called /third/"):
        quantize(linear, "g", {"x": 1.0}, [Fp32Island("g", "/third/", "a test")])


@pytest.mark.parametrize(
    ("node", "shape", "axis"),
    [
        (helper.make_node("Gemm", ["x", "w"], ["y"], "n", transB=1), (4, 6), 0),
        (helper.make_node("Gemm", ["x", "w"], ["y"], "n"), (6, 4), 1),
        (helper.make_node("Conv", ["x", "w"], ["y"], "n"), (4, 6, 1, 1), 0),
        (helper.make_node("MatMul", ["x", "w"], ["y"], "n"), (6, 4), 1),
    ],
)
def test_scales_are_of_output_channels(node, shape, axis):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x = np.random.default_rng(1).uniform(-1, 1, (5, 6, *shape[2:])).astype(np.float32)
    source = model([node], [value("x", [5, 6, *shape[2:]])], [value("y", [5, 4, *shape[2:]])], w=weight)
    assert layers(source) == [Layer("n", "x", "w", axis)]
    new = quantize(source, "g", {"x": 1.0})
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = fp16_above(np.abs(weight).max(axis=others) / 127)
    np.testing.assert_array_equal(constants(new)[f"w/axis{axis}/scale"], scales)
    assert len(constants(new)[f"w/axis{axis}/scale"]) == 4
    # six products, each of two numbers that are off by half a step at most
    np.testing.assert_allclose(run(new, x=x)[0], run(source, x=x)[0], atol=6 * np.abs(weight).max() / 127)


def test_products_of_activations_stay():
    node = helper.make_node("MatMul", ["x", "y"], ["z"], "attention")
    source = model([node], [value("x", [2, 2]), value("y", [2, 2])], [value("z", [2, 2])])
    assert layers(source) == []
    assert [node.op_type for node in quantize(source, "g", {}).graph.node] == ["MatMul"]


@pytest.mark.parametrize("largest", [0.0, np.inf, np.nan, None])
def test_no_range(linear, largest):
    ranges = {} if largest is None else {"x": largest}
    with pytest.raises(InputError, match=r"/first/MatMul: its input x has the range (0.0|inf|nan), so no scale"):
        quantize(linear, "g", ranges)


def test_weight_that_is_not_finite(linear):
    linear.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT * np.nan, "w"))
    with pytest.raises(InputError, match="weight w: has values that are not finite"):
        quantize(linear, "g", {"x": 1.0})


def test_large_constants_are_fp16_unless_they_do_not_fit():
    fits, too_large = np.full((256, 256), 1.5, np.float32), np.full((256, 256), 1e5, np.float32)
    nodes = [helper.make_node("Sum", ["x", "fits", "too_large"], ["y"], "sum")]
    shape = [256, 256]
    source = model(nodes, [value("x", shape)], [value("y", shape)], fits=fits, too_large=too_large)
    new = quantize(source, "g", {})
    assert {name: array.dtype for name, array in constants(new).items()} == {
        "fits/half": np.float16,
        "too_large": np.float32,
    }
    np.testing.assert_array_equal(run(new, x=np.zeros(shape, np.float32))[0], fits + too_large)


@pytest.mark.parametrize("graph", GRAPHS)
def test_all_layers_of_a_bundle_are_int8(nano, graph):
    source = load_graph(nano.graph_path(graph))
    ranges = {layer.activation: 1.0 for layer in layers(source)}
    new = quantize(source, graph, ranges, Recipe().of(graph))
    kept = island_nodes(source.graph, Recipe().of(graph))
    makers = {name: node for node in new.graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in new.graph.initializer}
    nodes = {node.name: node for node in new.graph.node}
    found = layers(source)
    assert found
    for layer in found:
        activation, weight = (makers.get(name) for name in nodes[layer.node].input[:2])
        if layer.node in kept:
            assert "Dequantize" not in f"{getattr(activation, 'op_type', '')}{getattr(weight, 'op_type', '')}"
        else:
            assert weight.op_type == activation.op_type == "DequantizeLinear"
            assert types[weight.input[0]] == TensorProto.INT8
            assert makers[activation.input[0]].op_type == "QuantizeLinear"
    assert [v.name for v in new.graph.output] == [v.name for v in source.graph.output]
    onnx.checker.check_model(new, full_check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "not a recipe"),
        ("[" * 100_000, "not a recipe"),
        ('{"layers": []}', "not a recipe .'kept'."),
        ('{"kept": [{"graph": "memory_encoder", "nodes": "(", "reason": ""}]}', "not a recipe"),
        ('{"kept": [{"graph": "memory", "nodes": "a", "reason": ""}]}', "no graph is called"),
    ],
)
def test_wrong_recipe(tmp_path, text, message):
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Recipe.read(tmp_path / "r.json")
