"""Small `.onnx` files, written with onnx's own helpers."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def write(path, nodes, inputs, outputs, weights=None, *, opset=17, metadata=None, other=()):
    """A file of these nodes.

    `inputs` and `outputs`: name → shape, or (shape, kind); `weights`: name → array; `other`: (domain, version).
    """

    def infos(ends):
        return [
            value(name, *(given if isinstance(given, tuple) else (given,))) for name, given in ends.items()
        ]

    graph = helper.make_graph(
        nodes, "graph", infos(inputs), infos(outputs),
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )  # fmt: skip
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(*each) for each in other)]
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = min(model.ir_version, 10)
    for key, text in (metadata or {}).items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, str(path))
    return path


def random(*shape, seed=0, scale=0.3):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def constant(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), name))


def ints(*numbers):
    return np.array(numbers, np.int64)


def ends(path):
    """Name, type and dimensions of a file's inputs and outputs."""
    graph = onnx.load(path).graph
    return [
        (
            v.name,
            v.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
        )
        for v in (*graph.input, *graph.output)
    ]


def detector(path, *, size=("height", "width"), metadata=None):
    """Two feature maps; boxes are put together and decoded behind the last convolutions, scores through a sigmoid."""
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "stem.weight", "stem.bias"],
             ["/stem/out"], name="/stem/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["/stem/out"], ["gate"], name="/act/Sigmoid"),
        node("Mul", ["/stem/out", "gate"], ["s"], name="/act/Mul"),
        node("Conv", ["s", "low.weight"], ["low"], name="/low/Conv", pads=[1, 1, 1, 1]), node("Relu", ["low"], ["l"]),
        node("MaxPool", ["l"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["small", "high.weight"], ["high"], name="/high/Conv", pads=[1, 1, 1, 1]),
        node("Relu", ["high"], ["h"]),
        node("Conv", ["l", "head.weight"], ["a"], name="/head/Conv"),
        node("Conv", ["h", "head.weight"], ["b"], name="/head_1/Conv"),
        constant("to", ints(0, 6, -1)), node("Reshape", ["a", "to"], ["a1"]), node("Reshape", ["b", "to"], ["b1"]),
        node("Concat", ["a1", "b1"], ["all"], axis=2), constant("parts", ints(4, 2)),
        node("Split", ["all", "parts"], ["sides", "logits"], axis=1),
        constant("stride", np.float32(4)), node("Mul", ["sides", "stride"], ["123"]),
        node("Sigmoid", ["logits"], ["scores/out:0"]),
    ]  # fmt: skip
    weights = {
        "stem.weight": random(16, 3, 3, 3), "stem.bias": random(16, seed=1), "low.weight": random(16, 16, 3, 3, seed=2),
        "high.weight": random(16, 16, 3, 3, seed=3), "head.weight": random(6, 16, 1, 1, seed=4),
    }  # fmt: skip
    return write(
        path, nodes, {"images": ["batch", 3, *size]},
        {"123": ["batch", 4, "boxes"], "scores/out:0": ["batch", 2, "boxes"]}, weights,
        metadata={"names": "cat,dog", **(metadata or {})},
    )  # fmt: skip


def distributed(path):
    """Four sides, each a softmax over eight places that a convolution with the weights 0 to 7 sums up."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="/stem/Conv", pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["d"], name="/sides/Conv"),
        constant("apart", ints(0, 4, 8, -1)), node("Reshape", ["d", "apart"], ["e"]),
        node("Transpose", ["e"], ["f"], perm=[0, 2, 1, 3]), node("Softmax", ["f"], ["g"], axis=1),
        node("Conv", ["g", "places"], ["h"], name="/dfl/conv/Conv"),
        constant("flat", ints(0, 4, -1)), node("Reshape", ["h", "flat"], ["sides"]),
    ]  # fmt: skip
    weights = {"w": random(8, 3, 3, 3), "v": random(32, 8, 1, 1, seed=1),
               "places": np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)}  # fmt: skip
    return write(path, nodes, {"x": ["n", 3, 16, 16]}, {"sides": None}, weights)
