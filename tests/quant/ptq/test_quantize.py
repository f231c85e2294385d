import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pintsize as ps
from pintsize import quant
from pintsize.errors import IllegalOrder, InputError, InputTypeError
from pintsize.quant.network import convert
from pintsize.storage.record import record

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(8 * 16, 4)

    def forward(self, x):
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.relu(self.norm2(self.conv2(x)) + x)
        return self.fc(self.dropout(F.max_pool2d(x, 2).flatten(1)))


def pictures(count, seed=0):
    """8×8 images whose class is the brightest quarter."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    for quarter in range(4):
        row, column = divmod(quarter, 2)
        images[labels == quarter, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] += 0.7
    return images, labels


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Net()
    images, labels = pictures(1024)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(6):
        for x, y in zip(images.split(128), labels.split(128), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, images, labels):
    return float((model(images).argmax(1) == labels).float().mean()) * 100


@torch.no_grad()
def run(model, x):
    return model(x)


@pytest.mark.parametrize("method", ["minmax", "ema", "percentile", "mse", "entropy"])
def test_int8_keeps_the_accuracy_of_a_trained_net(trained, method):
    images, labels = pictures(2000, seed=1)
    model = copy.deepcopy(trained)
    result = quant.quantize(model, calibration=pictures(256)[0].split(64), method=method)
    assert accuracy(trained, images, labels) > 90
    assert abs(accuracy(model, images, labels) - accuracy(trained, images, labels)) <= 0.5
    assert [layer.name for layer in result.layers] == ["conv1", "conv2", "fc"]
    assert result.folded == ("norm1", "norm2")
    assert [step.kind for step in record(model)] == ["fold", "quantize"]


def test_the_simulation_is_integers_times_scales(trained):
    """The second convolution by hand, from the integers of its input, weight and bias."""
    model = copy.deepcopy(trained)
    quant.quantize(model, calibration=pictures(256)[0])
    images, _ = pictures(4, seed=2)
    seen = {}
    model.conv2.register_forward_hook(lambda _m, args, out: seen.update(x=args[0], y=out))
    run(model, images)
    layer, weight = model.conv2, model.conv2.weight_quantizer
    source = convert.activation_quantizers(model)["relu__relu_0"]
    x, w = source.to_int(seen["x"]), weight.to_int(layer.weight)
    unit = (weight.scale * source.scale).double()
    bias = layer.bias.detach().double() / unit
    assert (bias - bias.round()).abs().max() < 1e-2  # round_biases: whole numbers of the accumulator's unit
    total = F.conv2d(x.double() - int(source.zero_point), w.double(), bias.round(), padding=1)
    expected = total * unit.view(-1, 1, 1)
    out = convert.activation_quantizers(model)["conv2__conv2d_0"]
    assert out(expected.float()).sub(seen["y"]).abs().max() <= float(out.scale) * 1.01
    assert (out(expected.float()) != seen["y"]).float().mean() < 1e-3


def test_save_and_load_give_identical_outputs(tmp_path):
    model = ps.models.create("resnet-demo", num_classes=4)
    x = torch.randn(4, 3, 32, 32)
    quant.quantize(model, calibration=x, weights={"conv1": 8, "layer*": 4}, activations=6)
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors")
    assert torch.equal(run(again, x), run(model.eval(), x))
    assert quant.is_quantized(again)
    assert record(again) == record(model)
    assert not quant.is_quantized(ps.models.create("resnet-demo", num_classes=4))


def test_deep_copy_and_pickle_are_independent(trained):
    model = copy.deepcopy(trained)
    x, _ = pictures(8)
    quant.quantize(model, calibration=x)
    expected = run(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(other, x), expected)
        for quantizer in convert.quantizers(other):
            quantizer.scale.mul_(3)
        assert not torch.equal(run(other, x), expected)
    assert torch.equal(run(model, x), expected)


def test_training_mode_and_gradients(trained):
    model = copy.deepcopy(trained)
    x, y = pictures(64)
    quant.quantize(model, calibration=x)
    model.train()
    F.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert isinstance(model.conv1, nn.Conv2d)
    assert model.conv1.weight is model.conv1._parameters["weight"]  # float outside of its forward


def test_exported_program_computes_the_same(trained):
    model = copy.deepcopy(trained)
    x, _ = pictures(8)
    quant.quantize(model, calibration=x)
    program = torch.export.export(model, (x,))
    assert torch.equal(run(program.module(), x), run(model, x))
    calls = [n for n in program.graph.nodes if n.target is torch.ops.pintsize.quantize_dequantize.default]
    # 3 weights; input, relu, conv2, relu; max pool and flatten say the scale again
    assert len(calls) == 3 + 4 + 2


def test_compiled_network_computes_the_same(trained):
    model = copy.deepcopy(trained)
    x, _ = pictures(8)
    quant.quantize(model, calibration=x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(run(compiled, x), run(model, x))


def test_any_sequential_and_root_that_runs_over_its_children():
    class OverChildren(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            for child in self.children():
                x = child(x)
            return x

    x = torch.randn(4, 2, 5, 5)
    for model in (OverChildren(), nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))):
        count = len(list(model.children()))
        expected = run(model, x)
        quant.quantize(model, calibration=x)
        assert torch.allclose(run(model, x), expected, atol=0.05)
        if isinstance(model, nn.Sequential):
            assert len(model) == count
            assert isinstance(model[-1], nn.Conv2d)


def test_parametrized_weight_is_quantized_after_its_mask():
    class Mask(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))

        def forward(self, weight):
            return weight * self.mask

    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU())
    nn.utils.parametrize.register_parametrization(model[0], "weight", Mask())
    x = torch.randn(4, 2, 5, 5)
    expected = run(model, x)
    quant.quantize(model, calibration=x)
    assert torch.allclose(run(model, x), expected, atol=0.05)
    assert quant.weight_layers(model)[0][1].weight_quantizer.to_int(model[0].weight)[:, 1].abs().sum() == 0


def test_transposed_and_subclassed_convolutions():
    class Padded(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(F.pad(x, (1, 0, 1, 0)), self.weight, self.bias)

    model = nn.Sequential(
        Padded(2, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, groups=2)
    )
    x = torch.randn(8, 2, 6, 6)
    expected = run(model.eval(), x)
    result = quant.quantize(model, calibration=x, method="minmax", outputs=True)
    assert [layer.name for layer in result.layers] == ["0", "3"]
    assert torch.allclose(run(model, x), expected, atol=0.05)
    assert model[3].weight_quantizer.axis == 1
    assert len(model[3].weight_quantizer.scale) == 3


def test_bits_by_pattern_and_edges(trained):
    x = pictures(64)[0]
    model = copy.deepcopy(trained)
    quant.quantize(model, weights=4, activations=4, calibration=x)
    assert {n: m.weight_quantizer.bits for n, m in quant.weight_layers(model)} == {
        "conv1": 8,
        "conv2": 4,
        "fc": 8,
    }
    model = copy.deepcopy(trained)
    quant.quantize(model, weights=2, edges=None, calibration=x)
    assert {m.weight_quantizer.bits for _, m in quant.weight_layers(model)} == {2}
    model = copy.deepcopy(trained)
    quant.quantize(model, weights={"conv*": 3, "fc": None}, ignore=["conv1"], calibration=x)
    assert {n: m.weight_quantizer.bits for n, m in quant.weight_layers(model)} == {"conv2": 3}
    model = copy.deepcopy(trained)
    result = quant.quantize(model, activations=None, example=x[:1])
    assert result.activations == ()
    assert type(model) is Net
    assert [layer.activation_bits for layer in result.layers] == [None] * 3


def test_dead_channel_with_a_bias_fits_the_accumulator(trained):
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.conv2.weight[0] *= 1e-14
        model.norm2.bias[0] = 2.0
    x = pictures(64)[0]
    expected = run(model, x)
    quant.quantize(model, calibration=x)
    quantizers = convert.activation_quantizers(model)
    unit = model.conv2.weight_quantizer.scale.double() * quantizers["relu__relu_0"].scale.double()
    assert (model.conv2.bias.double() / unit).abs().max() < 2**31
    assert (run(model, x) - expected).abs().max() < 0.2 * expected.abs().max()


def before_and_after(model):
    return type(model), {name: value.clone() for name, value in model.state_dict().items()}, record(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": 9}, "weights=9"),
        ({"activations": 1}, "activations=1"),
        ({"weights": {"conv1": 0}}, "conv1"),
        ({"weights": {"convolution": 4}}, "'convolution' in weights.*matches no layer"),
        ({"activations": {"f": 4}}, "in activations.*did you mean|choose one of"),
        ({"ignore": ["nothing"]}, "'nothing' in ignore"),
        ({"method": "mean"}, "method 'mean'"),
        ({"calibration": []}, "calibration: it holds no images"),
        ({"calibration": None}, "calibration=None"),
        ({"calibration": [torch.full((2, 1, 8, 8), float("nan"))]}, "batch 0.*NaN"),
        ({"calibration": [torch.zeros(2, 1, 8, 8)]}, "input 0.*constant"),
        ({"calibration": [torch.randn(2, 1, 8, 8)], "calibration_images": 0}, "0"),
    ],
)
def test_mistakes_leave_the_model_as_it_was(trained, options, message):
    model = copy.deepcopy(trained)
    kind, state, steps = before_and_after(model)
    with pytest.raises(InputError, match=message):
        quant.quantize(model, **{"calibration": [pictures(8)[0]], **options})
    assert type(model) is kind
    assert record(model) == steps
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_wrong_objects():
    with pytest.raises(InputTypeError, match="not a network"):
        quant.quantize("net.onnx", calibration=[])
    with pytest.raises(InputError, match="no convolution or linear"):
        quant.quantize(nn.Sequential(nn.ReLU()), calibration=torch.randn(2, 3))
    with pytest.raises(InputTypeError, match="one string"):
        quant.quantize(nn.Sequential(nn.Linear(3, 3)), calibration=torch.randn(2, 3), ignore="0")


def test_nan_weights_and_activations_name_the_layer(trained):
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.fc.bias[0] = float("inf")
    with pytest.raises(InputError, match="bias of layer fc"):
        quant.quantize(copy.deepcopy(model), calibration=pictures(8)[0])
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layer fc"):
        quant.quantize(model, calibration=pictures(8)[0])
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model.norm1.bias.fill_(-1e9)
    assert [where for where in quant.quantize(model, calibration=pictures(8)[0]).constants if "relu" in where]


def test_a_way_that_calibration_never_takes():
    class TwoWays(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            y = self.a(x)
            return self.b(torch.relu(y) if len(x) == 2 else torch.tanh(y))

    with pytest.raises(InputError, match=r"relu 0.*never came by"):
        quant.quantize(TwoWays(), calibration=torch.randn(5, 1, 3, 3), example=torch.randn(2, 1, 3, 3))


def test_twice_is_refused(trained):
    model = copy.deepcopy(trained)
    quant.quantize(model, calibration=pictures(8)[0])
    with pytest.raises(IllegalOrder, match="'quantize' after 'quantize'"):
        quant.quantize(model, calibration=pictures(8)[0])
