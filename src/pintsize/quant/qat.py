"""Training a quantized network: what freezes late, what damps oscillation.

A network that `quantize(model, method="lsq")` made keeps its batch norms: a weight scale per output channel
times the norm's factor is again a scale per output channel, so `fold_batchnorm` after the training keeps
its integers, and a step pays for one convolution, not for two.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..training.callbacks import Callback, TrainState
from .grid.quantizer import FakeQuantize
from .network import convert


class QuantizationAware(Callback):
    """Give it to `train` with a quantized model.

    Args:
        freeze_at: share of the epochs after which batch-norm statistics and ranges stay as they are
            (Jacob et al., 1712.05877, section 3.2.2); 1.0: never.
        damping: weight of the oscillation penalty on layers below 4 bits (see `oscillation`), reached
            linearly over the training; 0: none.
    """

    def __init__(self, *, freeze_at: float = 0.75, damping: float = 1e-5) -> None:
        if not 0 <= freeze_at <= 1:
            raise InputError(
                f"freeze_at={freeze_at}", "it is a share of the epochs", "pass a number from 0 to 1"
            )
        if damping < 0:
            raise InputError(
                f"damping={damping}", "a negative penalty would reward oscillation", "pass 0 or more"
            )
        self.freeze_at, self.damping = freeze_at, damping

    def on_epoch_start(self, state: TrainState) -> None:
        """Freeze what is due."""
        if self.frozen(state):
            freeze(state.model)

    def penalty(self, state: TrainState) -> Tensor | None:
        """The damped oscillation of weights below 4 bits."""
        if not self.damping:
            return None
        done = state.step / max(1, state.epochs * state.steps_per_epoch)
        total = oscillation(state.model)
        return None if total is None else total * (self.damping * done)

    def on_epoch_end(self, state: TrainState) -> None:
        """Leave the model able to go on training."""
        if state.epoch + 1 == state.epochs:
            thaw(state.model)

    def frozen(self, state: TrainState) -> bool:
        """Whether the running epoch is one of the last, frozen ones."""
        return state.epoch >= self.freeze_at * state.epochs


def freeze(model: nn.Module) -> None:
    """Batch norms compute with their statistics until `model.train()` is called again; ranges stay fixed."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
        elif isinstance(module, FakeQuantize):
            module.frozen = True


def thaw(model: nn.Module) -> None:
    """Ranges are learned, or follow the values, again."""
    for quantizer in convert.quantizers(model):
        quantizer.frozen = False
        if quantizer.learnable:
            quantizer.scale.requires_grad_(True)


class LateFreezing:
    """What `QuantizationAware(freeze_at=…)` does in `train`, in a loop of your own: it counts the model's forwards.

    Loops may call `model.train()` as often as they like. `remove()` ends it; do so before the model is copied or saved
    whole, and before another training.

    Args:
        model: quantized.
        after: forwards in training mode, with gradients, before batch-norm statistics and ranges stay as they are.
    """

    def __init__(self, model: nn.Module, after: int) -> None:
        if type(after) is not int or after < 0:
            raise InputError(
                f"after={after!r}", "it is a number of forwards", "pass 0 or more, such as 3 * len(loader)"
            )
        if not any(True for _ in convert.quantizers(model)):
            raise InputError(
                "LateFreezing of a network without quantizers", "there are no ranges to freeze",
                "call ps.quantize(model, method='lsq', …) first",
            )  # fmt: skip
        self._model, self._left = model, after
        self._hook = model.register_forward_pre_hook(self._count)

    @property
    def frozen(self) -> bool:
        """Whether the next forward is a frozen one."""
        return self._left == 0

    def remove(self) -> None:
        """Leave the model able to go on training; statistics follow again from its next `train()`."""
        self._hook.remove()
        thaw(self._model)

    def _count(self, model: nn.Module, _inputs: object) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        if self._left:
            self._left -= 1
        else:
            freeze(model)


def oscillation(model: nn.Module) -> Tensor | None:
    """`Σ (w − q(w))²` over weights below 4 bits, in units of their step, clipped weights left out.

    It pulls weights off the thresholds between levels, where they would flip to and fro
    (Nagel et al., 2203.08761, section 4.1). None if there are none.
    """
    terms = list(_distances(model))
    return torch.stack(terms).sum() if terms else None


def _distances(model: nn.Module) -> Iterator[Tensor]:
    for _, layer in convert.weight_layers(model):
        quantizer, weight = layer._modules[convert.WEIGHT], layer.weight
        assert isinstance(quantizer, FakeQuantize)
        assert isinstance(weight, Tensor)
        if 1 < quantizer.bits < 4:
            with torch.no_grad():
                low, high = (quantizer.along(weight, end) for end in quantizer.limits())
                nearest = quantizer.to_float(quantizer.to_int(weight))
                step = quantizer.along(weight, quantizer.scale.detach())
            yield ((weight.clamp(low, high) - nearest) / step).square().sum()
