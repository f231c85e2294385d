"""A file is run before it gets its name; one that computes something else is not written."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import pintsize as ps
from pintsize import errors
from pintsize.deploy import export, open_runtime, proof
from pintsize.deploy.layers import first_divergence, layer_errors
from pintsize.deploy.onnx import writer

EXAMPLE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _broken(monkeypatch, layer):
    """The writer puts other weights into `layer`."""
    right = writer._serialise

    def serialise(graph, model, path, options):
        for name, value in graph.graph.initializers.items():
            if name.startswith(layer) and value.const_value.numpy().ndim > 1:
                value.const_value = writer_tensor(-value.const_value.numpy())
        return right(graph, model, path, options)

    def writer_tensor(content):
        import onnx_ir as ir

        return ir.tensor(np.ascontiguousarray(content))

    monkeypatch.setattr(writer, "_serialise", serialise)


def test_a_right_file_says_where_it_was_run(plain, tmp_path):
    info = export(plain, tmp_path / "net.onnx", example=EXAMPLE)
    assert info.checked == "onnxruntime"
    assert info.difference < 1e-5
    assert "checked" in str(info)
    assert export(plain, tmp_path / "net.onnx", example=EXAMPLE, check=False).checked == "not run"
    read_back = export(plain, tmp_path / "net.pint", example=EXAMPLE)
    assert (read_back.checked, read_back.difference) == ("torch", 0.0)


@pytest.mark.parametrize("example", [EXAMPLE, torch.zeros(1, 3, 16, 16)])
@pytest.mark.parametrize("layer", ["conv", "fc"])
def test_a_wrong_file_is_not_written_and_the_layer_named(plain, tmp_path, monkeypatch, layer, example):
    plain.bn = nn.Identity()  # else folded into the convolution
    old = tmp_path / "net.onnx"
    old.write_text("older")
    _broken(monkeypatch, layer)
    with pytest.raises(errors.VerificationFailed, match="nothing was written.*onnxruntime") as caught:
        export(plain, old, example=example)
    assert layer == "fc" or "first layer that differs is conv " in str(caught.value)
    assert old.read_text() == "older"
    export(plain, old, example=example, check=False)
    assert old.stat().st_size > 1000


def test_without_the_extra_the_file_is_written_and_says_so(plain, tmp_path, monkeypatch):
    def missing(*_args, **_options):
        raise errors.MissingExtra("the runtime", "openvino")

    monkeypatch.setattr(proof, "open_runtime", missing)
    info = export(plain, tmp_path / "net.onnx", example=EXAMPLE)
    assert info.checked == "not run"
    assert info.path.exists()


def test_a_file_that_cannot_be_opened_is_not_written(plain, tmp_path, monkeypatch):
    def refused(*_args, **_options):
        raise errors.CorruptFile("net", "it has no kernel", "none")

    monkeypatch.setattr(proof, "open_runtime", refused)
    with pytest.raises(errors.OperationError, match="nothing was written.*no kernel"):
        export(plain, tmp_path / "net.onnx", example=EXAMPLE)
    assert not list(tmp_path.iterdir())


class Ends(nn.Module):
    """Outputs of the structure that `build` makes."""

    def __init__(self, build):
        super().__init__()
        self.body, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.build = build

    def forward(self, x):
        x = self.body(x).relu()
        return self.build(x, self.out(x))


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda a, b: {"aux": a, "out": b.softmax(1)}, ["aux", "out"]),
        (lambda a, b: {"a": b, "b": b}, ["a", "b"]),
        (lambda a, b: (a, [b, {"c": a}]), ["output_0", "output_1", "output_2"]),
        (lambda a, b: [{"s": a}, {"s": b}], ["0_s", "1_s"]),
        (lambda a, b: {"out": b, "loss": None}, ["out"]),
        (lambda a, b: (b.argmax(1), b.mean()), ["output_0", "output_1"]),
    ],
)
def test_outputs_of_any_structure_keep_their_names(tmp_path, build, names):
    torch.manual_seed(0)
    model = Ends(build).eval()
    info = export(model, tmp_path / "net.onnx", example=EXAMPLE)
    assert info.checked == "onnxruntime"
    assert [value.name for value in onnx.load(info.path).graph.output] == names
    assert ps.verify(info.path, model, [EXAMPLE], repeats=1, threads=1).agreement is None


class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(1, 4, 1)

    def forward(self, rgb, depth):
        return (self.a(rgb) + self.b(depth)).mean((2, 3))


def test_inputs_by_name_keep_their_names(tmp_path):
    example = {"depth": torch.rand(2, 1, 8, 8), "rgb": torch.rand(2, 3, 8, 8)}
    model = Fusion().eval()
    info = export(model, tmp_path / "net.onnx", example=example)
    assert [value.name for value in onnx.load(info.path).graph.input] == ["rgb", "depth"]
    assert ps.verify(info.path, model, [(example, torch.tensor([0, 1]))], repeats=1, threads=1).ok
    assert ps.profile(model, example).macs == 8 * 8 * 4 * 4


def test_height_and_width_may_be_open(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2)).eval()
    info = export(model, tmp_path / "net.onnx", example=EXAMPLE, dynamic={"batch", "height", "width"})
    assert info.input_shape == (None, 3, None, None)
    larger = torch.rand(3, 3, 24, 40)
    with open_runtime(info.path, threads=1) as runtime, torch.no_grad():
        torch.testing.assert_close(runtime(larger), model(larger), rtol=1e-4, atol=1e-5)
    with pytest.raises(errors.InputError, match="batch"):
        export(model, tmp_path / "net.onnx", example=EXAMPLE, dynamic={"depth"})


class Apart(nn.Module):
    """Two images of which one may be larger."""

    def forward(self, left, right):
        return {"half": left[:, :, ::2, ::2] * 2, "means": left.mean((2, 3)) + right.mean((2, 3))}


def test_open_dimensions_are_called_what_they_are(tmp_path):
    def sizes(model, example, dynamic):
        graph = onnx.load(export(model, tmp_path / "net.onnx", example=example, dynamic=dynamic).path).graph
        ends = (*graph.input, *graph.output)
        return {
            one.name: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in ends
        }

    upscaled = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2)).eval()
    image = torch.rand(1, 1, 8, 12)
    found = sizes(upscaled, image, {"batch", "height", "width"})
    assert found == {"input": ["batch", 1, "height", "width"], "output": ["batch", 1, "2*height", "2*width"]}
    assert sizes(upscaled, image, {"width"})["output"] == [1, 1, 16, "2*width"]
    assert sizes(upscaled, image, {"batch"})["output"] == ["batch", 1, 16, 24]
    found = sizes(
        Apart().eval(), {"left": image, "right": torch.rand(1, 1, 6, 6)}, {"batch", "height", "width"}
    )
    assert found["left"] == ["batch", 1, "height", "width"]
    assert found["right"] == ["batch", 1, "right_height", "right_width"]
    assert found["means"] == ["batch", 1]


@pytest.mark.parametrize("name", ["net.tflite", "net.pt", "net"])
def test_an_unknown_suffix_is_told_those_that_there_are(plain, tmp_path, name):
    with pytest.raises(errors.InputError, match=r"choose one of: \.onnx, \.pint, \.pte, \.xml"):
        export(plain, tmp_path / name)


def test_one_image_without_a_batch_dimension_is_refused(plain, tmp_path):
    for act in (
        lambda: ps.profile(plain, EXAMPLE[0]),
        lambda: ps.quantize(plain, calibration=[EXAMPLE], example=EXAMPLE[0]),
    ):
        with pytest.raises(errors.InputError, match=r"no batch dimension.*image\[None\]"):
            act()


def test_layers_behind_which_an_activation_works_in_place_are_not_blamed(tmp_path):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.SiLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    ps.quantize(model, calibration=[EXAMPLE], method="minmax", progress=False)
    export(model, tmp_path / "net.onnx", example=EXAMPLE)
    found = layer_errors(tmp_path / "net.onnx", model, EXAMPLE, threads=1)
    assert first_divergence(found) is None
    assert max(found.values()) < 1e-3


def test_the_altered_last_layer_of_a_file_is_found(plain, tmp_path):
    path = export(plain, tmp_path / "net.onnx", example=EXAMPLE).path
    proto = onnx.load(path)
    (weight,) = [tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight"]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    del proto.metadata_props[:]
    proto.producer_name = ""
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(errors.VerificationFailed, match="differ from the model's by 0.0"):
        ps.verify(tmp_path / "other.onnx", plain, [EXAMPLE], repeats=1, threads=1, agreement_at_least=0)
    assert ps.verify(tmp_path / "other.onnx", plain, [EXAMPLE], repeats=1, threads=1, tolerance=0.02).ok


@pytest.mark.parametrize("shape", ["scalar", "column", "dense", "nested"])
def test_another_networks_file_fails_for_any_structure(tmp_path, shape):
    builds = {
        "scalar": lambda a, b: b.mean(),
        "column": lambda a, b: b.mean((2, 3))[:, :1],
        "dense": lambda a, b: b,
        "nested": lambda a, b: {"x": [a, (b,)]},
    }
    torch.manual_seed(0)
    right, other = Ends(builds[shape]).eval(), Ends(builds[shape]).eval()
    path = export(right, tmp_path / "net.onnx", example=EXAMPLE).path
    batches = [(EXAMPLE, [{"boxes": torch.zeros(1, 4)}] * 2)]
    found = ps.verify(path, right, batches, repeats=1, threads=1)
    assert (found.agreement, found.accuracy) == (None, None)
    with pytest.raises(errors.VerificationFailed):
        ps.verify(path, other, batches, repeats=1, threads=1)


def test_reduced_range_needs_no_vnni(tmp_path, monkeypatch):
    from pintsize.deploy import instruction_sets

    told = {}
    for reduced in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
        ps.quantize(model, calibration=[EXAMPLE], reduce_range=reduced, progress=False)
        assert max(layer.weight_quantizer.bits for layer in (model[0], model[2])) == (7 if reduced else 8)
        path = export(model, tmp_path / "net.onnx", example=EXAMPLE).path
        told[reduced] = {entry.key: entry.value for entry in onnx.load(path).metadata_props}[
            "pintsize.target"
        ]
        monkeypatch.setattr(instruction_sets, "has_vnni", lambda: False)
        with open_runtime(path, threads=1) as runtime:
            assert (runtime.machine is None) == reduced
        if not reduced:
            assert "VNNI" in str(ps.verify(path, model, [EXAMPLE], repeats=1, threads=1))
        monkeypatch.undo()
    assert "vnni" in told[False]
    assert "vnni" not in told[True]
