"""Learned rounding: for each weight, up or down, so that blocks of the network give what they gave in float.

AdaRound (Nagel et al., 2004.10568) with the blocks of BRECQ (Li et al., 2102.05426): a rounding variable per
weight, relaxed to [0, 1] by a rectified sigmoid, is trained on the block's squared error while a regulariser
drives it to 0 or 1. Blocks are done in the order they run, each on what the quantized part before gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...data.batches import Inputs, rows, run
from ..grid.quantizer import FakeQuantize
from ..network import convert

_BLOCK_LAYERS = 4  # a residual bottleneck with its shortcut, an inverted residual
_BATCH, _FEWEST = 32, 4  # images of a step: fewer where they are large, whose many places say as much
_NUMBERS = 2**21  # of the block's input in a step
_WARMUP = 0.2  # share of the iterations without regulariser
_STRETCH = (-0.1, 1.1)  # zeta and gamma of the rectified sigmoid


class RoundingVariables(nn.Module):
    """Stands in for a weight quantizer while rounding is learned.

    Args:
        quantizer: calibrated, of 2 bits or more.
        weight: the float weight, which it starts from.
    """

    def __init__(self, quantizer: FakeQuantize, weight: Tensor) -> None:
        super().__init__()
        self.quantizer = quantizer
        shape = [-1 if dim == quantizer.axis else 1 for dim in range(weight.dim())]
        self.scale = quantizer.scale.detach().view(shape)
        position = weight.detach() / self.scale
        self.floor = position.floor()
        low, high = _STRETCH
        fraction = ((position - self.floor) - low) / (high - low)
        self.variables = nn.Parameter(torch.logit(fraction))

    def up(self) -> Tensor:
        """How much of a step each weight is rounded up, in [0, 1]."""
        low, high = _STRETCH
        return (self.variables.sigmoid() * (high - low) + low).clamp(0, 1)

    def forward(self, _weight: Tensor) -> Tensor:
        """The weight with its soft rounding."""
        return (self.floor + self.up()).clamp(self.quantizer.qmin, self.quantizer.qmax) * self.scale

    def indecision(self, sharpness: float) -> Tensor:
        """Mean of `1 − |2h − 1|^sharpness`: 0 if all is decided (AdaRound, equation 24)."""
        return (1 - (2 * self.up() - 1).abs().pow(sharpness)).mean()

    def rounded(self) -> Tensor:
        """The weight rounded as decided."""
        up = (self.up() >= 0.5).float()
        return (self.floor + up).clamp(self.quantizer.qmin, self.quantizer.qmax) * self.scale


def learn_rounding(
    model: nn.Module,
    images: Sequence[Inputs],
    *,
    iterations: int = 500,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> list[str]:
    """Round the weights below 8 bits as trained, in place: the weights become their rounded values.

    Args:
        model: quantized and calibrated, its weights still in floating point; in eval mode.
        images: calibration batches.
        iterations: training steps per block.
        seed: of the choice of images in each step.
        advance: called after each block.

    Returns:
        Paths of the layers that were done.
    """
    reference = copy.deepcopy(model)
    for quantizer in convert.quantizers(reference):
        quantizer.enabled = False
    done: list[str] = []
    generator = torch.Generator().manual_seed(seed)
    for path in blocks(model, rows(images[0], 0, 2)):
        block = model.get_submodule(path)
        layers = [(name, layer) for name, layer in convert.weight_layers(block) if _learnable(layer)]
        if layers:
            x = captured(model, path, images, output=False)
            y = captured(reference, path, images, output=True)
            with convert.running(model):
                _train(
                    block, [layer for _, layer in layers], (x, y), iterations=iterations, generator=generator
                )
            done += [f"{path}.{name}".strip(".") for name, _ in layers]
        advance()
    return done


def blocks(model: nn.Module, example: Tensor) -> list[str]:
    """Parts of the network that are trained at once, in the order they run.

    A part is a module with up to four layers that runs once and maps one tensor to one tensor; where there
    is none around a layer, the layer itself.
    """
    calls: dict[str, list[bool]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, result: Any) -> None:
            single = len(args) == 1 and isinstance(args[0], Tensor) and isinstance(result, Tensor)
            calls.setdefault(name, []).append(single)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    order = {name: position for position, name in enumerate(calls)}  # by when they end, as dicts keep it
    return sorted(_parts(model, "", calls), key=lambda path: order.get(path, len(order)))


def _parts(module: nn.Module, path: str, calls: dict[str, list[bool]]) -> Iterator[str]:
    count = len(convert.weight_layers(module))
    if count == 0:
        return
    is_layer = convert.WEIGHT in module._modules
    if calls.get(path) == [True] and count <= _BLOCK_LAYERS:
        yield path
    elif not is_layer:  # a layer that runs more than once keeps its nearest rounding
        for name, child in module._modules.items():
            if child is not None:
                yield from _parts(child, f"{path}.{name}".strip("."), calls)


class _CapturedError(Exception):
    """Ends a forward pass when the tensor wanted is at hand."""


@torch.no_grad()
def captured(model: nn.Module, path: str, images: Sequence[Inputs], *, output: bool) -> Tensor:
    """What the module at `path` takes or gives on all `images`, concatenated."""
    found: list[Tensor] = []

    def take(_module: nn.Module, args: Any, result: Any = None) -> None:
        found.append((result if output else args[0]).detach().clone())
        raise _CapturedError

    module = model.get_submodule(path)
    handle = module.register_forward_hook(take) if output else module.register_forward_pre_hook(take)
    try:
        for batch in images:
            try:
                run(model, batch)
            except _CapturedError:
                continue
    finally:
        handle.remove()
    return torch.cat(found)


def _learnable(layer: nn.Module) -> bool:
    quantizer = layer._modules[convert.WEIGHT]
    return isinstance(quantizer, FakeQuantize) and 2 <= quantizer.bits < 8 and "weight" in layer._parameters


def _train(
    block: nn.Module,
    layers: list[nn.Module],
    data: tuple[Tensor, Tensor],
    *,
    iterations: int,
    generator: torch.Generator,
) -> None:
    x, y = data
    originals = [layer._modules[convert.WEIGHT] for layer in layers]
    soft: list[RoundingVariables] = []
    for layer, quantizer in zip(layers, originals, strict=True):
        assert isinstance(quantizer, FakeQuantize)
        assert isinstance(layer.weight, Tensor)
        soft.append(RoundingVariables(quantizer, layer.weight))
        layer._modules[convert.WEIGHT] = soft[-1]
    variables = [module.variables for module in soft]
    optimizer = torch.optim.Adam(variables, lr=1e-2)
    power = y.square().mean().clamp_min(torch.finfo(y.dtype).tiny)  # a dead block gives zeros
    batch = min(_BATCH, len(x), max(_FEWEST, _NUMBERS // x[0].numel()))
    pull = None
    try:
        for step in range(iterations):
            picked = torch.randint(len(x), (batch,), generator=generator)
            error = (block(x[picked]) - y[picked]).square().mean() / power
            progress = (step / iterations - _WARMUP) / (1 - _WARMUP)
            if progress >= 0:
                if pull is None:  # the regulariser starts about as strong as what it works against
                    pull = error.detach()
                sharpness = 20 - 18 * progress
                error = error + pull * torch.stack([module.indecision(sharpness) for module in soft]).sum()
            for variable, gradient in zip(variables, torch.autograd.grad(error, variables), strict=True):
                variable.grad = gradient
            optimizer.step()
    finally:
        for layer, quantizer in zip(layers, originals, strict=True):
            layer._modules[convert.WEIGHT] = quantizer
    with torch.no_grad():
        for layer, module in zip(layers, soft, strict=True):
            layer._parameters["weight"].copy_(module.rounded())  # type: ignore[union-attr]
