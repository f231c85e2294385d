"""Files shown layer by layer, each written here with known contents."""

import io

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from safetensors.torch import save_file

import pintsize as ps
from pintsize.errors import CorruptFile, InputError
from pintsize.report import show
from pintsize.units import bytes_text


def onnx_file(path, *, kind=TensorProto.INT8, size=8):
    """x[B,2,6,6] → Conv 3×3 (quantized weight, half zeros) → Flatten → Gemm 48→5 (float, transposed)."""
    quantized = np.tile(np.array([3, -1], np.int8), (3, 2, 3, 3, 1))[..., 0]
    quantized[:, 1] = -1  # the zero point: stands for zero
    weight = helper.make_tensor("c.weight.integers", kind, [3, 2, 3, 3], quantized.flatten().tolist())
    zero = helper.make_tensor("c.weight.zero", kind, [3], [-1] * 3)
    stored = [
        weight,
        zero,
        numpy_helper.from_array(np.ones(3, np.float32), "c.weight.step"),
        numpy_helper.from_array(np.zeros(3, np.float32), "c.bias"),
        numpy_helper.from_array(np.ones((5, 48), np.float32), "fc.weight"),
    ]
    nodes = [
        helper.make_node(
            "DequantizeLinear", ["c.weight.integers", "c.weight.step", "c.weight.zero"], ["w"], axis=0
        ),
        helper.make_node("Conv", ["x", "w", "c.bias"], ["y"], name="first"),
        helper.make_node("Flatten", ["y"], ["z"]),
        helper.make_node("Gemm", ["z", "fc.weight"], ["out"], transB=1),
        helper.make_node("MatMul", ["out", "t"], ["last"]),  # multiplies by nothing stored: no layer
        helper.make_node("Transpose", ["out"], ["t"]),
    ]
    nodes[4], nodes[5] = nodes[5], nodes[4]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 6, 6])],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, ["batch", "batch"])],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize(("kind", "bits", "packed"), [(TensorProto.INT8, 8, 54), (TensorProto.INT4, 4, 27)])
def test_onnx(tmp_path, kind, bits, packed):
    path = tmp_path / "net.onnx"
    # the convolution's output has 3·4·4 = 48 numbers
    shown = show(onnx_file(path, kind=kind))
    conv, linear = shown.layers
    assert (conv.name, conv.type, conv.shape, conv.bits) == ("c", "Conv", (3, 2, 3, 3), bits)
    assert conv.density == 0.5
    zeros = (3 * bits + 7) // 8
    assert conv.bytes == packed + zeros + 12 + 12  # weight, zero points, steps, bias
    assert conv.macs == 16 * 3 * 18
    assert (linear.name, linear.bits, linear.bytes, linear.macs) == ("fc", 32, 960, 240)
    assert shown.file_bytes == path.stat().st_size


def test_our_export_shows_the_profile(tmp_path):
    model = ps.models.create("resnet20", in_channels=1).eval()
    example = torch.randn(1, 1, 16, 16)
    ps.export(model, tmp_path / "net.onnx", example=example)
    shown = {layer.name: layer for layer in show(tmp_path / "net.onnx").layers}
    profile = ps.profile(model, example)
    assert sum(layer.macs for layer in shown.values()) == profile.macs
    assert shown["conv1"].shape == (16, 1, 3, 3)


def test_safetensors_with_and_without_an_example(tmp_path):
    model = ps.models.create("resnet20", in_channels=1)
    with torch.no_grad():
        model.conv1.weight.view(-1)[:36] = 0  # a quarter of 144
    ps.save(model, tmp_path / "net.safetensors")
    shown = {layer.name: layer for layer in show(tmp_path / "net.safetensors").layers}
    assert shown["conv1"].density == 0.75
    assert (shown["conv1"].type, shown["bn1"].type) == ("conv2d", "norm")
    assert shown["bn1"].bytes == 4 * 16 * 4 + 8  # weight, bias, mean, variance; the counter
    assert shown["conv1"].macs == 16 * 9 * 32 * 32  # the images that the network is made for
    counted = show(tmp_path / "net.safetensors", example=torch.randn(2, 1, 16, 16))
    assert sum(layer.macs for layer in counted.layers) == ps.profile(model, torch.randn(1, 1, 16, 16)).macs
    assert counted.about() == "net.safetensors · MACs of one 1×16×16 image"


def test_a_network_in_memory():
    model = ps.models.create("resnet20", in_channels=1)
    ps.sparsify(model, density=0.25)
    shown = show(model)
    assert shown.about() == "resnet20 · mask · MACs of one 1×32×32 image"
    assert [layer.name for layer in shown.layers][:3] == ["conv1", "bn1", "layer1.0.conv1"]  # as they run
    assert shown.total()[5] == bytes_text(sum(layer.bytes for layer in shown.layers))
    plain = show(torch.nn.Sequential(torch.nn.Linear(3, 2)))
    assert [(one.name, one.macs) for one in plain.layers] == [("0", None)]
    assert plain.about() == "Sequential"


def test_clustered_weights_count_codes_and_codebook(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(16, 8, bias=False))
    ps.sparsify(model, density=0.5, scope="local")
    ps.cluster(model, k=4)
    ps.save(model, tmp_path / "c.safetensors")
    (layer,) = show(
        tmp_path / "c.safetensors", model=torch.nn.Sequential(torch.nn.Linear(16, 8, bias=False))
    ).layers
    assert (layer.shape, layer.density, layer.bits) == ((8, 16), 0.5, 3)  # four values and zero
    assert layer.bytes == 16 + 5 * 4 + 128 * 3 // 8  # mask, codebook, codes


def test_quantized_safetensors_count_packed_bits(tmp_path):
    model = ps.models.create("resnet20", in_channels=1).eval()
    ps.quantize(model, weights=4, activations=8, calibration=[torch.randn(4, 1, 16, 16)])
    ps.save(model, tmp_path / "q.safetensors")
    shown = {layer.name: layer for layer in show(tmp_path / "q.safetensors").layers}
    name, layer = next((name, layer) for name, layer in shown.items() if layer.bits == 4)
    weight = model.get_submodule(name).weight
    channels = weight.shape[0]
    assert layer.bytes == weight.numel() // 2 + channels * (4 + 4 + 4)  # bias, steps, zero points


def test_plain_state_dict(tmp_path):
    save_file(
        {"a.weight": torch.tensor([[1.0, 0.0]]), "scale": torch.ones(3), "n": torch.tensor(1)},
        tmp_path / "x.safetensors",
    )
    layers = show(tmp_path / "x.safetensors").layers
    found = {layer.name: (layer.type, layer.shape, layer.density, layer.bits) for layer in layers}
    assert found == {"a": ("linear", (1, 2), 0.5, 32), "": ("tensor", (3,), 1.0, 32)}


def test_renderings(tmp_path):
    shown = show(onnx_file(tmp_path / "net.onnx"))
    assert str(shown).splitlines()[2].split() == ["c", "Conv", "3×2×3×3", "50.0", "%", "8", "81", "B", "864"]
    assert shown.total()[2:4] == ("294", "90.8 %")  # 54 + 240 weights, 27 + 240 of them not zero
    plain = io.StringIO()
    Console(file=plain, width=80).print(shown)
    assert "\x1b" not in plain.getvalue()  # piped: no colour
    assert max(map(len, plain.getvalue().splitlines())) <= 80
    coloured = io.StringIO()
    Console(file=coloured, width=80, force_terminal=True, no_color=False).print(shown)
    assert "\x1b[" in coloured.getvalue()
    html = shown._repr_html_()
    assert html.count("<tr>") == 4
    assert "rgb(213 94 0 / 0.45)" in html  # the hottest cells


@pytest.mark.parametrize("name", ["x.onnx", "x.safetensors", "x.th"])
def test_damaged_files(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x08\x01torn apart")
    with pytest.raises(CorruptFile, match=name):
        show(path)


def test_truncated_onnx(tmp_path):
    path = onnx_file(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptFile):
        show(path)


def test_other_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        show(tmp_path / "none.onnx")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match=r"'\.txt'"):
        show(tmp_path / "x.txt")
