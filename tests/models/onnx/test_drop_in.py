"""From a file to a smaller file that takes its place: same names, types, open dimensions and notes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import onnx_graphs
import pintsize as ps
from onnx_graphs import ends, ints, random, write

node = helper.make_node


@pytest.fixture
def detector(tmp_path):
    return onnx_graphs.detector(tmp_path / "net.onnx")


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x.numpy()}), strict=True))


def test_pruned_and_quantized_it_takes_the_files_place(detector, tmp_path):
    net = ps.models.from_onnx(detector)
    assert [*net(torch.rand(1, 3, 16, 16))] == ["123", "scores/out:0"]
    assert net.head is net.get_submodule("head")  # one layer that runs twice
    example = torch.rand(4, 3, 32, 32)
    plan = ps.prune(net, example, macs=0.6)
    assert plan.after["macs"] < 0.65 * plan.before["macs"]
    assert net.head.out_channels == 6
    ps.quantize(net, calibration=[example])
    ps.export(net, tmp_path / "small.onnx")
    assert ends(tmp_path / "small.onnx") == ends(detector)
    assert {"names": "cat,dog"}.items() <= {
        p.key: p.value for p in onnx.load(tmp_path / "small.onnx").metadata_props
    }.items()
    for shape in ((1, 3, 32, 32), (3, 3, 48, 64)):
        x = torch.rand(*shape)
        with torch.no_grad():
            found, wanted = run(tmp_path / "small.onnx", x), net(x)
        for name, value in wanted.items():
            torch.testing.assert_close(
                torch.from_numpy(found[name]), value, atol=0.02 * value.abs().max().item(), rtol=0
            )


def test_saved_and_loaded_without_the_file(detector, tmp_path):
    net = ps.models.from_onnx(detector)
    ps.prune(net, torch.rand(2, 3, 32, 32), ratio=0.5)
    ps.save(net, tmp_path / "net.safetensors")
    detector.unlink()
    again, x = ps.load(tmp_path / "net.safetensors"), torch.rand(2, 3, 32, 32)
    assert [port.name for port in again.outputs] == ["123", "scores/out:0"]
    for name, value in net(x).items():
        assert torch.equal(again(x)[name], value)


def test_a_fixed_batch_and_bytes_stay(tmp_path):
    nodes = [
        node("Cast", ["bytes"], ["f"], to=TensorProto.FLOAT), node("Div", ["f", "scale"], ["s"]),
        node("Transpose", ["s"], ["n"], perm=[0, 3, 1, 2]), node("Conv", ["n", "w"], ["c"], name="/first/Conv"),
        node("Relu", ["c"], ["r"]), node("Conv", ["r", "v"], ["d"], name="/second/Conv"),
        node("GlobalMaxPool", ["d"], ["g"]),
        node("Reshape", ["g", "to"], ["logits"]), node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0),
    ]  # fmt: skip
    weights = {"scale": np.float32(255), "w": random(8, 3, 3, 3), "v": random(5, 8, 3, 3), "to": ints(1, 5)}
    path = write(
        tmp_path / "a.onnx", nodes, {"bytes": ([1, 20, 24, 3], TensorProto.UINT8)},
        {"logits": [1, 5], "class": ([1], TensorProto.INT64)}, weights,
    )  # fmt: skip
    net = ps.models.from_onnx(path)
    ps.prune(net, torch.randint(0, 255, (3, 20, 24, 3), dtype=torch.uint8), ratio=0.5)
    info = ps.export(net, tmp_path / "b.onnx")
    assert info.input_shape == (1, 20, 24, 3)
    assert ends(tmp_path / "b.onnx") == ends(path)
    x = torch.randint(0, 255, (1, 20, 24, 3), dtype=torch.uint8)
    assert run(tmp_path / "b.onnx", x)["class"].tolist() == net(x)["class"].tolist()


def test_what_is_asked_for_by_name_is_done(detector, tmp_path):
    net = ps.models.from_onnx(detector)
    assert ps.export(net, tmp_path / "a.onnx", dynamic={"batch"}).input_shape == (None, 3, 224, 224)
    assert (
        ps.export(
            net, tmp_path / "b.onnx", dynamic_batch=False, example=torch.rand(2, 3, 32, 32)
        ).input_shape[0]
        == 2
    )


def test_loaded_again_it_is_given_its_images_in_turn(tmp_path):
    """How many it takes at once is known after it was tried only."""
    nodes = [node("ReduceMean", ["x"], ["m"], keepdims=1), node("Sub", ["x", "m"], ["y"])]
    net = ps.models.from_onnx(write(tmp_path / "a.onnx", nodes, {"x": [1, 3, 5, 5]}, {"y": [1, 3, 5, 5]}))
    ps.save(net, tmp_path / "a.safetensors")
    again, x = ps.load(tmp_path / "a.safetensors"), torch.rand(3, 3, 5, 5)
    assert again.program.batch == net.program.batch == 1
    assert torch.equal(again(x), net(x))
