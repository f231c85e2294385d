"""Models and data as commands name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data import Data


def load_model(
    name: str, data: Data | None = None, *, image_size: int | None = None, **options: Any
) -> nn.Module:
    """The network that `--model` and its options name, made to fit `data` where they leave it open."""
    from ..recipe.recipe import Recipe
    from ..run import networks

    given = {key: value for key, value in options.items() if value is not None}
    recipe = Recipe.parse({"model": {"name": name, **given}}, source="options")
    assert recipe.model is not None
    shape = (
        data.image_shape
        if data
        else (recipe.model.in_channels or 3, *(image_size,) * 2)
        if image_size
        else None
    )
    return networks.build(recipe.model, image_shape=shape, num_classes=len(data.classes) if data else None)


def load_data(name: str, **options: Any) -> Data:
    """The data set that `--data` and its options name."""
    from ..data import load

    return load(name, **options)


def example_for(model: nn.Module, data: Data | None, image_size: int | None) -> Tensor:
    """Two images for `model`: of the data, else zeros of the size that is given or that its stem is made for.

    Raises:
        InputError: the size is not known.
    """
    import torch

    from ..deploy.options import known_input_shape
    from ..errors import InputError

    if data is not None:
        images, _ = next(iter(data.val.batches(batch_size=2)))
        return images
    known = known_input_shape(model)
    if known is None and image_size is None:
        raise InputError(
            f"model {type(model).__name__}",
            "the size of its images is not known",
            "pass --image-size or --data",
        )
    channels, side = (known[1], known[2]) if known else (in_channels(model), 0)
    side = image_size or side
    return torch.zeros(2, channels, side, side)


def in_channels(model: nn.Module) -> int:
    """Colour channels that a network takes: those of its first convolution; 3 if it has none."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3
