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
from torch.utils._pytree import tree_leaves, tree_map

from ...data import images_of
from ...data.batches import Inputs, moved, rows, run, size
from ...errors import InputError
from ..network import convert

_IMAGES, _VALUES = 128, 2**24
"""Images whose means are taken, at most, and numbers in them: one forward holds them all."""


@torch.no_grad()
def correct_biases(
    model: nn.Module,
    reference: nn.Module,
    images: Sequence[Inputs],
    *,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Shift the biases of quantized layers so that each output channel keeps its mean, in place.

    Layers are done in the order they run, so each makes up for what is left of the errors before it: all of them in one
    forward, in which what a layer gives goes on corrected. Layers without a bias, or that run more than once, stay as
    they are.

    Args:
        model: quantized and calibrated, in eval mode.
        reference: the same network in floating point, in eval mode.
        images: calibration batches; of the first of them as many as are worth it and fit one forward.
        advance: called after each layer.
    """
    some = _at_once(images)
    wanted: dict[str, list[Tensor]] = {}
    layers = dict(convert.weight_layers(model))

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda layer, _args, out: wanted.setdefault(name, []).append(_channel_mean(layer, out))

    def shifted(name: str, layer: nn.Module, out: Tensor) -> Tensor:
        means = wanted.get(name, [])
        advance()
        if len(means) != 1 or not isinstance(layer.bias, Tensor):
            return out
        shift = means[0] - _channel_mean(layer, out)
        layer.bias.add_(shift)
        return out + (shift if isinstance(layer, nn.Linear) else shift.view(-1, *[1] * (out.dim() - 2)))

    def correct(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda layer, _args, out: convert.unseen(lambda: shifted(name, layer, out))

    for network, hooked in ((reference, note), (model, correct)):
        handles = [network.get_submodule(name).register_forward_hook(hooked(name)) for name in layers]
        try:
            run(network, some)
        finally:
            for handle in handles:
                handle.remove()


def _at_once(images: Sequence[Inputs]) -> Inputs:
    """The first images as one batch."""
    first = images[0]
    values = sum(leaf.numel() for leaf in tree_leaves(first) if isinstance(leaf, Tensor)) / max(
        size(first), 1
    )
    count = max(1, min(_IMAGES, int(_VALUES / max(values, 1))))
    chosen, left = [], count
    for batch in images:
        if left <= 0 or [one.shape[1:] for one in tree_leaves(batch)] != [
            one.shape[1:] for one in tree_leaves(first)
        ]:
            break
        chosen.append(rows(batch, 0, left))
        left -= size(batch)
    joined: Inputs = tree_map(lambda *parts: torch.cat(parts) if parts[0].dim() else parts[0], *chosen)
    return joined


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
