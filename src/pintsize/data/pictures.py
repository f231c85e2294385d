"""Picture files to pixels: opening, fitting to a size, random-resized cropping.

Sizes are (height, width).
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import CorruptFile, InputError

# How Pillow stores pictures of 8 bits a channel; the others (16 bits, floats) have no agreed range.
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_AREA, _ASPECT, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10

Size = tuple[int, int]
Rgb = NDArray[np.uint8]
"""[H, W, 3]."""


def _no_picture(path: str | os.PathLike[str], error: Exception) -> CorruptFile:
    reason = "it is not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
    return CorruptFile(str(path), f"it cannot be read as a picture ({reason})", "remove it or replace it")


def suffixes() -> Collection[str]:
    """The suffixes, in lower case and with their dot, of the formats that Pillow knows."""
    return Image.registered_extensions()


def resamplings() -> dict[str, Image.Resampling]:
    """How pictures may be scaled, by name."""
    return {one.name.lower(): one for one in Image.Resampling}


def size_of(path: str | os.PathLike[str]) -> Size:
    """The size of a picture, from its header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _no_picture(path, error) from error


def rgb(path: str | os.PathLike[str]) -> Image.Image:
    """A picture, decoded, as RGB.

    Raises:
        CorruptFile: it is damaged or no picture.
        InputError: it has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in _EIGHT_BITS:
                raise InputError(
                    str(path),
                    f"its pixels are of Pillow's mode {image.mode}, not 8 bits a channel",
                    "convert the pictures to 8 bits a channel",
                )
            if "transparency" in image.info:  # Pillow warns unless a palette's transparency is carried along
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _no_picture(path, error) from error


def fit(image: Image.Image, size: Size, *, margin: float = 1.0, interpolation: str = "bilinear") -> Rgb:
    """Scale a picture so that it just covers `margin` × `size`, and cut `size` out of its centre.

    A picture that has this size already is not touched.
    """
    H, W = size
    if (image.height, image.width) != size:
        resampling = resamplings()[interpolation]
        scale = margin * max(H / image.height, W / image.width)
        height, width = max(H, round(image.height * scale)), max(W, round(image.width * scale))
        image = image.resize((width, height), resampling)
        top, left = (height - H) // 2, (width - W) // 2
        image = image.crop((left, top, left + W, top + H))
    return np.asarray(image)


def random_resized_crop(image: Image.Image, size: Size, word: int) -> Rgb:
    """A crop of random area (8 to 100 %) and aspect (3:4 to 4:3), scaled to `size`, that `word` determines.

    Source: Szegedy et al., Going deeper with convolutions (1409.4842), section 6.
    """
    chance = np.random.default_rng(word)
    H, W = image.height, image.width
    for _ in range(_TRIES):
        area = H * W * chance.uniform(*_AREA)
        aspect = math.exp(chance.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < height <= H and 0 < width <= W:
            top, left = int(chance.integers(H - height + 1)), int(chance.integers(W - width + 1))
            box = (left, top, left + width, top + height)
            return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))
    return fit(image, size)
