"""Memory of a fresh process, on real ONNX files; and the facts of the machine."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pintsize.deploy import memory_use, peak_memory
from pintsize.errors import InputError, OperationError
from pintsize.measure import machine

MB = 10**6


def linear_file(path, width):
    """x[B, width] · W[width, width], written with plain onnx."""
    weight = numpy_helper.from_array(np.zeros((width, width), np.float32), "w")
    shape = ["batch", width]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_peak_grows_with_the_weights_and_not_with_the_parent(tmp_path):
    ballast = np.ones(80 * MB)  # 640 MB in this process must not be counted in the other
    small = memory_use(linear_file(tmp_path / "small.onnx", 16))
    large = memory_use(linear_file(tmp_path / "large.onnx", 4096))  # 67 MB of weights
    assert ballast.nbytes > small.peak_bytes
    assert 0 < small.baseline_bytes <= small.peak_bytes
    assert 60 * MB < large.peak_bytes - small.peak_bytes < 300 * MB
    assert abs(large.baseline_bytes - small.baseline_bytes) < 20 * MB


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        peak_memory(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(OperationError, match="measuring process failed"):
        peak_memory(broken)


def test_machine_is_json_and_names_what_matters():
    facts = machine()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 10**8
    assert {"torch", "numpy", "pintsize"} <= facts["versions"].keys()
