"""ExecuTorch: the model's own scales in XNNPACK's integer kernels, through its Python runtime."""

import base64
import importlib.util
import json
import sys
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from pintsize import errors
from pintsize.deploy import export, open_runtime, verify
from pintsize.deploy.executorch import layers
from pintsize.deploy.executorch import runtime as backend
from pintsize.quant import quantize

if importlib.util.find_spec("executorch") is None:
    pytest.skip("the extra 'executorch' cannot be installed here", allow_module_level=True)
EXAMPLE = torch.zeros(2, 3, 16, 16)


@pytest.mark.parametrize(("bits", "activation_max"), [(8, 255), (4, 255), (8, 15)])
def test_file_computes_what_the_model_does(parts, images, tmp_path, bits, activation_max):
    torch.manual_seed(0)
    model = parts["residual"](bits=bits, activation_max=activation_max).eval()
    info = export(model, tmp_path / "net.pte", example=EXAMPLE)
    assert (info.format, info.input_shape) == ("executorch", (1, 3, 16, 16))
    with torch.no_grad():
        expected = model(images)
    with open_runtime(info.path, threads=1) as runtime:
        assert (runtime.backend, runtime.input_shape) == ("executorch", (None, 3, 16, 16))
        found = runtime(images)
        assert isinstance(runtime(images[:1].numpy()), np.ndarray)
    off = (found - expected).abs()
    assert off.mean() < 0.002
    assert off.max() < 0.03


def test_the_weights_are_integers(residual, plain, tmp_path):
    class Wide(nn.Module):
        def __init__(self, conv, fake):
            super().__init__()
            self.q, self.conv, self.q1 = fake(0.03, 128), conv(3, 3000, 3), fake(0.01)

        def forward(self, x):
            return self.q1(torch.relu(self.conv(self.q(x)))).amax((1, 2))

    kinds = type(residual.conv1), type(residual.q1)
    small = export(Wide(*kinds).eval(), tmp_path / "int.pte", example=EXAMPLE).bytes
    large = export(
        Wide(nn.Conv2d, lambda *_: nn.Identity()).eval(), tmp_path / "fp.pte", example=EXAMPLE
    ).bytes
    assert large - small > 3000 * 27 * 2.5


def test_slices_for_splits_and_batches(parts, tmp_path):
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.conv, self.q1 = (
                parts["fake"](0.03, 128),
                parts["conv"](4, 4, 1),
                parts["fake"](0.02, 99),
            )

        def forward(self, x):
            left, right = self.q(x).chunk(2, 1)
            return self.q1(self.conv(torch.cat([right, left], 1)))

    torch.manual_seed(0)
    model, x = Split().eval(), torch.randn(6, 4, 5, 5)
    path = export(model, tmp_path / "net.pte", example=x[:3], dynamic_batch=False).path
    runtime = open_runtime(path, threads=2)
    with torch.no_grad():
        assert ((runtime(x) - model(x)).abs() > 1e-5).float().mean() < 0.02
    with pytest.raises(errors.InputError, match=r"batch of 4 images .* it takes 3 at once"):
        runtime(x[:4])


def test_verify_and_what_a_file_says(residual, images, tmp_path):
    told = {"classes": list("abcdefghij"), "mean": [0.5] * 3, "std": [0.25] * 3, "licence": "MIT"}
    path = export(residual, tmp_path / "net.pte", example=EXAMPLE, **told).path
    found = verify(path, residual, [images], threads=1, repeats=2, agreement_at_least=90)
    assert (found.backend, found.images) == ("executorch", 64)
    said = backend.about(path)
    assert (said["classes"], said["licence"]) == (told["classes"], "MIT")
    assert json.loads(zlib.decompress(base64.b64decode(said["record"])))["steps"] == []
    json.dumps(said)


def test_normalisation_and_softmax_inside(plain, images, tmp_path):
    path = export(
        plain, tmp_path / "net.pte", example=EXAMPLE, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4],
        include_normalization=True, include_softmax=True,
    ).path  # fmt: skip
    normal = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        3, 1, 1
    )
    with torch.no_grad():
        assert torch.allclose(open_runtime(path, threads=1)(images), plain(normal).softmax(1), atol=1e-5)


def test_what_cannot_be_written_or_opened(plain, tmp_path):
    with pytest.raises(errors.InputError, match="only ONNX has opsets"):
        export(plain, tmp_path / "net.pte", example=EXAMPLE, opset=21)
    for content in (b"", b"hello", b"\x00" * 100, b"\x3c\0\0\0ET12" + bytes(200)):
        (tmp_path / "net.pte").write_bytes(content)
        with pytest.raises(errors.CorruptFile):
            open_runtime(tmp_path / "net.pte")


def test_without_executorch_the_error_names_the_extra(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(errors.MissingExtra, match=r"pip install 'pintsize\[executorch\]'"):
        export(plain, tmp_path / "net.pte", example=EXAMPLE)


def test_a_process_that_knows_of_no_quantizer_writes_a_file(launch, tmp_path):
    script = """
import sys, torch, pintsize
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
pintsize.export(net, sys.argv[1], example=torch.zeros(1, 3, 8, 8))
"""
    launch(script, tmp_path / "net.pte", processes=1)
    with open_runtime(tmp_path / "net.pte", threads=1) as runtime:
        assert runtime(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 6, 6)


def foreign(path):
    """A file as another tool writes it: no checksum, not our name."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    export(net, path, example=torch.zeros(1, 3, 8, 8))
    content = path.read_bytes()
    program = content[: content.rindex(b"\npintsize.sha256 ")].replace(b"pintsize", b"somebody")
    path.write_bytes(program)
    return program


def test_a_file_of_another_tool_runs(tmp_path):
    foreign(tmp_path / "net.pte")
    with open_runtime(tmp_path / "net.pte", threads=1) as runtime:
        assert runtime(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("kept", [9, 45, 200, -1])
def test_a_cut_file_of_another_tool_is_refused(tmp_path, kept):
    path = tmp_path / "net.pte"
    path.write_bytes(foreign(path)[:kept])
    with pytest.raises(errors.CorruptFile, match="cut off"):
        open_runtime(path)


@pytest.mark.parametrize(
    ("trial", "reason"), [("import os; os.abort()", "signal 6"), ("while True: pass", "0.5 s")]
)
def test_a_file_that_would_end_the_process_is_refused(tmp_path, monkeypatch, trial, reason):
    """What ExecuTorch aborts on differs from version to version."""
    foreign(tmp_path / "net.pte")
    monkeypatch.setattr(backend, "_TRIAL", trial)
    monkeypatch.setattr(backend, "_TRIAL_SECONDS", 0.5 if "while" in trial else 60)
    with pytest.raises(errors.CorruptFile, match=f"kills ExecuTorch.*{reason}"):
        open_runtime(tmp_path / "net.pte")


class Shared(nn.Module):
    """A layer that runs three times, with norms of its own or none, on values of different size."""

    def __init__(self, layer: nn.Module, norms: list[nn.Module]) -> None:
        super().__init__()
        self.shared, self.norms = layer, nn.ModuleList(norms)

    def forward(self, x):
        for norm in self.norms:
            x = norm(self.shared(x)).relu()
        return x.flatten(1)


def shared(kind):
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(6) for _ in range(3)] if "norms" in kind else [nn.Identity() for _ in range(3)]
    for number, norm in enumerate(norms):
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.constant_(norm.weight, 0.5 + number)
            norm.running_mean += 0.1 * number
    layer = nn.Linear(6, 6) if "linear" in kind else nn.Conv2d(6, 6, 3, padding=1)
    return Shared(layer, norms).eval(), torch.randn((8, 6) if "linear" in kind else (4, 6, 8, 8))


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("kind", ["convolution", "convolution with norms", "linear"])
def test_a_layer_that_runs_three_times(kind, integers, tmp_path):
    model, x = shared(kind)
    if integers:
        quantize(model, calibration=[x], example=x[:1], progress=False)
    path = export(model, tmp_path / "net.pte", example=x[:1]).path
    with torch.no_grad(), open_runtime(path, threads=1) as runtime:
        gap = (runtime(x) - model(x)).abs().max() / model(x).abs().max()
    assert gap < (0.01 if integers else 1e-5)


def test_one_dimensional_convolutions_in_a_row_are_integers(tmp_path):
    torch.manual_seed(0)
    line = nn.Sequential(
        nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Conv1d(8, 4, 3)
    ).eval()
    x = torch.rand(8, 1, 40)
    quantize(line, calibration=[x], progress=False)
    info = export(line, tmp_path / "net.pte", example=x[:1])
    assert info.details["integer_weights"]
    with torch.no_grad(), open_runtime(info.path, threads=1) as runtime:
        assert (runtime(x) - line(x)).abs().max() < 1e-3 * line(x).abs().max()


def test_no_method_is_loaded_while_the_pool_of_threads_changes(plain, images, tmp_path):
    export(plain, tmp_path / "net.pte", example=images)
    one = open_runtime(tmp_path / "net.pte", threads=1)
    first = one(images)
    two = open_runtime(tmp_path / "net.pte", threads=2)
    assert one._method is None  # the pool that it was loaded with is gone
    assert torch.equal(two(images), first)
    assert two._method is not None
    assert torch.equal(one(images), first)
    for runtime in (one, two):
        runtime.close()
        runtime.close()
        with pytest.raises(errors.InputError, match="closed"):
            runtime(images)


class Largest(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.conv, self.kept = nn.Conv2d(3, 4, 3), kept

    def forward(self, x):
        values, places = self.conv(x).max(1, keepdim=self.kept)
        return values, places


@pytest.mark.parametrize("kept", [False, True])
def test_the_largest_channel_and_where_it_is(kept, tmp_path):
    torch.manual_seed(0)
    model, x = Largest(kept).eval(), torch.randn(1, 3, 8, 8)
    assert export(model, tmp_path / "net.pte", example=x).checked == "executorch"
    with torch.no_grad(), open_runtime(tmp_path / "net.pte", threads=1) as runtime:
        values, places = runtime(x)
        wanted = model(x)
    assert torch.allclose(values, wanted[0], atol=1e-5)
    assert torch.equal(places, wanted[1])


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


@pytest.mark.parametrize("suffix", [".pte", ".onnx"])
def test_a_failed_export_says_one_line_and_logs_the_rest(suffix, tmp_path, capfd, caplog):
    with (
        caplog.at_level("DEBUG", logger="pintsize"),
        pytest.raises(errors.OperationError, match="GuardOnData") as caught,
    ):
        export(
            nn.Sequential(nn.Conv2d(3, 3, 1), Undecided()),
            tmp_path / f"net{suffix}",
            example=torch.ones(2, 3, 4, 4),
        )
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "def forward" not in capfd.readouterr().err
    assert "def forward" in caplog.text


@pytest.mark.parametrize("quantized", [False, True])
def test_the_layer_of_a_wrong_file_is_named(quantized, tmp_path, monkeypatch):
    right = layers.parameters_for_each_call

    def wrong(module):
        right(module)
        node = [node for node in module.graph.nodes if layers.name_of(node) == "conv2d"][1]
        bias = layers.attribute(module, str(node.args[2].target)).detach()
        with module.graph.inserting_before(node):
            node.update_arg(2, layers.stored(module, "wrong", torch.full_like(bias, 1.5)))

    monkeypatch.setattr(layers, "parameters_for_each_call", wrong)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1)
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    if quantized:
        quantize(model, calibration=x, progress=False)
    with pytest.raises(
        errors.VerificationFailed, match=f"first layer that differs is {3 if quantized else 2} "
    ):
        export(model, tmp_path / "net.pte", example=x)
    assert not list(tmp_path.iterdir())
