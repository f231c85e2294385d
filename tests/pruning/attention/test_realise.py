"""Realisation: what is cut computes what was masked, is saved, loaded, exported, and really is smaller."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.graph import analyse
from pintsize.graph.check import Mismatch
from pintsize.pruning import prune_by_attention
from pintsize.pruning.attention import realise as attention_realise
from pintsize.pruning.attention import sites as attention_sites
from pintsize.pruning.attention.layers import Attended
from pintsize.pruning.channels.scatter import Scatter
from pintsize.quant import weight_layers
from pintsize.recipe.attention import AttentionOptions
from pintsize.storage import record


class Small(nn.Module):
    """A residual network of three convolutions and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 10, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(10)
        self.short = nn.Conv2d(8, 10, 1, stride=2, bias=False)
        self.head = nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.stem(x)).relu()
        x = (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.short(x)).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def busy(model: nn.Module) -> nn.Module:
    """`model` with batch norms whose every number matters."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))  # type: ignore[union-attr]
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))  # type: ignore[union-attr]
    return model.eval()


def attended(model: nn.Module, **options: Any) -> Attended:
    chosen = AttentionOptions(**options)
    graph = analyse(model, IMAGE)
    sites = attention_sites.find(model, graph, chosen)
    return Attended(copy.deepcopy(model).eval(), graph, sites, chosen, example=IMAGE)


def remove(net: Attended, share: float, *, whole: tuple[str, ...] = ()) -> None:
    """Remove units at random, and all of the vectors named in `whole`."""
    generator = torch.Generator().manual_seed(3)
    for site, vector in zip(net.sites, net.vectors, strict=True):
        gone = torch.rand(site.units, generator=generator) < share
        if site.name in whole:
            gone[:] = True
        vector.remove(gone.nonzero().reshape(-1))
    net.refresh()


@pytest.mark.parametrize("name", ["resnet20", "resnet-demo", "mobilenetv2", "shufflenetv2-x0.5"])
@pytest.mark.parametrize("per", ["group", "convolution"])
def test_realised_equals_masked(name: str, per: str) -> None:
    torch.manual_seed(0)
    model = busy(ps.models.create(name, stem="small", in_channels=3))
    net = attended(model, per=per, at="norm")
    remove(net, 0.4)
    masked = net.model(IMAGE).detach()
    dense = sum(p.numel() for p in model.parameters())
    found = attention_realise.realise(model, net, IMAGE)
    assert found.error < 1e-5
    torch.testing.assert_close(model(IMAGE), masked, rtol=1e-4, atol=1e-5 * float(masked.abs().max()))
    assert sum(p.numel() for p in model.parameters()) < 0.9 * dense
    fraction = sum(p.numel() for p in model.parameters()) / dense
    claimed = net.fractions()["params"]
    assert fraction == pytest.approx(claimed) if not found.scattered else fraction < claimed
    assert found.left["params"] == pytest.approx(fraction)
    spent = ps.profile(model, IMAGE).macs / found.plan.before["macs"]
    assert found.left["macs"] == pytest.approx(spent, rel=1e-6)


def test_a_group_that_lost_everything_keeps_one_silent_channel() -> None:
    model = busy(ps.models.create("resnet20", stem="small"))
    net = attended(model)
    remove(net, 0.2, whole=("layer2.1.conv1",))
    masked = net.model(IMAGE).detach()
    attention_realise.realise(model, net, IMAGE)
    assert model.get_submodule("layer2.1.conv1").out_channels == 1
    torch.testing.assert_close(model(IMAGE), masked, rtol=1e-4, atol=1e-5 * float(masked.abs().max()))


@pytest.mark.parametrize("faster", [True, False])
def test_residual_convolutions_compute_their_kept_channels_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faster: bool
) -> None:
    monkeypatch.setattr(attention_realise, "_faster", lambda *_: faster)
    model = busy(ps.models.create("resnet20", stem="small"))
    net = attended(model, per="convolution")
    remove(net, 0.5, whole=("layer1.2.conv2",))
    masked = net.model(IMAGE).detach()
    found = attention_realise.realise(model, net, IMAGE)
    torch.testing.assert_close(model(IMAGE), masked, rtol=1e-4, atol=1e-5 * float(masked.abs().max()))
    ends = {f"layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(3)}
    assert set(found.scattered if faster else found.masked) == ends
    assert not (found.masked if faster else found.scattered)
    placed = [module for module in model.modules() if isinstance(module, Scatter)]
    assert len(placed) == (9 if faster else 0)
    if not faster:
        return
    assert model.get_submodule("layer1.2.conv2").out_channels == 1
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors")
    assert torch.equal(again(IMAGE), model(IMAGE))
    assert [step.kind for step in record.record(again)] == ["prune", "scatter"]


def vanish(net: Attended) -> torch.Tensor:
    """Remove every third unit, whose attention is zero already; what the network gave before."""
    with torch.no_grad():
        for site, vector in zip(net.sites, net.vectors, strict=True):
            vector.attention[::3] = 0.0
            for target in site.targets:
                if target.norm is not None:  # as training would have it
                    net.model.get_buffer(f"{target.norm}.running_mean")[target.indices[::3].reshape(-1)] = 0.0
        before = net.model(IMAGE)
    for vector in net.vectors:
        vector.remove(vector.vanished(1e-4))
    net.refresh(fold=True)
    return before


class Pointwise(nn.Module):
    """A residual network without padding, one layer of which has neither bias nor norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 9, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(9)
        self.conv2 = nn.Conv2d(9, 8, 1, bias=False)
        self.conv3 = nn.Conv2d(8, 8, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.conv2(self.bn1(self.conv1(self.bn0(x).relu())).relu())
        x = (x + self.bn3(self.conv3(x))).relu()
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.mark.parametrize("per", ["group", "convolution"])
@pytest.mark.parametrize("on", ["weights", "outputs"])
def test_constants_of_removed_channels_are_kept_exactly(per: str, on: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = busy(Pointwise())
    dense = copy.deepcopy(model)
    net = attended(model, per=per, on=on)
    before = vanish(net)
    after = net.model(IMAGE)
    assert net.constant_error == 0.0
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))
    found = attention_realise.realise(model, net, IMAGE)
    torch.testing.assert_close(model(IMAGE), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    assert model.get_submodule("conv1").out_channels == 6
    assert found.plan.biases == ("conv2",)  # what bn1 made of the three that are gone is in there
    ps.save(model, tmp_path / "net.safetensors")
    assert torch.equal(ps.load(tmp_path / "net.safetensors", model=dense)(IMAGE), model(IMAGE))


def test_placed_channels_keep_their_constants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attention_realise, "_faster", lambda *_: True)
    model = busy(ps.models.create("resnet20", stem="small"))
    net = attended(model, per="convolution")
    vanish(net)
    masked = net.model(IMAGE).detach()
    found = attention_realise.realise(model, net, IMAGE)
    assert found.error < 1e-5
    torch.testing.assert_close(model(IMAGE), masked, rtol=1e-4, atol=1e-5 * float(masked.abs().max()))
    placed = [module for module in model.modules() if isinstance(module, Scatter)]
    assert len(placed) == 9
    assert all(module.constants is not None and bool(module.constants.any()) for module in placed)
    ps.export(model, tmp_path / "net.pint")
    assert torch.equal(ps.load(tmp_path / "net.pint")(IMAGE), model(IMAGE))
    ps.quantize(model, calibration=[IMAGE], weights=8, activations=8)
    ps.export(model, tmp_path / "net.onnx", example=IMAGE[:1])
    given = ps.open_runtime(tmp_path / "net.onnx")(IMAGE)
    torch.testing.assert_close(given, model(IMAGE).detach(), rtol=0, atol=1e-5 * float(masked.abs().max()))


def test_scattered_networks_are_quantized_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_realise, "_faster", lambda *_: True)
    model = busy(ps.models.create("resnet20", stem="small"))
    net = attended(model, per="convolution")
    remove(net, 0.3)
    attention_realise.realise(model, net, IMAGE)
    plain = model(IMAGE)
    ps.quantize(model, calibration=[IMAGE], weights=8, activations=8)
    assert [step.kind for step in record.record(model)] == ["prune", "scatter", "fold", "quantize"]
    assert (model(IMAGE) - plain).abs().max() < 0.1 * plain.abs().max()


def test_scatter_by_hand() -> None:
    x = torch.tensor([[[5.0]], [[7.0]]])[None]
    assert Scatter([1, 3], 4)(x)[0, :, 0, 0].tolist() == [0.0, 5.0, 0.0, 7.0]
    assert Scatter([1, 3], 4, torch.tensor([2.0, 3.0]))(x)[0, :, 0, 0].tolist() == [2.0, 5.0, 3.0, 7.0]


@pytest.mark.parametrize(("on", "ranges"), [("weights", "max"), ("outputs", "max"), ("outputs", "mse")])
@pytest.mark.parametrize("bits", [8, 2])
def test_the_network_that_was_validated_is_delivered(on: str, ranges: str, bits: int) -> None:
    """Quantized, masked and realised network give the same to the last bits, and the same accuracy."""
    data = ps.data.load("digits", limit=300, val_fraction=0.2)
    torch.manual_seed(0)
    model = Small()
    ps.train(model, data, epochs=12, lr=0.1, batch_size=32, augment=False, precision="fp32", progress=False)
    result = prune_by_attention(
        model, data, weights=bits, activations=8, on=on, ranges=ranges, attention_epochs=4, recovery_epochs=1, lr=1e-3,
        attention_lr=0.05, attention_weight=0.2, batch_size=32, weight_penalty=0.0, augment=False, precision="fp32",
        progress=False,
    )  # fmt: skip
    assert result.history[-1]["params"] < 0.9
    assert result.accuracy > 20
    assert result.realisation.error < 1e-6
    assert result.accuracy == ps.evaluate(model, data.val) == result.history[-1]["val_accuracy"]
    assert f"→ {result.accuracy:.2f} %" in str(result)
    assert result.realisation.left["params"] == pytest.approx(result.history[-1]["params"])


@pytest.mark.parametrize(("weights", "activations", "per"), [(8, 8, "group"), (2, 4, "convolution")])
def test_trained_with_quantizers_realised_saved_and_exported(
    tmp_path: Path, weights: int, activations: int, per: str
) -> None:
    data = ps.data.load("digits", limit=200, val_fraction=0.2)
    torch.manual_seed(0)
    model = Small()
    ps.train(model, data, epochs=1, lr=0.05, batch_size=32, augment=False, progress=False)
    result = prune_by_attention(
        model, data, weights=weights, activations=activations, attention_epochs=2, recovery_epochs=1, lr=1e-3,
        attention_lr=0.06, batch_size=32, weight_penalty=0.0, augment=False, progress=False, per=per,
    )  # fmt: skip
    assert result.history[-1]["params"] < 0.9
    assert result.realisation.error < 1e-5
    kinds = [step.kind for step in record.record(model)]
    assert [kind for kind in kinds if kind != "scatter"] == ["prune", "fold", "quantize"]
    layers = dict(weight_layers(model))
    assert layers["stem"].weight_quantizer.bits == 8
    assert layers["stem"].out_channels == 8
    assert layers["head"].weight_quantizer.bits == weights
    assert layers["conv1"].weight_quantizer.bits == weights
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=Small())
    images = next(iter(data.test.batches(8)))[0]
    assert torch.equal(again(images), model(images))
    if weights == 8 and per == "group":
        ps.export(model, tmp_path / "net.onnx", example=images[:1])
        found = ps.verify(tmp_path / "net.onnx", model, data.val)
        assert found.agreement >= 99


def test_a_cut_that_fails_keeps_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    model = busy(ps.models.create("resnet20", stem="small"))
    net = attended(model)
    remove(net, 0.4)
    masked = net.model(IMAGE).detach()

    def fails(*_: Any) -> None:
        raise Mismatch(None, "its outputs differ")

    monkeypatch.setattr(attention_realise, "attempt", fails)
    found = attention_realise.realise(model, net, IMAGE)
    assert found.uncut == "its outputs differ"
    torch.testing.assert_close(model(IMAGE), masked, rtol=1e-4, atol=1e-5 * float(masked.abs().max()))
    assert "prune" not in [step.kind for step in record.record(model)]


@pytest.mark.parametrize("step", ["attempt", "_candidates", "_with_costs", "_with_biases"])
@pytest.mark.parametrize(
    "error", [RuntimeError("no memory"), ps.errors.InputError("it", "it is not right", "none")]
)
def test_whatever_fails_late_keeps_what_was_trained(
    monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    model = busy(ps.models.create("resnet20", stem="small"))
    net = attended(model)
    remove(net, 0.4)
    masked = net.model(IMAGE).detach()
    right, calls = getattr(attention_realise, step), []

    def fails(*args: Any, **named: Any) -> Any:
        calls.append(args)
        if len(calls) > 2 or (step == "_candidates" and len(calls) > 1):
            return right(*args, **named)
        raise error

    monkeypatch.setattr(attention_realise, step, fails)
    found = attention_realise.realise(model, net, IMAGE)
    torch.testing.assert_close(model(IMAGE), masked, rtol=1e-4, atol=1e-5 * float(masked.abs().max()))
    assert found.rounding
    cut = step == "_candidates"  # which convolutions compute zeros is of no weight: it is cut all the same
    assert found.uncut == ("" if cut else str(error))
    assert ("prune" in [step.kind for step in record.record(model)]) == cut


def test_a_difference_is_told_and_nothing_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = busy(ps.models.create("resnet20", stem="small"))
    net = attended(model)
    remove(net, 0.4)
    monkeypatch.setattr(attention_realise, "distance", lambda *_: 0.03)
    found = attention_realise.realise(model, net, IMAGE)
    assert found.error == 0.03
    assert not found.rounding
    assert record.record(model)[0].kind == "prune"
