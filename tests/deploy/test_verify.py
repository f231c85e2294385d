"""The file against the model: figures by hand, and a loud failure."""

import dataclasses
import json
import sys

import pytest
import torch
from torch import nn

from pintsize import errors
from pintsize.deploy import export, open_runtime, verify
from pintsize.deploy.layers import layer_errors

EXAMPLE = torch.zeros(1, 3, 16, 16)


def test_figures_of_a_faithful_file(residual, images, tmp_path):
    path = export(residual, tmp_path / "net.onnx", example=EXAMPLE).path
    with torch.no_grad():
        labels = residual(images).argmax(1)
    labels[:16] = (labels[:16] + 1) % 10  # the model is right on 48 of 64
    residual.train()
    found = verify(
        path, residual, [(images, labels)], threads=1, against=path, repeats=3, agreement_at_least=90
    )
    assert residual.training
    assert found.images == 64
    assert found.agreement >= 95
    assert found.model_accuracy == 75
    assert abs(found.accuracy - 75) <= 5
    assert 0 <= found.mean_logit_error <= found.max_logit_error < 0.05
    assert found.bytes == path.stat().st_size
    assert found.integer_nodes["float"] == {}
    assert found.latency.median_ms > 0
    assert found.speedup == found.against_latency.median_ms / found.latency.median_ms
    assert found.ok
    assert json.loads(json.dumps(dataclasses.asdict(found)))["images"] == 64
    assert f"agreement {found.agreement:.2f} %" in str(found)
    assert "× as fast as" in str(found)


def test_a_different_model_fails_loudly(plain, images, tmp_path):
    path = export(plain, tmp_path / "net.onnx", example=EXAMPLE).path
    with torch.no_grad():
        plain.fc.weight.neg_()
        plain.fc.bias.neg_()
    with pytest.raises(
        errors.VerificationFailed, match=r"agreement with the model is 0\.00 % on 64 images, 99 % are"
    ):
        verify(path, plain, [images], threads=1, repeats=1)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_first_layer_that_differs_is_named(residual, images, tmp_path, backend):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra 'openvino' cannot be installed here")
    path = export(residual, tmp_path / "net.onnx", example=EXAMPLE).path
    errors_before = layer_errors(path, residual, images[:8], backend=backend, threads=1)
    assert {"q_input", "q1", "q2", "q3", "q4"} <= errors_before.keys()
    assert max(errors_before.values()) < 0.02
    with torch.no_grad():
        residual.conv2.weight.neg_()
    found = layer_errors(path, residual, images[:8], backend=backend, threads=1)
    assert found["q1"] < 0.02
    assert found["q2"] > 0.5
    with pytest.raises(
        errors.VerificationFailed, match=r"the first layer that differs is conv2(.quantizer)? \(relative"
    ):
        verify(path, residual, [images], backend=backend, threads=1, repeats=1, agreement_at_least=100)


def test_a_file_is_timed_against_another_in_the_same_runtime(residual, images, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="the extra 'openvino' cannot be installed here")
    opened = []

    def recorded(path, **options):
        opened.append(open_runtime(path, **options))
        return opened[-1]

    monkeypatch.setattr(sys.modules["pintsize.deploy.verification"], "open_runtime", recorded)
    path = export(residual, tmp_path / "net.onnx", example=EXAMPLE).path
    pair = export(residual, tmp_path / "net.xml", example=EXAMPLE).path
    verify(pair, residual, [images], backend="openvino", threads=1, against=path, repeats=1)
    assert [one.backend for one in opened] == ["openvino"] * 2


def test_outputs_that_are_not_finite_fail(plain, images, tmp_path):
    path = export(plain, tmp_path / "net.onnx", example=EXAMPLE).path
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(errors.VerificationFailed):
        verify(path, plain, [images], threads=1, repeats=1, agreement_at_least=0)


def test_limit_and_images_without_labels(plain, images, tmp_path):
    path = export(plain, tmp_path / "net.onnx", example=EXAMPLE).path
    found = verify(path, plain, [images[:20], images[20:40], images[40:]], threads=1, limit=30, repeats=1)
    assert found.images == 30
    assert found.accuracy is None
    assert found.against is None
    assert found.speedup is None


def test_file_of_fixed_batch(plain, images, tmp_path):
    path = export(plain, tmp_path / "net.onnx", example=torch.zeros(8, 3, 16, 16), dynamic_batch=False).path
    assert verify(path, plain, [images[:20]], threads=1, repeats=1).images == 16


def test_nothing_to_compare(plain, images, tmp_path):
    path = export(plain, tmp_path / "net.onnx", example=EXAMPLE).path
    with pytest.raises(errors.InputError, match="no images"):
        verify(path, plain, [])
    with pytest.raises(errors.InputError, match="no percentage"):
        verify(path, plain, [images], agreement_at_least=101)


class Block(nn.Module):
    """Its own last step is a sum, what it gives is a submodule's."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.conv(x)
        out += x
        return self.act(out)


def test_a_value_of_a_file_has_the_name_of_the_module_that_gives_it(tmp_path):
    model = nn.Sequential(Block(), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 3)).eval()
    x = torch.randn(2, 3, 8, 8)
    path = export(model, tmp_path / "net.onnx", example=x).path
    found = layer_errors(path, model, x, threads=1)
    assert {"0.act", "1"} <= found.keys()
    assert max(found.values()) < 1e-5


def test_a_classification_that_was_asked_for_needs_classes(tmp_path):
    net = nn.Conv2d(1, 3, 1).eval()
    export(net, tmp_path / "net.onnx", example=torch.zeros(1, 1, 4, 4))
    masks = [(torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4).long())]
    assert verify(tmp_path / "net.onnx", net, masks, repeats=1).ok
    with pytest.raises(
        errors.InputTypeError, match=r"targets int64 \[2, 4, 4\] of 2 images: .*task='segmentation'"
    ):
        verify(tmp_path / "net.onnx", net, masks, task="classification", repeats=1)
