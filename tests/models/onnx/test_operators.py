"""Each operator with each of its parameters, against ONNX Runtime: `from_onnx` itself compares, and refuses what differs."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import pintsize as ps
from onnx_graphs import ints, random, write

node = helper.make_node
X = [2, 4, 9, 7]
"""Of the input of most."""

PLAIN = [
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Sqrt", "Log", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh",
    "Atanh", "Tan", "HardSwish", "GlobalAveragePool", "GlobalMaxPool", "Flatten", "Transpose", "Dropout",
    "LogSoftmax", "Softmax", "Hardmax", "ReduceMean",
]  # fmt: skip
REDUCTIONS = ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]
ONE = [
    *((name, {}, 17) for name in PLAIN),
    ("Mish", {}, 18), ("Gelu", {}, 20), ("Gelu", {"approximate": "tanh"}, 20),
    ("LeakyRelu", {"alpha": 0.2}, 17), ("Elu", {"alpha": 1.5}, 17), ("Selu", {}, 17), ("Selu", {"alpha": 2.0}, 17),
    ("Celu", {"alpha": 0.7}, 17), ("ThresholdedRelu", {"alpha": 0.4}, 17), ("Shrink", {"lambd": 0.3, "bias": 0.1}, 17),
    ("HardSigmoid", {}, 17), ("HardSigmoid", {"alpha": 1 / 6}, 17), ("Clip", {"min": 0.2, "max": 0.6}, 9),
    ("Clip", {"min": 0.0, "max": 6.0}, 9), ("Clip", {}, 13),
    ("Softmax", {"axis": 1}, 13), ("Softmax", {"axis": 1}, 11), ("Softmax", {"axis": -1}, 11),
    ("LogSoftmax", {"axis": 2}, 11),
    ("Hardmax", {"axis": 1}, 13), ("Flatten", {"axis": 2}, 17), ("Flatten", {"axis": 0}, 17), ("Flatten", {"axis": -1}, 17),
    ("Transpose", {"perm": [0, 2, 3, 1]}, 17), ("GlobalLpPool", {"p": 2}, 17),
    ("DepthToSpace", {"blocksize": 2}, 17), ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, 17),
    ("LRN", {"size": 3, "alpha": 0.01, "beta": 0.6, "bias": 1.5}, 17),
    ("MeanVarianceNormalization", {}, 17), ("LpNormalization", {"axis": 1}, 17), ("LpNormalization", {"p": 1}, 17),
    *((f"Reduce{how}", {"axes": [1, -1], "keepdims": keep}, 11)
      for how in REDUCTIONS for keep in (0, 1)),
    ("ArgMax", {"axis": 1}, 17), ("ArgMin", {"axis": 2, "keepdims": 0}, 17),
    ("ArgMax", {"axis": 1, "select_last_index": 1}, 17),
    ("MaxPool", {"kernel_shape": [3, 3]}, 17),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, 17),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 17),
    ("MaxPool", {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [1, 1, 1, 1]}, 17),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, 17),
    ("MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, 17),
    ("MaxPool", {"kernel_shape": [3, 3], "auto_pad": "VALID"}, 17),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 17),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 17),
    ("AveragePool", {"kernel_shape": [2, 3], "pads": [0, 0, 1, 2]}, 17),
    ("AveragePool", {"kernel_shape": [2, 3], "pads": [0, 0, 1, 2], "count_include_pad": 1}, 17),
    ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, 17),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 19),
    ("LpPool", {"kernel_shape": [2, 2], "strides": [2, 2], "p": 2}, 17),
    ("Squeeze", {}, 17), ("ReduceMean", {"axes": [2, 3]}, 17),
]  # fmt: skip


def name_of(case):
    return f"{case[0]}-{case[1]}-{case[2]}".replace(" ", "") if isinstance(case, tuple) else None


@pytest.mark.parametrize("case", ONE, ids=name_of)
@pytest.mark.parametrize("batch", ["open", "fixed"])
def test_operators_of_one_tensor(tmp_path, case, batch):
    op, attributes, opset = case
    kind = TensorProto.INT64 if op.startswith("Arg") else TensorProto.FLOAT
    lead = ["n", *X[1:]] if batch == "open" else X
    write(
        tmp_path / "a.onnx",
        [node(op, ["x"], ["y"], **attributes)],
        {"x": lead},
        {"y": (None, kind)},
        opset=opset,
    )
    net = ps.models.from_onnx(tmp_path / "a.onnx")
    assert net.program.told["difference"] < 1e-4


WEIGHT, BIAS = random(6, 4, 3, 3), random(6, seed=1)
LAYERS = [
    ("Conv", {}, {"w": WEIGHT}),
    ("Conv", {"pads": [1, 1, 1, 1], "strides": [2, 1]}, {"w": WEIGHT, "b": BIAS}),
    ("Conv", {"pads": [0, 1, 2, 1]}, {"w": WEIGHT, "b": BIAS}),
    ("Conv", {"auto_pad": "SAME_LOWER"}, {"w": random(6, 4, 2, 3)}),
    ("Conv", {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"w": WEIGHT}),
    ("Conv", {"strides": [2, 2], "auto_pad": "SAME_LOWER"}, {"w": WEIGHT}),
    ("Conv", {"strides": [2, 2], "auto_pad": "VALID"}, {"w": WEIGHT}),
    ("Conv", {"group": 2}, {"w": random(6, 2, 3, 3)}),
    ("Conv", {"group": 4}, {"w": random(8, 1, 3, 3)}),
    ("ConvTranspose", {}, {"w": random(4, 6, 3, 3), "b": BIAS}),
    ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, {"w": random(4, 6, 3, 3)}),
    ("ConvTranspose", {"strides": [2, 2], "pads": [0, 1, 1, 0]}, {"w": random(4, 6, 3, 3)}),
    ("ConvTranspose", {"strides": [2, 2], "group": 2}, {"w": random(4, 3, 2, 2), "b": BIAS}),
    ("ConvTranspose", {"strides": [2, 2], "output_shape": [19, 15]}, {"w": random(4, 6, 3, 3)}),
    ("ConvTranspose", {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"w": random(4, 6, 3, 3)}),
    ("MatMul", {}, {"w": random(7, 5)}),
    ("MatMul", {}, {"w": random(4, 7, 5)}),
    ("PRelu", {}, {"w": random(4, 1, 1)}),
    ("PRelu", {}, {"w": random(1)}),
    ("PRelu", {}, {"w": random(9, 7)}),
    ("BatchNormalization", {"epsilon": 1e-3},
     {"w": random(4) + 1, "b": random(4), "m": random(4), "v": np.abs(random(4)) + 0.1}),
    ("InstanceNormalization", {}, {"w": random(4) + 1, "b": random(4)}),
    ("LayerNormalization", {}, {"w": random(7) + 1, "b": random(7)}),
    ("LayerNormalization", {"axis": -2}, {"w": random(9, 7) + 1}),
    ("LayerNormalization", {}, {"w": random(1) + 1, "b": random(7)}),
    ("Add", {}, {"w": random(4, 1, 1)}), ("Sub", {}, {"w": random(1)}), ("Mul", {}, {"w": random(2, 4, 9, 7)}),
    ("Div", {}, {"w": random(7) + 2}), ("Pow", {}, {"w": np.float32(2)}), ("Mod", {"fmod": 1}, {"w": np.float32(0.3)}),
    ("Max", {}, {"w": np.float32(0.5)}), ("Min", {}, {"w": random(7)}), ("Sum", {}, {"w": random(7)}),
    ("Mean", {}, {"w": random(7), "b": random(7)}),
    ("Gather", {"axis": 1}, {"w": ints(3, -1, 0)}), ("Gather", {"axis": 2}, {"w": np.int64(-2)}),
    ("Gather", {"axis": -1}, {"w": ints(0, 1, 2, 6).reshape(2, 2)}),
    ("Expand", {}, {"w": ints(3, 1, 1, 1, 1)}), ("Tile", {}, {"w": ints(1, 2, 1, 3)}),
    ("Unsqueeze", {}, {"w": ints(0, -1)}),
    ("Slice", {}, {"w": ints(1, -3), "b": ints(3, 2**62), "m": ints(1, 3)}),
    ("Slice", {}, {"w": ints(-1), "b": ints(-(2**62)), "m": ints(2), "v": ints(-2)}),
    ("Pad", {}, {"w": ints(0, 0, 1, 2, 0, 0, 0, 3)}),
    ("Pad", {"mode": "reflect"}, {"w": ints(0, 0, 1, 2, 0, 0, 0, 3)}),
    ("Pad", {"mode": "edge"}, {"w": ints(0, 0, 1, 2, 0, 0, 0, 3)}),
    ("Pad", {}, {"w": ints(0, 0, 1, -2, 0, 0, 0, 3), "b": np.float32(1.5)}),
    ("Reshape", {}, {"w": ints(0, -1, 7)}), ("Reshape", {}, {"w": ints(-1, 252)}),
    ("CumSum", {"exclusive": 1}, {"w": np.int64(1)}), ("CumSum", {"reverse": 1}, {"w": np.int64(-1)}),
    ("Trilu", {}, {"w": np.int64(1)}), ("Trilu", {"upper": 0}, {"w": np.int64(-1)}),
    ("ReduceSum", {"keepdims": 0}, {"w": ints(1, 3)}), ("ReduceSum", {"noop_with_empty_axes": 1}, {}),
    ("Clip", {}, {"w": np.float32(0.1), "b": np.float32(0.7)}),
    ("Einsum", {"equation": "bchw,wk->bckh"}, {"w": random(7, 3)}),
    ("GatherND", {}, {"w": ints(0, 1, 1, 3).reshape(2, 2)}),
    ("ScatterND", {}, {"w": ints(0, 1, 1, 3).reshape(2, 2), "b": random(2, 9, 7)}),
    ("GatherElements", {"axis": 3}, {"w": ints(*[0, -1, 3] * 72).reshape(2, 4, 9, 3)}),
    ("ReverseSequence", {"batch_axis": 0, "time_axis": 1}, {"w": ints(2, 4)}),
]  # fmt: skip


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: f"{case[0]}-{case[1]}".replace(" ", ""))
def test_operators_with_constants(tmp_path, case):
    op, attributes, weights = case
    made = node(op, ["x", *weights], ["y"], **attributes)
    write(tmp_path / "a.onnx", [made], {"x": X}, {"y": None}, weights)
    assert ps.models.from_onnx(tmp_path / "a.onnx").program.told["difference"] < 1e-4


RESIZES = [
    {"mode": mode, "coordinate_transformation_mode": places, "nearest_mode": nearest}
    for mode, nearest in (
        ("nearest", "floor"), ("nearest", "ceil"), ("nearest", "round_prefer_floor"), ("nearest", "round_prefer_ceil"),
        ("linear", "floor"), ("cubic", "floor"),
    )
    for places in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
]  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}], ids=str)
@pytest.mark.parametrize("attributes", RESIZES, ids=lambda one: "-".join(one.values()))
def test_resize(tmp_path, attributes, more):
    if more and attributes["mode"] != "cubic":
        pytest.skip("only cubic reads it")
    for number, (scales, sizes) in enumerate((
        ([1, 1, 2, 2], None), ([1, 1, 1.5, 0.6], None), (None, [2, 4, 12, 20]), (None, [2, 4, 5, 3]),
    )):  # fmt: skip
        weights = {"roi": np.array([], np.float32)}
        weights |= (
            {"s": np.array(scales, np.float32)}
            if scales
            else {"e": np.array([], np.float32), "s": ints(*sizes)}
        )
        made = node("Resize", ["x", *weights], ["y"], **attributes, **more)
        path = write(tmp_path / f"{number}.onnx", [made], {"x": X}, {"y": None}, weights)
        assert ps.models.from_onnx(path).program.told["difference"] < 1e-4


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_resize_before_it_had_places(tmp_path, opset):
    op = "Upsample" if opset < 10 else "Resize"
    scales = [1.0, 1.0, 2.0, 3.0]
    made = node(
        op,
        ["x"] if opset < 9 else ["x", "s"],
        ["y"],
        mode="nearest",
        **({"scales": scales} if opset < 9 else {}),
    )
    weights = {} if opset < 9 else {"s": np.array(scales, np.float32)}
    write(tmp_path / "a.onnx", [made], {"x": X}, {"y": None}, weights, opset=opset)
    assert ps.models.from_onnx(tmp_path / "a.onnx").program.told["difference"] < 1e-4


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("state", [False, True])
def test_recurrent_layers(tmp_path, kind, directions, state):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    weights = {
        "w": random(directions, gates * 5, 6), "r": random(directions, gates * 5, 5, seed=1),
        "b": random(directions, 2 * gates * 5, seed=2),
    }  # fmt: skip
    inputs = ["x", "w", "r", "b"]
    if state:
        weights |= {"h": random(directions, 3, 5, seed=3), "c": random(directions, 3, 5, seed=4)}
        inputs += ["", "h", *(["c"] if kind == "LSTM" else [])]
        weights = {k: v for k, v in weights.items() if k != "c" or kind == "LSTM"}
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    made = node(
        kind,
        inputs,
        ["y", "last"],
        hidden_size=5,
        direction="bidirectional" if directions == 2 else "forward",
        **more,
    )
    write(tmp_path / "a.onnx", [made], {"x": [4, 3, 6]}, {"y": None, "last": None}, weights)
    net = ps.models.from_onnx(tmp_path / "a.onnx")
    assert net.program.told["difference"] < 1e-4
    assert [*net(torch.rand(4, 3, 6))] == ["y", "last"]


def test_group_norm_of_both_opsets(tmp_path):
    for opset, count in ((18, 2), (21, 4)):
        made = node("GroupNormalization", ["x", "w", "b"], ["y"], num_groups=2)
        weights = {"w": random(count) + 1, "b": random(count, seed=1)}
        path = write(tmp_path / f"{opset}.onnx", [made], {"x": X}, {"y": None}, weights, opset=opset)
        if opset == 18:  # ONNX Runtime has no kernel for it; it expands what stands in onnx
            net = ps.models.from_onnx(path, check=False)
            wanted = torch.nn.functional.group_norm(
                x := torch.rand(*X), 2, *(torch.from_numpy(weights[k]).repeat_interleave(2) for k in "wb")
            )
            torch.testing.assert_close(net(x), wanted)
        else:
            assert ps.models.from_onnx(path).program.told["difference"] < 1e-4


def test_several_results(tmp_path):
    nodes = [
        node("Split", ["x", "s"], ["a", "b"], axis=1),
        node("TopK", ["a", "k"], ["top", "places"], axis=2),
        node("OneHot", ["places", "depth", "values"], ["hot"], axis=1),
        node("Concat", ["top", "top"], ["twice"], axis=-1),
        node("Where", ["mask", "twice", "other"], ["chosen"]),
        node("Greater", ["twice", "half"], ["mask"]),
    ]
    weights = {
        "s": ints(1, 3), "k": ints(2), "depth": ints(9), "values": np.array([0, 1], np.float32),
        "other": np.float32(-1), "half": np.float32(0.8),
    }  # fmt: skip
    write(tmp_path / "a.onnx", nodes, {"x": X}, {"b": None, "hot": None, "chosen": None}, weights)
    net = ps.models.from_onnx(tmp_path / "a.onnx")
    assert [*net(torch.rand(*X))] == ["b", "hot", "chosen"]


def test_patches_put_back(tmp_path):
    made = node("Col2Im", ["x", "size", "block"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    weights = {"size": ints(8, 6), "block": ints(2, 3)}
    write(tmp_path / "a.onnx", [made], {"x": ["n", 24, 15]}, {"y": None}, weights, opset=18)
    assert ps.models.from_onnx(tmp_path / "a.onnx").program.told["difference"] < 1e-4
