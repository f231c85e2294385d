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
