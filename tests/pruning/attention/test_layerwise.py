"""The layer-wise form of He et al.: a scalar a layer, and as many weights removed as it says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pintsize as ps
from pintsize.errors import InputError
from pintsize.pruning import prune_by_layer_attention
from pintsize.pruning.attention.layerwise import _Loop, _places
from pintsize.pruning.weights.masks import masks_of, set_masks
from pintsize.training import Callback, TrainState

FAST: dict[str, Any] = {
    "lr": 0.05, "batch_size": 32, "augment": False, "precision": "fp32", "progress": False, "epochs": 3,
    "attention_weight": 1.0, "attention_lr": 0.02,
}  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Any:
    return ps.data.load("digits", limit=200, val_fraction=0.2)


def test_ratio_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    model[0].weight.data = torch.tensor([[0.1, -0.2, 0.3, -0.4], [0.5, -0.6, 0.7, -0.8]])
    set_masks(model, {"0.weight": torch.ones(2, 4).bool()})
    loop = _Loop(model, {"0": "0"}, 2.0, 0.0, 0.1, 0.5)
    loop._prune()  # (1 - 0.5)² of 8 weights are the two smallest
    assert model[0].weight.tolist()[0] == pytest.approx([0.0, 0.0, 0.3, -0.4])
    assert loop.ratios() == {"0": 0.25}
    loop.gates["0"].value.data.fill_(1.0)
    loop._prune()  # what is gone stays gone
    assert loop.density() == 0.75
    assert loop.folded()["0.weight"][1].tolist() == pytest.approx([0.5, -0.6, 0.7, -0.8])
    loop.gates["0"].value.data.fill_(0.0)
    loop._prune()  # a layer keeps one weight
    assert loop.density() == 0.125


def test_trains_prunes_folds_saves(data: Any, tmp_path: Path) -> None:
    model = network()
    result = prune_by_layer_attention(model, data, **FAST)
    assert set(result.attention) == {"0", "2", "7"}
    assert 0 < result.density < 1
    densities = [row["density"] for row in result.history]
    assert densities == sorted(densities, reverse=True)
    for path, ratio in result.ratios.items():
        weight = model.get_parameter(f"{path}.weight")
        assert float((weight == 0).float().mean()) == pytest.approx(ratio)
        assert ratio == pytest.approx((1 - result.attention[path]) ** 2, abs=0.03)
    assert ps.evaluate(model, data.val) == pytest.approx(result.history[-1]["val_accuracy"])
    assert (
        result.history[-1]["val_accuracy"] > result.history[-1]["train_accuracy"] - 15
    )  # norms see what they scale
    ps.save(model, tmp_path / "net.safetensors")
    again = ps.load(tmp_path / "net.safetensors", model=network())
    images = next(iter(data.test.batches(4)))[0]
    assert torch.equal(again(images), model(images))
    ps.train(model, data, epochs=1, lr=0.1, batch_size=32, progress=False)
    for path, ratio in result.ratios.items():  # the masks hold
        assert float((model.get_parameter(f"{path}.weight") == 0).float().mean()) == pytest.approx(ratio)


class Kill(Callback):
    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def on_epoch_start(self, state: TrainState) -> None:
        if state.epoch == self.epoch:
            raise KeyboardInterrupt


def test_resumes_to_the_bit(data: Any, tmp_path: Path) -> None:
    whole, model, path = network(), network(), tmp_path / "net.ckpt"
    prune_by_layer_attention(whole, data, **FAST, callbacks=(Kill(None),))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        prune_by_layer_attention(model, data, **FAST, checkpoint=path, callbacks=(Kill(2),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    prune_by_layer_attention(model, data, **FAST, checkpoint=path, callbacks=(Kill(None),))
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_bad_requests() -> None:
    for options in ({"ignore": ("nowhere",)}, {"alpha": 0.0}, {"start": 1.5}):
        with pytest.raises(InputError):
            prune_by_layer_attention(network(), None, **options)  # type: ignore[arg-type]


def test_weights_that_were_removed_before_stay_removed(data: Any) -> None:
    model = network()
    ps.sparsify(model, density=0.5)
    gone = {name: ~mask for name, mask in masks_of(model).items()}
    result = prune_by_layer_attention(model, data, **{**FAST, "epochs": 1, "attention_lr": 1e-6})
    for name, removed in gone.items():
        assert removed.any()
        assert not model.get_parameter(name)[removed].any()
    assert result.density == pytest.approx(0.5, abs=0.01)


def test_attention_of_a_layer_is_behind_its_norm(data: Any) -> None:
    """In front of it the factor would cancel: its gradient would be that of the penalty alone."""
    model = network()
    loop = _Loop(model, _places(model, ["0", "2", "7"], data), 2.0, 0.0, 0.1, 0.5)
    assert loop.places == {"0": "0", "2": "3", "7": "7"}
    images, labels = next(iter(data.train.batches(32)))
    nn.functional.cross_entropy(model.train()(images), labels).backward()
    # the first layer's factor still cancels in the norm of the second
    assert all(abs(float(loop.gates[path].value.grad)) > 1e-4 for path in ("2", "7"))  # type: ignore[arg-type]
    model.eval()
    before = model(images)
    plain = network()
    plain.load_state_dict(
        {name: value for name, value in loop.folded().items() if not name.endswith(("mask", "value"))}
    )
    torch.testing.assert_close(plain.eval()(images), before)
