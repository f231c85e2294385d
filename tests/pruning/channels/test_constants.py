"""What removed channels still emitted as constants: folded on exactly without zero padding, else measured."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import pintsize as ps
from pintsize.pruning.channels import constants
from pintsize.storage.record import record
from structures import reference


class Unit(nn.Sequential):
    """Convolution, batch norm, activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, act: nn.Module | None = None, **options: object
    ) -> None:
        options = {"bias": False, **options}
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs), act or nn.ReLU()
        )


class Wired(nn.Module):
    """Residuals, a depthwise layer, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Unit(3, 8, act=nn.GELU()), Unit(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.d, self.e = Unit(8, 8, groups=8), Unit(8, 6, 1, nn.Hardswish())
        self.last, self.fc = Unit(14, 5, 1), nn.Linear(5 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + self.c(self.b(x))
        x = torch.cat([self.d(x), self.e(x)[:, :, 1:-1, 1:-1]], 1)
        return self.fc(self.last(x).flatten(1))


def pooled(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: pooled(Unit(3, 8), Unit(8, 8), nn.Conv2d(8, 6, 3), nn.ReLU()),
    "wired": Wired,
    "biased": lambda: pooled(Unit(3, 8, bias=True), Unit(8, 6, 1, nn.SiLU(), bias=True)),
    "grouped": lambda: pooled(Unit(3, 8), nn.Conv2d(8, 8, 1, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
    "linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 3),
    ),
}  # fmt: skip


def made(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = NETWORKS[name]().eval()
    model(torch.randn(1, 3, 8, 8))
    return reference.randomise(model, seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_folding_is_exact_without_padding(name: str, seed: int) -> None:
    model = made(name, seed)
    dense, example = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    plan = ps.prune(model, torch.randn(2, 3, 8, 8), ratio=0.4, scope="local")
    found = reference.outputs(model, example)
    assert reference.error(reference.silenced(dense, example, plan.removed), found) < 1e-4
    assert set(plan.constants.values()) == {0.0}
    assert "approximately" not in str(plan)
    assert reference.inconsistent(model) == []


def test_constants_matter() -> None:
    """Without folding the network differs from the one whose channels fell silent: the check above can fail."""
    model = made("chain", 0)
    dense, example = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    plan = ps.prune(model, example, ratio=0.4, scope="local", fold_constants=False)
    assert plan.constants == {}
    assert plan.biases == ()
    assert (
        reference.error(reference.silenced(dense, example, plan.removed), reference.outputs(model, example))
        > 1e-2
    )


def padded(padding_mode: str) -> nn.Sequential:
    """One channel is constant: 1 after its norm, whatever comes in."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Conv2d(2, 1, 3, padding=1, padding_mode=padding_mode),
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
        model[0].bias.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 1.0]))
        model[3].weight.fill_(1.0)
        model[3].bias.fill_(0.25)
    return model.eval()


def test_zero_padding_makes_the_fold_approximate_and_its_error_is_reported() -> None:
    model, x = padded("zeros"), torch.randn(1, 1, 4, 4)
    dense_output = model(x).detach()
    plan = ps.prune(model, x, ratio=0.5, importance="l1")
    assert plan.removed["0.weight"] == {0: [1]}
    # a constant of 1 under a 3×3 filter of ones: 9 inside (4 places), 6 at the edges (8), 4 in the corners (4)
    mean = (4 * 9 + 8 * 6 + 4 * 4) / 16
    assert model[3].bias.item() == pytest.approx(0.25 + mean)
    worst = max(9 - mean, mean - 4)
    assert plan.constants == {"3": pytest.approx(worst / float(dense_output.detach().std()), rel=1e-4)}
    assert "folded approximately: 3" in str(plan)
    assert (model(x) - dense_output).abs().max().item() == pytest.approx(worst, rel=1e-4)


def test_padding_that_repeats_the_image_is_exact() -> None:
    model, x = padded("replicate"), torch.randn(1, 1, 4, 4)
    expected = model(x)
    plan = ps.prune(model, x, ratio=0.5, importance="l1")
    assert plan.constants == {"3": 0.0}
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_a_reader_without_bias_and_norm_gets_a_bias_that_is_saved(tmp_path: object) -> None:
    def plain() -> nn.Sequential:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2, bias=False)
        ).eval()

    torch.manual_seed(0)
    model, x = reference.randomise(plain()), torch.randn(3, 4)
    plan = ps.prune(model, x, ratio=0.5)
    assert plan.biases == ("4",)
    assert model[4].bias is not None
    ps.save(model, f"{tmp_path}/net.safetensors")
    again = ps.load(f"{tmp_path}/net.safetensors", model=plain())
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("transposed", [True, False])
def test_what_cannot_be_folded_is_reported(transposed: bool) -> None:
    """A transposed convolution, or one that is used twice: the constant is lost or folded, never in silence."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Unit(3, 8)
            self.b = nn.ConvTranspose2d(8, 6, 2, stride=2) if transposed else nn.Conv2d(8, 8, 1)
            self.fc = nn.Linear(6 if transposed else 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.a(x))
            x = torch.relu(x if transposed else self.b(x))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    model, x = reference.randomise(Network()).eval(), torch.randn(2, 3, 8, 8)
    dense = copy.deepcopy(model)
    plan = ps.prune(model, x, ratio=0.5, scope="local")
    lost = reference.error(reference.silenced(dense, x, plan.removed), reference.outputs(model, x))
    assert lost < 1e-4 or plan.constants["b"] > 0


def test_one_layer_norm_does_not_silence_the_report() -> None:
    """Beside a norm over channels that are removed, constants elsewhere are still folded or reported."""
    torch.manual_seed(0)
    model = nn.Sequential(Unit(3, 8), nn.Conv2d(8, 6, 1), nn.GroupNorm(1, 6), nn.ReLU(), nn.Conv2d(6, 3, 1))
    reference.randomise(model).eval()
    plan = ps.prune(model, torch.randn(2, 3, 8, 8), ratio=0.5, scope="local")
    assert "1" in plan.constants


class Branching(nn.Module):
    """Which ops run depends on the values of a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)
        nn.init.ones_(self.a.weight)
        nn.init.ones_(self.b.weight)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        x = torch.relu(x) if float(x.mean()) > 9.0 else torch.tanh(x)
        return self.fc(x.mean((2, 3)))


def test_a_forward_that_branches_on_values_is_refused_by_name_and_left_alone() -> None:
    model = Branching().eval()
    nn.init.zeros_(model.a.bias)
    nn.init.zeros_(model.b.bias)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ps.errors.OperationError, match="depends on the values of tensors"):
        ps.prune(model, torch.full((2, 1, 4, 4), 3.0), ratio=0.5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not record(model)


def test_constants_that_are_not_finite_are_refused_and_the_cut_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = made("chain", 0)
    find = constants.find

    def broken(*args: object) -> constants.Folding:
        folding = find(*args)
        for shift in folding.shifts.values():
            shift[0] = float("nan")
        return folding

    monkeypatch.setattr(constants, "find", broken)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ps.errors.OperationError, match="is not finite"):
        ps.prune(model, torch.randn(2, 3, 12, 12), ratio=0.5)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
