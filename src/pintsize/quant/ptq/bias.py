"""What quantization shifts on average, put back.

- `correct_biases`: the mean error of a layer's output, per channel, is taken off its bias
  (Nagel et al., 1906.04721, section 4.2; the empirical form of appendix D).
- `reestimate_norms`: batch norms that are still there get their statistics from the quantized (or pruned)
  network, over all images alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...data import images_of
from ...data.batches import Inputs, moved, run, size
from ...errors import InputError
from ..network import convert
from .rounding import captured

_IMAGES = 128


@torch.no_grad()
def correct_biases(
    model: nn.Module,
    reference: nn.Module,
    images: Sequence[Inputs],
    *,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Shift the biases of quantized layers so that each output channel keeps its mean, in place.

    Layers are done in the order they run, so each makes up for what is left of the errors before it.
    Layers without a bias, or that run more than once, stay as they are.

    Args:
        model: quantized and calibrated, in eval mode.
        reference: the same network in floating point, in eval mode.
        images: calibration batches; the first 128 images or so are used.
        advance: called after each layer.
    """
    some = list(images[: max(1, -(-_IMAGES // size(images[0])))])
    wanted: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda layer, _args, out: wanted.setdefault(name, []).append(_channel_mean(layer, out))

    layers = dict(convert.weight_layers(model))
    handles = [reference.get_submodule(name).register_forward_hook(note(name)) for name in layers]
    try:
        for batch in some:
            run(reference, batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, means in wanted.items():
        layer = layers[name]
        if isinstance(layer.bias, Tensor) and len(means) == len(some):
            found = [_channel_mean(layer, captured(model, name, [batch], output=True)) for batch in some]
            layer.bias.add_(torch.stack(means).mean(0) - torch.stack(found).mean(0))
        advance()


def _channel_mean(layer: nn.Module, out: Tensor) -> Tensor:
    return (out if isinstance(layer, nn.Linear) else out.movedim(1, -1)).flatten(0, -2).mean(0)


@torch.no_grad()
def reestimate_norms(model: nn.Module, data: Iterable[Any] | Tensor, *, images: int | None = 512) -> int:
    """Measure the statistics of every batch norm anew, in place (over all images alike).

    Args:
        model: any network; its mode stays as it is.
        data: a split or any iterable of batches of images. Where the network was
            trained on augmented images, these should be, too: `split.batches(shuffle=True, augment=True)`.
        images: how many images to take; None for all.

    Returns:
        The number of batch norms that were measured.

    Raises:
        InputError: the data holds no images.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return 0
    batches = list(images_of(data, images, model=model))
    if not batches:
        raise InputError("data", "it holds no images", "pass data.train or a few batches of images")
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    try:
        model.eval()  # no dropout: only the norms look at the batch
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
        seen = 0
        for batch in batches:
            if size(batch) == 1 and len(batches) > 1:
                continue  # it has no variance where a norm sees one value an image
            seen += size(batch)
            for norm in norms:
                norm.momentum = size(batch) / seen
            run(model, moved(batch, device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(norms)
