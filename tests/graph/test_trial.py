"""The trial of a cut: what it costs, and what a forward that fails is blamed for."""

from __future__ import annotations

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
