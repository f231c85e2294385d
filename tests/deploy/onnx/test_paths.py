"""An ONNX file that names files elsewhere is refused by whoever opens it; one with its data beside it is not."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import pintsize as ps
from pintsize.errors import CorruptFile
from pintsize.report.onnx_layers import onnx_layers


def network(path, location, where):
    weight = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL
    )
    weight.external_data.add(key="location", value=str(location))
    stored, nodes = [weight], []
    if where == "attribute":
        stored, nodes = [], [helper.make_node("Constant", [], ["w"], value=weight)]
    nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4])  # noqa: E731
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("where", ["initializer", "attribute"])
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin"])
def test_data_outside_the_folder_is_refused(tmp_path, location, where):
    (tmp_path / "secret.bin").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    network(folder / "n.onnx", location, where)
    for opener in (ps.open_runtime, onnx_layers):
        with pytest.raises(CorruptFile, match="outside the file's folder"):
            opener(folder / "n.onnx")


def test_data_beside_the_file_is_read(tmp_path):
    (tmp_path / "w.bin").write_bytes((2 * np.eye(4, dtype=np.float32)).tobytes())
    network(tmp_path / "n.onnx", "w.bin", "initializer")
    runtime = ps.open_runtime(tmp_path / "n.onnx")
    x = np.arange(4, dtype=np.float32)[None]
    assert np.array_equal(runtime(x), 2 * x)
