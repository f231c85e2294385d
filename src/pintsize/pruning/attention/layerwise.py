"""Layer-wise attention: one learned scalar a layer, which says how many of its weights are removed.

He, Shi and Dong, Learning pruned structure and weights simultaneously from scratch, 2111.02399, eq. 1 to 3:
`f̂_l(x) = a_l · f_l(x; w_l)`, pruning ratio `p_l = (1 − a_l)^α`, loss `L + γ·Σ a_l + λ·Σ w²`. What a layer
loses are its smallest weights, which masks then keep at zero. Of a layer with a batch norm behind it, `f_l` is both:
in front of the norm a factor would cancel, and `a_l` fall whatever the layer does.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...graph import trace
from ...quant import reestimate_norms
from ...quant.network.flow import build
from ...quant.network.fold import foldable
from ...storage import record as _record
from ...tables import Table, Tabular
from ...tasks.catalog import with_task
from ...training import Callback, History, TrainState, train
from ..weights.masks import MaskStep, add_mask, maskable, masks_of, set_masks
from .loop import norm_images

if TYPE_CHECKING:
    from ...data import Data


@dataclass(frozen=True)
class LayerAttentionResult(Tabular):
    """What layer-wise attention did."""

    history: History
    """One entry an epoch, with `density`, and `attention` and `ratios` by layer."""
    attention: dict[str, float]
    """Layer → `a`."""
    ratios: dict[str, float]
    """Layer → fraction of its weights that was removed."""
    density: float
    """Fraction of the weights of these layers that is left."""

    def __rich__(self) -> Table:
        """Attention of each layer, and the share of its weights that was removed."""
        rows = [(name, f"{a:.3f}", f"{self.ratios[name]:.1%}") for name, a in self.attention.items()]
        total = (f"{len(rows)} layers", "", f"{1 - self.density:.1%}")
        return Table(("layer", "attention", "removed"), rows, total)

    def _repr_html_(self) -> str:
        return self.history._repr_html_() + super()._repr_html_()


def prune_by_layer_attention(
    model: nn.Module,
    data: Data,
    *,
    task: Any = None,
    epochs: int = 10,
    alpha: float = 2.0,
    attention_weight: float = 0.05,
    attention_lr: float = 5e-4,
    start: float = 1.0,
    ignore: tuple[str, ...] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    **training: Any,
) -> LayerAttentionResult:
    """Remove single weights of every convolution and linear layer while training `model`, in place.

    Masks hold what was removed at zero from then on; attention ends in the weights. On an error `model` is
    as it was.

    Args:
        model: any network.
        data: from `pintsize.data.load`.
        task: see `pintsize.train`.
        epochs: of training; after each, every layer is pruned to its ratio.
        alpha: `α`: at 2 a layer with attention 0.5 loses a quarter of its weights.
        attention_weight: `γ`.
        attention_lr: learning rate of the attention's Adam.
        start: first value of every `a`.
        ignore: paths of layers that keep all their weights.
        checkpoint: file to resume from, to the bit on a CPU.
        training: options of `pintsize.train`, `weight_decay` being `λ`.

    Raises:
        InputError: a number out of range, or a layer that is not there.
        OperationError, TrainingDiverged: as `pintsize.train`.
    """
    layers = _layers(model, ignore)
    if not (alpha > 0 and 0 < start <= 1 and attention_weight >= 0 and attention_lr > 0):
        raise InputError(
            f"alpha={alpha}, start={start}, attention_weight={attention_weight}, attention_lr={attention_lr}",
            "one of them is out of range",
            "pass positive numbers, and start at most 1",
        )
    _record.check_order(model, MaskStep)
    task, data = with_task(task, data, model)
    work = copy.deepcopy(model)
    for path in layers:
        add_mask(work.get_submodule(path))  # one that it has already is kept
    places = _places(work, layers, data)
    loop = _Loop(work, places, alpha, attention_weight, attention_lr, start)
    loop.norm_images = norm_images(data, augment=training.get("augment", True))
    callbacks = (loop, *training.pop("callbacks", ()))
    history = train(work, data, epochs=epochs, checkpoint=checkpoint, callbacks=callbacks, **training)
    loop.deliver(model)
    step = MaskStep(layers=layers, importance="magnitude", scope="local", density=loop.density())
    _record.append(model, step)
    model.eval()
    return LayerAttentionResult(history, loop.attention(), loop.ratios(), loop.density())


def _layers(model: nn.Module, ignore: tuple[str, ...]) -> list[str]:
    """Convolutions and linear layers that are pruned."""
    every = list(maskable(model))
    layers = [path for path in every if path not in ignore]
    if not layers or set(ignore) - set(every):
        raise InputError(
            f"ignore={ignore}",
            "it names what is no layer, or all of them",
            "name convolutions and linear layers",
        )
    return layers


class _Gate(nn.Module):
    """Multiplies what its layer gives with `a`: a forward hook."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(start))

    def forward(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output * self.value


def _places(model: nn.Module, layers: list[str], data: Data) -> dict[str, str]:
    """Layer → path of what its attention scales: the batch norm that alone reads it, or itself."""
    example = next(iter(data.train.batches(2)))[0].to(next(model.parameters()).device)
    norms = foldable(build(trace.record(model, example), model), model)
    affine = {layer: norm for layer, norm in norms.items() if model.get_submodule(norm).weight is not None}
    return {layer: affine.get(layer, layer) for layer in layers}


class _Loop(Callback):
    def __init__(
        self, model: nn.Module, places: dict[str, str], alpha: float, weight: float, lr: float, start: float
    ) -> None:
        self.model, self.places, self.alpha, self.weight, self.lr = model, places, alpha, weight, lr
        self.layers = list(places)
        self.norm_images: Callable[[], Iterable[Any]] | None = None
        """Batches that the statistics of norms are measured on after each epoch."""
        self.gates: dict[str, _Gate] = {}
        for path, place in places.items():
            scaled = model.get_submodule(place)
            gate = self.gates[path] = _Gate(start).to(scaled.weight.device)  # type: ignore[arg-type]
            scaled.register_forward_hook(gate)
            scaled.add_module("attention", gate)

    def own_parameters(self, model: nn.Module) -> list[nn.Parameter]:  # noqa: ARG002
        return [gate.value for gate in self.gates.values()]

    def on_train_start(self, state: TrainState) -> None:
        self._adam = torch.optim.Adam(self.own_parameters(state.model), lr=self.lr)

    def penalty(self, state: TrainState) -> Tensor | None:  # noqa: ARG002
        return self.weight * torch.stack([gate.value for gate in self.gates.values()]).sum()

    @torch.no_grad()
    def on_step_end(self, state: TrainState) -> None:
        self._adam.step()
        for gate in self.gates.values():
            gate.value.clamp_(0.0, 1.0)
        if state.step % state.steps_per_epoch == 0:  # validation is to see the sparser network
            self._prune()
            if self.norm_images is not None:  # factors that fall at every step leave running averages behind
                reestimate_norms(self.model, self.norm_images(), images=None)

    def on_epoch_end(self, state: TrainState) -> None:
        state.history[-1].update(density=self.density(), attention=self.attention(), ratios=self.ratios())

    def _prune(self) -> None:
        """Give every layer the ratio that its attention asks for; what is gone stays gone."""
        masks = masks_of(self.model)
        new = {}
        for path, gate in self.gates.items():
            name = f"{path}.weight"
            weight, mask = self.model.get_parameter(name).detach(), masks[name]
            wanted = round((1.0 - float(gate.value.detach())) ** self.alpha * weight.numel())
            count = min(max(wanted, int((~mask).sum())), weight.numel() - 1)
            order = torch.where(mask, weight.abs(), -1.0).flatten().argsort(stable=True)
            flat = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
            flat[order[:count]] = False
            new[name] = flat.view(weight.shape)
        set_masks(self.model, new)

    def attention(self) -> dict[str, float]:
        return {path: float(gate.value.detach()) for path, gate in self.gates.items()}

    def ratios(self) -> dict[str, float]:
        masks = masks_of(self.model)
        return {path: 1.0 - float(masks[f"{path}.weight"].float().mean()) for path in self.layers}

    def density(self) -> float:
        masks = [masks_of(self.model)[f"{path}.weight"] for path in self.layers]
        return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """All tensors, attention multiplied into weights and biases."""
        found = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        for path, gate in self.gates.items():
            for key in ("weight", "bias"):
                if f"{self.places[path]}.{key}" in found:
                    found[f"{self.places[path]}.{key}"] *= gate.value
        return found

    @torch.no_grad()
    def deliver(self, model: nn.Module) -> None:
        """Give `model` the masks and the folded values."""
        masks, values = masks_of(self.model), self.folded()
        set_masks(model, {f"{path}.weight": masks[f"{path}.weight"] for path in self.layers})
        for name, tensor in model.state_dict().items():
            if name in values and not name.endswith("weight_mask"):
                tensor.copy_(values[name])

    def configuration(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "attention_weight": self.weight,
            "attention_lr": self.lr,
            "layers": self.layers,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state["adam"])
