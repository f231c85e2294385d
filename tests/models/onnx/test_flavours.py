"""Files as other tools write them: weights where nobody expects them, sizes that are computed, layouts of TensorFlow."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import pintsize as ps
from onnx_graphs import constant, ints, random, value, write

node = helper.make_node


def imported(path, **options):
    net = ps.models.from_onnx(path, **options)
    assert net.program.told["difference"] < 1e-4
    return net


def kinds(net):
    return [type(module).__name__ for module in net.modules() if not [*module.children()]]


def test_weights_behind_nodes(tmp_path):
    """paddle2onnx: every weight is a Constant node, some behind Identity, Cast, Transpose and Reshape."""
    nodes = [
        constant("conv2d_0.w_0", random(6, 3, 3, 3)),
        constant("bias", random(6, seed=1)), constant("to", ints(1, 6, 1, 1)),
        node("Reshape", ["bias", "to"], ["bias4"]),
        node("Conv", ["x", "conv2d_0.w_0"], ["c"], pads=[1, 1, 1, 1]),
        node("Add", ["c", "bias4"], ["cb"]),
        constant("low", np.float32(0)), constant("high", np.float32(6)), constant("three", np.float32(3)),
        node("Add", ["cb", "three"], ["plus"]), node("Clip", ["plus", "low", "high"], ["clipped"]),
        node("Mul", ["cb", "clipped"], ["product"]), constant("six", np.float32(6)),
        node("Div", ["product", "six"], ["swish"]),
        node("GlobalAveragePool", ["swish"], ["pooled"]), node("Squeeze", ["pooled"], ["flat"], axes=[2, 3]),
        constant("w16", random(10, 6).astype(np.float16)), node("Cast", ["w16"], ["w32"], to=TensorProto.FLOAT),
        node("Transpose", ["w32"], ["wt"], perm=[1, 0]), node("Identity", ["wt"], ["wi"]),
        node("MatMul", ["flat", "wi"], ["m"]), constant("lb", random(10, seed=2)), node("Add", ["m", "lb"], ["y"]),
    ]  # fmt: skip
    net = imported(write(tmp_path / "a.onnx", nodes, {"x": [-1, 3, "?", "?"]}, {"y": ["n", 10]}, opset=11))
    assert kinds(net) == ["Conv2d", "Hardswish", "Linear"]
    assert net.conv2d_0.bias is not None
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.inputs[0].shape == (None, 3, None, None)
    net(torch.rand(1, 3, 17, 30)).sum().backward()
    assert net.conv2d_0.weight.grad.abs().sum() > 0


def test_tensorflows_layout(tmp_path):
    """tf2onnx: images are NHWC, a Transpose at each end, SAME padding, names with slashes and colons."""
    nodes = [
        node("Transpose", ["image:0"], ["nchw"], name="model/conv1/Conv2D__6", perm=[0, 3, 1, 2]),
        node("Conv", ["nchw", "model/conv1/Conv2D/ReadVariableOp:0"], ["c"], name="model/conv1/Conv2D",
             strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Add", ["c", "model/conv1/BiasAdd:0"], ["b"], name="model/conv1/BiasAdd"),
        node("Relu", ["b"], ["r"], name="model/relu1/Relu"),
        node("Pad", ["r", "pads"], ["p"], name="model/pad/Pad"),
        node("Conv", ["p", "dw"], ["d"], name="model/depthwise/depthwise", group=8, strides=[2, 2]),
        node("Conv", ["d", "pw"], ["e"], name="model/pointwise/Conv2D"),
        node("Transpose", ["e"], ["Identity:0"], name="model/out", perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    weights = {
        "model/conv1/Conv2D/ReadVariableOp:0": random(8, 3, 3, 3), "model/conv1/BiasAdd:0": random(1, 8, 1, 1),
        "pads": ints(0, 0, 0, 0, 0, 0, 1, 1), "dw": random(8, 1, 3, 3),
        "pw": random(5, 8, 1, 1),
    }  # fmt: skip
    path = write(
        tmp_path / "a.onnx",
        nodes,
        {"image:0": ["unk__1", 31, 30, 3]},
        {"Identity:0": None},
        weights,
        opset=13,
    )
    net = imported(path)
    assert [port.name for port in (*net.inputs, *net.outputs)] == ["image:0", "Identity:0"]
    assert {"conv1", "relu1", "depthwise"} <= {name for name, _ in net.named_children()}
    plan = ps.prune(net, torch.rand(2, 31, 30, 3), ratio=0.5)
    assert net.conv1.out_channels == 4, plan


def test_sizes_that_are_computed_stay_open(tmp_path):
    """torch's TorchScript exporter: flatten and reshape by Shape, Gather, Unsqueeze, Concat."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Shape", ["c"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Gather", ["s", "three"], ["width"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]), node("Unsqueeze", ["width", "axis"], ["w1"]),
        node("Mul", ["w1", "two"], ["w2"]), node("Div", ["w2", "two"], ["w3"]),
        node("Concat", ["n1", "eight", "minus", "w3"], ["to"], axis=0), node("Reshape", ["c", "to"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w": random(8, 3, 3, 3), "zero": np.int64(0), "three": np.int64(3), "axis": ints(0), "two": ints(2),
        "eight": ints(8), "minus": ints(-1),
    }  # fmt: skip
    net = imported(write(tmp_path / "a.onnx", nodes, {"x": ["n", 3, "h", "w"]}, {"y": None}, weights))
    assert net(torch.rand(3, 3, 5, 9)).shape == (3, 8, 5, 9)
    program = torch.export.export(
        net, (torch.rand(2, 3, 8, 8),), strict=False,
        dynamic_shapes={"inputs": ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)},
    )  # fmt: skip
    assert program.module()(torch.rand(4, 3, 6, 10)).shape == (4, 8, 6, 10)


def test_sizes_that_never_change_are_constants(tmp_path):
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["c"]), node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        node("Sqrt", ["f"], ["root"]), node("Div", ["x", "root"], ["y"]),
    ]  # fmt: skip
    net = imported(write(tmp_path / "a.onnx", nodes, {"x": [1, 4, 5, 5]}, {"y": None}, {"one": np.int64(1)}))
    assert [step.target for step in net.program.steps] == ["div"]


def test_a_file_of_one_image_takes_many(tmp_path):
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Reshape", ["c", "to"], ["r"]), node("Gemm", ["r", "l"], ["y"], transB=1),
    ]  # fmt: skip
    weights = {"w": random(4, 3, 3, 3), "to": ints(1, 36), "l": random(5, 36)}
    net = imported(write(tmp_path / "a.onnx", nodes, {"x": [1, 3, 5, 5]}, {"y": [1, 5]}, weights))
    x = torch.rand(3, 3, 5, 5)
    torch.testing.assert_close(net(x), torch.cat([net(one[None]) for one in x]))
    assert net.program.batch is None


def test_a_file_that_mixes_its_images_is_given_them_in_turn(tmp_path):
    """The mean over everything is another for two images at once."""
    nodes = [node("ReduceMean", ["x"], ["m"], keepdims=1), node("Sub", ["x", "m"], ["y"])]
    net = imported(write(tmp_path / "a.onnx", nodes, {"x": [1, 3, 5, 5]}, {"y": [1, 3, 5, 5]}))
    x = torch.rand(3, 3, 5, 5)
    assert net.program.batch == 1
    torch.testing.assert_close(net(x), torch.cat([net(one[None]) for one in x]))


def test_what_is_inside_the_file_before_and_behind_the_network_stays(tmp_path):
    """Bytes in, scaled and normalised in the graph; the class out."""
    nodes = [
        node("Cast", ["bytes"], ["f"], to=TensorProto.FLOAT), node("Div", ["f", "scale"], ["s"]),
        node("Sub", ["s", "mean"], ["z"]), node("Conv", ["z", "w"], ["c"]), node("GlobalMaxPool", ["c"], ["g"]),
        node("Flatten", ["g"], ["scores"]), node("ArgMax", ["scores"], ["class"], axis=1, keepdims=0),
    ]  # fmt: skip
    weights = {"scale": np.float32(255), "mean": random(1, 3, 1, 1), "w": random(4, 3, 3, 3)}
    inputs, outputs = (
        {"bytes": (["n", 3, 9, 9], TensorProto.UINT8)},
        {"class": (["n"], TensorProto.INT64), "scores": ["n", 4]},
    )
    net = imported(
        write(tmp_path / "a.onnx", nodes, inputs, outputs, weights, metadata={"author": "somebody"})
    )
    assert (net.inputs[0].dtype, net.outputs[0].dtype) == ("uint8", "int64")
    assert net.program.metadata == {"author": "somebody"}
    found = net(torch.randint(0, 255, (2, 3, 9, 9), dtype=torch.uint8))
    assert [*found] == ["class", "scores"]
    assert found["class"].tolist() == found["scores"].argmax(1).tolist()


def test_the_branch_that_is_taken(tmp_path):
    """torch writes an If around `squeeze`: whether a dimension is one is known here."""
    then = helper.make_graph([node("Squeeze", ["x", "two"], ["a"])], "then", [], [value("a", None)])
    other = helper.make_graph([node("Identity", ["x"], ["b"])], "else", [], [value("b", None)])
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "index"], ["d"]), node("Equal", ["d", "one"], ["is"]),
        node("If", ["is"], ["y"], then_branch=then, else_branch=other),
    ]  # fmt: skip
    weights = {"two": ints(2), "index": np.int64(2), "one": np.int64(1)}
    assert imported(write(tmp_path / "a.onnx", nodes, {"x": [2, 3, 1, 4]}, {"y": None}, weights))(
        torch.rand(2, 3, 1, 4)
    ).shape == (2, 3, 4)


def test_local_functions_are_put_where_they_are_called(tmp_path):
    inner = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    path = write(
        tmp_path / "a.onnx",
        [node("Twice", ["x"], ["y"], domain="mine")],
        {"x": [2, 3]},
        {"y": [2, 3]},
        other=[("mine", 1)],
    )
    model = onnx.load(path)
    model.functions.append(inner)
    onnx.save(model, path)
    assert imported(path)(torch.ones(2, 3)).eq(2).all()


def test_weights_in_another_file(tmp_path):
    path = write(
        tmp_path / "a.onnx",
        [node("Conv", ["x", "w"], ["y"])],
        {"x": ["n", 3, 9, 9]},
        {"y": None},
        {"w": random(64, 3, 3, 3)},
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    net = imported(path)
    before = (tmp_path / "weights.bin").read_bytes()
    with torch.no_grad():
        net.w.weight.zero_() if hasattr(net, "w") else [p.zero_() for p in net.parameters()]
    assert (tmp_path / "weights.bin").read_bytes() == before
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ps.errors.InputError, match=r"weights\.bin"):
        ps.models.from_onnx(path)


def quantized(path):
    """A network, and its QDQ file by ONNX Runtime."""
    from onnxruntime import quantization

    nodes = [
        node("Conv", ["x", "conv1.weight", "conv1.bias"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "conv2.weight"], ["d"]), node("GlobalAveragePool", ["d"], ["g"]), node("Flatten", ["g"], ["y"]),
    ]  # fmt: skip
    weights = {
        "conv1.weight": random(8, 3, 3, 3),
        "conv1.bias": random(8),
        "conv2.weight": random(6, 8, 3, 3),
    }
    write(path, nodes, {"x": ["n", 3, 9, 9]}, {"y": None}, weights)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [np.random.default_rng(k).random((2, 3, 9, 9), np.float32) for k in range(4)]

        def get_next(self):
            return {"x": self.left.pop()} if self.left else None

    return quantization, Reader


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_quantized_file_gives_its_float_network(tmp_path, form):
    quantization, reader = quantized(tmp_path / "a.onnx")
    quantization.quantize_static(
        tmp_path / "a.onnx",
        tmp_path / "q.onnx",
        reader(),
        quant_format=quantization.QuantFormat[form],
        per_channel=form == "QDQ",
    )
    net, dense = ps.models.from_onnx(tmp_path / "q.onnx"), ps.models.from_onnx(tmp_path / "a.onnx")
    assert net.program.told["quantized"]
    assert not dense.program.told["quantized"]
    assert "Conv2d" in kinds(net)
    x = torch.rand(4, 3, 9, 9)
    assert (net(x) - dense(x)).norm() < 0.02 * dense(x).norm()
    ps.quantize(net, calibration=[x])


def test_a_dynamically_quantized_file_gives_its_float_network(tmp_path):
    quantization, _ = quantized(tmp_path / "a.onnx")
    quantization.quantize_dynamic(
        tmp_path / "a.onnx", tmp_path / "q.onnx", weight_type=quantization.QuantType.QUInt8
    )
    net = ps.models.from_onnx(tmp_path / "q.onnx")
    assert net.program.told["quantized"]
    assert kinds(net).count("Conv2d") == 2


class Every(nn.Module):
    """A little of everything that torch's exporters write in several nodes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU())
        self.mix = nn.Sequential(
            nn.Conv2d(8, 8, 1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish()
        )
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        x = self.stem(x)
        x = x + nn.functional.interpolate(
            self.mix(nn.functional.max_pool2d(x, 2)), size=x.shape[2:], mode="bilinear"
        )
        x = self.norm(x.flatten(2).transpose(1, 2))
        return self.head(self.drop(x.mean(1)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [True, False])
def test_both_of_torchs_exporters(tmp_path, dynamo):
    torch.manual_seed(0)
    model = Every().eval()
    more = (
        {"dynamo": True, "external_data": False}
        if dynamo
        else {"dynamo": False, "dynamic_axes": {"x": {0: "n", 2: "h"}}}
    )
    torch.onnx.export(
        model, (torch.rand(2, 3, 32, 32),), tmp_path / "a.onnx", input_names=["x"], verbose=False, **more
    )
    net = imported(tmp_path / "a.onnx")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(x), model(x), atol=1e-5, rtol=1e-4)
    assert {"SiLU", "GELU", "Linear"} <= {*kinds(net)}
    assert isinstance(net.get_submodule("stem.0"), nn.Conv2d)
    assert isinstance(net.get_submodule("head"), nn.Linear)
