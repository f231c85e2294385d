"""Counts worked out by hand."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize.errors import InputError, OperationError
from pintsize.measure import profile

CASES = [
    # (module, input without batch, params, macs by hand)
    (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), 8 * 27 + 8, 10 * 12 * 8 * 27),
    (nn.Conv2d(8, 8, 3, groups=8, bias=False), (8, 6, 6), 72, 4 * 4 * 72),
    (nn.Conv2d(8, 12, 1, groups=4, bias=False), (8, 5, 5), 24, 25 * 24),
    (nn.Conv1d(4, 6, 5, stride=2, bias=False), (4, 11), 120, 4 * 120),
    (nn.Conv3d(2, 3, 2, bias=False), (2, 4, 4, 4), 48, 27 * 48),
    # transposed: each of the 2·3·3 inputs meets 3/1 outputs × 2·2 taps
    (nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False), (2, 3, 3), 24, 2 * 9 * 3 * 4),
    (nn.ConvTranspose2d(4, 4, 3, groups=2, bias=False), (4, 5, 5), 4 * 2 * 9, 4 * 25 * 2 * 9),
    (nn.Linear(7, 5), (7,), 40, 35),
    (nn.Linear(7, 5, bias=False), (3, 7), 35, 3 * 35),
    (nn.Bilinear(3, 3, 2), (3,), 20, 18),
    (nn.LSTM(4, 5, batch_first=True), (6, 4), 20 * 9 + 40, 6 * 20 * 9),
    (nn.GRU(4, 5, batch_first=True), (6, 4), 15 * 9 + 30, 6 * 15 * 9),
]


class Twice(nn.Module):
    """Calls a module, with the same input twice where it takes two."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        out = self.inner(x, x) if isinstance(self.inner, nn.Bilinear) else self.inner(x)
        return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize(("module", "shape", "params", "macs"), CASES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("batch", [1, 3])
def test_single_layers(module, shape, params, macs, batch):
    found = profile(Twice(module), torch.randn(batch, *shape))
    assert (found.params, found.macs, found.bytes) == (params, macs, 4 * params)


class Attention(nn.Module):
    """One head written three ways; L = 5 tokens, width 4."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        if self.way == "fused":
            return F.scaled_dot_product_attention(x, x, x)
        if self.way == "einsum":
            return torch.einsum("bij,bjk->bik", torch.einsum("bik,bjk->bij", x, x).softmax(-1), x)
        return torch.baddbmm(torch.zeros(1), (x @ x.transpose(1, 2)).softmax(-1), x)


@pytest.mark.parametrize("way", ["fused", "einsum", "baddbmm"])
def test_attention_counts_both_products(way):
    found = profile(Attention(way), torch.randn(2, 5, 4))
    assert found.macs == 2 * 5 * 5 * 4
    assert [(layer.name, layer.macs) for layer in found.layers] == [("", 200)]


def test_multi_head_attention_in_eval_is_not_hidden_by_its_fast_path():
    found = profile(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8))
    projections, attention, mlp = 5 * 8 * (24 + 8), 2 * 5 * 5 * 8, 2 * 5 * 8 * 16
    assert found.macs == projections + attention + mlp


class Branches(nn.Module):
    """Control flow, a shared layer, a functional convolution with a bare parameter, a residual add."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.again = self.shared
        self.kernel = nn.Parameter(torch.randn(2, 4, 1, 1))
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(2):
            x = self.relu(self.shared(x)) + x
        return F.conv2d(x, self.kernel)


def test_any_forward():
    model = Branches().train()
    found = profile(model, torch.randn(2, 4, 6, 6))
    assert model.training
    by_name = {layer.name: layer for layer in found.layers}
    assert list(by_name) == ["shared", "relu", "", "unused"]
    assert by_name["shared"].macs == 2 * 36 * 144
    assert by_name["shared"].params == 144
    assert by_name["shared"].output_shape == (2, 4, 6, 6)
    assert by_name["relu"].activation_bytes == 2 * 4 * 36 * 4  # it runs twice
    assert by_name[""].params == 8
    assert by_name[""].macs == 36 * 8
    assert by_name["unused"].macs == 0
    assert by_name["unused"].output_shape == ()
    assert found.params == 144 + 8 + 12


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    model[1].weight = model[0].weight
    found = profile(model, torch.randn(1, 6))
    assert (found.params, found.macs, found.bytes) == (36, 72, 144)


def test_activation_memory_is_of_one_image():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    found = profile(model, torch.randn(5, 1, 8, 8))
    memory = {layer.type: layer.activation_bytes for layer in found.layers}
    # pooling's indices are not handed on, so they do not count
    assert memory == {
        "Conv2d": 576,
        "BatchNorm2d": 576,
        "ReLU": 576,
        "MaxPool2d": 144,
        "Flatten": 144,
        "Linear": 8,
    }


def test_half_precision_parameters_take_half_the_bytes():
    assert profile(nn.Linear(4, 4, bias=False).bfloat16(), torch.randn(1, 4).bfloat16()).bytes == 32


class QuantizedLinear(nn.Linear):
    """As a quantized layer looks to the profile: a weight and its quantizer."""

    def __init__(self, bits):
        super().__init__(7, 3)
        self.weight_quantizer = nn.Module()
        self.weight_quantizer.bits = bits
        self.weight_quantizer.register_buffer("scale", torch.ones(3))


@pytest.mark.parametrize(("bits", "packed"), [(8, 21), (4, 11), (2, 6)])
def test_quantized_weights_count_at_their_width(bits, packed):
    found = profile(nn.Sequential(QuantizedLinear(bits)), torch.randn(1, 7))
    assert found.bytes == packed + 3 * 4 + 3 * 4  # bias and scales stay fp32
    assert found.params == 24
    assert found.layers[0].bits == bits


def test_learned_step_sizes_are_no_parameters_of_the_network():
    layer = QuantizedLinear(8)
    layer.weight_quantizer.scale = nn.Parameter(layer.weight_quantizer._buffers.pop("scale"))
    found = profile(nn.Sequential(layer), torch.randn(1, 7))
    assert (found.params, found.bytes, len(found.layers)) == (24, 45, 1)


def test_parametrized_layer_is_one_layer():
    layer = nn.Linear(4, 4)
    nn.utils.parametrizations.weight_norm(layer)
    found = profile(nn.Sequential(layer), torch.randn(1, 4))
    assert [row.name for row in found.layers] == ["0"]
    assert found.layers[0].macs == 16


def test_table_names_every_layer_and_the_sum():
    text = profile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.randn(1, 3, 10, 10)).table()
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["layer", "type"]
    assert "13.8 k" in lines[2]
    assert lines[-1].split()[0] == "total"
    assert "224" in lines[-1]


def test_html_escapes_names():
    model = nn.Sequential()
    model.add_module("<b>", nn.Linear(1, 1))
    assert "&lt;b&gt;" in profile(model, torch.randn(1, 1))._repr_html_()


@pytest.mark.parametrize("example", [torch.tensor(1.0), torch.empty(0, 3), "image", (1, 2)])
def test_no_batch(example):
    with pytest.raises((InputError, OperationError)):
        profile(nn.Linear(3, 3), example)


def test_wrong_shape_names_the_shape():
    with pytest.raises(OperationError, match=r"\(1, 4\)"):
        profile(nn.Linear(3, 3), torch.randn(1, 4))


PUBLISHED = [
    ("resnet18", 11_689_512, 1.814e9),
    ("resnet50", 25_557_032, 4.089e9),
    ("mobilenetv2", 3_504_872, 300.8e6),
    ("vgg16", 138_357_544, 15.47e9),
    ("alexnet", 61_100_840, 714.2e6),
]


@pytest.mark.parametrize(("name", "params", "macs"), PUBLISHED)
def test_published_counts(name, params, macs):
    from pintsize import models

    with torch.device("meta"):
        model = models.create(name, num_classes=1000, in_channels=3, stem="imagenet")
    found = profile(model, torch.empty(1, 3, 224, 224, device="meta"))
    assert found.params == params
    assert found.macs == pytest.approx(macs, rel=1e-3)


def test_resnet50_is_profiled_within_a_second():
    from pintsize import models

    model = models.create("resnet50", num_classes=1000, in_channels=3, stem="imagenet")
    example = torch.randn(1, 3, 224, 224)
    profile(model, example)
    start = time.perf_counter()
    profile(model, example)
    assert time.perf_counter() - start < 1


def test_a_clustered_layer_has_the_width_of_its_codes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
    ps.cluster(model, k=8, norms=False)
    layer, norm = profile(model, torch.randn(1, 3, 8, 8)).layers
    assert (layer.bits, layer.bytes) == (3, 8 * 4 + 8 * 3 * 9 * 3 // 8)
    assert (norm.bits, norm.bytes) == (32, 2 * 8 * 4)
    shown = ps.show(model, example=torch.randn(1, 3, 8, 8)).layers[0]
    assert (shown.bits, shown.bytes) == (layer.bits, layer.bytes)
