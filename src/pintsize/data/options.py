"""What may be asked of every data set: sizes, shares, mean and deviation, checked."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

from torch import nn

from ..errors import InputError, InputTypeError
from ..recipe.sides import sides
from ..storage.preprocessing import Preprocessing, preprocessing_of
from . import chance
from .transform import Transform

MEMORY_LIMIT = 3 * 2**29
"""Bytes of decoded pixels (1.5 GiB) up to which pictures are held in memory."""
_SMALLEST, _LARGEST = 4, 4096


def expected(like: nn.Module | Preprocessing | None) -> Preprocessing | None:
    """What `like=` stands for.

    Raises:
        InputTypeError: it is no network.
        InputError: it is one that does not say which images it takes.
    """
    if like is None or isinstance(like, Preprocessing):
        return like
    if not isinstance(like, nn.Module):
        raise InputTypeError(
            f"like= {type(like).__name__}", "it is no network", "pass the network the images are for"
        )
    found = preprocessing_of(like)
    if found is None:
        raise InputError(
            f"like= {type(like).__name__}", "nobody has noted which images its weights were trained on",
            "pass image_size or size, mean and std",
        )  # fmt: skip
    return found


def changed(transform: Transform, changes: dict[str, Any]) -> Transform:
    """The transform with the user's mean, std, flip and cutout where they are given, else with what `like` expects."""
    given = {option: value for option, value in changes.items() if value is not None}
    channels = len(transform.mean)
    if (like := given.pop("like", None)) is not None:
        known = like.for_channels(channels)
        given = {"mean": known.mean, "std": known.std} | given
    for option in given.keys() & {"mean", "std"}:
        try:
            values = tuple(float(value) for value in given[option])
        except (TypeError, ValueError):
            values = ()
        if (
            len(values) != channels
            or not all(map(math.isfinite, values))
            or (option == "std" and min(values) <= 0)
        ):
            kind = "positive numbers" if option == "std" else "numbers"
            raise InputError(
                f"{option}={given[option]!r}",
                f"it is not {channels} {kind}, one per channel",
                "pass those of the images scaled to [0, 1]",
            )
        given[option] = values
    return dataclasses.replace(transform, **given)


def check_options(val_fraction: float, seed: int, limit: int | None) -> None:
    """Raise `InputError` for what no data set can be asked for."""
    if (
        isinstance(val_fraction, bool)
        or not isinstance(val_fraction, numbers.Real)
        or not 0 < val_fraction < 1
    ):
        raise InputError(
            f"val_fraction={val_fraction!r}", "it is not a number between 0 and 1", "pass a share such as 0.1"
        )
    chance.check_whole("seed", seed, least=0)
    if limit is not None:
        chance.check_whole("limit", limit, least=1)


def size_of(image_size: Any) -> tuple[int, int] | None:
    """Height and width, within what networks see."""
    found = sides(image_size)
    for side in found or ():
        chance.check_whole("image_size", side, least=_SMALLEST)
        if side > _LARGEST:
            raise InputError(f"image_size={image_size}", f"it is above {_LARGEST}", "pass a smaller one")
    return found
