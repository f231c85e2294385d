"""The trial of a cut: what it costs, and what a forward that fails is blamed for."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.graph import analyse


class FixedHeads(nn.Module):
    """Four heads of eight channels, as numbers in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner, self.after = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, 5, H, W]."""
        y = self.inner(self.before(x).relu())
        y = y.view(len(x), 4, 8, *x.shape[2:]).softmax(-1)
        return self.after(y.view(len(x), 32, *x.shape[2:]))


def test_a_cut_that_fails_costs_one_pass() -> None:
    model, passes = FixedHeads(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    groups = analyse(model, torch.randn(2, 3, 4, 4)).groups
    assert [group.name for group in groups] == ["before"]
    assert len(passes) == 3  # the trace, and two that fail: heads, then channels of every head


def test_the_call_that_does_not_allow_another_size_is_named() -> None:
    plan = ps.prune(FixedHeads(), torch.randn(2, 3, 4, 4), ratio=0.5)
    assert plan.removed["before.weight"][0]
    assert list(plan.removed["inner.weight"]) == [1]
    assert "raised RuntimeError: shape '[2, 4, 8, 4, 4]' is invalid" in " ".join(plan.notes)
    assert plan.error < 1e-5


def test_a_failed_trial_leaves_the_network_as_it_was() -> None:
    model, x = FixedHeads().eval(), torch.randn(2, 3, 4, 4)
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    wanted, hooks = model(x), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    analyse(model, x)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.equal(model(x), wanted)


def root_mean_square(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)


def layer_norm(x: Tensor) -> Tensor:
    """As ConvNeXt and SAM write it for [B, C, H, W]."""
    x = x - x.mean(1, keepdim=True)
    return x / torch.sqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)


def variance(x: Tensor) -> Tensor:
    return x * (x.var(1, keepdim=True) + 1e-6) ** -0.5


def variance_and_mean(x: Tensor) -> Tensor:
    spread, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
    return (x - mean) / (spread + 1e-6).sqrt()


def deviation(x: Tensor) -> Tensor:
    return (x - x.mean(1).unsqueeze(1)) / (x.std(1, keepdim=True, unbiased=False) + 1e-3)


def global_response(x: Tensor) -> Tensor:
    """Of ConvNeXt V2 (2301.00808), section 4."""
    length = x.norm(p=2, dim=(2, 3), keepdim=True)
    return x + x * length / (length.mean(dim=1, keepdim=True) + 1e-6)


def unit_length(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=1)


NORMS = [
    root_mean_square, layer_norm, variance, variance_and_mean, deviation, global_response, unit_length
]  # fmt: skip


class Written(nn.Module):
    """A norm over channels, written out."""

    def __init__(self, norm: Callable[[Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.norm, self.weight = norm, nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], likewise."""
        return self.norm(x) * self.weight.reshape(1, -1, 1, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_that_is_written_out_is_taken_over_what_is_kept(norm: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(3, 16, 1), Written(norm, 16), nn.Conv2d(16, 4, 1)),
        torch.randn(2, 3, 4, 4),
    )
    dense = copy.deepcopy(model)
    plan = ps.prune(model, x, ratio=0.5, fold_constants=False)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "0.weight": (8, 3, 1, 1), "0.bias": (8,), "1.weight": (8,), "2.weight": (4, 8, 1, 1), "2.bias": (4,),
    }  # fmt: skip
    assert plan.error < 1e-5
    kept = sorted(set(range(16)) - set(plan.removed["0.weight"][0]))
    by_hand = norm(dense[0](x)[:, kept]) * dense[1].weight[kept].reshape(1, -1, 1, 1)
    by_hand = nn.functional.conv2d(by_hand, dense[2].weight[:, kept], dense[2].bias)
    assert torch.allclose(model(x), by_hand, atol=1e-5)


def test_a_mean_of_squares_that_is_no_norm_keeps_its_channels() -> None:
    class Energy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.pow(2).mean(1, keepdim=True)

    model = nn.Sequential(nn.Conv2d(3, 16, 1), Energy(), nn.Conv2d(16, 4, 1))
    with pytest.raises(ps.errors.PintsizeError, match="runs over it"):
        ps.prune(model, torch.randn(2, 3, 4, 4), ratio=0.5)
