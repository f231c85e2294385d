"""What the `.onnx` writer puts into the file, and what ONNX Runtime makes of it."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import pintsize.deploy.onnx.writer as writer
from pintsize import errors
from pintsize.deploy import export, integer_nodes, open_runtime
from pintsize.pruning import prune
from pintsize.quant import quantize
from pintsize.storage.record import to_json

EXAMPLE = torch.zeros(1, 3, 16, 16)


def initializers(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


def output(path: Path, x: torch.Tensor) -> torch.Tensor:
    return open_runtime(path, threads=1)(x)


def test_float_export_equals_the_model_and_leaves_it_alone(plain, images, tmp_path):
    plain.train()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    info = export(plain, tmp_path / "net.onnx", example=EXAMPLE)
    assert all(module.training for module in plain.modules())
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert info.bytes == (tmp_path / "net.onnx").stat().st_size
    assert info.input_shape == (None, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(output(info.path, images), plain.eval()(images), rtol=1e-5, atol=1e-6)


def test_batch_norm_is_folded(plain, tmp_path):
    export(plain, tmp_path / "net.onnx", example=EXAMPLE)
    assert integer_nodes(tmp_path / "net.onnx") == {"integer": {}, "float": {"Conv": 1, "Gemm": 1}}
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}


@pytest.mark.parametrize("settings", [(8, 255), (4, 255), (2, 255), (8, 15), (4, 15), (3, 7)])
def test_every_layer_runs_in_integers(parts, images, tmp_path, settings):
    torch.manual_seed(0)
    model = parts["residual"](*settings).eval()
    export(model, tmp_path / "net.onnx", example=EXAMPLE)
    nodes = integer_nodes(tmp_path / "net.onnx")
    assert nodes["float"] == {}
    assert nodes["integer"] == {"QGemm": 1, "QLinearAdd": 1, "QLinearConv": 2, "QLinearGlobalAveragePool": 1}
    with torch.no_grad():
        expected = model(images)
    difference = (output(tmp_path / "net.onnx", images) - expected).abs()
    assert difference.max() < 0.05 * expected.abs().max()  # a rounding tie here and there moves one step
    assert difference.mean() < 0.01 * expected.abs().max()


@pytest.mark.parametrize(
    ("bits", "kind", "opset"), [(8, "INT8", 19), (4, "INT4", 21), (3, "INT4", 21), (2, "INT2", 25)]
)
def test_weights_are_stored_at_their_width(parts, tmp_path, bits, kind, opset):
    model = parts["residual"](bits)
    info = export(model, tmp_path / "net.onnx", example=EXAMPLE)
    stored = initializers(tmp_path / "net.onnx")["conv2.weight.integers"]
    assert stored.data_type == onnx.TensorProto.DataType.Value(kind)
    width = {"INT8": 8, "INT4": 4, "INT2": 2}[kind]
    assert len(stored.raw_data) == 16 * 16 * 3 * 3 * width // 8
    assert info.opset == opset
    scale = model.conv2.quantizer.scale.view(-1, 1, 1, 1)
    expected = (model.conv2.quantizer(model.conv2.weight) / scale).round()
    assert np.array_equal(numpy_helper.to_array(stored).astype(np.float32), expected.detach().numpy())


def test_bias_is_int32_at_the_product_of_the_scales(parts, tmp_path):
    model = nn.Sequential(parts["fake"](0.5), parts["conv"](1, 2, 1), parts["fake"](0.25))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([127.0, 63.5]).view(2, 1, 1, 1))
        model[1].bias.copy_(torch.tensor([3.0, -1.25]))
        model[1].quantizer.scale.copy_(torch.tensor([1.0, 0.5]))
    export(model, tmp_path / "net.onnx", example=torch.zeros(1, 1, 2, 2))
    found = initializers(tmp_path / "net.onnx")
    assert numpy_helper.to_array(found["1.bias.integers"]).tolist() == [
        6,
        -5,
    ]  # 3 / (0.5 · 1), −1.25 / (0.5 · 0.5)
    assert numpy_helper.to_array(found["1.bias.step"]).tolist() == [0.5, 0.25]


def test_bias_of_a_channel_of_zeros_survives(parts, tmp_path):
    model = nn.Sequential(parts["fake"](0.5), parts["conv"](1, 2, 1), parts["fake"](0.25))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.0, 63.5]).view(2, 1, 1, 1))
        model[1].bias.copy_(torch.tensor([3.0, 1.0]))
        model[1].quantizer.scale.copy_(torch.tensor([1e-12, 0.5]))  # 3 / (0.5 · 1e-12) does not fit 32 bits
    export(model, tmp_path / "net.onnx", example=torch.zeros(1, 1, 2, 2))
    ours = output(tmp_path / "net.onnx", torch.ones(1, 1, 2, 2))
    assert ours[0, :, 0, 0].tolist() == [3.0, 63.75]


def test_clip_goes_only_if_the_quantizer_clips_as_hard(parts, tmp_path):
    def ops(limit: float, zero_point: int = 0, before: nn.Module | None = None) -> list[str]:
        model = nn.Sequential(
            before or nn.Linear(4, 4), nn.Hardtanh(0, 6), parts["fake"](limit / 255, zero_point)
        )
        export(model, tmp_path / "net.onnx", example=torch.zeros(1, 4))
        return [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]

    assert "Clip" not in ops(5.0)
    assert "Clip" not in ops(6.0)
    assert "Clip" in ops(7.0)
    assert "Clip" in ops(5.0, zero_point=3)
    # of two quantizers in a row ONNX Runtime drops the first, and so would round once where the model rounds twice
    assert "Clip" in ops(5.0, before=parts["fake"](0.1, 128))


class _Shuffled(nn.Module):
    """What needs help to stay in integers: split, cat, channel shuffle, flatten, option-A padding."""

    def __init__(self, parts) -> None:
        super().__init__()
        fake, conv, linear = parts["fake"], parts["conv"], parts["linear"]
        self.q0, self.q1, self.q2, self.q3, self.q4 = (
            fake(0.03, 128),
            fake(0.01, 128),
            fake(0.02),
            fake(0.02),
            fake(0.03),
        )
        self.stem, self.branch = conv(3, 8, 1), conv(4, 4, 3, padding=1)
        self.q5, self.last, self.fc = fake(0.03), conv(16, 4, 3, stride=2), linear(4 * 49, 5)

    def forward(self, x):
        x = self.q1(self.stem(self.q0(x)))
        left, right = x.chunk(2, 1)
        x = self.q2(torch.cat([left, self.q3(torch.relu(self.branch(right)))], 1))
        x = x.view(-1, 2, 4, 16, 16).transpose(1, 2).reshape(-1, 8, 16, 16)
        x = self.q4(torch.cat([x, nn.functional.pad(x[:, :4], (0, 0, 0, 0, 2, 2))], 1))
        return self.fc(torch.flatten(self.q5(torch.relu(self.last(x))), 1))


def test_moves_of_data_stay_in_integers(parts, images, tmp_path):
    torch.manual_seed(0)
    model = _Shuffled(parts).eval()
    export(model, tmp_path / "net.onnx", example=EXAMPLE)
    nodes = integer_nodes(tmp_path / "net.onnx")
    assert nodes["float"] == {}
    assert nodes["integer"] == {"QGemm": 1, "QLinearConcat": 2, "QLinearConv": 3}
    with torch.no_grad():
        expected = model(images)
    assert (
        output(tmp_path / "net.onnx", images) - expected
    ).abs().mean() < 0.03 * expected.abs().max()  # steps are coarse


def test_linear_on_sequences_computes_in_integers(parts, tmp_path):
    model = nn.Sequential(parts["fake"](0.03, 128), parts["linear"](8, 4)).eval()
    export(model, tmp_path / "net.onnx", example=torch.zeros(2, 5, 8))
    assert integer_nodes(tmp_path / "net.onnx") == {"integer": {"MatMulIntegerToFloat": 1}, "float": {}}
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(output(tmp_path / "net.onnx", x), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_masked_weights_are_stored_once(tmp_path):
    class Masked(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight * self.mask, self.bias)

    model = Masked(64, 64, 3)
    model.register_buffer("mask", (torch.rand(64, 64, 3, 3) > 0.5).float())
    info = export(model, tmp_path / "net.onnx", example=torch.zeros(1, 64, 8, 8))
    assert info.bytes < 1.05 * 4 * 64 * 64 * 9


def test_normalization_and_softmax_inside(plain, images, tmp_path):
    info = export(
        plain, tmp_path / "net.onnx", example=EXAMPLE, classes=[f"c{i}" for i in range(10)],
        mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7),
        include_normalization=True, include_softmax=True, licence="Apache-2.0",
    )  # fmt: skip
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    with torch.no_grad():
        expected = plain((images - mean) / std).softmax(1)
    torch.testing.assert_close(output(info.path, images), expected, rtol=1e-4, atol=1e-6)
    kept = {entry.key: entry.value for entry in onnx.load(info.path).metadata_props}
    assert json.loads(kept["pintsize.classes"])[3] == "c3"
    assert json.loads(kept["pintsize.normalization"]) == {
        "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "included": True,
    }  # fmt: skip
    assert json.loads(kept["pintsize.licence"]) == "Apache-2.0"
    assert json.loads(unpacked(kept["pintsize.record"]))["steps"] == []


def unpacked(record: str) -> str:
    return zlib.decompress(base64.b64decode(json.loads(record))).decode()


def test_the_record_is_packed_in_the_file(plain, tmp_path):
    prune(plain, EXAMPLE, ratio=0.5)
    export(plain, tmp_path / "net.onnx", example=EXAMPLE)
    (told,) = (e.value for e in onnx.load(tmp_path / "net.onnx").metadata_props if e.key == "pintsize.record")
    text = json.dumps(to_json(plain))
    assert unpacked(told) == text
    assert '"kind": "prune"' in text
    assert len(told) < len(text)


def test_source_paths_of_the_user_are_not_in_the_file(plain, tmp_path):
    export(plain, tmp_path / "net.onnx", example=EXAMPLE)
    assert b".py" not in (tmp_path / "net.onnx").read_bytes()


def test_bfloat16_model_is_exported_as_float32(plain, images, tmp_path):
    export(plain.to(torch.bfloat16), tmp_path / "net.onnx", example=EXAMPLE)
    assert next(plain.parameters()).dtype == torch.bfloat16
    assert output(tmp_path / "net.onnx", images).dtype == torch.float32


def test_fixed_batch(plain, tmp_path):
    info = export(plain, tmp_path / "net.onnx", example=torch.zeros(3, 3, 16, 16), dynamic_batch=False)
    assert info.input_shape == (3, 3, 16, 16)
    assert open_runtime(info.path).input_shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("net.onxx", {}, r"choose one of: \.onnx"),
        ("net.onnx", {"opset": 12}, "opset=12"),
        ("net.onnx", {"mean": (0.5,)}, "one of them is missing"),
        ("net.onnx", {"mean": (0.5,), "std": (0.0,)}, "must be positive"),
        ("net.onnx", {"include_normalization": True}, "mean and std are not given"),
    ],
)
def test_bad_options_are_refused(plain, tmp_path, name, options, cause):
    with pytest.raises(errors.InputError, match=cause):
        export(plain, tmp_path / name, example=EXAMPLE, **options)


def test_example_is_asked_for_where_it_is_needed(plain, tmp_path):
    with pytest.raises(errors.InputError, match="pass example="):
        export(plain, tmp_path / "net.onnx")


def test_failing_forward_is_reported_as_such(plain, tmp_path):
    with pytest.raises(errors.OperationError, match=r"shape \(1, 4, 16, 16\)"):
        export(plain, tmp_path / "net.onnx", example=torch.zeros(1, 4, 16, 16))


class _Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_untraceable_network_is_refused_and_the_old_file_stays(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"old")
    with pytest.raises(errors.OperationError, match="cannot be traced"):
        export(_Branching(), tmp_path / "net.onnx", example=torch.zeros(2, 3))
    assert (tmp_path / "net.onnx").read_bytes() == b"old"


def test_too_large_for_the_format(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_SIZE_LIMIT", 100)
    with pytest.raises(errors.OperationError, match="one ONNX file holds 2 GiB"):
        export(plain, tmp_path / "net.onnx", example=EXAMPLE)


def test_unwritable_folder(plain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.OperationError, match="cannot be written"):
        export(plain, tmp_path / "file" / "net.onnx", example=EXAMPLE)


def test_opset_too_low_for_the_width(parts, tmp_path):
    with pytest.raises(errors.UnsupportedOp, match="needs opset 21, not 19"):
        export(parts["residual"](4), tmp_path / "net.onnx", example=EXAMPLE, opset=19)


class Folded(nn.Module):
    """Takes blocks of an image apart and puts them together, as windows of attention do: a copy lies before a view."""

    def __init__(self, copy: str) -> None:
        super().__init__()
        self.first, self.last, self.copy = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), copy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        batch, channels, height, width = y.shape
        y = y.view(batch, channels, height // 4, 4, width // 4, 4).transpose(3, 4)
        y = y.clone(memory_format=torch.contiguous_format) if self.copy == "clone" else y.contiguous()
        return self.last(y.view(batch, channels, height, width))


@pytest.mark.parametrize("copy", ["clone", "contiguous"])
def test_a_copy_before_a_view_may_be_left_out(copy, images, tmp_path):
    torch.manual_seed(0)
    model = Folded(copy).eval()
    quantize(model, calibration=[images], progress=False)
    info = export(model, tmp_path / "net.onnx", example=images[:1])
    assert info.checked == "onnxruntime"
    assert info.difference < 1e-5
    assert output(info.path, images).shape == (len(images), 4, 16, 16)
