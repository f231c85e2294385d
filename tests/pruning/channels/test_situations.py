"""Networks as people bring them: wrapped, compiled, with caches, standardised weights, sizes in containers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

import pintsize as ps
from pintsize.graph import channel_groups
from pintsize.storage.record import record

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network(
    change: Callable[[nn.Module], nn.Module] = lambda layer: layer, middle: nn.Module | None = None
) -> Any:
    torch.manual_seed(0)
    layers = [
        change(nn.Conv2d(3, 16, 3)),
        middle or nn.ReLU(),
        nn.ReLU(),
        change(nn.Conv2d(16, 16, 3)),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(X)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_that_permutes_inside_takes_its_size_from_what_it_normalises(affine: bool) -> None:
    model = network(middle=LayerNorm2d(16, elementwise_affine=affine))
    ps.prune(model, X, ratio=0.5, scope="local")
    assert model[0].out_channels == 8
    assert model[1].normalized_shape == (8,)
    outputs(model)


class Scale(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 16))
        shapes: dict[str, Any] = {
            "inferred": (-1, 1, 1),
            "tuple": (16, 1, 1),
            "list": [16, 1, 1],
            "size": torch.Size([16, 1, 1]),
            "dictionary": {"view": (16, 1, 1), 3: [1]},
            "nested": ("c", ((16, 1, 1), 2)),
        }
        self.shape = shapes[kind]

    def forward(self, x: Tensor) -> Tensor:
        shape = self.shape
        shape = shape["view"] if isinstance(shape, dict) else shape[1][0] if shape[0] == "c" else shape
        return x * self.scale.view(shape)


@pytest.mark.parametrize("kind", ["tuple", "list", "size", "dictionary", "nested"])
def test_sizes_in_containers_follow_as_if_they_were_inferred(kind: str, tmp_path: Any) -> None:
    wanted, found = network(middle=Scale("inferred")), network(middle=Scale(kind))
    before = type(found[1].shape)
    for model in (wanted, found):
        ps.prune(model, X, ratio=0.5, scope="local")
    assert found[0].out_channels == 8
    assert type(found[1].shape) is before
    assert torch.equal(outputs(found), outputs(wanted))
    ps.save(found, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=network(middle=Scale(kind)))
    assert again.get_submodule("1").shape == found[1].shape
    assert torch.equal(outputs(again), outputs(found))


class ScaledStd(nn.Conv2d):
    """timm's: standardised by a batch norm of the weight."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.rand(self.out_channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        flat = F.batch_norm(flat, None, None, weight=self.gain * 0.5, training=True, momentum=0.0)
        return F.conv2d(x, flat.reshape_as(self.weight), self.bias)


def standardised() -> nn.Sequential:
    torch.manual_seed(0)
    layers = ScaledStd(3, 16, 3), nn.ReLU(), ScaledStd(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 5)).eval()


def test_a_standardised_weight_is_pruned_at_its_source_over_what_is_kept() -> None:
    dense, model = standardised(), standardised()
    plan = ps.prune(model, X, ratio=0.5, scope="local", fold_constants=False)
    assert plan.before["macs"] == ps.profile(dense, X).macs == 16 * 27 * 100 + 16 * 144 * 64 + 16 * 5
    assert plan.after["macs"] == ps.profile(model, X).macs == 8 * 27 * 100 + 8 * 72 * 64 + 8 * 5
    keep = [sorted(set(range(16)) - set(plan.removed[f"{k}.weight"][0])) for k in (0, 2)]
    x = F.relu(_filtered(dense[0], X, keep[0], [0, 1, 2]))
    x = F.relu(_filtered(dense[2], x, keep[1], keep[0])).mean((2, 3))
    wanted = x @ dense[6].weight[:, keep[1]].T + dense[6].bias
    torch.testing.assert_close(outputs(model), wanted.detach(), rtol=1e-4, atol=1e-5)


def _filtered(layer: Any, x: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """By hand: every kept filter less its mean, over its deviation, over the kept inputs."""
    weight = layer.weight[rows][:, columns]
    mean, var = weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), keepdim=True, unbiased=False)
    scale = (layer.gain[rows] * 0.5).reshape(-1, 1, 1, 1)
    return F.conv2d(x, (weight - mean) / (var + 1e-5).sqrt() * scale, layer.bias[rows])


class Biased(nn.Module):
    """timm's LeViT: keeps what it computed in evaluation, in a dictionary, a list and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.cache, self.seen = nn.Parameter(torch.zeros(6)), dict[str, Tensor](), list[Tensor]()
        self.register_buffer("index", torch.arange(6))

    def train(self, mode: bool = True) -> Biased:
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "cpu" not in self.cache:
            self.cache["cpu"] = self.bias[self.index]
        if not hasattr(self, "kept"):
            self.kept = x.mean()
        self.seen.append(x)
        return x + 10 * self.cache["cpu"].mean()


@pytest.mark.parametrize("used", [False, True])
def test_no_trial_leaves_anything_in_a_cache(used: bool) -> None:
    model = network(middle=Biased())
    if used:
        outputs(model)
        del model[1].kept
        model[1].seen.clear()
    ps.prune(model, X, ratio=0.5)
    assert not model[1].cache
    assert not model[1].seen
    assert not hasattr(model[1], "kept")
    kept = outputs(model)
    assert torch.equal(kept, outputs(model.train()))


def test_inference_mode_changes_nothing() -> None:
    wanted = ps.prune(network(), X, ratio=0.5).removed
    outside = network()
    with torch.inference_mode():
        inside = network()
        assert ps.prune(outside, X, ratio=0.5).removed == wanted
        assert ps.prune(inside, torch.ones_like(X) * X, ratio=0.5).removed == wanted
    inside(X).sum().backward()  # ordinary parameters now
    assert inside[0].weight.grad is not None


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager"),
                                  lambda m: nn.DataParallel(torch.compile(m, backend="eager"))])  # fmt: skip
def test_a_wrapped_network_is_saved_by_its_own_names(wrap: Any, tmp_path: Any) -> None:
    model = wrap(network())
    plan = ps.prune(model, X, ratio=0.5)
    assert set(plan.removed) <= set(dict(network().named_parameters()))
    ps.save(model, tmp_path / "net.safetensors")
    wanted = outputs(model)
    assert torch.equal(outputs(ps.load(tmp_path / "net.safetensors", model=network())), wanted)
    assert torch.equal(outputs(ps.load(tmp_path / "net.safetensors", model=wrap(network()))), wanted)


def test_parts_that_are_wrapped_or_compiled_are_looked_through(tmp_path: Any) -> None:
    def make() -> nn.Sequential:
        whole = network()
        parts = torch.compile(whole[:5], backend="eager"), nn.DataParallel(whole[5:])
        return nn.Sequential(*parts).eval()

    model = make()
    plan = ps.prune(model, X, ratio=0.5)
    assert "0.0.weight" in plan.removed
    assert type(model[1]) is nn.DataParallel
    ps.save(model, tmp_path / "net.safetensors")
    assert torch.equal(outputs(ps.load(tmp_path / "net.safetensors", model=make())), outputs(model))
    torch.save(nn.DataParallel(network()).state_dict(), tmp_path / "net.pt")
    assert torch.equal(outputs(ps.load(tmp_path / "net.pt", model=network())), outputs(network()))


@pytest.mark.parametrize("after_training", [False, True])
def test_masks_of_torch_go_with_their_weights(after_training: bool) -> None:
    def masked(layer: nn.Module) -> nn.Module:
        return torch_prune.l1_unstructured(layer, "weight", 0.3)

    model = network(masked)
    if after_training:
        model.train()(X).sum()  # the weights are now results of a graph, which deepcopy refuses
    ps.prune(model, X, ratio=0.5, scope="local")
    assert model[0].weight_mask.shape == model[0].weight.shape == (8, 3, 3, 3)
    assert float((model[0].weight == 0).float().mean()) > 0.1
    copy.deepcopy(model)
    with pytest.raises(ps.errors.InputError, match=r"torch\.nn\.utils\.prune\.remove"):
        ps.sparsify(model, density=0.5)


def test_a_network_of_normed_weights_says_how_to_make_them_plain() -> None:
    with pytest.raises(ps.errors.InputError, match="remove_parametrizations"):
        ps.prune(network(parametrizations.spectral_norm), X, ratio=0.5)
    model = network(parametrizations.spectral_norm)
    for layer in (model[0], model[3]):
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    ps.prune(model, X, ratio=0.5)


@pytest.mark.parametrize("change", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_filter_divided_by_its_length_keeps_what_it_reads_and_the_plan_says_so(change: Any) -> None:
    model = network(change)
    model.train()(X).sum()
    plan = ps.prune(model, X, ratio=0.5)
    assert model[3].weight.shape == (8, 16, 3, 3)
    assert "the length of a filter is taken over it" in plan.notes[0]


def test_half_precision_arrays_and_single_images() -> None:
    assert ps.prune(network().bfloat16(), X.bfloat16(), ratio=0.5).after["channels"] == 16
    assert (
        ps.prune(network(), X.double().numpy(), ratio=0.5).removed
        == ps.prune(network(), X, ratio=0.5).removed
    )
    assert len(channel_groups(network(), np.zeros((1, 3, 12, 12)))) == 2
    for model in (network(), network()[:5]):
        with pytest.raises(ps.errors.PintsizeError, match=r"e.g. image\[None\]"):
            ps.prune(model, X[0], ratio=0.5)
    with torch.device("meta"):
        model = network()
    with pytest.raises(ps.errors.InputError, match="to_empty"):
        ps.prune(model, X, ratio=0.5)


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(self.b(x.softmax(1)))


def test_the_plan_tells_which_layers_must_stay_and_why() -> None:
    plan = ps.prune(Fixed().eval(), X, ratio=0.5)
    assert len(plan.notes) == 1
    assert "16 channels of 1 layers must stay: a (aten._softmax.default runs over it" in plan.notes[0]
    assert not ps.prune(Fixed().eval(), X, ratio=0.5, ignore="a").notes
    assert not ps.prune(network(), X, ratio=0.5).notes


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = network()
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


@pytest.mark.parametrize("order", ["part", "part, whole", "whole, part", "part, whole, part", "part, masks"])
def test_what_was_done_to_a_part_is_saved_with_the_whole(order: str, tmp_path: Any) -> None:
    model = Detector().eval()
    for what in order.split(", "):
        if what == "masks":
            ps.sparsify(model.backbone, density=0.5, scope="local")
        else:
            ps.prune(model.backbone if what == "part" else model, X, ratio=0.25)
    assert len(record(model)) == len(order.split(", "))
    path = tmp_path / "net.safetensors"
    ps.save(model, path)
    again = ps.load(path, model=Detector())
    assert torch.equal(outputs(again), outputs(model))
    ps.save(again, path)
    assert torch.equal(outputs(ps.load(path, model=Detector())), outputs(model))
    if "whole" in order:
        with pytest.raises(ps.errors.InputError, match="save the whole network"):
            ps.save(model.backbone, path)
    else:
        ps.save(model.backbone, path)
        ps.load(path, model=Detector().backbone)
