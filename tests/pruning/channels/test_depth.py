"""Whole residual blocks leave a network: which ones may, what is left, and that it survives a file."""

import copy

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import IllegalOrder, InputError
from pintsize.pruning import drop_blocks, residual_blocks
from pintsize.pruning.channels.depth import DepthStep

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(name, **options):
    torch.manual_seed(0)
    return ps.models.create(name, **options).eval()


@pytest.mark.parametrize(
    ("name", "options", "blocks"),
    [
        ("resnet20", {"stem": "small"}, "layer1.0 layer1.1 layer1.2 layer2.1 layer2.2 layer3.1 layer3.2"),
        ("resnet18", {}, "layer1.0 layer1.1 layer2.1 layer3.1 layer4.1"),
        ("vgg16", {"stem": "small"}, ""),
    ],
)
def test_blocks_that_keep_the_shape_may_leave(name, options, blocks):
    found = residual_blocks(network(name, **options), X)
    assert list(found) == blocks.split()
    assert set(found.values()) <= {"identity"}  # what they read has been through a ReLU


def test_linear_bottlenecks_may_leave():
    found = residual_blocks(network("mobilenetv2"), X)
    assert [name.removeprefix("features.") for name in found] == [
        "3",
        "5",
        "6",
        "8",
        "9",
        "10",
        "12",
        "13",
        "15",
        "16",
    ]


class Sum(nn.Module):
    """A block in one of many styles."""

    def __init__(self, style):
        super().__init__()
        self.conv, self.other, self.style = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), style

    def forward(self, x):
        match self.style:
            case "plain":
                return x + self.conv(x)
            case "in place":
                y = self.conv(x)
                y += x
                return torch.relu_(y)
            case "relu6":
                return nn.functional.relu6(self.conv(x) + x)
            case "projection":
                return self.conv(x) + self.other(x)
            case "half":
                return torch.add(x, self.conv(x), alpha=0.5)
            case "tanh":
                return torch.tanh(x + self.conv(x))
            case "stream changed":
                return torch.relu_(x) + self.conv(x)
            case "two results":
                y = self.conv(x)
                return x + y, y


class Net(nn.Module):
    def __init__(self, style, *, twice=False):
        super().__init__()
        self.block, self.twice, self.head = Sum(style), twice, nn.Linear(3, 4)

    def forward(self, x):
        y = self.block(x * 1.0)
        if self.twice:
            y = self.block(y)
        if isinstance(y, tuple):
            y = y[0] * y[1]
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize(
    ("style", "remains"),
    [("plain", "identity"), ("in place", "relu"), ("relu6", "relu6"), ("projection", None), ("half", None),
     ("tanh", None), ("stream changed", None), ("two results", None)],
)  # fmt: skip
def test_what_is_left_of_a_block(style, remains):
    torch.manual_seed(0)
    net = Net(style).eval()
    found = residual_blocks(net, X)
    assert found == ({} if remains is None else {"block": remains})
    if remains:  # as if the block's branch gave zeros
        nn.init.zeros_(net.block.conv.weight)
        nn.init.zeros_(net.block.conv.bias)
        wanted = net(X)
        drop_blocks(net, X, ["block"])
        assert torch.equal(net(X), wanted)


class Parent(nn.Module):
    """Calls its block in ways that an identity cannot stand in for."""

    def __init__(self, style):
        super().__init__()
        self.block, self.style = Sum("plain"), style
        if style == "list":
            self.hidden = [self.block]
        if style == "tuple":
            self.block.register_forward_hook(lambda _module, _args, y: (y,))
        if style == "extra":
            self.block.register_forward_pre_hook(lambda _module, args, kwargs: (args, {}), with_kwargs=True)

    def forward(self, x):
        match self.style:
            case "list":
                for block in self.hidden:
                    x = block(x * 1.0)
            case "tuple":
                x = self.block(x * 1.0)[0]
            case "extra":
                x = self.block(x * 1.0, rate=0.5)
            case "attribute":
                x = self.block(x * 1.0) * self.block.conv.stride[0]
            case "aliased":
                x = x * 1.0
                y = self.block(x)
                x = x + torch.relu_(y)
            case "input changed":
                x = self.block(x).mul_(2.0)
        return x.mean((2, 3))


@pytest.mark.parametrize("style", ["list", "tuple", "extra", "attribute", "aliased"])
def test_a_block_stays_where_an_identity_cannot_stand_in_for_it(style):
    torch.manual_seed(0)
    net = Parent(style).eval()
    wanted = net(X)
    assert residual_blocks(net, X) == {}
    torch.testing.assert_close(net(X), wanted, atol=0, rtol=0)


def test_the_example_stays_as_it_is():
    example = X.clone()
    assert residual_blocks(Parent("input changed").eval(), example) in ({}, {"block": "identity"})
    assert torch.equal(example, X)


def test_a_block_that_runs_twice_or_shares_its_weights_stays():
    assert residual_blocks(Net("plain", twice=True), X) == {}
    shared = Net("plain")
    shared.extra = shared.block.conv
    assert residual_blocks(shared, X) == {}


def test_what_left_is_gone_from_file_and_runtime(tmp_path):
    net = network("resnet20", stem="small")
    whole = ps.profile(net, X)
    step = drop_blocks(net, X, ["layer3.1", "layer1.1"])
    assert step == DepthStep({"layer1.1": "identity", "layer3.1": "identity"})
    ps.prune(net, X, ratio=0.5)
    cost = ps.profile(net, X)
    assert cost.params < whole.params / 2
    ps.quantize(net, calibration=[(X, torch.zeros(2, dtype=torch.long))], progress=False)
    ps.save(net, tmp_path / "net.safetensors")
    loaded = ps.load(tmp_path / "net.safetensors")
    assert torch.equal(loaded(X), net(X))
    assert not [name for name, _ in loaded.named_modules() if name.startswith("layer1.1.")]
    ps.export(net, tmp_path / "net.onnx", example=X)
    runtime = ps.open_runtime(tmp_path / "net.onnx", threads=1)
    torch.testing.assert_close(torch.as_tensor(runtime(X.numpy())), net(X), atol=1e-4, rtol=1e-4)
    ps.export(net, tmp_path / "net.pint", example=X)
    assert torch.equal(ps.load(tmp_path / "net.pint")(X), net(X))


def test_masks_channels_and_blocks_in_any_order_survive_files(tmp_path):
    net = network("resnet20", stem="small")
    ps.prune(net, X, ratio=0.25)
    ps.sparsify(net, density=0.5, importance="magnitude")
    drop_blocks(net, X, ["layer2.1"])
    ps.prune(net, X, ratio=0.25)
    for name in ("net.safetensors", "net.pint"):
        ps.save(net, tmp_path / name)
        assert torch.equal(ps.load(tmp_path / name)(X), net(X))


@pytest.mark.parametrize("style", ["in place", "relu6"])
def test_what_is_left_goes_through_quantizers_and_export(style, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), Sum(style), nn.Flatten(), nn.Linear(3 * 30 * 30, 4)).eval()
    drop_blocks(net, X, ["1"])
    ps.quantize(net, calibration=[(X, torch.zeros(2, dtype=torch.long))], progress=False)
    ps.export(net, tmp_path / "net.onnx", example=X)
    runtime = ps.open_runtime(tmp_path / "net.onnx", threads=1)
    torch.testing.assert_close(torch.as_tensor(runtime(X.numpy())), net(X), atol=1e-4, rtol=1e-4)


def test_errors_name_the_block_and_change_nothing():
    net = network("resnet20", stem="small")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=r"residual block 'layer2\.0'.*did you mean .*'layer2\.1'"):
        drop_blocks(net, X, ["layer1.1", "layer2.0"])
    assert net.state_dict().keys() == before.keys()
    ps.quantize(net, calibration=[(X, torch.zeros(2, dtype=torch.long))], progress=False)
    with pytest.raises(IllegalOrder, match="'depth' after 'fold'"):
        drop_blocks(net, X, ["layer1.1"])
    for nothing in ([], "layer1.1"):
        with pytest.raises(InputError, match="not a list of paths"):
            drop_blocks(network("resnet20", stem="small"), X, nothing)
    with pytest.raises(ValueError, match="cannot be left"):
        DepthStep.from_json({"blocks": {"layer1.1": "os.system"}})
